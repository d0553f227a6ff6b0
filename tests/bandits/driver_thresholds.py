"""How the contract test drives learners that choose a threshold for a cohort."""

from __future__ import annotations

from typing import Any

import numpy as np

from heedful.bandits import Outcome, Outcomes, make

GRID = np.array([0.2, 0.4, 0.6, 0.8])


class Driver:
    """A world in which threshold 2 brings 0.9 and the others 0.1, all of them fair; now and then a group is absent."""

    KIND = "thresholds"
    EXTRA = (
        "ofs:scale=auto", "ofs:discount=0.999", "ofs:window=1000", "ofs:burn_in=2", "ofs:lipschitz=9",
        "ofs:rho_min=0.3", "primal-dual-ucb:residual=mean,rho_max=0.9", "threshold-ucb:window=900",
    )  # fmt: skip
    LEARNS_NOTHING = ("static-threshold",)

    def __init__(self, spec: str) -> None:
        self.spec, self.method = spec, make(spec)

    def start(self, seed: int = 0, **limits: Any) -> Any:
        return self.method.start(GRID, seed, **limits)

    def decide(self, learner: Any, round_: int) -> Any:
        return learner.decide()

    def feedback(self, decision: Any, round_: int) -> Any:
        noise = 0.02 * np.sin(7.0 * round_)
        reward = (0.9 if decision.point == 2 else 0.1) + noise
        return Outcome(decision.token, reward, float("nan") if round_ % 11 == 5 else noise, 0.6 + noise)

    def bad_feedback(self, decision: Any) -> list[Any]:
        nan, token = float("nan"), decision.token
        return [
            Outcome(token, nan, 0.0, 0.5), Outcome(token, float("inf"), 0.0, 0.5), Outcome(token, 0.1, 1.2, 0.5),
            Outcome(token, 0.1, 0.0, nan), Outcome(token, 0.1, 0.0, -0.1), Outcome(token, "much", 0.0, 0.5),  # type: ignore[arg-type]
            Outcome(token, 0.1, float("-inf"), 0.5), Outcomes(token, np.zeros(2), np.zeros(2), np.zeros(2)),
        ]  # fmt: skip

    def bad_requests(self, learner: Any) -> list[Any]:
        grids = ([], [0.5, 0.4], [0.5, 0.5], [-0.1, 0.5], [0.5, 1.1], [[0.5]], 0, "many", [float("nan")])
        return [lambda grid=grid: self.method.start(grid) for grid in grids]

    def values(self, decision: Any) -> tuple[Any, ...]:
        return decision.token, decision.point, decision.threshold, decision.probability

    def many(self, seeds: range, **limits: Any) -> Any:
        return self.method.many(GRID, seeds, **limits)

    def decide_lanes(self, lanes: Any, round_: int) -> Any:
        return lanes.decide()

    def together(self, token: int, each: list[Any]) -> Any:
        return Outcomes(token, *(np.array([getattr(one, name) for one in each]) for name in ("reward", "gap", "rate")))

    def lane(self, decision: Any, s: int) -> tuple[Any, ...]:
        return decision.token, decision.points[s], decision.thresholds[s], decision.probability

    def solved(self, decision: Any) -> bool:
        return decision.point == 2
