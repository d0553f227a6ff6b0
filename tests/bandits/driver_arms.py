"""How the contract test drives learners that choose one of K actions and are told one number.

A kind of learner has a file ``driver_<kind>.py`` with one class of this shape: ``KIND``, ``start``, ``decide``,
``feedback``, ``bad_feedback``, ``bad_requests``, ``values`` and ``solved``; and for many seeds together ``many``,
``decide_lanes``, ``together`` and ``lane``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from heedful.bandits import Reward, Rewards, make

ACTIONS, FEATURES = 4, 3


class Driver:
    """A world in which action 2 brings 0.9 and the others 0.1, whatever the context."""

    KIND = "arms"
    EXTRA = (
        "linucb:shared=true", "lints:shared=true", "lints:scale=0.3", "ucb1:scale=0.3", "epsilon-greedy:epsilon=0",
        "squarecb:shared=true", "squarecb:gamma=300", "falcon:shared=true",
    )  # fmt: skip
    """Descriptions to test beside every name with its defaults."""
    LEARNS_NOTHING = ("uniform", "round-robin")

    def __init__(self, spec: str) -> None:
        self.spec, self.method = spec, make(spec)

    def start(self, seed: int = 0, **limits: Any) -> Any:
        return self.method.start(ACTIONS, FEATURES, seed, **limits)

    def context(self, round_: int) -> np.ndarray:
        if self.method.per_action:
            return np.eye(ACTIONS)[:, :FEATURES] + 0.1
        return np.array([1.0, 0.5 * np.sin(round_), 0.5 * np.cos(round_)])

    def decide(self, learner: Any, round_: int) -> Any:
        """The decision of a round; every third round action 0 is not there."""
        feasible = np.array([round_ % 3 != 0, True, True, True])
        choice = learner.decide(self.context(round_), feasible)
        assert feasible[choice.action]
        return choice

    def feedback(self, decision: Any, round_: int) -> Any:
        return Reward(decision.token, 0.9 if decision.action == 2 else 0.1)

    def bad_feedback(self, decision: Any) -> list[Any]:
        """Feedback on the decision from which nothing can be learned."""
        bad = [Reward(decision.token, float("nan")), Reward(decision.token, float("inf"))]
        bad.append(Reward(decision.token, "much"))  # type: ignore[arg-type]
        if self.method.unit_rewards:
            bad += [Reward(decision.token, 1.1), Reward(decision.token, -0.1)]
        return bad

    def bad_requests(self, learner: Any) -> list[Any]:
        """Ways to ask that must be refused."""
        context = self.context(0)
        ways = [
            lambda: learner.decide(context, np.zeros(ACTIONS, dtype=bool)),
            lambda: learner.decide(context, np.ones(ACTIONS + 1, dtype=bool)),
            lambda: learner.decide(context, np.ones(ACTIONS)),
            lambda: learner.decide_batch(-1, context[None]),
        ]
        if self.method.linear:
            ways += [
                lambda: learner.decide(None),
                lambda: learner.decide("context"),
                lambda: learner.decide(np.full(context.shape, np.nan)),
                lambda: learner.decide(np.where(np.arange(FEATURES) == 1, np.inf, context)),
                lambda: learner.decide(context[..., :-1]),
                lambda: learner.decide(context[None]),
                lambda: learner.decide_batch(2, context[None]),
            ]
        return ways

    def values(self, decision: Any) -> tuple[Any, ...]:
        """The decision as numbers that can be compared."""
        probability = decision.probability
        return decision.token, decision.action, probability if probability == probability else "unknown"

    def many(self, seeds: range, **limits: Any) -> Any:
        """A learner with a lane per seed."""
        return self.method.many(ACTIONS, FEATURES, seeds, **limits)

    def decide_lanes(self, lanes: Any, round_: int) -> Any:
        """What :meth:`decide` asks of round ``round_ + s``, in lane s."""
        rounds = [round_ + s for s in range(lanes.lanes)]
        feasible = np.array([[each % 3 != 0, True, True, True] for each in rounds])
        return lanes.decide(np.stack([self.context(each) for each in rounds]), feasible)

    def together(self, token: int, each: list[Any]) -> Any:
        """The feedback of all lanes, from that of learners on their own."""
        return Rewards(token, np.array([one.reward for one in each]))

    def lane(self, decision: Any, s: int) -> tuple[Any, ...]:
        """What was decided in a lane, as :meth:`values` has it."""
        probability = decision.probability[s]
        return decision.token, decision.actions[s], probability if probability == probability else "unknown"

    def solved(self, decision: Any) -> bool:
        """Whether the decision is the one that a learner should have come to."""
        return decision.action == 2
