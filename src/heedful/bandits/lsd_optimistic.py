"""An optimistic learner for last-switch-dependent arms: it plans for what the payoffs may be at best.

After Foussoul, Goyal, Papadigenopoulos, Zeevi, ICML 2023 (in our reconstruction). A state seen n times may pay
``mean + sqrt(2 log T / n)``, one never seen 1; where payoffs never fall, no more than any better state may. A schedule
is made for these payoffs, and made again when a state has been seen as often under it as before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from heedful.bandits.checks import between, whole
from heedful.bandits.lsd import Payoffs, Shape, check_shape, ordered_from
from heedful.bandits.lsd_learner import (
    BEGAN,
    NOW,
    STALE,
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
from heedful.bandits.streams import streams


@dataclass(frozen=True)
class LSDOptimistic(ScheduleMethod):
    """Optimism, and a new schedule whenever a state's count doubles.

    Attributes:
        horizon: T, at least 2.
        scale: of the confidence width, at least 0; 1 is the theory's.
        planner: ``practical`` or ``lp-round``, see :func:`~heedful.bandits.lsd_planning.plan`.
        draws: schedules tried by the practical planner, at least 1.
        shape: of the payoffs, see :class:`~heedful.bandits.lsd.Payoffs`: the order that bounds are made to follow.
    """

    name: ClassVar[str] = "lsd-optimistic"
    horizon: int = 10_000
    scale: float = 1.0
    planner: str = "practical"
    draws: int = 32
    shape: Shape = "monotone"

    def __post_init__(self) -> None:
        whole("horizon", self.horizon, least=2)
        between("scale", self.scale, 0.0)
        whole("draws", self.draws)
        check_shape(self.shape)
        check_planner("planner", self.planner)

    def begin(self, arms: int, window: int, seeds: Sequence[int]) -> Seen:
        state = super().begin(arms, window, seeds)
        state.clock[:, STALE] = 1
        return state

    def hopes(self, state: Seen, s: int = 0) -> Payoffs:
        """What the payoffs of lane s may be at best."""
        counts, window = state.counts[s], state.counts.shape[2] // 2
        width = self.scale * np.sqrt(2.0 * math.log(self.horizon) / np.maximum(1, counts))
        best = np.where(counts > 0, state.sums[s] / np.maximum(1, counts) + width, 1.0)
        first = ordered_from(self.shape, window)
        best[:, first:] = np.minimum.accumulate(best[:, first:][:, ::-1], axis=1)[:, ::-1]
        return Payoffs.of_table(np.minimum(best, 1.0), self.shape)

    def _shortest(self, state: Seen) -> int:
        """Rounds that a schedule is followed at least: each change costs about W rounds of transition."""
        return int(state.counts.shape[2])

    def _renew(self, state: Seen) -> None:
        """Makes new schedules where they are stale and old enough."""
        clock = state.clock
        old = (clock[:, NOW] == 0) | (clock[:, NOW] - clock[:, BEGAN] >= self._shortest(state))
        for s in np.flatnonzero(old & (clock[:, STALE] == 1)).tolist():
            adopt(state, s, self.hopes(state, s), self.draws, self.planner)

    def decide(self, state: Seen, arms: Ints, counted: Bits) -> None:
        self._renew(state)
        scheduled(state, arms)

    def run(self, payoffs: Payoffs, marks: Sequence[int], seed: int) -> Floats:
        state, truth = self.begin(payoffs.arms, payoffs.window, [seed]), payoffs.learnable().table
        words, nothing, total, out = streams([seed]), np.zeros(0, dtype=np.int64), 0.0, []
        for mark in marks:
            while state.clock[0, NOW] < mark:
                self._renew(state)
                total += follow(state, truth, words, nothing, mark, self._shortest(state))
            out.append(total)
        return np.array(out)
