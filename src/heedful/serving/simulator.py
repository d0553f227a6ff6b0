"""A simulated server: an engine with a KV cache of limited size, evictions, and steps that take time.

The engine alternates between prefills of newly admitted requests and decode steps for all that run. A prefill fills
the slots of prompt and earlier output; each decode step gives every running request one token and one slot. Before a
step that would not fit, the requests that were admitted last are evicted, go back to the head of the queue, and are
later computed again from the start, which takes the time it takes. A request that could not fit alone, with all of its
cap, is rejected when it arrives.

The scheduler decides every ``interval`` decode steps, or when a request has ended since, or when nothing runs. It is
left alone only while the answer is known: while nothing waits, and then it decides as soon as something does; and if
its refusal stands (:attr:`~heedful.serving.base.Scheduler.refusal_stands`), until a request ends or is evicted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from heedful.serving import _steps
from heedful.serving.base import Scheduler
from heedful.serving.history import History
from heedful.serving.step_time import PICOSECONDS, StepTime
from heedful.serving.workloads import Workload

_LONGEST = 80 * 86_400
"""Seconds that a simulation may last: picoseconds since its start must fit 64 bits."""


@dataclass(frozen=True, eq=False)
class Run:
    """What became of every request, in order of arrival; and sums over the run.

    Attributes:
        workload: the requests.
        arrival: float64 ``[n]``: seconds since the start.
        admitted: float64 ``[n]``: when it was admitted, the last time if it was evicted; NaN if it was rejected.
        first_token: float64 ``[n]``: when its first token was there; NaN if it was rejected.
        max_gap: float64 ``[n]``: seconds of the longest gap between two of its tokens; 0 for a single token.
        end: float64 ``[n]``: when its last token was there; NaN if it was rejected.
        evictions: int64 ``[n]``: how often it was evicted.
        rejected: bool ``[n]``: whether it could never have fitted.
        order: int64 ``[finished]``: the requests in the order in which they finished.
        capacity: slots.
        seconds: simulated seconds.
        steps: decode steps.
        utilisation: mean over steps of the share of slots that is held.
        most_held: the most slots that were ever held.
        future_peak: mean over steps of the peak that the running requests would come to by their true lengths, as a
            share of the capacity.
        decisions: how often the scheduler was asked.
        prefilled: prompt tokens that were computed, ``recomputed`` included.
        recomputed: of these, tokens of requests that had been evicted.
        took: seconds that the simulation itself took.
    """

    workload: Workload
    arrival: NDArray[np.float64]
    admitted: NDArray[np.float64]
    first_token: NDArray[np.float64]
    max_gap: NDArray[np.float64]
    end: NDArray[np.float64]
    evictions: NDArray[np.int64]
    rejected: NDArray[np.bool_]
    order: NDArray[np.int64]
    capacity: int
    seconds: float
    steps: int
    utilisation: float
    most_held: int
    future_peak: float
    decisions: int
    prefilled: int
    recomputed: int
    took: float

    @property
    def evictions_per_100(self) -> float:
        """Evictions per 100 finished requests."""
        return 100 * int(self.evictions.sum()) / max(len(self.order), 1)


@dataclass(frozen=True)
class Simulator:
    """A simulated engine: immutable, usable for any number of runs.

    Args:
        capacity: slots of the KV cache, in tokens.
        page: tokens per block; a request holds whole blocks.
        interval: decode steps between two decisions.
        max_running: requests that may run together.
        prefill_tokens: the most prompt tokens of one prefill; a single longer prompt is computed all the same.
        chunk: if not 0, prompts are computed in pieces of that many tokens beside the decode steps, instead of in
            prefills for which these wait.
        time: how long steps take.

    >>> import numpy as np
    >>> from heedful.serving import Conservative, distribution_1
    >>> run = Simulator(capacity=120_000).run(Conservative(), distribution_1(200, np.random.default_rng(0)), clients=40)
    >>> int(run.evictions.sum()), run.most_held <= 120_000
    (0, True)
    """

    capacity: int
    page: int = 1
    interval: int = 10
    max_running: int = 1024
    prefill_tokens: int = 4096
    chunk: int = 0
    time: StepTime = field(default_factory=StepTime)

    def __post_init__(self) -> None:
        for name in ("capacity", "page", "interval", "max_running", "prefill_tokens"):
            if not 1 <= getattr(self, name) < 2**31:
                raise ValueError(f"{name}={getattr(self, name)}: must lie in [1, 2**31)")
        if self.page > self.capacity:
            raise ValueError(f"page={self.page}: must be at most the capacity, {self.capacity}")
        if not 0 <= self.chunk < 2**31:
            raise ValueError(f"chunk={self.chunk}: must be at least 1, or 0 for prefills that stand alone")

    def run(
        self,
        scheduler: Scheduler,
        workload: Workload,
        clients: int = 0,
        window: int = 1000,
        seed: int = 0,
        watch: Callable[[int], None] | None = None,
    ) -> Run:
        """Serves all requests.

        Args:
            scheduler: what decides.
            workload: the requests; with arrival times unless there are clients.
            clients: how many clients send the requests, each one at a time; 0 to go by arrival times.
            window: W, how many earlier output lengths the history holds. At first half of it is filled with the
                largest cap of the workload.
            seed: of the scheduler's random choices.
            watch: is told now and then how many requests have finished.

        Raises ValueError for a workload without arrival times or clients, and for one that lasts over 80 days.
        """
        if clients < 0:
            raise ValueError(f"clients={clients}: must be at least 1, or 0 to go by arrival times")
        if not clients and workload.arrival is None:
            raise ValueError("workload: has no arrival times; say how many clients send the requests")
        if workload.arrival is not None and len(workload) and workload.arrival[-1] > _LONGEST:
            raise ValueError(f"workload: lasts {workload.arrival[-1] / 86_400:.0f} days; at most 80 can be simulated")
        began = time.perf_counter()
        arrival = np.zeros(len(workload)) if clients or workload.arrival is None else workload.arrival
        state = _steps.start(
            np.rint(arrival * PICOSECONDS).astype(np.int64), workload.prompt, workload.output, workload.cap
        )
        engine = _steps.Engine(
            self.capacity,
            self.page,
            self.interval,
            self.max_running,
            self.prefill_tokens,
            self.chunk,
            clients,
            self.time.picoseconds,
        )
        history = History(window, int(workload.cap.max(initial=1))) if scheduler.needs_history else None
        rng = np.random.default_rng(seed)
        seen = 0
        needed, waiting, running = _steps.proceed(state, engine, -1, False)
        while needed:
            done = int(state.clock[_steps.FINISHED])
            if history is not None:
                for i in state.finished[seen:done]:
                    if not state.rejected[i]:
                        history.record(int(workload.output[i]))
            if watch is not None and done > seen:
                watch(done)
            seen = done
            admitted = scheduler.admit(waiting, running, self.capacity, history, rng, self.page)
            if not 0 <= admitted <= waiting.size or (admitted == 0 and not running.size):
                raise ValueError(
                    f"{scheduler}: admitted {admitted} of {waiting.size} waiting requests beside {running.size}"
                )
            stands = waiting.size == 0 or (scheduler.refusal_stands and admitted < waiting.size)
            needed, waiting, running = _steps.proceed(state, engine, admitted, stands)
        return self._result(state, workload, time.perf_counter() - began)

    def _result(self, state: _steps.State, workload: Workload, took: float) -> Run:
        clock = state.clock
        if clock[_steps.NOW] > _LONGEST * PICOSECONDS:
            raise ValueError("workload: serving it takes over 80 days of simulated time")
        steps = int(clock[_steps.STEPS])
        order = state.finished[: clock[_steps.FINISHED]]
        return Run(
            workload=workload,
            arrival=state.arrival / PICOSECONDS,
            admitted=_seconds(state.admitted),
            first_token=_seconds(state.first_token),
            max_gap=state.gap / PICOSECONDS,
            end=_seconds(state.end),
            evictions=state.evictions,
            rejected=state.rejected,
            order=order[~state.rejected[order]],
            capacity=self.capacity,
            seconds=int(clock[_steps.NOW]) / PICOSECONDS,
            steps=steps,
            utilisation=int(clock[_steps.OCCUPIED_STEPS]) / max(steps, 1) / self.capacity,
            most_held=int(clock[_steps.OCCUPIED_MOST]),
            future_peak=int(clock[_steps.PEAKS]) / max(steps, 1) / self.capacity,
            decisions=int(clock[_steps.CALLS]),
            prefilled=int(clock[_steps.PREFILLED]),
            recomputed=int(clock[_steps.RECOMPUTED]),
            took=took,
        )


def _seconds(picoseconds: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(picoseconds == _steps.NONE, np.nan, picoseconds / PICOSECONDS)
