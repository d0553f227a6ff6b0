"""Algorithms on a trace: faults with intervals, the share of the gap between LRU and the optimum, and speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heedful.lab.intervals import block_interval
from heedful.paging.base import Trace
from heedful.paging.commands.options import OPT, Contender, Size
from heedful.paging.commands.predictions import Predictor, Split
from heedful.paging.predictors import errors

BATCHES = 2048
"""Into so many parts of equal length, at most, a trace is cut before its blocks are drawn again."""
FIT = 200
"""Learning costs about as much as so many runs."""
TIMED, TIMED_S = 5, 0.2
"""Short runs are timed again, so many times at most, until they have taken so many seconds together."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an algorithm did at one cache size.

    Attributes:
        contender: the algorithm.
        size: the cache size as asked for.
        k: the cache size in pages.
        faults: float64 ``[parts]``: faults in each part of the trace, averaged over seeds.
        seeds: how many; 1 if the faults do not depend on the seed.
        wrong: shares of requests that were told a wrong 0 and a wrong 1, averaged over seeds; None without bits.
        seconds: processor time of each run, without what it takes to predict.
    """

    contender: Contender
    size: Size
    k: int
    faults: NDArray[np.float64]
    seeds: int
    wrong: tuple[float, float] | None
    seconds: Sequence[float]


def warm_up(contenders: Sequence[Contender], progress: Callable[[int, int], None]) -> None:
    """Compiles every algorithm, which takes time on a machine where it was never done; ``progress`` is told."""
    trace = Trace.of([1, 2, 1])
    algorithms = list(dict.fromkeys(contender.algorithm for contender in contenders))
    for done, algorithm in enumerate(algorithms):
        progress(done, len(algorithms))
        algorithm.run(trace, 1, None if algorithm.told == "none" else np.zeros(3, dtype=np.int64))


def run(
    split: Split,
    sizes: Sequence[Size],
    contenders: Sequence[Contender],
    seeds: int,
    progress: Callable[[int, int, float | None], None],
) -> list[Outcome]:
    """Every contender at every cache size, all sizes of it after each other.

    Args:
        split: the trace.
        sizes: cache sizes.
        contenders: the algorithms.
        seeds: runs of those whose faults depend on the seed.
        progress: told how many outcomes there are, of how many, and the estimated seconds that are left.

    Raises LabError for a share that is no page.
    """
    distinct, outcomes = split.measured.distinct, []
    costs = np.tile(_costs(contenders, seeds), len(sizes))
    began, done = time.monotonic(), 0.0
    for size in sizes:
        # A larger cache than there are pages does what one of that size does.
        work = _Work(split, min(size.pages(distinct), distinct), seeds)
        for contender in contenders:
            outcomes.append(work.outcome(contender, size))
            done += costs[len(outcomes) - 1]
            left = (time.monotonic() - began) * (costs.sum() - done) / done
            progress(len(outcomes), len(costs), left)
    return outcomes


def _costs(contenders: Sequence[Contender], seeds: int) -> NDArray[np.float64]:
    """How long contenders take, in runs: each, and what is learned before the first one that is told it."""
    learned: set[tuple[Predictor, str]] = set()
    costs = []
    for contender in contenders:
        cost = seeds if contender.randomised else 1
        predictor = contender.predictor
        if predictor is not None and predictor.learns and (predictor, contender.algorithm.told) not in learned:
            learned.add((predictor, contender.algorithm.told))
            cost += FIT
        costs.append(cost)
    return np.array(costs, dtype=np.float64)


@dataclass(eq=False)
class _Work:
    """One cache size; what is told is worked out once for all algorithms that are told it."""

    split: Split
    k: int
    seeds: int
    said: dict[Any, tuple[NDArray[np.integer], tuple[float, float] | None]] = field(default_factory=dict)

    def outcome(self, contender: Contender, size: Size) -> Outcome:
        """A contender's runs."""
        measured = self.split.measured
        edges = _edges(len(measured))
        seeds = self.seeds if contender.randomised else 1
        faults, wrongs, seconds = np.zeros(len(edges) - 1), [], []
        for seed in range(seeds):
            told, wrong = self._told(contender, seed)
            began = time.thread_time()
            done = contender.algorithm.run(measured, self.k, told, seed)
            seconds.append(time.thread_time() - began)
            so_far = np.concatenate([[0], np.cumsum(done.fault)])
            faults += np.diff(so_far[edges])
            if wrong is not None:
                wrongs.append(wrong)
        while len(seconds) < TIMED and sum(seconds) < TIMED_S:
            began = time.thread_time()
            contender.algorithm.run(measured, self.k, told, seed)
            seconds.append(time.thread_time() - began)
        mean = tuple(np.mean(wrongs, axis=0).tolist()) if wrongs else None
        k = size.pages(measured.distinct)
        return Outcome(contender, size, k, faults / seeds, seeds, mean, seconds)

    def _told(self, contender: Contender, seed: int) -> tuple[NDArray[np.integer] | None, tuple[float, float] | None]:
        """What a contender is told, and the shares of wrong bits in it."""
        measured, predictor, kind = self.split.measured, contender.predictor, contender.algorithm.told
        if contender.spec == OPT:
            return measured.next_request, None
        if predictor is None:
            return None, None
        key = (predictor, kind, seed if predictor.randomised else 0)
        if key not in self.said:
            told = predictor.tell(self.split, self.k, kind, seed)
            wrong = None
            if kind in ("discard", "phase"):
                zeros, ones = errors(measured, self.k, "phase" if kind == "phase" else "discard", told)
                wrong = zeros / len(measured), ones / len(measured)
            self.said[key] = told, wrong
        return self.said[key]


def rows(outcomes: Sequence[Outcome], requests: int) -> list[dict[str, Any]]:
    """A row per outcome, with 95 % intervals by moving-block bootstrap over the trace.

    The series that is drawn from is averaged over seeds, so the chance of a seed is in the interval, as far as it
    varies along the trace; what one seed decides for the whole trace is not.

    Args:
        outcomes: of every contender at every size, ``opt`` and ``lru`` among them.
        requests: how many were measured.
    """
    lengths = np.diff(_edges(requests)).astype(np.float64)
    reference = {(out.size, out.contender.spec): out.faults for out in outcomes}
    found = []
    for out in outcomes:
        predictor = out.contender.predictor
        zeros, ones = (None, None) if out.wrong is None else out.wrong
        lru, best = reference[out.size, "lru"], reference[out.size, OPT]
        found.append(
            {
                "size": out.size.text,
                "k": out.k,
                "algorithm": out.contender.spec,
                "told": "none" if predictor is None else out.contender.algorithm.told,
                "predictor": "" if predictor is None else predictor.spec,
                "wrong_zeros": zeros,
                "wrong_ones": ones,
                **_ratio("miss_ratio", out.faults, lengths),
                "faults": float(out.faults.sum()),
                **_ratio("gap_closed", lru - out.faults, lru - best, exact=out.contender.spec in ("lru", OPT)),
                "requests_per_s": requests / statistics.median(out.seconds),
                "seeds": out.seeds,
            }
        )
    return found


def _edges(requests: int) -> NDArray[np.int64]:
    """Where the parts of a trace begin and end."""
    return np.linspace(0, requests, min(BATCHES, requests) + 1).astype(np.int64)


def _ratio(
    name: str, effects: NDArray[np.float64], controls: NDArray[np.float64], exact: bool = False
) -> dict[str, float | None]:
    """The ratio of two sums over the trace, with its interval unless it is exact; nothing for a ratio to 0 or less."""
    ratio = low = high = None
    if controls.sum() > 0:
        ratio = float(effects.sum() / controls.sum())
        if len(effects) > 1 and not exact:
            low, high = block_interval(effects, controls, np.random.default_rng(0))
    return {name: ratio, f"{name}_low": low, f"{name}_high": high}
