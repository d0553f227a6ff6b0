"""The runs of a comparison: every scheduler under every load, and the smallest cache that is enough for one load."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from heedful.serving.base import Scheduler
from heedful.serving.baselines import Oracle
from heedful.serving.loads import Outcome, area, smallest_capacity, sustained, under
from heedful.serving.service import Limits
from heedful.serving.simulator import Simulator
from heedful.serving.workloads import Workload

ABOUT = (0.6, 0.8, 0.9, 1.0, 1.1, 1.3)
"""Loads that are tried if none are given, as shares of the one about which they lie."""


@dataclass(frozen=True, eq=False)
class Compared:
    """What came out for one workload.

    Attributes:
        loads: the loads, ascending.
        outcomes: scheduler -> what happened under each.
        reference: the load of the search for the smallest cache; None if there was none.
        capacity: scheduler -> the fewest slots that are enough for it; None if none are.
    """

    loads: Sequence[float]
    outcomes: Mapping[str, Sequence[Outcome]]
    reference: float | None
    capacity: Mapping[str, int | None]

    @property
    def whole(self) -> bool:
        """Whether all is of whole runs, because too little would be left without cold start and end."""
        return all(outcome.settled == outcome.whole for each in self.outcomes.values() for outcome in each)

    @property
    def most_held(self) -> int:
        """The most slots that were ever held."""
        return max(outcome.run.most_held for each in self.outcomes.values() for outcome in each)

    @property
    def alike(self) -> bool:
        """Whether every request fared the same under all schedulers: the cache left them nothing to decide."""
        first, *others = self.outcomes.values()
        return bool(others) and all(
            np.array_equal(one.run.admitted, other.run.admitted, equal_nan=True)
            and np.array_equal(one.run.end, other.run.end, equal_nan=True)
            for each in others
            for one, other in zip(first, each, strict=True)
        )


def loads_about(full: float, clients: bool) -> list[float]:
    """Loads to try about one: whole numbers of clients, or speeds of arrival to three digits.

    >>> loads_about(2.0, clients=False)
    [1.2, 1.6, 1.8, 2.0, 2.2, 2.6]
    """
    found = (full * share for share in ABOUT)
    if clients:
        return [float(n) for n in sorted({max(round(load), 1) for load in found})]
    return [float(f"{load:.3g}") for load in found]


def takes_all_at_once(simulator: Simulator, workload: Workload, limits: Limits) -> bool:
    """Whether the oracle serves a log within limits even if all of its requests arrive at once.

    Then no speed of arrivals saturates the server. False without a simulation, which would be a long one, if the
    prompts alone take longer than a request may wait; and in a closed loop.
    """
    if workload.arrival is None or simulator.time.prompt(int(workload.prompt.sum())) > limits.ttft:
        return False
    at_once = replace(workload, arrival=np.zeros(len(workload)))
    return under(simulator, Oracle(), at_once, 1.0, limits).judged.sustained


def compare(
    simulator: Simulator,
    schedulers: Mapping[str, Scheduler],
    workload: Workload,
    loads: Sequence[float],
    limits: Limits,
    window: int,
    seed: int,
    search: bool,
    told: Callable[[float, float | None], None],
) -> Compared:
    """Serves a workload with every scheduler under every load.

    Args:
        search: whether to look for the smallest cache, under the largest load that a scheduler which does not know
            lengths sustains; the smallest load if none sustains any.
        told: is told what share of the work is done, and how many seconds it will still take.
    """
    total = len(schedulers) * (len(loads) + (9 if search else 0))
    began, done = time.monotonic(), 0

    def tick() -> None:
        nonlocal done
        done += 1
        spent = time.monotonic() - began
        told(min(done / total, 1.0), spent * max(total - done, 0) / done)

    outcomes: dict[str, list[Outcome]] = {}
    for spec, scheduler in schedulers.items():
        outcomes[spec] = []
        for load in loads:
            outcomes[spec].append(under(simulator, scheduler, workload, load, limits, window, seed))
            tick()
    if not all(outcome.is_settled for each in outcomes.values() for outcome in each):
        # One window for all: the whole run.
        outcomes = {spec: [replace(each, settled=each.whole) for each in some] for spec, some in outcomes.items()}
    capacity: dict[str, int | None] = {}
    reference = None
    if search:
        best = (sustained(outcomes[spec]) for spec, scheduler in schedulers.items() if not scheduler.knows_lengths)
        reference = max((load for load in best if load is not None), default=loads[0])
        for spec, scheduler in schedulers.items():
            capacity[spec] = smallest_capacity(
                simulator, scheduler, workload, reference, limits, window, tried=lambda _: tick()
            )
    return Compared(loads, outcomes, reference, capacity)


def rows(compared: Compared) -> list[dict[str, float | int | str | bool | None]]:
    """A row per scheduler and load."""
    return [
        {
            "scheduler": spec,
            "load": outcome.load,
            "measured_requests": outcome.settled.requests,
            "goodput": outcome.settled.goodput,
            "throughput": outcome.settled.throughput,
            "met": outcome.settled.met,
            "sustained": outcome.settled.sustained,
            "ttft_p99_s": outcome.settled.ttft,
            "mtpot_p99_s": outcome.settled.mtpot,
            "goodput_whole": outcome.whole.goodput,
            "met_whole": outcome.whole.met,
            "rejected": outcome.whole.rejected,
            "evictions_per_100": outcome.run.evictions_per_100,
            "utilisation": outcome.run.utilisation,
            "future_peak": outcome.run.future_peak,
            "recomputed_tokens": outcome.run.recomputed,
            "simulated_s": outcome.run.seconds,
            "took_s": outcome.run.took,
        }
        for spec, outcomes in compared.outcomes.items()
        for outcome in outcomes
    ]


def summaries(compared: Compared) -> list[dict[str, float | int | str | None]]:
    """A row per scheduler: the largest load it sustains, its goodput over loads, the smallest cache that is enough."""
    found: list[dict[str, float | int | str | None]] = []
    for spec, outcomes in compared.outcomes.items():
        worst = max(outcomes, key=lambda outcome: outcome.run.evictions_per_100)
        found.append(
            {
                "scheduler": spec,
                "sustained": sustained(list(outcomes)),
                "goodput": area(list(compared.loads), [outcome.settled.goodput for outcome in outcomes]),
                "smallest_capacity": compared.capacity.get(spec),
                "most_evictions_per_100": worst.run.evictions_per_100,
                "rejected": outcomes[0].whole.rejected,
            }
        )
    return found
