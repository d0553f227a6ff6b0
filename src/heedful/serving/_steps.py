"""The simulated engine's compiled parts: it runs until a scheduler has to decide, then takes what is admitted.

Time is in whole picoseconds and everything else in whole tokens, so that a jump over many steps gives the very numbers
that single steps give.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from heedful.serving.base import Batch
from heedful.serving.peak import pages, peak

Integers = NDArray[np.int64]

NONE = -1
LONGEST_JUMP = 1 << 16
"""Steps; more would not change a sum, but could outgrow 64 bits."""
(
    NOW,
    RUNNING,
    EVICTED,
    ARRIVED,
    QUEUED,
    SINCE,
    ENDED,
    FINISHED,
    STEPS,
    EVICTIONS,
    PREFILLED,
    RECOMPUTED,
    CALLS,
    OCCUPIED_STEPS,
    OCCUPIED_MOST,
    PEAKS,
) = range(16)
"""Places in ``State.clock``. The last ones are sums: of slots held after each step, the most of them, and of true
future peaks after each decision."""


class Engine(NamedTuple):
    """What does not change.

    Attributes:
        capacity: slots.
        page: tokens per block.
        interval: decode steps between decisions.
        max_running: requests that may run together.
        batch_tokens: prompt tokens of one prefill; the first request of a prefill may be longer.
        chunk: prompt tokens that are computed beside each decode step; 0 if prefills stand alone.
        clients: of a closed loop; 0 for an open one.
        time: int64 ``[5]``: see StepTime.picoseconds.
    """

    capacity: int
    page: int
    interval: int
    max_running: int
    batch_tokens: int
    chunk: int
    clients: int
    time: Integers


class State(NamedTuple):
    """What changes. Arrays ``[n]`` have a place per request; times are NONE until they are known."""

    clock: Integers
    running: Integers
    evicted: Integers
    finished: Integers
    arrival: Integers
    prompt: Integers
    output: Integers
    cap: Integers
    generated: Integers
    to_prefill: Integers
    admitted: Integers
    first_token: Integers
    last_token: Integers
    gap: Integers
    end: Integers
    evictions: Integers
    rejected: NDArray[np.bool_]


def start(arrival: Integers, prompt: Integers, output: Integers, cap: Integers) -> State:
    """Nothing has happened yet."""
    n = len(prompt)
    unknown = [np.full(n, NONE) for _ in range(5)]
    admitted, first_token, last_token, gap, end = unknown
    gap[:] = 0
    zeros = [np.zeros(n, np.int64) for _ in range(6)]
    running, evicted, finished, generated, to_prefill, evictions = zeros
    return State(
        np.zeros(16, np.int64),
        running,
        evicted,
        finished,
        arrival.copy(),
        prompt,
        output,
        cap,
        generated,
        to_prefill,
        admitted,
        first_token,
        last_token,
        gap,
        end,
        evictions,
        np.zeros(n, np.bool_),
    )


@njit(cache=True, nogil=True)
def _arrive(state: State, engine: Engine) -> None:
    """Puts what has arrived by now into the queue; refuses what could never fit."""
    clock, n = state.clock, len(state.prompt)
    while clock[ARRIVED] < n:
        i = clock[ARRIVED]
        if engine.clients:
            in_flight = clock[ARRIVED] - clock[FINISHED]
            if in_flight >= engine.clients:
                return
            state.arrival[i] = clock[NOW]
        elif state.arrival[i] > clock[NOW]:
            return
        clock[ARRIVED] += 1
        if pages(state.prompt[i] + state.cap[i], engine.page) > engine.capacity:
            state.rejected[i] = True
            state.finished[clock[FINISHED]] = i
            clock[FINISHED] += 1


@njit(cache=True, nogil=True)
def _skip_rejected(state: State) -> None:
    clock = state.clock
    while clock[QUEUED] < clock[ARRIVED] and state.rejected[clock[QUEUED]]:
        clock[QUEUED] += 1


@njit(cache=True, nogil=True)
def _held(state: State, engine: Engine, steps: int) -> int:
    """Slots that are held after so many more steps of those that decode."""
    total = 0
    for j in range(state.clock[RUNNING]):
        i = state.running[j]
        tokens = state.prompt[i] + state.generated[i]
        total += pages(tokens + (steps if state.to_prefill[i] == 0 else 0), engine.page)
    return total


@njit(cache=True, nogil=True)
def _block_sum(tokens: int, page: int) -> int:
    """Sum of the slots of the whole blocks that hold 1, 2, ..., ``tokens`` tokens."""
    whole, rest = tokens // page, tokens % page
    return page * (page * whole * (whole + 1) // 2 + rest * (whole + 1))


@njit(cache=True, nogil=True)
def _evict_last(state: State) -> None:
    """The request that was admitted last goes back to the head of the queue."""
    clock = state.clock
    clock[RUNNING] -= 1
    i = state.running[clock[RUNNING]]
    state.evicted[clock[EVICTED]] = i
    clock[EVICTED] += 1
    clock[EVICTIONS] += 1
    state.evictions[i] += 1
    state.to_prefill[i] = 0


@njit(cache=True, nogil=True)
def proceed(state: State, engine: Engine, admitted: int) -> tuple[bool, Batch, Batch]:
    """Admits that many from the head of the queue, then runs until a decision is needed or everything has been served.

    ``admitted`` is negative at the start. Returns whether a decision is needed, the head of the queue, as much of it
    as the engine could take at once, and what runs.
    """
    if admitted >= 0:
        _take(state, engine, admitted)
    needed = _advance(state, engine)
    waiting, running = _look(state, engine)
    return needed, waiting, running


@njit(cache=True, nogil=True)
def _advance(state: State, engine: Engine) -> bool:
    """Runs until a decision is needed, or everything has been served."""
    clock = state.clock
    while True:
        _arrive(state, engine)
        _skip_rejected(state)
        waiting = clock[EVICTED] > 0 or clock[QUEUED] < clock[ARRIVED]
        if clock[RUNNING] == 0 and not waiting:
            if clock[ARRIVED] == len(state.prompt):
                return False
            clock[NOW] = state.arrival[clock[ARRIVED]]
            continue
        if waiting and (clock[ENDED] or clock[SINCE] >= engine.interval or clock[RUNNING] == 0):
            return True
        while _held(state, engine, 1) > engine.capacity:
            _evict_last(state)
        _step(state, engine, waiting or clock[EVICTED] > 0)


@njit(cache=True, nogil=True)
def _step(state: State, engine: Engine, waiting: bool) -> None:
    """As many decode steps as pass before anything but lengths and times changes."""
    clock, time = state.clock, engine.time
    decoding, occupied, prefilling = 0, 0, False
    steps = LONGEST_JUMP
    for j in range(clock[RUNNING]):
        i = state.running[j]
        if state.to_prefill[i] > 0:
            prefilling = True
        else:
            decoding += 1
            occupied += state.prompt[i] + state.generated[i]
            steps = min(steps, state.output[i] - state.generated[i])
    if prefilling:
        steps = 1
    if waiting:
        steps = min(steps, max(engine.interval - clock[SINCE], 1))
    steps = _before_overflow(state, engine, steps)
    first = time[0] + time[1] * decoding + time[2] * occupied if decoding else 0
    growth = time[2] * decoding
    extra = 0
    if prefilling:
        left = engine.chunk
        for j in range(clock[RUNNING]):
            i = state.running[j]
            part = min(left, state.to_prefill[i])
            left -= part
            extra += part * time[4]
            # Marked as negative until the step is over: it decodes from the next one on.
            state.to_prefill[i] -= part
            if part > 0 and state.to_prefill[i] == 0:
                state.to_prefill[i] = NONE
    elif not engine.clients and not waiting and clock[ARRIVED] < len(state.prompt):
        steps = _before_arrival(state.arrival[clock[ARRIVED]] - clock[NOW], steps, first, growth)
    total = steps * first + growth * (steps * (steps - 1) // 2) + extra
    last = first + growth * (steps - 1)
    began = clock[NOW]
    clock[NOW] += total
    clock[STEPS] += steps
    clock[SINCE] += steps
    alive = 0
    after = 0
    for j in range(clock[RUNNING]):
        i = state.running[j]
        state.running[alive] = i
        alive += 1
        held = state.prompt[i] + state.generated[i]
        if state.to_prefill[i] != 0:
            if state.to_prefill[i] == NONE:
                state.to_prefill[i] = 0
            clock[OCCUPIED_STEPS] += steps * pages(held, engine.page)
            after += pages(held, engine.page)
            continue
        clock[OCCUPIED_STEPS] += _block_sum(held + steps, engine.page) - _block_sum(held, engine.page)
        after += pages(held + steps, engine.page)
        token = began + first + extra
        if state.first_token[i] == NONE:
            state.first_token[i] = token
        else:
            state.gap[i] = max(state.gap[i], token - state.last_token[i])
        if steps > 1:
            state.gap[i] = max(state.gap[i], last)
        state.last_token[i] = clock[NOW]
        state.generated[i] += steps
        if state.generated[i] == state.output[i]:
            state.end[i] = clock[NOW]
            state.finished[clock[FINISHED]] = i
            clock[FINISHED] += 1
            clock[ENDED] = 1
            alive -= 1
    clock[OCCUPIED_MOST] = max(clock[OCCUPIED_MOST], after)
    clock[RUNNING] = alive


@njit(cache=True, nogil=True)
def _before_overflow(state: State, engine: Engine, steps: int) -> int:
    """The most steps, up to ``steps`` and at least 1, that fit into the capacity; one step does."""
    if steps == 1 or _held(state, engine, steps) <= engine.capacity:
        return steps
    low, high = 1, steps
    while high - low > 1:
        middle = (low + high) // 2
        if _held(state, engine, middle) <= engine.capacity:
            low = middle
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def _before_arrival(until: int, steps: int, first: int, growth: int) -> int:
    """The fewest steps, up to ``steps``, that last at least ``until``."""
    low, high = 1, steps
    while low < high:
        middle = (low + high) // 2
        if middle * first + growth * (middle * (middle - 1) // 2) >= until:
            high = middle
        else:
            low = middle + 1
    return low


@njit(cache=True, nogil=True)
def _look(state: State, engine: Engine) -> tuple[Batch, Batch]:
    """The head of the queue, as much as the engine could take at once, and what runs."""
    clock = state.clock
    n = clock[RUNNING]
    room = engine.max_running - n
    slots = engine.capacity - _held(state, engine, 0)
    found = np.empty(max(min(room, clock[EVICTED] + clock[ARRIVED] - clock[QUEUED]), 0), np.int64)
    count, tokens, evicted, fresh = 0, 0, clock[EVICTED], clock[QUEUED]
    while count < len(found):
        if evicted > 0:
            evicted -= 1
            i = state.evicted[evicted]
        else:
            while fresh < clock[ARRIVED] and state.rejected[fresh]:
                fresh += 1
            if fresh == clock[ARRIVED]:
                break
            i = fresh
            fresh += 1
        length = state.prompt[i] + state.generated[i]
        tokens += length
        slots -= pages(length, engine.page)
        if (count > 0 and tokens > engine.batch_tokens) or slots < 0:
            break
        found[count] = i
        count += 1
    return _batch(state, found[:count]), _batch(state, state.running[:n])


@njit(cache=True, nogil=True)
def _batch(state: State, ids: Integers) -> Batch:
    return Batch(
        state.prompt[ids],
        state.generated[ids],
        state.cap[ids],
        np.zeros(len(ids), np.bool_),
        state.output[ids],
    )


@njit(cache=True, nogil=True)
def _take(state: State, engine: Engine, count: int) -> None:
    """Admits that many from the head of the queue, and computes their prompts unless this happens in chunks."""
    clock = state.clock
    clock[SINCE] = 0
    clock[ENDED] = 0
    clock[CALLS] += 1
    tokens = 0
    for _ in range(count):
        if clock[EVICTED] > 0:
            clock[EVICTED] -= 1
            i = state.evicted[clock[EVICTED]]
        else:
            _skip_rejected(state)
            i = clock[QUEUED]
            clock[QUEUED] += 1
        length = state.prompt[i] + state.generated[i]
        tokens += length
        if state.evictions[i] > 0:
            clock[RECOMPUTED] += length
        state.admitted[i] = clock[NOW]
        if engine.chunk:
            state.to_prefill[i] = length
        state.running[clock[RUNNING]] = i
        clock[RUNNING] += 1
    clock[PREFILLED] += tokens
    if count and not engine.chunk:
        clock[NOW] += engine.time[3] + tokens * engine.time[4]
    n = clock[RUNNING]
    held = np.empty(n, np.int64)
    remaining = np.empty(n, np.int64)
    for j in range(n):
        i = state.running[j]
        held[j] = state.prompt[i] + state.generated[i]
        remaining[j] = state.output[i] - state.generated[i]
    clock[PEAKS] += peak(held, remaining, engine.page)
