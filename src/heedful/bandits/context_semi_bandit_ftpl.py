"""Context-Semi-Bandit-FTPL follows the leader among perturbed losses, so that it needs an optimiser and no weights.

Syrgkanis, Krishnamurthy, Schapire, "Efficient Algorithms for Adversarial Contextual Learning", ICML 2016, arXiv
1602.02454; as the oracle-efficient learner of Bechavod, Roth, arXiv 2206.04475. Each round draws Laplace noise for
every point z of a separator, on which any two rules differ somewhere, and plays ``argmin_h L_h + sum_z noise_z h(z)``:
one call of the optimiser. What a label is divided by is estimated by geometric resampling (Neu, Bartok, ALT 2013):
fresh perturbations are drawn until one accepts the person, at most R of them, and their number J has mean ``1/q`` up to
a bias of at most ``(1 - q)^R / q``. What auditors see is the mean of ``draws`` perturbations.

Started with a :class:`~heedful.bandits.classification_oracles.ClassificationOracle` it never goes through the class:
what accepting each person has cost so far is kept per person, ``L_h = sum_x cost_x h(x)``, and the optimiser is given
these costs with the noise of the separator's points on top.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heedful.bandits.base import Kept, between, whole
from heedful.bandits.classification_oracles import ClassificationOracle, Hypotheses, Solver
from heedful.bandits.one_sided import Bits, Floats, LinearRules, OneSidedLearner, OneSidedMethod, add_losses

_TOGETHER = 8
"""So many perturbations are tried at a time when resampling."""


class Perturbed(NamedTuple):
    """Losses, float64 ``[1, H]``; what rules say on the separator, ``[D, H]``; optimiser calls, int64 ``[1]``."""

    losses: Floats
    separator: Floats
    calls: NDArray[np.int64]
    rng: np.random.Generator


class Costs:
    """What accepting people has cost so far, and which rule costs least.

    Attributes:
        people: float64 ``[N, d]``: the separator's points, and then everybody else who has cost anything.
        costs: float64 ``[N]``.
        points: D, how many of them are the separator's.
    """

    def __init__(self, oracle: ClassificationOracle) -> None:
        self._oracle, self.points = oracle, len(oracle.separator)
        self.restore(oracle.separator, np.zeros(self.points))

    def restore(self, people: Floats, costs: Floats) -> None:
        """Takes what another had."""
        self.people, self.costs = people + 0.0, costs.copy()  # + 0.0: so that -0 and 0 are the same
        self._places: dict[bytes, int] = {}
        for i, row in enumerate(self.people):
            self._places.setdefault(row.tobytes(), i)
        self._solver: Solver | None = None

    def add(self, people: Floats, costs: Floats) -> None:
        """Adds costs float64 ``[k]`` to those of people float64 ``[k, d]``."""
        counted = np.flatnonzero(costs)
        places: list[int] = []
        new: list[Floats] = []
        for row in people[counted] + 0.0:
            following = len(self.people) + len(new)
            places.append(self._places.setdefault(row.tobytes(), following))
            if places[-1] == following:
                new.append(row)
        if new:
            self.people, self.costs = np.concatenate([self.people, new]), np.append(self.costs, np.zeros(len(new)))
            self._solver = None
        np.add.at(self.costs, places, costs[counted])

    def leaders(self, noise: Floats) -> Hypotheses:
        """The rule that costs least under each perturbation of the separator's points, float64 ``[B, D]``."""
        if self._solver is None:
            self._solver = self._oracle.over(self.people)
        costs = np.tile(self.costs, (len(noise), 1))
        costs[:, : self.points] += noise
        return self._solver(costs)


class Charged(NamedTuple):
    """Costs by person, where rules are known through an optimiser alone; its calls, int64 ``[1]``."""

    costs: Costs
    calls: NDArray[np.int64]
    rng: np.random.Generator


@dataclass(frozen=True)
class ContextSemiBanditFTPL(OneSidedMethod):
    """Follow the perturbed leader.

    With :class:`~heedful.bandits.one_sided.LinearRules` the optimiser looks through all of them, many perturbations in
    one matrix product.

    Attributes:
        rounds: T, for which the defaults are set, at least 1.
        penalty: C, the price of a report, at least 0; None: ``T^(4/45)``.
        noise: scale of the Laplace noise, at least 0; with 0 it follows the leader.
        separator: how many random points of [0, 1]^d it has at least, in [1, 10000]; of 10,000 such points those are
            added that tell rules apart which were not told apart before. An optimiser brings a separator of its own.
        draws: perturbations by which auditors see the policy, at least 1.
        resamples: R; None: ``sqrt(T)``, rounded up.
    """

    name: ClassVar[str] = "context-semi-bandit-ftpl"
    exact: ClassVar[bool] = False
    rounds: int = 2000
    penalty: float | None = None
    noise: float = 10.0
    separator: int = 32
    draws: int = 50
    resamples: int | None = None

    def __post_init__(self) -> None:
        for name in ("rounds", "separator", "draws"):
            whole(name, getattr(self, name))
        between("separator", self.separator, 1, 10_000)
        if self.resamples is not None:
            whole("resamples", self.resamples)
        if self.penalty is not None:
            between("penalty", self.penalty, 0.0)
        between("noise", self.noise, 0.0)

    @property
    def price(self) -> float:
        """C, with its default filled in."""
        return self.rounds ** (4 / 45) if self.penalty is None else float(self.penalty)

    def begin(self, rules: LinearRules, people: int, rng: np.random.Generator, prior: Floats) -> Perturbed:
        points = rng.uniform(size=(10_000, rules.weights.shape[1]))
        bits = rules.predict(points)
        chosen = list(range(self.separator))
        kinds = np.unique(bits[:, chosen], axis=0, return_inverse=True)[1].ravel()
        for z in range(self.separator, len(points)):
            if kinds.max() == len(rules) - 1:
                break
            split = np.unique(2 * kinds + bits[:, z], return_inverse=True)[1]
            if split.max() > kinds.max():
                chosen.append(z)
                kinds = split
        return Perturbed(prior, bits[:, chosen].T.astype(np.float64), np.zeros(1, dtype=np.int64), rng)

    def start(
        self, rules: LinearRules | ClassificationOracle, people: int, seed: int = 0, prior: ArrayLike | None = None,
        max_pending: int | None = None, expire_after: int | None = None,
    ) -> OneSidedLearner:  # fmt: skip
        """A learner on its own; ``rules`` may be an optimiser, which takes no ``prior``. Otherwise as its parent's."""
        if isinstance(rules, ClassificationOracle):
            if prior is not None:
                raise ValueError("prior: must be None with an optimiser, which knows no list of rules")
            return OracleLearner(self, rules, people, seed, max_pending, expire_after)
        return super().start(rules, people, seed, prior, max_pending, expire_after)

    def _noise(self, rng: np.random.Generator, number: int, points: int) -> Floats:
        return rng.laplace(scale=self.noise, size=(number, points)) if self.noise else np.zeros((number, points))

    def _leaders(self, state: Perturbed, number: int) -> NDArray[np.int64]:
        """int64 ``[number]``: the leader under each of so many perturbations."""
        if self.noise == 0:
            return np.full(number, state.losses[0].argmin())
        noise = self._noise(state.rng, number, len(state.separator))
        return (noise @ state.separator + state.losses).argmin(axis=1)

    def _say(self, state: Perturbed | Charged, number: int, bits: Bits, people: Floats) -> Bits:
        """int8 ``[number, k]``: what the leaders under so many perturbations say of everybody."""
        state.calls[0] += number
        if isinstance(state, Perturbed):
            return bits[self._leaders(state, number)]
        noise = self._noise(state.rng, number, state.costs.points)
        return state.costs.leaders(noise).predict(people)

    def act(self, state: Any, bits: Bits, people: Floats) -> tuple[Floats, NDArray[np.bool_], Floats]:
        accepted = self._say(state, 1, bits, people)[0] == 1
        treatment = self._say(state, self.draws, bits, people).mean(axis=0, dtype=np.float64)
        most = int(np.ceil(np.sqrt(self.rounds))) if self.resamples is None else self.resamples
        inverse = np.ones(len(accepted))
        waiting, tried = accepted.copy(), 0
        while waiting.any() and tried < most:
            for says in self._say(state, min(_TOGETHER, most - tried), bits, people):
                tried += 1
                inverse[waiting] = tried
                waiting &= says == 0
                if not waiting.any():
                    break
        return treatment, accepted, inverse

    def learn(self, state: Any, kept: Kept, labels: Floats, a: int, b: int) -> None:
        people, bits, accepted, inverse = kept
        if isinstance(state, Perturbed):
            add_losses(state.losses[0], bits, accepted, inverse, labels, a, b, self.price)
            return
        costs = np.zeros(len(accepted))
        costs[accepted] = (1.0 - 2.0 * labels[accepted]) * inverse[accepted]
        if a >= 0:
            costs[a] += self.price
            costs[b] -= self.price
        state.costs.add(people, costs)


class OracleLearner(OneSidedLearner):
    """A learner that knows its rules through an optimiser alone.

    >>> import numpy as np
    >>> from heedful.bandits import ContextSemiBanditFTPL, StumpOracle
    >>> who_may_come = np.random.default_rng(0).uniform(size=(50, 3))
    >>> learner = ContextSemiBanditFTPL(rounds=100, noise=1.0).start(StumpOracle(who_may_come), people=2)
    >>> learner.decide(who_may_come[:2]).accepted.shape, int(learner.state.calls[0]) >= 51
    ((2,), True)
    """

    def __init__(
        self, method: ContextSemiBanditFTPL, oracle: ClassificationOracle, people: int, seed: int,
        max_pending: int | None, expire_after: int | None,
    ) -> None:  # fmt: skip
        self.oracle, self.people, self.features = oracle, whole("people", people), oracle.features
        rng = np.random.default_rng(whole("seed", seed, least=0))
        state = Charged(Costs(oracle), np.zeros(1, dtype=np.int64), rng)
        super().__init__(method, state, 1, max_pending, expire_after)

    def bits(self, people: Floats) -> Bits:
        return np.empty((0, len(people)), dtype=np.int8)

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        costs = self.state.costs
        return super().state_arrays() | {"people": costs.people, "costs": costs.costs}

    def set_state_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        people, costs = arrays["people"], arrays["costs"]
        if people.shape != (len(costs), self.features):
            raise ValueError(f"people: has shape {list(people.shape)}, must be [{len(costs)}, {self.features}]")
        self.state.calls[...] = arrays["calls"]
        self.state.rng.bit_generator.state = json.loads(str(arrays["rng"]))
        self.state.costs.restore(people, costs)

    def _about(self) -> str:
        return f"{super()._about()}, {self.oracle}, {self.people} people"
