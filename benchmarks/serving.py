"""What scheduling and its simulation cost: a decision, whole runs, a long log; beside a plain loop and beside vidur.

    python benchmarks/serving.py [--parts decision runs plain log vidur] [--rounds 5] [--log FILE] [--quick]

Everything runs on one core and is measured in processor time, so that other work on the machine matters little.
decision: one call of a scheduler with 256 running requests. runs: 3000 requests of each distribution, from so many
clients that the cache of 120,000 tokens is full. plain: the same engine as a Python loop over decode steps, which must
give the same results. log: a million requests, of FILE or the Azure conversation log again and again (a made log of
that shape, if it is not there). vidur: the simulator of that name from PyPI, in a virtual environment of its own that
is made on first use, with the same step times; its scheduler Sarathi against Aggressive with prompts in chunks.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy

import numpy as np

from heedful.lab import data
from heedful.serving import Aggressive, Batch, History, Scheduler, Simulator, StepTime, Workload, future_peak
from heedful.serving.logs import read_log
from heedful.serving.schedulers import make
from heedful.serving.service import Limits, service, settled
from heedful.serving.workloads import GENERATORS, distribution_1
from reporting import report
from servingbench import plain

HERE = Path(__file__).parent
PEER = "vidur==0.0.26"
PARTS = ("decision", "runs", "plain", "log", "vidur")
CAPACITY = 120_000
CLIENTS = {"distribution-1": 45, "distribution-2": 30, "distribution-3": 40}
"""So many that requests wait all the time."""
SCHEDULERS = (
    "past-future:rho=0.03", "past-future:rho=0.03,sampling=interpolated", "peak-with-mean", "peak-with-cap", "oracle",
    "aggressive:watermark=0.95", "aggressive:watermark=0.99", "conservative", "conservative:overcommit=1.5",
)  # fmt: skip
DECIDERS = (
    "past-future:draws=5", "past-future:draws=5,sampling=interpolated", "peak-with-mean", "peak-with-cap", "oracle",
    "aggressive", "conservative",
)  # fmt: skip
RUNNING, WAITING = 256, (1, 16, 64)
DECISION, RUN = 200, 5
"""Targets: microseconds of one decision, and seconds of 3000 requests."""
LOG = "llm-traces/azure2023_conv.parquet"
LOG_CAPACITY, LOG_SPEED = 16_000, 0.35
"""Slots for a log, and how many times as fast it is served as it was recorded; its arrivals come in bursts."""
CHUNK = 512


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of processor time of a work, and its result."""
    begun = time.thread_time()
    result = work()
    return time.thread_time() - begun, result


def decisions(rounds: int, calls: int) -> list[dict[str, Any]]:
    """Microseconds per call. The cache has room for none, half or all of the waiting; the slowest of these counts."""
    rng = np.random.default_rng(0)
    requests = distribution_1(RUNNING + WAITING[-1], rng)
    generated = rng.integers(0, requests.output[:RUNNING])
    running = Batch.of(requests.prompt[:RUNNING], generated, requests.cap[:RUNNING], output=requests.output[:RUNNING])
    history = History(lengths=distribution_1(1000, rng).output)
    rows = []
    for spec in DECIDERS:
        for page in (1, 16, 256):
            scheduler, row = make(spec), {"scheduler": spec, "page": page}
            for most in WAITING:
                new = slice(RUNNING, RUNNING + most)
                waiting = Batch.of(requests.prompt[new], None, requests.cap[new], output=requests.output[new])
                taken = []
                for slots in _rooms(scheduler, running, waiting, page):
                    decide = partial(scheduler.admit, waiting, running, slots, history, np.random.default_rng(0), page)
                    taken.append(_call(decide, rounds, calls))
                row[f"us, {most} waiting"] = max(taken)
            rows.append({**row, "target": DECISION, "met": max(row[f"us, {n} waiting"] for n in WAITING) < DECISION})
    return rows


def _rooms(scheduler: Scheduler, running: Batch, waiting: Batch, page: int) -> tuple[int, int, int]:
    """Capacities with room for none, about half, and surely all of the waiting, by what the scheduler counts."""
    both = Batch(*(np.concatenate(columns) for columns in zip(running, waiting)))
    if scheduler.name == "aggressive":
        inside, whole = (int(batch.held.sum()) for batch in (running, both))
    elif scheduler.name == "conservative":
        inside, whole = (int((batch.prompt + batch.cap).sum()) for batch in (running, both))
    else:
        inside, whole = (future_peak(batch.held, batch.output - batch.generated, page) for batch in (running, both))
    return inside, (inside + whole) // 2, 2 * whole


def _call(decide: Callable[[], int], rounds: int, calls: int) -> float:
    """Microseconds of one decision: the median of some rounds of so many calls."""

    def work() -> None:
        for _ in range(calls):
            decide()

    work()
    return 1e6 * statistics.median(clock(work)[0] for _ in range(rounds)) / calls


def runs(rounds: int, requests: int) -> list[dict[str, Any]]:
    """Seconds of whole runs. In a round all schedulers take turns."""
    simulator, rows = Simulator(CAPACITY), []
    for name, clients in CLIENTS.items():
        workload = GENERATORS[name](requests, np.random.default_rng(0))
        serve = partial(simulator.run, workload=workload, clients=clients)
        taken: dict[str, list[float]] = {spec: [] for spec in SCHEDULERS}
        found = {}
        for number in range(rounds + 1):  # the first one compiles, and warms up
            for spec in SCHEDULERS:
                seconds, found[spec] = clock(partial(serve, make(spec)))
                if number:
                    taken[spec].append(seconds)
        for spec, run in found.items():
            seconds = statistics.median(taken[spec])
            rows.append(
                {
                    "workload": name,
                    "scheduler": spec,
                    "s": seconds,
                    "requests/s": requests / seconds,
                    "decisions": run.decisions,
                    "us per decision": 1e6 * seconds / run.decisions,
                    "steps": run.steps,
                    "evictions": int(run.evictions.sum()),
                    "target": RUN,
                    "met": seconds < RUN,
                }
            )
    return rows


def loops(rounds: int, requests: int) -> list[dict[str, Any]]:
    """Seconds of the plain loop, and of ours, which must agree to the picosecond."""
    simulator, rows = Simulator(CAPACITY), []
    for name, clients in CLIENTS.items():
        workload = GENERATORS[name](requests, np.random.default_rng(0))
        for spec in ("past-future:rho=0.03", "aggressive:watermark=0.99"):
            scheduler = make(spec)
            simulator.run(scheduler, workload.part(0, 50), clients=clients)
            ours, theirs = [], []
            for _ in range(rounds):
                seconds, run = clock(partial(simulator.run, scheduler, workload, clients))
                ours.append(seconds)
                seconds, served = clock(partial(plain.serve, simulator, scheduler, workload, clients))
                theirs.append(seconds)
            for column, times in (("end", run.end), ("first", run.first_token)):
                if [getattr(request, column) / 1e12 for request in served] != times.tolist():
                    raise SystemExit(f"{name}, {spec}: the plain loop gives other times")
            if [request.evictions for request in served] != run.evictions.tolist():
                raise SystemExit(f"{name}, {spec}: the plain loop evicts others")
            rows.append(
                {
                    "workload": name,
                    "scheduler": spec,
                    "requests": requests,
                    "requests/s": requests / statistics.median(ours),
                    "plain loop": requests / statistics.median(theirs),
                    "ratio": statistics.median(b / a for a, b in zip(ours, theirs)),
                    "evictions": int(run.evictions.sum()),
                }
            )
    return rows


def _log(path: str | None) -> Workload:
    """The log that is asked for; the Azure conversation log; or, without it, one made to its moments."""
    found = Path(path) if path else data.find(LOG)
    if found is not None:
        return read_log(found).workload
    rng = np.random.default_rng(0)
    lengths = (rng.lognormal(mean, spread, 20_000) for mean, spread in ((6.63, 0.99), (5.02, 0.86)))
    prompt, output = (np.clip(np.rint(x), 1, most).astype(np.int64) for x, most in zip(lengths, (14_000, 1000)))
    arrival = np.cumsum(rng.exponential(1 / 5.53, len(prompt)))
    return Workload(prompt, output, np.full_like(output, 1024), arrival - arrival[0], "made")


def long_log(log: Workload, requests: int) -> list[dict[str, Any]]:
    """Seconds of a log that is served again and again until so many requests have come."""
    assert log.arrival is not None
    times = -(-requests // len(log))
    period = log.arrival[-1] + log.arrival[-1] / len(log)
    again = np.concatenate([log.arrival + number * period for number in range(times)])
    columns = (np.tile(column, times)[:requests] for column in (log.prompt, log.output, log.cap))
    workload = Workload(*columns, again[:requests], log.name).faster(LOG_SPEED)
    simulator, rows = Simulator(LOG_CAPACITY), []
    for spec in ("past-future", "aggressive"):
        simulator.run(make(spec), workload.part(0, 100))
        seconds, run = clock(partial(simulator.run, make(spec), workload))
        served = service(run, Limits(), settled(run, 2000))
        rows.append(
            {
                "log": f"{log.name} x {times}",
                "scheduler": spec,
                "requests": requests,
                "s": seconds,
                "requests/s": requests / seconds,
                "decisions": run.decisions,
                "days simulated": run.seconds / 86_400,
                "within limits": served.met,
                "evictions": int(run.evictions.sum()),
            }
        )
    return rows


def peer_python() -> Path:
    """The Python that has vidur, in a virtual environment in the cache folder, made if it is not there."""
    folder = Path.home() / ".cache" / "heedful" / "benchmarks" / PEER.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True)
        (folder / "ready").touch()
    return python


def peer_run(workload: Workload, capacity: int, page: int, asserting: bool) -> dict[str, Any]:
    """What vidur makes of the requests; ``error`` if it stops."""
    assert workload.arrival is not None
    with tempfile.NamedTemporaryFile("w", suffix=".csv", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Date", "Time", "PromptTokenCount", "CompletionTokenCount"])
        rows = zip(workload.arrival.tolist(), workload.prompt.tolist(), workload.output.tolist())
        table.writerows(["all", *row] for row in rows)
        file.flush()
        times = StepTime()
        constants = (times.step, times.per_request, times.per_token, times.per_prompt_token)
        arguments = (HERE / "servingbench" / "vidur_side.py", file.name, capacity, page, CHUNK, 0.01, *constants)
        command = [peer_python(), *([] if asserting else ["-O"]), *map(str, arguments)]
        said = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    return json.loads(said.splitlines()[-1])


def beside_peer(log: Workload, rounds: int, requests: int) -> list[dict[str, Any]]:
    """Requests per second of both simulators, and how far apart they find the same requests to end.

    A light load, under which nobody is evicted, and one that is too heavy; vidur's own assertions do not hold once a
    request is evicted, so that there it runs with assertions switched off.
    """
    rng = np.random.default_rng(0)
    drawn = distribution_1(requests, rng)
    arrival = np.cumsum(rng.exponential(1.0, requests))
    # One request per second, to be made slower.
    timed = Workload(drawn.prompt, drawn.output, drawn.cap, arrival - arrival[0], drawn.name)
    works = [(timed.faster(speed), CAPACITY, speed) for speed in (0.15, 0.5)]
    works += [(log.part(0, requests).faster(speed), LOG_CAPACITY, speed) for speed in (0.2, 1.0)]
    scheduler, page, rows = Aggressive(0.99), 16, []
    for workload, capacity, load in works:
        simulator = Simulator(capacity, page=page, interval=1, prefill_tokens=CHUNK, chunk=CHUNK)
        simulator.run(scheduler, workload.part(0, 20))
        ours, theirs, asserting = [], [], True
        for _ in range(rounds):
            seconds, run = clock(partial(simulator.run, scheduler, workload))
            ours.append(seconds)
            peer = peer_run(workload, capacity, page, asserting)
            if "error" in peer and asserting:
                print(f"{PEER} on {workload.name} at {load}: assertion failed in {peer['error']}; again without")
                asserting = False
                peer = peer_run(workload, capacity, page, asserting)
            theirs.append(peer["seconds"])
        apart = np.abs(np.array(peer["end"]) - run.end) / (run.end - run.arrival)
        rows.append(
            {
                "workload": workload.name,
                "load": load,
                "requests": requests,
                "requests/s": requests / statistics.median(ours),
                "vidur": requests / statistics.median(theirs),
                "ratio": statistics.median(b / a for a, b in zip(ours, theirs)),
                "evictions": int(run.evictions.sum()),
                "vidur's": peer["evictions"],
                "asserting": asserting,
                "s simulated": run.seconds,
                "vidur's s": max(peer["end"]),
                "apart, median": float(np.median(apart)),
                "apart, 99 %": float(np.quantile(apart, 0.99)),
            }
        )
    return rows


def _report(title: str, rows: Sequence[Mapping[str, Any]], part: str, quick: bool) -> None:
    versions = {name: version(name) for name in ("numpy", "numba")}
    report(title, rows, f"serving-{part}", versions | {"vidur": PEER.partition("==")[2]}, quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs; nothing is written")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=5, help="of everything that takes turns; vidur has 2 at most")
    parser.add_argument("--log", help="a request log with arrival times, as heedful compare serving reads it")
    given = parser.parse_args()
    rounds, size = (1, 20) if given.quick else (given.rounds, 1)
    log = _log(given.log)
    works: dict[str, tuple[str, Callable[[], list[dict[str, Any]]]]] = {
        "decision": (f"One decision with {RUNNING} running requests", lambda: decisions(rounds, 200 // size)),
        "runs": ("3000 requests from clients that keep the cache full", lambda: runs(rounds, 3000 // size)),
        "plain": ("Beside a plain loop, requests per second", lambda: loops(min(rounds, 3), 1000 // size)),
        "log": ("A long log", lambda: long_log(log, 1_000_000 // size)),
        "vidur": ("Beside vidur, requests per second", lambda: beside_peer(log, min(rounds, 2), 1000 // size)),
    }
    for part in given.parts:
        title, work = works[part]
        _report(title, work(), part, given.quick)


if __name__ == "__main__":
    main()
