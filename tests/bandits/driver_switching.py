"""How the contract test drives learners whose arms pay by how long they have been played, or left alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from heedful.bandits import Reward, Rewards, make

ARMS, WINDOW = 4, 2


class Driver:
    """A world in which arm 2 brings 0.9 and the others 0.1, whatever their states."""

    KIND = "switching"
    EXTRA = (
        "block-ucb:variant=comb", "block-ucb:variant=calibrated", "lsd-optimistic:scale=0.3,planner=lp-round",
        "lsd-optimistic:shape=half-monotone,scale=0.3", "lsd-optimistic:shape=any,scale=0.3",
        "lsd-explore-commit:horizon=1000", "lsd-explore-commit:horizon=1000,shape=any",
    )  # fmt: skip
    LEARNS_NOTHING = ("block-ucb:variant=calibrated",)
    """Which plays every arm before each block of three."""

    def __init__(self, spec: str) -> None:
        self.spec, self.method = spec, make(spec)

    def start(self, seed: int = 0, **limits: Any) -> Any:
        return self.method.start(ARMS, WINDOW, seed, **limits)

    def decide(self, learner: Any, round_: int) -> Any:
        return learner.decide()

    def feedback(self, decision: Any, round_: int) -> Any:
        return Reward(decision.token, 0.9 if decision.arm == 2 else 0.1)

    def bad_feedback(self, decision: Any) -> list[Any]:
        bad = [Reward(decision.token, reward) for reward in (float("nan"), 1.1, -0.1)]
        return [*bad, Reward(decision.token, "much")]  # type: ignore[arg-type]

    def bad_requests(self, learner: Any) -> list[Any]:
        shapes = ((0, 2), (2, 0), (1.5, 2), (2, True))
        return [lambda shape=shape: self.method.start(*shape) for shape in shapes]

    def values(self, decision: Any) -> tuple[Any, ...]:
        return decision.token, decision.arm, decision.state, decision.probability

    def many(self, seeds: range, **limits: Any) -> Any:
        return self.method.many(ARMS, WINDOW, seeds, **limits)

    def decide_lanes(self, lanes: Any, round_: int) -> Any:
        return lanes.decide()

    def together(self, token: int, each: list[Any]) -> Any:
        return Rewards(token, np.array([one.reward for one in each]))

    def lane(self, decision: Any, s: int) -> tuple[Any, ...]:
        return decision.token, decision.arms[s], decision.states[s], decision.probability

    def solved(self, decision: Any) -> bool:
        return decision.arm == 2
