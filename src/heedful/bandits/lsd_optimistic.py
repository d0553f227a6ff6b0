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

from heedful.bandits.base import between, whole
from heedful.bandits.lsd import Payoffs
from heedful.bandits.lsd_learner import (
    BEGAN,
    FILL,
    NOW,
    RULE,
    STALE,
    Floats,
    Seen,
    SwitchMethod,
    add_reward,
    adopt,
    follow,
    nothing_seen,
)
from heedful.bandits.lsd_rounding import due
from heedful.bandits.streams import streams


@dataclass(frozen=True)
class LSDOptimistic(SwitchMethod):
    """Optimism, and a new schedule whenever a state's count doubles.

    Attributes:
        horizon: T, at least 2.
        scale: of the confidence width, at least 0; 1 is the theory's.
        planner: ``practical`` or ``lp-round``, see :func:`~heedful.bandits.lsd_planning.plan`.
        draws: schedules tried by the practical planner, at least 1.
        monotone: whether payoffs never fall in the order of states; if not, they never fall with rest.
    """

    name: ClassVar[str] = "lsd-optimistic"
    horizon: int = 10_000
    scale: float = 1.0
    planner: str = "practical"
    draws: int = 32
    monotone: bool = True

    def __post_init__(self) -> None:
        whole("horizon", self.horizon, least=2)
        between("scale", self.scale, 0.0)
        whole("draws", self.draws)
        if self.planner not in ("practical", "lp-round"):
            raise ValueError(f"planner={self.planner!r}: must be practical or lp-round")

    def begin(self, arms: int, window: int, seed: int) -> Seen:
        state = nothing_seen(arms, window, seed)
        state.clock[0, STALE] = 1
        return state

    def hopes(self, state: Seen) -> Payoffs:
        """What the payoffs may be at best."""
        counts, window = state.counts[0], state.counts.shape[2] // 2
        width = self.scale * np.sqrt(2.0 * math.log(self.horizon) / np.maximum(1, counts))
        best = np.where(counts > 0, state.sums[0] / np.maximum(1, counts) + width, 1.0)
        first = 0 if self.monotone else window
        best[:, first:] = np.minimum.accumulate(best[:, first:][:, ::-1], axis=1)[:, ::-1]
        return Payoffs.of_table(np.minimum(best, 1.0), self.monotone)

    def _shortest(self, state: Seen) -> int:
        """Rounds that a schedule is followed at least: each change costs about W rounds of transition."""
        return int(state.counts.shape[2])

    def _renew(self, state: Seen) -> None:
        now, began = state.clock[0, NOW], state.clock[0, BEGAN]
        if state.clock[0, STALE] and (now == 0 or now - began >= self._shortest(state)):
            adopt(state, self.hopes(state), self.draws, self.planner)

    def next_arm(self, state: Seen) -> tuple[int, bool]:
        self._renew(state)
        clock = state.clock[0]
        return due(
            state.cycles[0], clock[RULE], clock[FILL], state.table[0], state.last[0], state.run[0], state.busy[0],
            clock[NOW],
        ), True  # fmt: skip

    def take(self, state: Seen, arm: int, at: int, reward: float) -> None:
        add_reward(state.counts[0], state.before[0], state.sums[0], state.clock[0], arm, at, reward)

    def run(self, payoffs: Payoffs, marks: Sequence[int], seed: int) -> Floats:
        state, truth = self.begin(payoffs.arms, payoffs.window, seed), payoffs.learnable().table
        words, nothing, total, out = streams([seed]), np.zeros(0, dtype=np.int64), 0.0, []
        for mark in marks:
            while state.clock[0, NOW] < mark:
                self._renew(state)
                total += follow(state, truth, words, nothing, mark, self._shortest(state))
            out.append(total)
        return np.array(out)
