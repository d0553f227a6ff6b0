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

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.bandits.base import Kept
from heedful.bandits.checks import between, whole
from heedful.bandits.classification_oracles import ClassificationOracle, Hypotheses, Solver
from heedful.bandits.linear_rules import Bits, Floats, LinearRules
from heedful.bandits.one_sided import Flags, Ints, OneSidedMethod, add_losses

_TOGETHER = 8
"""So many perturbations are tried at a time when resampling."""


class Perturbed(NamedTuple):
    """What lanes that go through a list of rules know.

    Attributes:
        losses: float64 ``[lanes, H]``.
        separator: float64 ``[lanes, D, H]``: what rules say on its points, 0 beyond a lane's own number of them.
        points: int64 ``[lanes]``: how many a lane has.
        calls: int64 ``[lanes]``: of the optimiser.
        rngs: of perturbations.
    """

    losses: Floats
    separator: Floats
    points: Ints
    calls: Ints
    rngs: tuple[np.random.Generator, ...]


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
    """What lanes know whose rules are known through an optimiser alone: costs by person; calls of the optimiser, int64
    ``[lanes]``; generators of perturbations."""

    costs: tuple[Costs, ...]
    calls: Ints
    rngs: tuple[np.random.Generator, ...]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All but calls and generators; the people of all lanes end to end."""
        return {
            "people": np.concatenate([each.people for each in self.costs]),
            "costs": np.concatenate([each.costs for each in self.costs]),
            "sizes": np.array([len(each.costs) for each in self.costs]),
        }

    def set_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Takes what :meth:`arrays` gave."""
        people, costs, sizes = arrays["people"], arrays["costs"], arrays["sizes"]
        wanted = (len(costs), self.costs[0].people.shape[1])
        if people.shape != wanted or sizes.shape != self.calls.shape or sizes.sum() != len(costs):
            raise ValueError(f"people: has shape {list(people.shape)}, must be {list(wanted)}, {len(self.calls)} lanes")
        ends = np.cumsum(sizes)[:-1]
        for each, who, cost in zip(self.costs, np.split(people, ends), np.split(costs, ends)):
            each.restore(who, cost)


@dataclass(frozen=True)
class ContextSemiBanditFTPL(OneSidedMethod):
    """Follow the perturbed leader.

    With :class:`~heedful.bandits.linear_rules.LinearRules` the optimiser looks through all of them, many perturbations
    in one matrix product.

    >>> import numpy as np
    >>> from heedful.bandits import ContextSemiBanditFTPL, StumpOracle
    >>> who_may_come = np.random.default_rng(0).uniform(size=(50, 3))
    >>> learner = ContextSemiBanditFTPL(rounds=100, noise=1.0).start(StumpOracle(who_may_come), people=2)
    >>> learner.decide(who_may_come[:2]).accepted.shape, int(learner.state.calls[0]) >= 51
    ((2,), True)

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
    takes_optimiser: ClassVar[bool] = True
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

    def begin(
        self, rules: Any, people: int, rngs: tuple[np.random.Generator, ...], prior: Floats
    ) -> Perturbed | Charged:
        calls = np.zeros(len(rngs), dtype=np.int64)
        if isinstance(rules, ClassificationOracle):
            return Charged(tuple(Costs(rules) for _ in rngs), calls, rngs)
        found = [self._separator(rules, rng) for rng in rngs]
        points = np.array([len(each) for each in found])
        separator = np.zeros((len(rngs), points.max(), len(rules)))
        for s, each in enumerate(found):
            separator[s, : len(each)] = each
        return Perturbed(prior, separator, points, calls, rngs)

    def _separator(self, rules: LinearRules, rng: np.random.Generator) -> Floats:
        """float64 ``[D, H]``: what rules say on random points that tell them apart."""
        points = rng.uniform(size=(10_000, rules.features))
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
        return bits[:, chosen].T.astype(np.float64)

    def _noise(self, rng: np.random.Generator, number: int, points: int) -> Floats:
        return rng.laplace(scale=self.noise, size=(number, points)) if self.noise else np.zeros((number, points))

    def _leaders(self, state: Perturbed, s: int, number: int) -> Ints:
        """int64 ``[number]``: the leader of lane s under each of so many perturbations."""
        if self.noise == 0:
            return np.full(number, state.losses[s].argmin())
        points = int(state.points[s])
        noise = self._noise(state.rngs[s], number, points)
        return (noise @ state.separator[s, :points] + state.losses[s]).argmin(axis=1)

    def _say(self, state: Perturbed | Charged, s: int, number: int, bits: Bits, people: Floats) -> Bits:
        """int8 ``[number, k]``: what the leaders of lane s under so many perturbations say of everybody."""
        state.calls[s] += number
        if isinstance(state, Perturbed):
            return bits[self._leaders(state, s, number)]
        costs = state.costs[s]
        return costs.leaders(self._noise(state.rngs[s], number, costs.points)).predict(people)

    def act(self, state: Any, bits: Bits, people: Floats) -> tuple[Floats, Flags, Floats]:
        parts = [self._act(state, s, bits[s], people[s]) for s in range(len(people))]
        treatment, accepted, inverse = (np.stack(part) for part in zip(*parts))
        return treatment, accepted, inverse

    def _act(self, state: Any, s: int, bits: Bits, people: Floats) -> tuple[Floats, Flags, Floats]:
        """:meth:`act` in one lane, ``[k]`` each."""
        accepted = self._say(state, s, 1, bits, people)[0] == 1
        treatment = self._say(state, s, self.draws, bits, people).mean(axis=0, dtype=np.float64)
        most = int(np.ceil(np.sqrt(self.rounds))) if self.resamples is None else self.resamples
        inverse = np.ones(len(accepted))
        waiting, tried = accepted.copy(), 0
        while waiting.any() and tried < most:
            for says in self._say(state, s, min(_TOGETHER, most - tried), bits, people):
                tried += 1
                inverse[waiting] = tried
                waiting &= says == 0
                if not waiting.any():
                    break
        return treatment, accepted, inverse

    def learn(self, state: Any, kept: Kept, labels: Floats, pairs: Ints) -> None:
        people, bits, accepted, inverse = kept
        if isinstance(state, Perturbed):
            add_losses(state.losses, bits, accepted, inverse, labels, pairs, self.price)
            return
        charges = np.where(accepted, (1.0 - 2.0 * np.where(accepted, labels, 0.0)) * inverse, 0.0)
        for s in np.flatnonzero(pairs[:, 0] >= 0):
            charges[s, pairs[s]] += self.price, -self.price
        for costs, who, charge in zip(state.costs, people, charges):
            costs.add(who, charge)
