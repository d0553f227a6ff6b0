"""Yardsticks for one-sided feedback: with all labels, without importance weights, in two phases, and rules of thumb."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.bandits.base import Kept, whole
from heedful.bandits.exp2 import Exp2, _act
from heedful.bandits.one_sided import Bits, Floats, LinearRules, OneSidedMethod, add_losses


@dataclass(frozen=True)
class FullInformation(Exp2):
    """Exponential weights that are told the labels of the rejected too: what one-sidedness costs is the distance to it.

    Attributes:
        rounds: T, for which the defaults are set, at least 1.
        penalty: C, the price of a report, at least 0; None: ``T^(1/5)``.
        eta: learning rate, at least 0; None: as :class:`Exp2`.
        mix: share of exploration, in [0, 1], of which it has no need; None: as :class:`Exp2`.
        explore: ``"accept-all"`` or ``"uniform"``.
    """

    name: ClassVar[str] = "full-information"
    sees_all: ClassVar[bool] = True

    def learn(self, state: Any, kept: Kept, labels: Floats, a: int, b: int) -> None:
        _, bits, accepted, _ = kept
        everybody, ones = np.ones(len(accepted), dtype=np.bool_), np.ones(len(accepted))
        add_losses(state.losses[0], bits, everybody, ones, labels, a, b, self.settings(*bits.shape)[0])


@dataclass(frozen=True)
class NaiveWeights(Exp2):
    """Exponential weights that take the accepted for everybody: labels are not divided by the chance of seeing them.

    Attributes:
        rounds: T, for which the defaults are set, at least 1.
        penalty: C, the price of a report, at least 0; None: ``T^(1/5)``.
        eta: learning rate, at least 0; None: as :class:`Exp2`.
        mix: share of exploration, in [0, 1]; None: as :class:`Exp2`.
        explore: ``"accept-all"`` or ``"uniform"``.
    """

    name: ClassVar[str] = "naive-weights"

    def learn(self, state: Any, kept: Kept, labels: Floats, a: int, b: int) -> None:
        _, bits, accepted, _ = kept
        add_losses(state.losses[0], bits, accepted, np.ones(len(accepted)), labels, a, b, self.settings(*bits.shape)[0])


class _Counted(NamedTuple):
    losses: Floats
    decided: NDArray[np.int64]
    rng: np.random.Generator


@dataclass(frozen=True)
class ExploreFirst(Exp2):
    """Accepts all for ``T^(2/3)`` rounds, rounded up, and then plays the weights of what these showed, and of reports.

    Attributes:
        rounds: T, for which the defaults are set, at least 1.
        penalty: C, the price of a report, at least 0; None: ``T^(1/5)``.
        eta: learning rate, at least 0; None: ``sqrt(8 log H / n) / k`` for the n rounds that it learns from.
        mix: has no effect, like explore: the first phase is all exploration, the second has none.
        explore: has no effect.
    """

    name: ClassVar[str] = "explore-first"

    def settings(self, rules: int, people: int) -> tuple[float, float, float]:
        penalty, eta, mix = super().settings(rules, people)
        return penalty, eta if self.eta is not None else float(np.sqrt(8 * np.log(rules) / self.first) / people), mix

    @property
    def first(self) -> int:
        """Rounds in which all are accepted."""
        return int(np.ceil(self.rounds ** (2 / 3)))

    def begin(self, rules: LinearRules, people: int, rng: np.random.Generator, prior: Floats) -> _Counted:
        return _Counted(prior, np.zeros(1, dtype=np.int64), rng)

    def act(self, state: Any, bits: Bits, people: Floats) -> tuple[Floats, NDArray[np.bool_], Floats]:
        first = state.decided[0] < self.first
        state.decided[0] += 1
        _, eta, _ = self.settings(*bits.shape)
        treatment, accepted, _ = _act(state.losses[0], bits, eta, 1.0 if first else 0.0, False, state.rng.random())
        return treatment, accepted, np.full(len(accepted), float(first))

    def learn(self, state: Any, kept: Kept, labels: Floats, a: int, b: int) -> None:
        _, bits, accepted, inverse = kept  # 0 after the first phase: labels no longer count
        add_losses(state.losses[0], bits, accepted, inverse, labels, a, b, self.settings(*bits.shape)[0])


class _Book(NamedTuple):
    """Who was accepted, float64 ``[1, size, d + 1]``, label last; how many; rounds decided; coefficients."""

    book: Floats
    entries: NDArray[np.int64]
    decided: NDArray[np.int64]
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
    every: int = 50
    memory: int = 5000

    def __post_init__(self) -> None:
        whole("every", self.every)
        whole("memory", self.memory, least=2)

    def begin(self, rules: LinearRules, people: int, rng: np.random.Generator, prior: Floats) -> _Book:
        d = rules.weights.shape[1]
        model = np.zeros((1, d + 1))
        return _Book(np.zeros((1, self.memory, d + 1)), np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), model)

    def act(self, state: Any, bits: Bits, people: Floats) -> tuple[Floats, NDArray[np.bool_], Floats]:
        if state.decided[0] and state.decided[0] % self.every == 0:
            self._train(state)
        state.decided[0] += 1
        accepted = people @ state.model[0, :-1] + state.model[0, -1] >= 0
        return accepted.astype(np.float64), accepted, np.ones(len(accepted))

    def _train(self, state: _Book) -> None:
        known = state.book[0, : min(state.entries[0], self.memory)]
        if len(np.unique(known[:, -1])) == 2:
            from sklearn.linear_model import LogisticRegression

            fitted = LogisticRegression(max_iter=200).fit(known[:, :-1], known[:, -1])
            state.model[0, :-1], state.model[0, -1] = fitted.coef_[0], fitted.intercept_[0]

    def learn(self, state: Any, kept: Kept, labels: Floats, a: int, b: int) -> None:
        people, _, accepted, _ = kept
        for i in np.flatnonzero(accepted):
            place = state.entries[0] % self.memory
            state.book[0, place, :-1], state.book[0, place, -1] = people[i], labels[i]
            state.entries[0] += 1


class _Nothing(NamedTuple):
    pass


@dataclass(frozen=True)
class AcceptAll(OneSidedMethod):
    """Accepts everybody; nobody can report it."""

    name: ClassVar[str] = "accept-all"
    exact: ClassVar[bool] = False

    def begin(self, rules: LinearRules, people: int, rng: np.random.Generator, prior: Floats) -> _Nothing:
        return _Nothing()

    def act(self, state: Any, bits: Bits, people: Floats) -> tuple[Floats, NDArray[np.bool_], Floats]:
        return np.ones(len(people)), np.ones(len(people), dtype=np.bool_), np.ones(len(people))

    def learn(self, state: Any, kept: Kept, labels: Floats, a: int, b: int) -> None:
        """Nothing."""
