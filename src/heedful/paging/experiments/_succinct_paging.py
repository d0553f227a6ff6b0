"""Paging with succinct predictions, measured: oracle bits, flipped bits, rivals, and bits that are learned."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from heedful.lab import Cell, Context, Row, data
from heedful.lab.files import read_parquet
from heedful.paging.algorithms import make
from heedful.paging.base import Trace
from heedful.paging.blind_oracle import lfd
from heedful.paging.experiments.succinct_paging import FILES, GENERATED, NOISE, ONE_BIT, PLAIN, ROBUST, WITH_TIMES
from heedful.paging.learned import LearnedBits
from heedful.paging.predictors import (
    Kind,
    clean_pages,
    errors,
    flipped,
    noisy_next,
    reuse_distance_bits,
    true_bits,
)
from heedful.paging.work import GENERATORS

KIND: dict[str, Kind] = {"discard": "discard", "phase": "phase"}


def _trace(cell: Cell, ctx: Context) -> Trace:
    return _loaded(cell["trace"], cell["k"], ctx.params["length"])


@lru_cache(maxsize=4)
def _loaded(name: str, k: int, length: int) -> Trace:
    """A generated trace of that length, or one of the files; the same for every cell."""
    if name in GENERATED:
        return GENERATORS[name](length, k, np.random.default_rng([zlib.crc32(name.encode()), k, length]))
    path = data.find(FILES[name])
    assert path is not None
    table = read_parquet(path)
    pages = table["block_ids"].explode() if "block_ids" in table.columns else table["page"]
    return Trace.of(pages.to_numpy(), name)


def _row(method: str, seed: int | None, faults: int, trace: Trace, best: int, lru: int) -> dict[str, Any]:
    return {
        "method": method,
        "seed": seed,
        "faults": float(faults),
        "miss_ratio": faults / len(trace),
        "ratio": faults / best,
        "gap_closed": (lru - faults) / (lru - best) if lru > best else None,
    }


def _faults(method: str, trace: Trace, k: int, told: Any, ctx: Context) -> list[int]:
    """Faults per seed; where the algorithm does not depend on it, its one result stands under each, to be paired."""
    algorithm, seeds = make(method), ctx.params["seeds"]
    if not algorithm.randomised:
        return [algorithm.run(trace, k, told).faults] * len(seeds)
    return [algorithm.run(trace, k, told, seed).faults for seed in seeds]


def _oracle(cell: Cell, ctx: Context) -> Iterator[Row]:
    """True bits: exact consistency. By blocks of the trace too, where a claim is about a real log."""
    trace, k = _trace(cell, ctx), cell["k"]
    best, lru = lfd(trace, k).faults, make("lru").run(trace, k).faults
    for method in ONE_BIT:
        kind = KIND[make(method).told]
        bits = true_bits(trace, k, kind)
        must = best if kind == "discard" else clean_pages(trace, k)
        for seed, faults in zip(ctx.params["seeds"], _faults(method, trace, k, bits, ctx)):
            yield {**_row(method, seed, faults, trace, best, lru), "violations": float(faults != must)}
    if cell["trace"] in FILES:
        optimal = lfd(trace, k).fault
        bits = true_bits(trace, k, "discard")
        runs = {"lru": make("lru").run(trace, k).fault, "mark0": make("mark0").run(trace, k, bits).fault}
        size = ctx.params["block"]
        for method, fault in runs.items():
            for block in range(len(trace) // size):
                part = slice(block * size, (block + 1) * size)
                if (there := int(optimal[part].sum())) > 0:
                    yield {"method": method, "block": block, "ratio": float(fault[part].sum() / there)}


def _flips(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Bits of which some are wrong, the same for all algorithms of a seed; a bound for each."""
    trace, k, rate = _trace(cell, ctx), cell["k"], cell["rate"]
    best, lru = lfd(trace, k).faults, make("lru").run(trace, k).faults
    harmonic = float((1 / np.arange(1, k + 1)).sum())
    zero = rate if cell["side"] in ("both", "zeros") else 0.0
    one = rate if cell["side"] in ("both", "ones") else 0.0
    truth = {kind: true_bits(trace, k, kind) for kind in KIND.values()}
    for method in (*ONE_BIT, *ROBUST, "lru", "marker"):
        algorithm = make(method)
        kind = KIND.get(algorithm.told)
        found: list[int] = []
        bounds: list[float] = []
        wrongs: list[tuple[int, int]] = []
        for seed in ctx.params["seeds"]:
            told, wrong = None, (0, 0)
            if kind is not None:
                told = flipped(truth[kind], zero, one, np.random.default_rng([seed, 17]))
                wrong = errors(trace, k, kind, told)
            if kind is None and found and not algorithm.randomised:
                found.append(found[0])
            else:
                found.append(algorithm.run(trace, k, told, seed).faults)
            wrongs.append(wrong)
            bounds.append(_bound(method, k, best, lru, harmonic, *wrong))
        excess = np.array(found) - np.array(bounds)
        spread = 3 * excess.std(ddof=1) / np.sqrt(len(excess)) if algorithm.randomised and len(excess) > 1 else 0.0
        broken = excess.mean() + spread > 0 if algorithm.randomised else bool((excess > 0).any())
        for seed, faults, bound, wrong in zip(ctx.params["seeds"], found, bounds, wrongs):
            yield {
                **_row(method, seed, faults, trace, best, lru),
                "eta_zeros": float(wrong[0]) if kind else None,
                "eta_ones": float(wrong[1]) if kind else None,
                "bound": float(bound) if np.isfinite(bound) else None,
                "violations": float(broken) if np.isfinite(bound) else None,
            }


def _bound(method: str, k: int, best: int, lru: int, harmonic: float, zeros: int, ones: int) -> float:
    """What a theorem allows, additive constant included; infinite where none is checked."""
    if method == "flush-when-all-0s":
        return best + (k - 1) * zeros + ones + k
    if method == "mark0":
        return best + 2 * harmonic * zeros + ones + k
    if method == "mark-and-predict":
        return 2 * best + harmonic * zeros + ones + k
    if method in ("mark0+lru", "flush-when-all-0s+lru"):
        return 2 * lru + 2 * k
    return float("inf")


def _rivals(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Algorithms that are told nothing, and ones that are told noisy times."""
    trace, k = _trace(cell, ctx), cell["k"]
    best, lru = lfd(trace, k).faults, make("lru").run(trace, k).faults
    yield _row("opt", None, best, trace, best, lru)
    for method in PLAIN:
        for seed, faults in zip(ctx.params["seeds"], _faults(method, trace, k, None, ctx)):
            yield _row(method, seed, faults, trace, best, lru)
    for method in WITH_TIMES:
        for seed in ctx.params["seeds"]:
            told = noisy_next(trace, NOISE, np.random.default_rng([seed, 19]))
            yield _row(method, seed, make(method).run(trace, k, told, seed).faults, trace, best, lru)


def _use(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Bits from the past alone, on the second half of a trace; all caches start cold there."""
    whole, k = _trace(cell, ctx), cell["k"]
    half = len(whole) // 2
    first, trace = whole.part(0, half), whole.part(half, len(whole))
    optimal, least_recent = lfd(trace, k).fault, make("lru").run(trace, k).fault
    best, lru = int(optimal.sum()), int(least_recent.sum())
    bits = {kind: _predicted(cell["predictor"], kind, first, trace, k) for kind in KIND.values()}
    size = ctx.params["block"]
    for method in (*ONE_BIT, *ROBUST, "lru", "marker"):
        kind = KIND.get(make(method).told)
        told = None if kind is None else bits[kind]
        wrong = (None, None) if kind is None else errors(trace, k, kind, bits[kind])
        saved = np.zeros(len(trace))
        seeds = ctx.params["seeds"] if make(method).randomised else ctx.params["seeds"][:1]
        for seed in seeds:
            fault = make(method).run(trace, k, told, seed).fault
            saved += (least_recent.astype(float) - fault) / len(seeds)
            yield {
                **_row(method, seed, int(fault.sum()), trace, best, lru),
                "eta_zeros": None if wrong[0] is None else float(wrong[0]),
                "eta_ones": None if wrong[1] is None else float(wrong[1]),
            }
        surplus = saved - 0.2 * (least_recent.astype(float) - optimal)
        for block in range(len(trace) // size):
            part = surplus[block * size : (block + 1) * size]
            yield {"method": method, "block": block, "surplus": float(part.mean())}


def _predicted(predictor: str, kind: Kind, first: Trace, trace: Trace, k: int) -> Any:
    if predictor == "reuse-distance":
        return reuse_distance_bits(trace, k)
    learner = LearnedBits(kind, "logistic" if predictor == "learned-logistic" else "boosting")
    return learner.fit(first, k).predict(trace, k)


PARTS = {"oracle": _oracle, "rivals": _rivals, "flips": _flips, "use": _use}
