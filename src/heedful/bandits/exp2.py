"""Exp2 weighs rules exponentially by estimated losses and mixes in a policy that explores.

Bubeck, Cesa-Bianchi, Kakade, "Towards Minimax Policies for Online Linear Optimization with Bandit Feedback", COLT 2012;
as the learner of Bechavod, Roth, "Individually Fair Learning with One-Sided Feedback", ICML 2023, arXiv 2206.04475 (its
constants are ours). With losses L_h of :mod:`~heedful.bandits.one_sided`, ``w_h ~ exp(-eta L_h)`` and the policy
``pi = (1 - mix) w + mix mu``; mu accepts all, which reveals every label, draws a rule uniformly, or is John's
distribution (:mod:`~heedful.bandits.john`). The estimate of a loss divides by ``q_i = pi(x_i)``.

Finite-time bound, for ``eta (k / mix + C) <= 1`` and mu accepting all: the expected Lagrangian regret is at most
``log H / eta + 2 eta T (k^2 / (1 - mix) + C^2) + mix T (k + 2 C)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast, get_args

import numba
import numpy as np

from heedful.bandits.base import Kept
from heedful.bandits.checks import between, whole
from heedful.bandits.john import johns
from heedful.bandits.linear_rules import Bits, Floats
from heedful.bandits.one_sided import Flags, Ints, OneSidedMethod, add_losses


@numba.njit(cache=True, nogil=True)
def act_by_weights(losses, bits, eta, mix, mu, drawn):  # type: ignore[no-untyped-def]
    """Policy on each person, who is accepted, and 1 / q of the accepted.

    Args:
        losses: float64 ``[lanes, H]``.
        bits: int8 ``[lanes, H, k]``: what each rule says.
        eta: learning rate.
        mix: share of exploration.
        mu: float64 ``[lanes, H]``: what explores.
        drawn: float64 ``[lanes]``, uniform in [0, 1).
    """
    lanes, rules, people = bits.shape
    all_treatment, all_inverse = np.zeros((lanes, people)), np.ones((lanes, people))
    all_accepted = np.empty((lanes, people), dtype=np.bool_)
    for s in range(lanes):
        treatment, accepted, inverse, says = all_treatment[s], all_accepted[s], all_inverse[s], bits[s]
        weights, found = np.exp(-eta * (losses[s] - losses[s].min())), 0
        weights *= (1.0 - mix) / weights.sum()
        weights += mix * mu[s]
        for h in range(rules):
            for i in range(people):
                treatment[i] += weights[h] * says[h, i]
        left = drawn[s] * weights.sum()
        for h in range(rules):
            if weights[h] > 0.0:
                found = h
                left -= weights[h]
                if left < 0.0:
                    break
        for i in range(people):
            treatment[i] = min(1.0, treatment[i])
            accepted[i] = says[found, i] == 1
            if accepted[i]:
                inverse[i] = 1.0 / treatment[i]
    return all_treatment, all_accepted, all_inverse


def uniforms(rngs: tuple[np.random.Generator, ...]) -> Floats:
    """float64 ``[lanes]``: the next number in [0, 1) of each generator."""
    return np.array([rng.random() for rng in rngs])


Exploration = Literal["accept-all", "uniform", "john"]


def exploration(explore: Exploration, bits: Bits) -> Floats:
    """float64 ``[lanes, H]``: mu, for what the rules say, int8 ``[lanes, H, k]``."""
    if explore == "john":
        return cast(Floats, johns(bits))
    lanes, rules, _ = bits.shape
    if explore == "uniform":
        return np.full((lanes, rules), 1.0 / rules)
    mu = np.zeros((lanes, rules))
    mu[:, 0] = 1.0
    return mu


@dataclass(frozen=True)
class ExponentialWeights(OneSidedMethod):
    """Methods that weigh rules exponentially by estimated losses.

    Attributes:
        rounds: T, for which the defaults are set, at least 1.
        penalty: C, the price of a report, at least 0; None: ``T^(1/5)``.
        eta: learning rate, at least 0; None: ``sqrt(log H / T) / (k + 2 C)``.
    """

    rounds: int = 2000
    penalty: float | None = None
    eta: float | None = None

    def __post_init__(self) -> None:
        whole("rounds", self.rounds)
        for name in ("penalty", "eta"):
            if getattr(self, name) is not None:
                between(name, getattr(self, name), 0.0)

    @property
    def price(self) -> float:
        """C, with its default filled in."""
        return self.rounds**0.2 if self.penalty is None else float(self.penalty)

    def rate(self, rules: int, people: int) -> float:
        """eta for H rules and k people, with its default filled in."""
        if self.eta is not None:
            return float(self.eta)
        return float(np.sqrt(np.log(rules) / self.rounds) / (people + 2 * self.price))

    def learn(self, state: Any, kept: Kept, labels: Floats, pairs: Ints) -> None:
        _, bits, accepted, inverse = kept
        add_losses(state.losses, bits, accepted, inverse, labels, pairs, self.price)


@dataclass(frozen=True)
class Exp2(ExponentialWeights):
    """Exponential weights over the rules.

    Attributes:
        rounds: T, for which the defaults are set, at least 1.
        penalty: C, the price of a report, at least 0; None: ``T^(1/5)``.
        eta: learning rate, at least 0; None: ``sqrt(log H / T) / (k + 2 C)``, what the theory asks for; larger ones
            learn faster.
        mix: share of exploration, in [0, 1]; None: ``min(1/2, sqrt(k log H / T))``.
        explore: ``"accept-all"``, ``"uniform"`` or ``"john"``, the last made anew for the people of every round.
    """

    name: ClassVar[str] = "exp2"
    mix: float | None = None
    explore: Exploration = "accept-all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mix is not None:
            between("mix", self.mix, 0.0, 1.0)
        if self.explore not in get_args(Exploration):
            raise ValueError(f"explore={self.explore!r}: must be accept-all, uniform or john")

    def share(self, rules: int, people: int) -> float:
        """mix for H rules and k people, with its default filled in."""
        return min(0.5, float(np.sqrt(people * np.log(rules) / self.rounds))) if self.mix is None else float(self.mix)

    def bound(self, rules: int, people: int) -> float:
        """What the expected Lagrangian regret over ``rounds`` rounds is at most; infinite where no theorem speaks."""
        penalty, eta, mix = self.price, self.rate(rules, people), self.share(rules, people)
        if self.explore != "accept-all" or not 0 < mix < 1 or eta <= 0 or eta * (people / mix + penalty) > 1:
            return float("inf")
        spread = people**2 / (1 - mix) + penalty**2
        return np.log(rules) / eta + 2 * eta * self.rounds * spread + mix * self.rounds * (people + 2 * penalty)

    def act(self, state: Any, bits: Bits, people: Floats) -> tuple[Floats, Flags, Floats]:
        eta, mix = self.rate(*bits.shape[1:]), self.share(*bits.shape[1:])
        return act_by_weights(state.losses, bits, eta, mix, exploration(self.explore, bits), uniforms(state.rngs))
