"""Explore-then-commit for last-switch-dependent arms: every state of every arm in turn, then one schedule to the end.

After Foussoul, Goyal, Papadigenopoulos, Zeevi, ICML 2023 (in our reconstruction). A lap rests an arm for x rounds and
then plays it W + 1 times: it sees state +x and all states of a run; laps for x = 1..W make a set. After
``m = ceil(c (T / (k W^2))^(2/3) (log T)^(1/3))`` sets, or half of all rounds, payoffs are estimated by isotonic
regression along the order of states, and a schedule is made for them. Regret of order T^(2/3). Where rewards come late,
or some never, laps go on until as many have come as were to be explored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from heedful.bandits.checks import between, whole
from heedful.bandits.lsd import Payoffs, Shape, check_shape, ordered_from
from heedful.bandits.lsd_learner import (
    BEGAN,
    NOW,
    Bits,
    Floats,
    Ints,
    ScheduleMethod,
    Seen,
    adopt,
    follow,
    scheduled,
)
from heedful.bandits.lsd_planning import check_planner
from heedful.bandits.lsd_rounding import IDLE
from heedful.bandits.streams import streams


@lru_cache(maxsize=32)
def one_set(arms: int, window: int) -> Ints:
    """The arms of a set's rounds, -1 where an arm rests: about 1.5 W^2 rounds for each arm; not to be written to.

    An arm's first lap is the one of W rounds of rest: while others had their turn, it has rested as long anyway.
    """
    rests = (window, *range(1, window))
    laps = [[IDLE] * rest + [arm] * (window + 1) for arm in range(arms) for rest in rests]
    turns = np.concatenate([np.array(lap) for lap in laps])
    turns.flags.writeable = False
    return turns


@dataclass(frozen=True)
class LSDExploreCommit(ScheduleMethod):
    """Exploration first, then a schedule.

    Attributes:
        horizon: T, at least 2. Exploration ends when its rewards have come; if they never do, it does not.
        share: c, of the theory's exploration, above 0.
        planner: ``practical`` or ``lp-round``, see :func:`~heedful.bandits.lsd_planning.plan`.
        draws: schedules tried by the practical planner, at least 1.
        shape: of the payoffs, see :class:`~heedful.bandits.lsd.Payoffs`: the order that estimates are made to follow.
    """

    name: ClassVar[str] = "lsd-explore-commit"
    horizon: int = 10_000
    share: float = 0.05
    planner: str = "practical"
    draws: int = 32
    shape: Shape = "monotone"

    def __post_init__(self) -> None:
        whole("horizon", self.horizon, least=2)
        between("share", self.share, 0.0, open_low=True)
        whole("draws", self.draws)
        check_shape(self.shape)
        check_planner("planner", self.planner)

    def exploration(self, arms: int, window: int) -> int:
        """Rounds of exploration, if every reward comes in its own round."""
        ratio = (self.horizon / (arms * window**2)) ** (2 / 3)
        sets = math.ceil(self.share * ratio * math.log(self.horizon) ** (1 / 3))
        return min(self.horizon // 2, sets * len(one_set(arms, window)))

    def estimates(self, state: Seen, s: int = 0) -> Payoffs:
        """Means, isotonic where payoffs have an order: there a state never seen pays what the next worse one does.
        Elsewhere it pays nothing."""
        from sklearn.isotonic import isotonic_regression

        counts, width = state.counts[s], state.counts.shape[2]
        first, table = ordered_from(self.shape, width // 2), state.sums[s] / np.maximum(1, counts)
        for row, seen in zip(table[:, first:], counts[:, first:]):
            places = np.flatnonzero(seen)
            if len(places):
                fitted = isotonic_regression(row[places], sample_weight=seen[places].astype(np.float64))
                at = np.searchsorted(places, np.arange(len(row)), side="right") - 1
                row[:] = np.where(at >= 0, fitted[np.maximum(at, 0)], 0.0)
        return Payoffs.of_table(np.clip(table, 0.0, 1.0), self.shape)

    def _commit(self, state: Seen) -> None:
        """Makes the schedules of lanes that have none and have been told as many rewards as were to be explored."""
        k, width = state.counts.shape[1:]
        laps, rounds = one_set(k, width // 2), self.exploration(k, width // 2)
        sets, rest = divmod(rounds, len(laps))
        wanted = sets * np.count_nonzero(laps != IDLE) + np.count_nonzero(laps[:rest] != IDLE)
        ready = (state.clock[:, NOW] >= rounds) & (state.counts.sum(axis=(1, 2)) >= wanted)
        for s in np.flatnonzero(ready & (state.clock[:, BEGAN] == 0)).tolist():
            adopt(state, s, self.estimates(state, s), self.draws, self.planner)

    def decide(self, state: Seen, arms: Ints, counted: Bits) -> None:
        if not state.clock[:, BEGAN].all():
            self._commit(state)
        scheduled(state, arms)
        laps = one_set(state.counts.shape[1], state.counts.shape[2] // 2)
        exploring = state.clock[:, BEGAN] == 0
        arms[exploring] = laps[state.clock[exploring, NOW] % len(laps)]

    def run(self, payoffs: Payoffs, marks: Sequence[int], seed: int) -> Floats:
        k, w = payoffs.arms, payoffs.window
        state, truth, words = self.begin(k, w, [seed]), payoffs.learnable().table, streams([seed])
        end = self.exploration(k, w)
        given = np.resize(one_set(k, w), end)
        total, out = 0.0, []
        for mark in marks:
            total += follow(state, truth, words, given, min(mark, end), 0)
            if mark > end:
                self._commit(state)
                total += follow(state, truth, words, given, mark, 0)
            out.append(total)
        return np.array(out)
