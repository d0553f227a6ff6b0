"""Requests per second of paging algorithms at k = 1000, beside libCacheSim, and what learned bits cost.

    python benchmarks/paging.py [--k 1000] [--requests 5000000] [--trace FILE] [--column C] [--rounds 7] [--quick]

A made trace, and FILE if one is given. Everything runs on one core and is measured in processor time, so that other
work on the machine matters little. libCacheSim (C, through its Python package, in a virtual environment of its own that
is made on first use) reads the same requests from a memory-mapped file as it goes, with objects of size 1 and a hash
table that suits k; ours come from an array. Both must count the same faults.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before scikit-learn

import numpy as np

from heedful.paging import LearnedBits, Trace, flipped, lfd, read_trace, true_bits
from heedful.paging.algorithms import make
from heedful.paging.learned import features
from heedful.paging.traces import RECORD
from heedful.paging.work import zipf_with_scans
from reporting import report

PEER = "libcachesim==0.3.5"
PEERS = {"lru": "LRU", "fifo": "FIFO", "opt": "Belady"}
ALGORITHMS = (
    "lru", "fifo", "marker", "flush-when-all-0s", "mark0", "mark-and-predict", "opt", "mark0+lru", "doubling:mark0+lru",
)  # fmt: skip
TARGETS = {
    "lru": 20, "marker": 20, "flush-when-all-0s": 20, "mark0": 20, "mark-and-predict": 20, "opt": 3,
}  # fmt: skip
"""Million requests per second."""

SERVER = """
import json, sys, time
import libcachesim
path, k = sys.argv[1], int(sys.argv[2])
for line in sys.stdin:
    cache = getattr(libcachesim, line.strip())(cache_size=k, hashpower=(4 * k).bit_length())
    reader = libcachesim.TraceReader(path, libcachesim.TraceType.ORACLE_GENERAL_TRACE)
    begun = time.process_time()
    missed, _ = cache.process_trace(reader)
    print(json.dumps([time.process_time() - begun, missed]), flush=True)
"""


class Peer:
    """libCacheSim, in a process that stays for as many runs as are asked for."""

    def __init__(self, trace: Trace, k: int) -> None:
        self.requests = len(trace)
        self.file = tempfile.NamedTemporaryFile(suffix=".oracleGeneral")  # noqa: SIM115
        records = np.zeros(len(trace), dtype=RECORD)
        records["id"], records["size"] = trace.pages, 1
        records["next"] = np.where(trace.next_request < len(trace), trace.next_request, -1)
        records.tofile(self.file.name)
        command = [peer_python(), "-c", SERVER, self.file.name, str(k)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, name: str) -> tuple[float, int]:
        """Seconds of one of its algorithms, and its faults."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(name, file=self._process.stdin, flush=True)
        seconds, missed = json.loads(self._process.stdout.readline())
        return seconds, round(missed * self.requests)

    def close(self) -> None:
        self._process.communicate()
        self.file.close()


def peer_python() -> Path:
    """The Python that has libCacheSim, in a virtual environment in the cache folder, made if it is not there."""
    folder = Path.home() / ".cache" / "heedful" / "benchmarks" / PEER.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True)
        (folder / "ready").touch()
    return python


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of processor time of a work, and its result."""
    begun = time.thread_time()
    result = work()
    return time.thread_time() - begun, result


def speeds(trace: Trace, k: int, rounds: int) -> list[dict[str, Any]]:
    """A row per algorithm. In a round all take turns, ours and the peer's."""
    rng = np.random.default_rng(0)
    bits = {kind: flipped(true_bits(trace, k, kind), 0.05, 0.05, rng) for kind in ("discard", "phase")}
    works: dict[str, Callable[[int], Any]] = {}
    for name in ALGORITHMS:
        if name == "opt":
            trace.next_request  # noqa: B018  # what it is told, made once
            works[name] = lambda seed: lfd(trace, k)
        else:
            algorithm = make(name)
            told = None if algorithm.told == "none" else bits[algorithm.told]
            works[name] = lambda seed, a=algorithm, told=told: a.run(trace, k, told, seed)
    peer = Peer(trace, k)
    works["read"] = lambda seed: read_trace(peer.file.name)
    ours: dict[str, list[float]] = {name: [] for name in works}
    theirs: dict[str, list[float]] = {name: [] for name in PEERS}
    faults: dict[str, int] = {}
    for number in range(rounds + 1):  # the first one compiles, and warms up
        for name, work in works.items():
            seconds, run = clock(lambda work=work, seed=number: work(seed))
            ours[name].append(seconds)
            if name != "read":
                faults[name] = run.faults
            if name in PEERS:
                seconds, missed = peer.run(PEERS[name])
                theirs[name].append(seconds)
                if missed != faults[name]:
                    raise SystemExit(f"{name}: {faults[name]} faults here, {missed} in {PEER}")
    peer.close()
    rows = []
    for name in works:
        rate = len(trace) / 1e6 / statistics.median(ours[name][1:])
        other = theirs.get(name, [])[1:]
        ratios = [b / a for a, b in zip(ours[name][1:], other)]
        rows.append(
            {
                "trace": trace.name,
                "algorithm": name,
                "miss ratio": faults[name] / len(trace) if name in faults else None,
                "M requests/s": rate,
                "target": TARGETS.get(name),
                "met": rate >= TARGETS[name] if name in TARGETS else None,
                "libCacheSim": len(trace) / 1e6 / statistics.median(other) if other else None,
                "ratio": statistics.median(ratios) if ratios else None,
                "least": min(ratios) if ratios else None,
                "most": max(ratios) if ratios else None,
            }
        )
    return rows


def predicting(trace: Trace, k: int, rounds: int) -> list[dict[str, Any]]:
    """Nanoseconds per request of learned discard bits: features and the model's decision, without the fit."""
    cut = min(len(trace) // 2, 250_000)
    before, after = trace.part(0, cut), trace.part(cut, 2 * cut)
    rows = []
    for model in ("logistic", "boosting"):
        fit, fitted = clock(lambda model=model: LearnedBits("discard", model).fit(before, k))
        taken = []
        for _ in range(rounds + 1):
            made, _ = clock(lambda: features(after, k))
            both, _ = clock(lambda fitted=fitted: fitted.predict(after, k))
            taken.append((made, both - made, both))
        made, decided, both = (1e9 * statistics.median(column) / cut for column in zip(*taken[1:]))
        rows.append(
            {
                "trace": trace.name,
                "model": model,
                "ns per request": both,
                "features": made,
                "decision": decided,
                "M requests/s": 1e3 / both,
                "fit, us per request": 1e6 * fit / cut,
            }
        )
    return rows


def _report(title: str, rows: Sequence[Mapping[str, Any]], part: str, quick: bool) -> None:
    versions = {name: version(name) for name in ("numpy", "numba", "scikit-learn")}
    report(title, rows, f"paging-{part}", versions | {"libcachesim": PEER.partition("==")[2]}, quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs; nothing is written")
    parser.add_argument("--k", type=int, default=1000, help="pages that the cache holds")
    parser.add_argument("--requests", type=int, default=5_000_000, help="of the made trace")
    parser.add_argument("--trace", help="a file, as heedful compare paging reads it")
    parser.add_argument("--column", help="of the file")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    requests, rounds = (200_000, 1) if given.quick else (given.requests, given.rounds)
    traces = [zipf_with_scans(requests, 50 * given.k, np.random.default_rng(0))]
    if given.trace:
        traces.append(read_trace(given.trace, given.column))
    timed = [row for trace in traces for row in speeds(trace, given.k, rounds)]
    _report(f"Requests per second at k = {given.k}", timed, "speed", given.quick)
    costs = [row for trace in traces for row in predicting(trace, given.k, rounds)]
    _report(f"What learned bits cost at k = {given.k}", costs, "learned", given.quick)


if __name__ == "__main__":
    main()
