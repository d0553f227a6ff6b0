"""How the contract test drives learners that accept or reject people."""

from __future__ import annotations

from typing import Any

import numpy as np

from heedful.bandits import Labels, LinearRules, make

PEOPLE = 3
RULES = LinearRules(
    np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]),
    np.array([-np.inf, np.inf, 0.5, 0.5, -0.5]),
)


class Driver:
    """A world in which people with a large first feature are good, and now and then a pair is reported."""

    KIND = "one-sided"
    EXTRA = ("exp2:eta=0.1,mix=0.05", "exp2:explore=uniform", "exp2:explore=john", "context-semi-bandit-ftpl:noise=0")
    LEARNS_NOTHING = ("accept-all",)

    def __init__(self, spec: str) -> None:
        self.spec, self.method = spec, make(spec)

    def start(self, seed: int = 0, **limits: Any) -> Any:
        return self.method.start(RULES, PEOPLE, seed, **limits)

    def people(self, round_: int) -> np.ndarray:
        return np.random.default_rng(round_).uniform(size=(PEOPLE, 2))

    def decide(self, learner: Any, round_: int) -> Any:
        decision = learner.decide(self.people(round_))
        assert decision.accepted.shape == decision.treatment.shape == (PEOPLE,)
        return decision

    def feedback(self, decision: Any, round_: int) -> Any:
        good = (self.people(round_)[:, 0] >= 0.5).astype(float)
        labels = good if self.method.sees_all else np.where(decision.accepted, good, np.nan)
        return Labels(decision.token, labels, (0, 1) if round_ % 20 == 7 else None)

    def bad_feedback(self, decision: Any) -> list[Any]:
        labels = np.ones(PEOPLE) if self.method.sees_all else np.where(decision.accepted, 1.0, np.nan)
        token = decision.token
        bad = [Labels(token, labels[:2]), Labels(token, np.full(PEOPLE, 2.0)), Labels(token, "good")]  # type: ignore[arg-type]
        bad += [Labels(token, labels, pair) for pair in ((0, 0), (0, PEOPLE), (-1, 0), 1)]  # type: ignore[arg-type]
        if not self.method.sees_all and decision.accepted.any():
            bad.append(Labels(token, np.full(PEOPLE, np.nan)))
        if not self.method.sees_all and not decision.accepted.all():
            bad.append(Labels(token, np.ones(PEOPLE)))
        return bad

    def bad_requests(self, learner: Any) -> list[Any]:
        return [
            lambda: learner.decide(np.zeros((PEOPLE + 1, 2))),
            lambda: learner.decide(np.zeros((PEOPLE, 3))),
            lambda: learner.decide(np.full((PEOPLE, 2), np.nan)),
            lambda: learner.decide("people"),
            lambda: self.method.start(RULES, 0),
            lambda: self.method.start(RULES, PEOPLE, prior=[0.0]),
            lambda: self.method.start(RULES, PEOPLE, prior=np.full(len(RULES.offsets), np.inf)),
        ]

    def values(self, decision: Any) -> tuple[Any, ...]:
        return decision.token, decision.accepted.tolist(), decision.treatment.tolist()

    def many(self, seeds: range, **limits: Any) -> Any:
        return self.method.many(RULES, PEOPLE, seeds, **limits)

    def decide_lanes(self, lanes: Any, round_: int) -> Any:
        return lanes.decide(np.stack([self.people(round_ + s) for s in range(lanes.lanes)]))

    def together(self, token: int, each: list[Any]) -> Any:
        return Labels(token, np.stack([one.labels for one in each]), [one.reported for one in each])

    def lane(self, decision: Any, s: int) -> tuple[Any, ...]:
        return decision.token, decision.accepted[s].tolist(), decision.treatment[s].tolist()

    def solved(self, decision: Any) -> bool:
        """Whether most are treated as the best rule would; policies stay random."""
        good = self.people(decision.token)[:, 0] >= 0.5
        return bool((decision.accepted == good).mean() > 0.5)
