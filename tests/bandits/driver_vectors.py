"""How the contract test drives learners that choose one of K fixed vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from heedful.bandits import Reward, Rewards, make

VECTORS = np.array([[1.0, 0.2, 0.0], [0.1, 1.0, 0.3], [0.2, 0.1, 1.0], [0.6, 0.5, 0.2]])


class Driver:
    """A world in which action 2 brings 0.9 and the others 0.1."""

    KIND = "vectors"
    EXTRA = ("dynlin-ucb:scale=0.05", "dynlin-ucb:rho=0,omega=0,scale=0.1", "oful:scale=0.1", "d-linucb:scale=0.1")
    LEARNS_NOTHING = ("dynlin-ucb",)
    """With the paper's radius and the default bounds it still explores after 2500 rounds."""

    def __init__(self, spec: str) -> None:
        self.spec, self.method = spec, make(spec)

    def start(self, seed: int = 0, **limits: Any) -> Any:
        return self.method.start(VECTORS, seed, **limits)

    def decide(self, learner: Any, round_: int) -> Any:
        return learner.decide()

    def feedback(self, decision: Any, round_: int) -> Any:
        return Reward(decision.token, 0.9 if decision.action == 2 else 0.1)

    def bad_feedback(self, decision: Any) -> list[Any]:
        bad = [Reward(decision.token, float("nan")), Reward(decision.token, float("inf"))]
        return [*bad, Reward(decision.token, "much")]  # type: ignore[arg-type]

    def bad_requests(self, learner: Any) -> list[Any]:
        sets = (np.zeros((0, 3)), np.zeros(3), [[1.0, np.nan]], [[1.0], [1.0, 2.0]], "vectors")
        return [lambda given=given: self.method.start(given) for given in sets]

    def values(self, decision: Any) -> tuple[Any, ...]:
        return decision.token, decision.action, decision.probability

    def many(self, seeds: range, **limits: Any) -> Any:
        return self.method.many(VECTORS, seeds, **limits)

    def decide_lanes(self, lanes: Any, round_: int) -> Any:
        return lanes.decide()

    def together(self, token: int, each: list[Any]) -> Any:
        return Rewards(token, np.array([one.reward for one in each]))

    def lane(self, decision: Any, s: int) -> tuple[Any, ...]:
        return decision.token, decision.actions[s], decision.probability[s]

    def solved(self, decision: Any) -> bool:
        return decision.action == 2
