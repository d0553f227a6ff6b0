"""Trust&Doubt follows a predicted cache in intervals of trust, and doubts each wrong prediction for twice as long.

Antoniadis, Coester, Elias, Polak, Simon, "Online Metric Algorithms with Untrusted Predictions", ICML 2020, arXiv
2003.02144, Section 4. The prediction is what another algorithm would hold (here BlindOracle on predicted next
requests). In a phase, pages that nobody asked for in the last one (ancient) go first. Afterwards every clean page q
(asked for now, not in the last phase) is charged with one page p_q that the predicted cache lacks; while q is trusted
p_q is out, in favour of a random stale page; when p_q is asked for, another page is charged and q is doubted, for an
interval of arrivals that doubles each time. The cache moves towards that goal lazily, one page per fault.
At most O(min(1 + log(1 + eta / OPT), log k)) times the optimal faults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.paging import blind_oracle
from heedful.paging.base import Algorithm, Compiled, Told
from heedful.paging.structures import FREE, HIT, compiled, pick, push, rekey, replace_top

NOBODY = -1


class State(NamedTuple):
    """The predicted cache, the goal, and our own cache.

    Attributes:
        heap: int32 ``[k]``: the predicted cache, as in :class:`heedful.paging.blind_oracle.State`.
        place_of: int32 ``[pages]``: likewise; -1 for pages that are not predicted to be held.
        key_of: int64 ``[pages]``: likewise.
        seen_of: int64 ``[pages]``: when a page was last asked for.
        asked_of: int64 ``[pages]``: the last phase in which it was, from 1 on.
        goal_of: bool ``[pages]``: whether the goal holds it.
        stale_of: int64 ``[pages]``: the last phase at whose beginning it was in the goal, and asked for in the one
            before.
        ancient_of: int64 ``[pages]``: the last phase in which it was ancient; made negative once it is no longer.
        charged_of: int64 ``[pages]``: the clean page, by number, that it is charged to, or NOBODY.
        ours_of: bool ``[pages]``: whether we hold it.
        arrived: int32 ``[k]``: pages asked for in this phase.
        stale: int32 ``[k]``: stale pages, the lowest random priority first.
        ancient: int32 ``[k]``: what was ancient when the phase began.
        clean: int64 ``[4, k]``: per clean page p_q, whether it is trusted, the arrivals when its interval began, and
            the interval's length.
        ours: int32 ``[k]``: our pages.
        size: int64 ``[9]``: predicted, phase, arrived, stale, ancient at first, ancient left, clean, goal, ours.
    """

    heap: NDArray[np.int32]
    place_of: NDArray[np.int32]
    key_of: NDArray[np.int64]
    seen_of: NDArray[np.int64]
    asked_of: NDArray[np.int64]
    goal_of: NDArray[np.bool_]
    stale_of: NDArray[np.int64]
    ancient_of: NDArray[np.int64]
    charged_of: NDArray[np.int64]
    ours_of: NDArray[np.bool_]
    arrived: NDArray[np.int32]
    stale: NDArray[np.int32]
    ancient: NDArray[np.int32]
    clean: NDArray[np.int64]
    ours: NDArray[np.int32]
    size: NDArray[np.int64]


PREDICTED, PHASE, ARRIVED, STALE, ANCIENT, LEFT, CLEAN, GOAL, OURS = range(9)
CHARGED, TRUSTED, SINCE, LENGTH = range(4)


def start(pages: int, k: int) -> State:
    """Empty caches."""
    predicted = blind_oracle.start(pages, k)
    seen, charged = np.full((2, pages), -1, dtype=np.int64)
    asked, stale_of, ancient_of = np.zeros((3, pages), dtype=np.int64)
    goal, ours_of = np.zeros((2, pages), dtype=np.bool_)
    arrived, stale, ancient, ours = np.zeros((4, k), dtype=np.int32)
    size = np.zeros(9, dtype=np.int64)
    size[PHASE] = 1
    return State(
        predicted.heap, predicted.place_of, predicted.key_of, seen, asked, goal, stale_of, ancient_of, charged, ours_of,
        arrived, stale, ancient, np.zeros((4, k), dtype=np.int64), ours, size,
    )  # fmt: skip


@compiled
def _predict(state, page, told):  # type: ignore[no-untyped-def]
    """The predicted cache takes the request."""
    size = state.size[PREDICTED]
    if state.place_of[page] >= 0:
        rekey(state.heap, state.place_of, state.key_of, page, told, size)
    elif size < len(state.heap):
        push(state.heap, state.place_of, state.key_of, page, told, size)
        state.size[PREDICTED] += 1
    else:
        replace_top(state.heap, state.place_of, state.key_of, page, told, size)


@compiled
def _begin_phase(state, rng):  # type: ignore[no-untyped-def]
    """What the goal holds becomes stale, or ancient if nobody asked for it in the phase that ends."""
    size = state.size
    for q in range(size[CLEAN]):
        if state.clean[CHARGED, q] >= 0:
            state.charged_of[state.clean[CHARGED, q]] = NOBODY
    ended = size[PHASE]
    size[PHASE] += 1
    size[STALE] = size[ANCIENT] = size[CLEAN] = 0
    # The goal holds stale and ancient pages of the phase that ends, and pages that arrived in it.
    for page in range(len(state.goal_of)):
        if not state.goal_of[page]:
            continue
        if state.asked_of[page] == ended:
            state.stale[size[STALE]] = page
            state.stale_of[page] = size[PHASE]
            size[STALE] += 1
        else:
            state.ancient[size[ANCIENT]] = page
            state.ancient_of[page] = size[PHASE]
            size[ANCIENT] += 1
    size[LEFT] = size[ANCIENT]
    size[ARRIVED] = 0
    for at in range(size[STALE] - 1, 0, -1):
        other = pick(rng, at + 1)
        state.stale[at], state.stale[other] = state.stale[other], state.stale[at]


@compiled
def _replace(state, out, page):  # type: ignore[no-untyped-def]
    """The goal holds one page instead of another."""
    state.goal_of[out] = False
    state.goal_of[page] = True


@compiled
def _evict_ancient(state):  # type: ignore[no-untyped-def]
    """The least recently used ancient page, of those that the predicted cache lacks if there are any."""
    best, best_lacked = -1, False
    for at in range(state.size[ANCIENT]):
        page = state.ancient[at]
        if state.ancient_of[page] != state.size[PHASE]:
            continue
        lacked = state.place_of[page] < 0
        if (
            best < 0
            or (lacked and not best_lacked)
            or (lacked == best_lacked and state.seen_of[page] < state.seen_of[best])
        ):
            best, best_lacked = page, lacked
    return best


@compiled
def _least_recent(pages, count, skipped_phase, asked_of, place_of, charged_of, seen_of, best):  # type: ignore[no-untyped-def]
    """The least recently used of ``best`` and those pages that may be charged: not predicted, not charged yet, and not
    asked for in ``skipped_phase``.
    """
    for at in range(count):
        page = pages[at]
        if asked_of[page] == skipped_phase or place_of[page] >= 0 or charged_of[page] != NOBODY:
            continue
        if best < 0 or seen_of[page] < seen_of[best]:
            best = page
    return best


@compiled
def _charge(state, q):  # type: ignore[no-untyped-def]
    """Charges a clean page with the least recently used page, unmarked or arrived, that the predicted cache lacks."""
    size, asked, place, charged, seen = state.size, state.asked_of, state.place_of, state.charged_of, state.seen_of
    best = _least_recent(state.stale, size[STALE], size[PHASE], asked, place, charged, seen, -1)
    best = _least_recent(state.arrived, size[ARRIVED], NOBODY, asked, place, charged, seen, best)
    state.clean[CHARGED, q] = best
    if best >= 0:
        state.charged_of[best] = q


@compiled
def _lowest_in_goal(state):  # type: ignore[no-untyped-def]
    """The unmarked stale page of the lowest priority that the goal holds."""
    phase, stale, asked, goal = state.size[PHASE], state.stale, state.asked_of, state.goal_of
    for at in range(state.size[STALE]):
        if asked[stale[at]] != phase and goal[stale[at]]:
            return stale[at]
    return -1


@compiled
def _put_back(state):  # type: ignore[no-untyped-def]
    """The unmarked stale page of the highest priority that the goal lacks and no trusted page keeps out."""
    phase, stale, asked, goal = state.size[PHASE], state.stale, state.asked_of, state.goal_of
    for at in range(state.size[STALE] - 1, -1, -1):
        page = stale[at]
        if asked[page] == phase or goal[page]:
            continue
        q = state.charged_of[page]
        if q == NOBODY or state.clean[TRUSTED, q] == 0:
            return page
    return -1


@compiled
def _end_intervals(state):  # type: ignore[no-untyped-def]
    """Clean pages whose interval is over are trusted (again): what they are charged with leaves the goal."""
    size, clean = state.size, state.clean
    for q in range(size[CLEAN]):
        if size[ARRIVED] - clean[SINCE, q] != clean[LENGTH, q]:
            continue
        clean[SINCE, q] = size[ARRIVED]
        if clean[TRUSTED, q] == 0:
            clean[LENGTH, q] *= 2
            clean[TRUSTED, q] = 1
        out = clean[CHARGED, q]
        if out >= 0 and state.goal_of[out]:
            page = _put_back(state)
            if page >= 0:
                _replace(state, out, page)


@compiled
def _aim(state, rng, page):  # type: ignore[no-untyped-def]
    """Moves the goal for a request."""
    size = state.size
    first = state.asked_of[page] != size[PHASE]
    if first and size[ARRIVED] == len(state.heap):
        _begin_phase(state, rng)
    state.asked_of[page] = size[PHASE]
    if first:
        state.arrived[size[ARRIVED]] = page
        size[ARRIVED] += 1
    if state.ancient_of[page] == size[PHASE]:
        state.ancient_of[page] = -size[PHASE]
        size[LEFT] -= 1
    elif size[LEFT] > 0 and not state.goal_of[page]:
        out = _evict_ancient(state)
        state.ancient_of[out] = -size[PHASE]
        size[LEFT] -= 1
        _replace(state, out, page)
        return
    if not state.goal_of[page] and size[GOAL] < len(state.heap):
        state.goal_of[page] = True
        size[GOAL] += 1
        return
    if size[LEFT] > 0 or size[PHASE] == 1:
        return
    clean = first and state.stale_of[page] != size[PHASE] and state.ancient_of[page] != -size[PHASE]
    if not state.goal_of[page]:
        _replace(state, _lowest_in_goal(state), page)
    charged = state.charged_of[page]
    if clean:
        q = size[CLEAN]
        size[CLEAN] += 1
        state.clean[TRUSTED, q], state.clean[SINCE, q], state.clean[LENGTH, q] = 1, size[ARRIVED] - 1, 1
        _charge(state, q)
    if charged != NOBODY:
        state.charged_of[page] = NOBODY
        _charge(state, charged)
        state.clean[TRUSTED, charged], state.clean[SINCE, charged] = 0, size[ARRIVED]
    if first:
        _end_intervals(state)


@compiled
def step(state, rng, time, page, told):  # type: ignore[no-untyped-def]
    """One request, told when the page is predicted to come next."""
    _predict(state, page, told)
    state.seen_of[page] = time
    _aim(state, rng, page)
    if state.ours_of[page]:
        return HIT
    did, size = FREE, state.size[OURS]
    if size == len(state.ours):
        place, ours, goal, seen = -1, state.ours, state.goal_of, state.seen_of
        for at in range(size):
            if not goal[ours[at]] and (place < 0 or seen[ours[at]] < seen[ours[place]]):
                place = at
        did = ours[place]
        state.ours_of[did] = False
        state.ours[place] = page
    else:
        state.ours[size] = page
        state.size[OURS] += 1
    state.ours_of[page] = True
    return did


@compiled
def run(state, rng, pages, told, evicted):  # type: ignore[no-untyped-def]
    """A whole trace."""
    for t in range(len(pages)):
        evicted[t] = step(state, rng, t, pages[t], told[t])


@dataclass(frozen=True)
class TrustAndDoubt(Algorithm):
    """Follows a predicted cache, robustly."""

    name: ClassVar[str] = "trust-and-doubt"
    told: ClassVar[Told] = "next"
    randomised: ClassVar[bool] = True

    def compiled(self) -> Compiled:
        return Compiled(start, step, run)
