"""Which load a scheduler sustains: the same requests under rising load, and the smallest cache that is enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from heedful.serving.base import Scheduler
from heedful.serving.baselines import Oracle
from heedful.serving.service import Limits, Service, service, settled
from heedful.serving.simulator import Run, Simulator
from heedful.serving.workloads import Workload


@dataclass(frozen=True, eq=False)
class Outcome:
    """A scheduler under one load.

    Attributes:
        load: clients of a closed loop, or how many times as fast requests arrive as in the log.
        run: what became of every request.
        window: start and end, in seconds, without the cold start and what comes after the last arrival.
        settled: how they were served after the cold start and before the last arrival.
        whole: how they were served over the whole run.
    """

    load: float
    run: Run
    window: tuple[float, float]
    settled: Service
    whole: Service

    @property
    def is_settled(self) -> bool:
        """Whether enough is left without start and end: at least :data:`ENOUGH` requests."""
        return self.settled != self.whole and self.settled.requests >= ENOUGH

    @property
    def judged(self) -> Service:
        """How they were served without start and end, or over the whole run if too little is left."""
        return self.settled if self.is_settled else self.whole


ENOUGH = 50
"""Requests that a share of 99 % can be said of."""


def under(
    simulator: Simulator,
    scheduler: Scheduler,
    workload: Workload,
    load: float,
    limits: Limits,
    window: int = 1000,
    seed: int = 0,
) -> Outcome:
    """Serves the requests under a load: in a closed loop the number of clients, in an open one the speed of arrivals.

    Twice the ``window`` of completions are left out as the cold start; a third of them if there are fewer than three
    windows of requests.
    """
    if workload.arrival is None:
        run = simulator.run(scheduler, workload, clients=int(load), window=window, seed=seed)
    else:
        run = simulator.run(scheduler, workload.faster(load), window=window, seed=seed)
    cold = 2 * window if len(workload) >= 3 * window else len(workload) // 3
    kept = settled(run, cold)
    return Outcome(load, run, kept, service(run, limits, kept), service(run, limits))


def saturation(simulator: Simulator, workload: Workload, limits: Limits) -> float:
    """The load about which schedulers begin to differ.

    Of a closed loop: the number of clients whose requests fill the cache, C over the mean slots of a running request.
    Of an open one: the largest speed of arrivals that the oracle sustains, to 5 %.
    """
    if workload.arrival is None:
        output = workload.output.astype(float)
        mean = float((output * (workload.prompt + (output + 1) / 2)).sum() / output.sum())
        return max(simulator.capacity / mean, 1.0)

    def enough(speed: float) -> bool:
        return under(simulator, Oracle(), workload, speed, limits).judged.sustained

    low, high = 1.0, 1.0
    while enough(high) and high < 2.0**20:
        low, high = high, 2 * high
    while low == high or (not enough(low) and low > 2.0**-20):
        low, high = low / 2, low
    while high / low > 1.05:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low


def sustained(outcomes: list[Outcome]) -> float | None:
    """The largest load that is sustained, as are all smaller ones; None if the smallest is not."""
    best = None
    for outcome in sorted(outcomes, key=lambda outcome: outcome.load):
        if not outcome.judged.sustained:
            break
        best = outcome.load
    return best


def area(loads: list[float], goodput: list[float]) -> float:
    """The area under goodput over load, by trapezia, divided by the range of loads: a mean goodput.

    >>> area([10, 20, 40], [100.0, 200.0, 0.0])
    116.66666666666667
    """
    if len(loads) == 1:
        return goodput[0]
    return float(np.trapezoid(goodput, loads) / (loads[-1] - loads[0]))


def smallest_capacity(
    simulator: Simulator,
    scheduler: Scheduler,
    workload: Workload,
    load: float,
    limits: Limits,
    window: int = 1000,
    resolution: float = 0.01,
    tried: Callable[[int], None] | None = None,
) -> int | None:
    """The fewest slots with which a load is sustained, to a resolution of 1 % of the capacity; None if it never is.

    Found from the simulator's capacity on, up to four times as much and down to what the largest request needs; it is
    taken for granted that a larger cache is never worse.

    Args:
        simulator: the engine; its own capacity is where the search starts.
        resolution: as a share of the simulator's capacity, in (0, 1].
        tried: is told each capacity that is tried.
    """
    step = max(int(resolution * simulator.capacity), 1)
    least = int((workload.prompt + workload.cap).max()) + simulator.page

    def enough(capacity: int) -> bool:
        if tried is not None:
            tried(capacity)
        return under(replace(simulator, capacity=capacity), scheduler, workload, load, limits, window).judged.sustained

    high = max(simulator.capacity, least)
    while not enough(high):
        high *= 2
        if high > 4 * max(simulator.capacity, least):
            return None
    low = high
    while low == high:
        low = max(int(0.8 * high), least)
        if enough(low):
            if low == least:
                return least
            high = low
    while high - low > step:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high
