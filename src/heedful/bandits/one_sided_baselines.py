"""Yardsticks for one-sided feedback: with all labels, without importance weights, in two phases, and rules of thumb."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from heedful.bandits.base import Kept
from heedful.bandits.checks import whole
from heedful.bandits.exp2 import Exp2, ExponentialWeights, act_by_weights, exploration, uniforms
from heedful.bandits.linear_rules import Bits, Floats
from heedful.bandits.one_sided import Flags, Ints, OneSidedMethod, add_losses


@dataclass(frozen=True)
class FullInformation(Exp2):
    """Exponential weights that are told the labels of the rejected too: what one-sidedness costs is the distance to it.

    Attributes:
        rounds: T, for which the defaults are set, at least 1.
        penalty: C, the price of a report, at least 0; None: ``T^(1/5)``.
        eta: learning rate, at least 0; None: as :class:`Exp2`.
        mix: share of exploration, in [0, 1], of which it has no need; None: as :class:`Exp2`.
        explore: ``"accept-all"``, ``"uniform"`` or ``"john"``.
    """

    name: ClassVar[str] = "full-information"
    sees_all: ClassVar[bool] = True

    def learn(self, state: Any, kept: Kept, labels: Floats, pairs: Ints) -> None:
        _, bits, accepted, inverse = kept
        everybody, ones = np.ones_like(accepted), np.ones_like(inverse)
        add_losses(state.losses, bits, everybody, ones, labels, pairs, self.price)


@dataclass(frozen=True)
class NaiveWeights(Exp2):
    """Exponential weights that take the accepted for everybody: labels are not divided by the chance of seeing them.

    Attributes:
        rounds: T, for which the defaults are set, at least 1.
        penalty: C, the price of a report, at least 0; None: ``T^(1/5)``.
        eta: learning rate, at least 0; None: as :class:`Exp2`.
        mix: share of exploration, in [0, 1]; None: as :class:`Exp2`.
        explore: ``"accept-all"``, ``"uniform"`` or ``"john"``.
    """

    name: ClassVar[str] = "naive-weights"

    def bound(self, rules: int, people: int) -> float:
        """Infinite: no theorem speaks of biased estimates."""
        return float("inf")

    def learn(self, state: Any, kept: Kept, labels: Floats, pairs: Ints) -> None:
        _, bits, accepted, inverse = kept
        add_losses(state.losses, bits, accepted, np.ones_like(inverse), labels, pairs, self.price)


class _Counted(NamedTuple):
    losses: Floats
    decided: Ints
    rngs: tuple[np.random.Generator, ...]


@dataclass(frozen=True)
class ExploreFirst(ExponentialWeights):
    """Accepts all for ``T^(2/3)`` rounds, rounded up, and then plays the weights of what these showed, and of reports.

    Attributes:
        rounds: T, for which the defaults are set, at least 1.
        penalty: C, the price of a report, at least 0; None: ``T^(1/5)``.
        eta: learning rate, at least 0; None: ``sqrt(8 log H / n) / k`` for the n rounds that it learns from.
    """

    name: ClassVar[str] = "explore-first"

    def rate(self, rules: int, people: int) -> float:
        return float(np.sqrt(8 * np.log(rules) / self.first) / people) if self.eta is None else float(self.eta)

    @property
    def first(self) -> int:
        """Rounds in which all are accepted."""
        return int(np.ceil(self.rounds ** (2 / 3)))

    def begin(self, rules: Any, people: int, rngs: tuple[np.random.Generator, ...], prior: Floats) -> _Counted:
        return _Counted(prior, np.zeros(len(rngs), dtype=np.int64), rngs)

    def act(self, state: Any, bits: Bits, people: Floats) -> tuple[Floats, Flags, Floats]:
        first = bool(state.decided[0] < self.first)  # lanes keep step
        state.decided[...] += 1
        eta, mu = self.rate(*bits.shape[1:]), exploration("accept-all", bits)
        treatment, accepted, _ = act_by_weights(state.losses, bits, eta, float(first), mu, uniforms(state.rngs))
        # In place of 1 / q: 0 after the first phase, whose labels are the last that count.
        return treatment, accepted, np.full(accepted.shape, float(first))


class _Book(NamedTuple):
    """Who was accepted, float64 ``[lanes, size, d + 1]``, label last; int64 ``[lanes]``, how many, and rounds decided;
    coefficients, float64 ``[lanes, d + 1]``."""

    book: Floats
    entries: Ints
    decided: Ints
    model: Floats


@dataclass(frozen=True)
class BankRule(OneSidedMethod):
    """Logistic regression on the accepted, trained again now and then; accepts whose chance is at least a half.

    Accepts all before the first training. It does not listen to auditors.

    Attributes:
        every: rounds between trainings, at least 1.
        memory: the last so many accepted people count, at least 2.
    """

    name: ClassVar[str] = "bank-rule"
    exact: ClassVar[bool] = False
    takes_prior: ClassVar[bool] = False
    every: int = 50
    memory: int = 5000

    def __post_init__(self) -> None:
        whole("every", self.every)
        whole("memory", self.memory, least=2)

    def begin(self, rules: Any, people: int, rngs: tuple[np.random.Generator, ...], prior: Floats) -> _Book:
        lanes, width = len(rngs), rules.features + 1
        none = np.zeros(lanes, dtype=np.int64)
        return _Book(np.zeros((lanes, self.memory, width)), none, none.copy(), np.zeros((lanes, width)))

    def act(self, state: Any, bits: Bits, people: Floats) -> tuple[Floats, Flags, Floats]:
        for s in range(len(people)):
            if state.decided[s] and state.decided[s] % self.every == 0:
                self._train(state, s)
        state.decided[...] += 1
        accepted = (people @ state.model[:, :-1, None])[..., 0] + state.model[:, -1:] >= 0
        return accepted.astype(np.float64), accepted, np.ones(accepted.shape)

    def _train(self, state: _Book, s: int) -> None:
        known = state.book[s, : min(state.entries[s], self.memory)]
        if len(np.unique(known[:, -1])) == 2:
            from sklearn.linear_model import LogisticRegression

            fitted = LogisticRegression(max_iter=200).fit(known[:, :-1], known[:, -1])
            state.model[s, :-1], state.model[s, -1] = fitted.coef_[0], fitted.intercept_[0]

    def learn(self, state: Any, kept: Kept, labels: Floats, pairs: Ints) -> None:
        people, _, accepted, _ = kept
        for s, i in np.argwhere(accepted).tolist():
            place = state.entries[s] % self.memory
            state.book[s, place, :-1], state.book[s, place, -1] = people[s, i], labels[s, i]
            state.entries[s] += 1


class _Nothing(NamedTuple):
    pass


@dataclass(frozen=True)
class AcceptAll(OneSidedMethod):
    """Accepts everybody; nobody can report it."""

    name: ClassVar[str] = "accept-all"
    exact: ClassVar[bool] = False
    takes_prior: ClassVar[bool] = False

    def begin(self, rules: Any, people: int, rngs: tuple[np.random.Generator, ...], prior: Floats) -> _Nothing:
        return _Nothing()

    def act(self, state: Any, bits: Bits, people: Floats) -> tuple[Floats, Flags, Floats]:
        shape = people.shape[:2]
        return np.ones(shape), np.ones(shape, dtype=np.bool_), np.ones(shape)

    def learn(self, state: Any, kept: Kept, labels: Floats, pairs: Ints) -> None:
        """Nothing."""
