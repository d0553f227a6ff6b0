"""Learners that play one of k last-switch-dependent arms, or none, without knowing what they pay.

An arm's state depends on when it was played, and on nothing else: the learner keeps count of it. A method of this kind
says what to play next (:class:`SwitchMethod`); states, rewards by state, and saving are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.arms import Reward
from heedful.bandits.base import Kept, Learner, Method, whole
from heedful.bandits.lsd import Payoffs, mark_played, place, unplayed
from heedful.bandits.lsd_planning import Plan, plan
from heedful.bandits.lsd_rounding import IDLE, due
from heedful.bandits.streams import streams, uniform

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
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


class Seen(NamedTuple):
    """What is known of k arms, and the schedule that is followed; a leading axis of 1.

    Attributes:
        counts, before: int64 ``[1, k, 2 W]``: rewards seen in each state, now and when the schedule was made.
        sums: float64 ``[1, k, 2 W]``: of those rewards.
        last, run: int64 ``[1, k]``: when each arm was last played, and how long its run was.
        clock: int64 ``[1, 5]``: rounds so far, when the schedule was made, whether a state has been seen as often since
            as before, and the schedule's rule and fill.
        cycles: int64 ``[1, 3, k]``: the schedule.
        busy: int64 ``[1, 2]``: the run in progress.
        table: float64 ``[1, k, 2 W]``: payoffs that arms are compared by.
        rng: of schedules.
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
    rng: np.random.Generator


def nothing_seen(arms: int, window: int, seed: int) -> Seen:
    """Before round 0; all arms are rested."""
    last, run = unplayed(arms)
    shape = (1, arms, 2 * window)
    return Seen(
        np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64), np.zeros(shape), last[None], run[None],
        np.zeros((1, 5), dtype=np.int64), np.zeros((1, 3, arms), dtype=np.int64), np.zeros((1, 2), dtype=np.int64),
        np.ones(shape), np.random.default_rng(seed),
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def add_reward(counts, before, sums, clock, arm, at, reward):  # type: ignore[no-untyped-def]
    """Takes a reward; the schedule is stale once a state has been seen as often since it was made as before."""
    counts[arm, at] += 1
    sums[arm, at] += reward
    if counts[arm, at] >= 2 * max(1, before[arm, at]):
        clock[STALE] = 1


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
    """:func:`_follow` on a learner's state."""
    return _follow(
        state.counts[0], state.before[0], state.sums[0], state.last[0], state.run[0], state.clock[0], state.cycles[0],
        state.busy[0], state.table[0], truth, words, given, until, shortest,
    )  # fmt: skip


def adopt(state: Seen, payoffs: Payoffs, draws: int, method: str) -> Plan:
    """Makes a schedule from estimated payoffs, and follows it from now on."""
    made = plan(payoffs, state.rng, draws, method, rounds=10 * payoffs.window)
    cycles, rule, fill = made.schedule.arrays
    # It was tried from round 0 on; here it begins now.
    cycles[2] = (cycles[2] - state.clock[0, NOW]) % np.maximum(1, cycles[0] + cycles[1])
    state.cycles[0], state.table[0], state.before[0] = cycles, payoffs.table, state.counts[0]
    state.clock[0, 1:] = state.clock[0, NOW], 0, rule, fill
    state.busy[0] = 0
    return made


@dataclass(frozen=True)
class SwitchMethod(Method):
    """A method that learns what arms pay by state."""

    kind: ClassVar[str] = "switching"

    def begin(self, arms: int, window: int, seed: int) -> Any:
        """The state at first."""
        raise NotImplementedError

    def next_arm(self, state: Any) -> tuple[int, bool]:
        """The arm of the coming round, -1 for none, and whether its reward is learned from."""
        raise NotImplementedError

    def take(self, state: Any, arm: int, at: int, reward: float) -> None:
        """Learns a reward of an arm in its ``at``-th state."""
        raise NotImplementedError

    def run(self, payoffs: Payoffs, marks: Sequence[int], seed: int) -> Floats:
        """A whole run with rewards of 0 and 1: the sum of mean payoffs up to each mark, float64 ``[marks]``."""
        raise NotImplementedError

    def start(
        self, arms: int, window: int, seed: int = 0, max_pending: int | None = None, expire_after: int | None = None
    ) -> SwitchLearner:
        """A learner.

        Args:
            arms: k.
            window: W, from which on payoffs are the same.
            seed: of its draws.
            max_pending, expire_after: see :class:`~heedful.bandits.base.Ledger`.

        Raises ValueError for numbers below 1, or a negative seed.
        """
        streams([seed])
        return SwitchLearner(self, whole("arms", arms), whole("window", window), seed, max_pending, expire_after)


class SwitchLearner(Learner[Reward]):
    """``decide()``, ``update(Reward)`` with rewards in [0, 1].

    >>> from heedful.bandits import LSDOptimistic, Reward
    >>> learner = LSDOptimistic(horizon=1000).start(arms=3, window=4)
    >>> turn = learner.decide()
    >>> learner.update(Reward(turn.token, 1.0))
    >>> turn.arm, turn.state, learner.counts.learned
    (0, 4, 1)
    """

    method: SwitchMethod

    def __init__(
        self, method: SwitchMethod, arms: int, window: int, seed: int, max_pending: int | None,
        expire_after: int | None,
    ) -> None:  # fmt: skip
        super().__init__(method, method.begin(arms, window, seed), 1, max_pending, expire_after)
        self.arms, self.window = arms, window

    def decide(self) -> Turn:
        """What to play in the coming round."""
        arm, counts = self.method.next_arm(self.state)
        last, run, now, at, shown = self.state.last[0], self.state.run[0], int(self.state.clock[0, NOW]), 0, 0
        if arm != IDLE:
            at = place(last[arm], run[arm], now, self.window)
            shown = at - self.window if at < self.window else at - self.window + 1
            mark_played(last, run, arm, now)
        self.state.clock[0, NOW] += 1
        return Turn(self.ledger.issue((arm, at, counts and arm != IDLE)), arm, shown)

    def check_feedback(self, kept: Kept, feedback: Reward) -> None:
        try:
            reward = float(feedback.reward)
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"feedback={feedback!r}: must be a Reward with a number") from None
        if not 0.0 <= reward <= 1.0:
            raise ValueError(f"reward={reward}: must be in [0, 1]")

    def learn(self, kept: Kept, feedback: Reward) -> None:
        arm, at, counts = kept
        if counts:
            self.method.take(self.state, arm, at, float(feedback.reward))

    def _about(self) -> str:
        return f"{super()._about()}, {self.arms} arms, window {self.window}"
