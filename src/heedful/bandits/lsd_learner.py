"""Learners that play one of k last-switch-dependent arms, or none, without knowing what they pay.

An arm's state depends on when it was played, and on nothing else: the learner keeps count of it. A method of this kind
says what to play next (:class:`SwitchMethod`); states, rewards by state, and saving are here, for one learner and for
many seeds together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.arms import Reward, Rewards, check_reward, check_rewards
from heedful.bandits.base import Kept, Learner, Method
from heedful.bandits.checks import whole
from heedful.bandits.lsd import Payoffs, mark_played, place, unplayed
from heedful.bandits.lsd_planning import quick_plan
from heedful.bandits.lsd_rounding import IDLE, due
from heedful.bandits.streams import generators, streams, uniform

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bits = NDArray[np.bool_]
NOW, BEGAN, STALE, RULE, FILL = 0, 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Turn:
    """What is done in a round.

    Attributes:
        token: by which feedback refers to it; of idle rounds none is needed, and a reward of them is ignored.
        arm: in 0..k-1; -1 for none.
        state: of the arm before it is played, in -W..-1 or 1..W; 0 for none.
        probability: 1; draws are made when a schedule is made.
        supported: False.
    """

    token: int
    arm: int
    state: int
    probability: float = 1.0
    supported: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """What is done in a round of every lane: ``arms`` and ``states`` int64 ``[lanes]``, as in :class:`Turn`."""

    token: int
    arms: Ints
    states: Ints
    probability: float = 1.0
    supported: bool = False


class Seen(NamedTuple):
    """What is known of k arms, and the schedule that is followed.

    Attributes:
        counts, before: int64 ``[lanes, k, 2 W]``: rewards seen in each state, now and when the schedule was made.
        sums: float64 ``[lanes, k, 2 W]``: of those rewards.
        last, run: int64 ``[lanes, k]``: when each arm was last played, and how long its run was.
        clock: int64 ``[lanes, 5]``: rounds so far, when the schedule was made, whether a state has been seen as often
            since as before, and the schedule's rule and fill.
        cycles: int64 ``[lanes, 3, k]``: the schedule.
        busy: int64 ``[lanes, 2]``: the run in progress.
        table: float64 ``[lanes, k, 2 W]``: payoffs that arms are compared by.
        rngs: of schedules.
    """

    counts: Ints
    before: Ints
    sums: Floats
    last: Ints
    run: Ints
    clock: Ints
    cycles: Ints
    busy: Ints
    table: Floats
    rngs: tuple[np.random.Generator, ...]


def nothing_seen(arms: int, window: int, seeds: Sequence[int]) -> Seen:
    """Before round 0; all arms are rested."""
    last, run = (np.tile(part, (len(seeds), 1)) for part in unplayed(arms))
    lanes, shape = len(seeds), (len(seeds), arms, 2 * window)
    return Seen(
        np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64), np.zeros(shape), last, run,
        np.zeros((lanes, 5), dtype=np.int64), np.zeros((lanes, 3, arms), dtype=np.int64),
        np.zeros((lanes, 2), dtype=np.int64), np.ones(shape), generators(seeds),
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def add_reward(counts, before, sums, clock, arm, at, reward):  # type: ignore[no-untyped-def]
    """Takes a reward; the schedule is stale once a state has been seen as often since it was made as before."""
    counts[arm, at] += 1
    sums[arm, at] += reward
    if counts[arm, at] >= 2 * max(1, before[arm, at]):
        clock[STALE] = 1


@numba.njit(cache=True, nogil=True)
def _take(counts, before, sums, clock, arms, places, rewards, counted):  # type: ignore[no-untyped-def]
    for s in range(len(arms)):
        if counted[s]:
            add_reward(counts[s], before[s], sums[s], clock[s], arms[s], places[s], rewards[s])


@numba.njit(cache=True, nogil=True)
def _scheduled(cycles, clock, table, last, run, busy, arms):  # type: ignore[no-untyped-def]
    for s in range(len(arms)):
        c = clock[s]
        arms[s] = due(cycles[s], c[RULE], c[FILL], table[s], last[s], run[s], busy[s], c[NOW])


def scheduled(state: Seen, arms: Ints) -> None:
    """Fills in, in every lane, the arm that its schedule plays in the coming round; -1 for none."""
    _scheduled(state.cycles, state.clock, state.table, state.last, state.run, state.busy, arms)


@numba.njit(cache=True, nogil=True)
def _play(last, run, clock, window, arms, counted, places, states):  # type: ignore[no-untyped-def]
    """Plays an arm in every lane; fills in its place in the table and its state, and that idle lanes count nothing."""
    for s in range(len(arms)):
        arm, now = arms[s], clock[s, NOW]
        places[s] = states[s] = 0
        if arm == IDLE:
            counted[s] = False
        else:
            at = place(last[s, arm], run[s, arm], now, window)
            places[s], states[s] = at, at - window if at < window else at - window + 1
            mark_played(last[s], run[s], arm, now)
        clock[s, NOW] += 1


@numba.njit(cache=True, nogil=True)
def _follow(counts, before, sums, last, run, clock, cycles, busy, table, truth, words, given, until, shortest):  # type: ignore[no-untyped-def]
    """Plays ``given`` arms, or the schedule, up to round ``until`` or till the schedule is stale (``shortest`` > 0: and
    at least so old). Rewards are 1 or 0 with the true payoff as probability. Returns the sum of true payoffs."""
    window, total = table.shape[1] // 2, 0.0
    while clock[NOW] < until:
        now = clock[NOW]
        if shortest > 0 and clock[STALE] == 1 and now - clock[BEGAN] >= shortest:
            break
        arm = given[now] if now < len(given) else due(cycles, clock[RULE], clock[FILL], table, last, run, busy, now)
        if arm >= 0:
            at = place(last[arm], run[arm], now, window)
            total += truth[arm, at]
            reward = 1.0 if uniform(words, 0) < truth[arm, at] else 0.0
            mark_played(last, run, arm, now)
            add_reward(counts, before, sums, clock, arm, at, reward)
        clock[NOW] += 1
    return total


def follow(state: Seen, truth: Floats, words: Any, given: Ints, until: int, shortest: int) -> float:
    """:func:`_follow` on the state of a learner on its own."""
    return _follow(
        state.counts[0], state.before[0], state.sums[0], state.last[0], state.run[0], state.clock[0], state.cycles[0],
        state.busy[0], state.table[0], truth, words, given, until, shortest,
    )  # fmt: skip


def adopt(state: Seen, s: int, payoffs: Payoffs, draws: int, method: str) -> None:
    """Makes a schedule for lane s from estimated payoffs, and follows it from now on."""
    cycles, rule, fill = quick_plan(payoffs, state.rngs[s], draws, method).arrays
    # It was tried from round 0 on; here it begins now.
    cycles[2] = (cycles[2] - state.clock[s, NOW]) % np.maximum(1, cycles[0] + cycles[1])
    state.cycles[s], state.table[s], state.before[s] = cycles, payoffs.table, state.counts[s]
    state.clock[s, 1:] = state.clock[s, NOW], 0, rule, fill
    state.busy[s] = 0


@dataclass(frozen=True)
class SwitchMethod(Method):
    """A method that learns what arms pay by state."""

    kind: ClassVar[str] = "switching"

    def begin(self, arms: int, window: int, seeds: Sequence[int]) -> Any:
        """The state at first: a named tuple with a lane per seed, of which ``last``, ``run`` and ``clock`` are as in
        :class:`Seen`."""
        raise NotImplementedError

    def decide(self, state: Any, arms: Ints, counted: Bits) -> None:
        """Decides in every lane: fills in the arm of the coming round, -1 for none, and whether its reward is learned.

        Args:
            state: changes in place.
            arms: int64 ``[lanes]``.
            counted: bool ``[lanes]``, all True.
        """
        raise NotImplementedError

    def take(self, state: Any, arms: Ints, places: Ints, rewards: Floats, counted: Bits) -> None:
        """Learns in every lane that is counted the reward of an arm in its ``places``-th state; arrays ``[lanes]``."""
        raise NotImplementedError

    def run(self, payoffs: Payoffs, marks: Sequence[int], seed: int) -> Floats:
        """A whole run with rewards of 0 and 1: the sum of mean payoffs up to each mark, float64 ``[marks]``."""
        raise NotImplementedError

    def start(
        self, arms: int, window: int, seed: int = 0, max_pending: int | None = None, expire_after: int | None = None
    ) -> SwitchLearner:
        """A learner on its own.

        Args:
            arms: k.
            window: W, from which on payoffs are the same.
            seed: of its draws.
            max_pending, expire_after: see :class:`~heedful.bandits.base.Ledger`.

        Raises ValueError for numbers below 1, or a negative seed.
        """
        return SwitchLearner(self, arms, window, [seed], max_pending, expire_after)

    def many(
        self, arms: int, window: int, seeds: Sequence[int] = (0,),
        max_pending: int | None = None, expire_after: int | None = None,
    ) -> SwitchLanes:  # fmt: skip
        """A lane per seed, each making the decisions of ``start(..., seed)``. Raises as :meth:`start`."""
        return SwitchLanes(self, arms, window, seeds, max_pending, expire_after)


class ScheduleMethod(SwitchMethod):
    """One that follows a schedule, and counts what it sees in :class:`Seen`."""

    def begin(self, arms: int, window: int, seeds: Sequence[int]) -> Seen:
        return nothing_seen(arms, window, seeds)

    def take(self, state: Seen, arms: Ints, places: Ints, rewards: Floats, counted: Bits) -> None:
        _take(state.counts, state.before, state.sums, state.clock, arms, places, rewards, counted)


class _Switching(Learner[Any]):
    """What a learner on its own and many together have in common."""

    method: SwitchMethod

    def __init__(
        self, method: SwitchMethod, arms: int, window: int, seeds: Sequence[int], max_pending: int | None,
        expire_after: int | None,
    ) -> None:  # fmt: skip
        self.arms, self.window, lanes = whole("arms", arms), whole("window", window), len(streams(seeds))
        super().__init__(method, method.begin(self.arms, self.window, seeds), lanes, max_pending, expire_after)

    def _decide(self) -> tuple[int, Ints, Ints]:
        """A token, arms and their states."""
        arms, counted = np.empty(self.lanes, dtype=np.int64), np.ones(self.lanes, dtype=np.bool_)
        places, states = np.empty_like(arms), np.empty_like(arms)
        self.method.decide(self.state, arms, counted)
        _play(self.state.last, self.state.run, self.state.clock, self.window, arms, counted, places, states)
        return self.ledger.issue((arms, places, counted)), arms, states

    def _about(self) -> str:
        return f"{super()._about()}, {self.arms} arms, window {self.window}"


class SwitchLearner(_Switching):
    """One learner: ``decide()``, ``update(Reward)`` with rewards in [0, 1].

    >>> from heedful.bandits import LSDOptimistic, Reward
    >>> learner = LSDOptimistic(horizon=1000).start(arms=3, window=4)
    >>> turn = learner.decide()
    >>> learner.update(Reward(turn.token, 1.0))
    >>> turn.arm, turn.state, learner.counts.learned
    (0, 4, 1)
    """

    def decide(self) -> Turn:
        """What to play in the coming round."""
        token, arms, states = self._decide()
        return Turn(token, int(arms[0]), int(states[0]))

    def check_feedback(self, kept: Kept, feedback: Reward) -> None:
        check_reward(feedback, unit=True)

    def learn(self, kept: Kept, feedback: Reward) -> None:
        arms, places, counted = kept
        self.method.take(self.state, arms, places, np.array([feedback.reward], dtype=np.float64), counted)


class SwitchLanes(_Switching):
    """Many seeds together: ``decide()`` and ``update(Rewards)``, with a leading axis of lanes; rewards of lanes that
    were idle are ignored, whatever they are.

    >>> from heedful.bandits import LSDOptimistic, Rewards
    >>> lanes = LSDOptimistic(horizon=1000).many(arms=3, window=4, seeds=range(2))
    >>> turns = lanes.decide()
    >>> lanes.update(Rewards(turns.token, turns.arms * 0.5))
    >>> turns.arms.tolist(), turns.states.tolist(), lanes.counts.learned
    ([0, 0], [4, 4], 1)
    """

    def decide(self) -> Turns:
        """What to play in the coming round of every lane."""
        token, arms, states = self._decide()
        return Turns(token, arms.copy(), states)

    def check_feedback(self, kept: Kept, feedback: Rewards) -> None:
        check_rewards(feedback, kept[0] != IDLE, unit=True)

    def learn(self, kept: Kept, feedback: Rewards) -> None:
        arms, places, counted = kept
        self.method.take(self.state, arms, places, np.asarray(feedback.rewards, dtype=np.float64), counted)
