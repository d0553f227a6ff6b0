"""Learners that accept or reject people, see outcomes of the accepted alone, and are watched by auditors.

In each round a few people arrive. One rule of a class is drawn for all of them; who it accepts is accepted, and only
their labels come back. Auditors see the whole policy, the probability with which each person is accepted, and may
report one ordered pair (a, b) of which a is treated too well. With C as the price of a report the loss of rule h is

    sum_i 1[h(x_i) != y_i] + C (h(x_a) - h(x_b)),

and up to a constant its first term lives on accepted people, ``h (1 - 2y)``, so that dividing what was seen by the
probability of seeing it estimates the loss of every rule without bias.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from heedful.bandits.base import Kept, Learner, Method, whole

if TYPE_CHECKING:
    from heedful.bandits.classification_oracles import ClassificationOracle

Floats = NDArray[np.float64]
Bits = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class LinearRules:
    """Rules ``weights . x >= offset``, which contain the two constants: rule 0 accepts all, rule 1 rejects all.

    Attributes:
        weights: float64 ``[H, d]``, finite.
        offsets: float64 ``[H]``; of rule 0 minus infinity, of rule 1 infinity.

    Raises ValueError for other shapes and numbers, and if a constant is missing.
    """

    weights: Floats
    offsets: Floats

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or self.offsets.shape != (len(self.weights),) or len(self.weights) < 2:
            raise ValueError("weights: must have shape [H, d] with H of at least 2, and offsets [H]")
        if not np.isfinite(self.weights).all() or np.isnan(self.offsets).any():
            raise ValueError("weights: must be finite, and offsets numbers")
        if self.offsets[0] != -np.inf or self.offsets[1] != np.inf:
            raise ValueError("offsets: rule 0 must accept all (-inf) and rule 1 reject all (inf)")

    @classmethod
    def random(cls, people: Floats, rules: int, rng: np.random.Generator, bonus: float = 0.3) -> LinearRules:
        """The constants, ``rules`` random directions, and copies of half of them that favour a group.

        Args:
            people: float64 ``[N, d]``, the last feature 1 for the favoured group, else 0.
            rules: how many; each cuts the people at a quantile drawn from [0.05, 0.95].
            rng: for directions (normal, 0 on the last feature) and quantiles.
            bonus: what the copies add to the score of the favoured.
        """
        weights = np.zeros((rules, people.shape[1]))
        weights[:, :-1] = rng.normal(size=(rules, people.shape[1] - 1))
        scores = people @ weights.T
        offsets = np.array([np.quantile(s, p) for s, p in zip(scores.T, rng.uniform(0.05, 0.95, rules))])
        favouring = weights[: rules // 2].copy()
        favouring[:, -1] = bonus
        constant = np.zeros((2, people.shape[1]))
        return cls(
            np.concatenate([constant, weights, favouring]),
            np.concatenate([[-np.inf, np.inf], offsets, offsets[: rules // 2]]),
        )

    @classmethod
    def stumps(cls, people: Floats) -> LinearRules:
        """The constants, and every ``x_f >= t`` and ``x_f <= t`` that tells some of the people apart.

        Args:
            people: float64 ``[N, d]``; thresholds are their values.
        """
        weights, offsets = [np.zeros((2, people.shape[1]))], [np.array([-np.inf, np.inf])]
        for direction, column in zip(np.eye(people.shape[1]), people.T):
            values = np.unique(column)
            weights += [np.tile(sign * direction, (len(values) - 1, 1)) for sign in (1.0, -1.0)]
            offsets += [values[1:], -values[:-1]]
        return cls(np.concatenate(weights), np.concatenate(offsets))

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def features(self) -> int:
        """d, by how many numbers a person is described."""
        return self.weights.shape[1]

    def predict(self, people: Floats) -> Bits:
        """int8 ``[H, k]``: 1 where a rule accepts a person; people: float64 ``[k, d]``."""
        return (self.weights @ people.T >= self.offsets[:, None]).view(np.int8)


@dataclass(frozen=True, slots=True, eq=False)
class Acceptance:
    """Who is accepted.

    Attributes:
        token: by which feedback refers to it.
        accepted: bool ``[k]``.
        treatment: float64 ``[k]``: the probability with which the policy accepts each person, which auditors see; an
            estimate where the policy is known through draws alone.
        supported: whether these probabilities are exact, and the rule random.
    """

    token: int
    accepted: NDArray[np.bool_]
    treatment: Floats
    supported: bool

    @property
    def probability(self) -> Floats:
        """float64 ``[k]``: of what was decided about each person (one rule is drawn for all of them)."""
        return np.where(self.accepted, self.treatment, 1.0 - self.treatment)


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What came of a round.

    Attributes:
        token: of the decision.
        labels: float64 ``[k]``: 1 good, 0 bad; NaN for the rejected, whose labels nobody sees.
        reported: the pair (a, b) that auditors reported, a treated too well; None if there was none.
    """

    token: int
    labels: Floats
    reported: tuple[int, int] | None = None


class Losses(NamedTuple):
    """Estimated losses so far: float64 ``[1, H]``; and the generator."""

    losses: Floats
    rng: np.random.Generator


@numba.njit(cache=True, nogil=True)
def add_losses(losses, bits, seen, inverse, labels, a, b, penalty):  # type: ignore[no-untyped-def]
    """Adds to the loss of each rule what it is charged for the people that were seen, and for the reported pair.

    Args:
        losses: float64 ``[H]``.
        bits: int8 ``[H, k]``: what each rule says.
        seen: bool ``[k]``: whose labels count.
        inverse: float64 ``[k]``: what they are multiplied by.
        labels: float64 ``[k]``; read where seen.
        a, b: the reported pair; -1: none.
        penalty: C.
    """
    for i in range(len(labels)):
        if seen[i]:
            charge = (1.0 - 2.0 * labels[i]) * inverse[i]
            for h in range(len(losses)):
                losses[h] += bits[h, i] * charge
    if a >= 0:
        for h in range(len(losses)):
            losses[h] += penalty * (bits[h, a] - bits[h, b])


@numba.njit(cache=True, nogil=True)
def _wrong(labels, accepted, all_seen):  # type: ignore[no-untyped-def]
    """1 if a label that is seen is neither 0 nor 1, 2 if one is given that nobody can see, else 0."""
    for i in range(len(labels)):
        if all_seen or accepted[i]:
            if labels[i] != 0.0 and labels[i] != 1.0:
                return 1
        elif labels[i] == labels[i]:
            return 2
    return 0


@dataclass(frozen=True)
class OneSidedMethod(Method):
    """A method that accepts or rejects people by rules of a class."""

    kind: ClassVar[str] = "one-sided"
    sees_all: ClassVar[bool] = False
    """Whether it is told the labels of rejected people too, as no real learner is."""
    exact: ClassVar[bool] = True
    """Whether its decisions are drawn with probabilities that it knows."""

    def begin(self, rules: LinearRules, people: int, rng: np.random.Generator, prior: Floats) -> Any:
        """The state at first: a named tuple; ``prior`` float64 ``[1, H]`` are losses to begin with."""
        return Losses(prior, rng)

    def act(self, state: Any, bits: Bits, people: Floats) -> tuple[Floats, NDArray[np.bool_], Floats]:
        """The policy on k people, who is accepted, and what labels will be multiplied by; ``[k]`` each.

        Args:
            state: random numbers are drawn from it; changes in place.
            bits: int8 ``[H, k]``; H is 0 where rules are known through an optimiser alone.
            people: float64 ``[k, d]``.
        """
        raise NotImplementedError

    def learn(self, state: Any, kept: Kept, labels: Floats, a: int, b: int) -> None:
        """Learns from labels ``[k]``; ``kept``: people, bits, accepted, inverse."""
        raise NotImplementedError

    def start(
        self, rules: LinearRules | ClassificationOracle, people: int, seed: int = 0, prior: ArrayLike | None = None,
        max_pending: int | None = None, expire_after: int | None = None,
    ) -> OneSidedLearner:  # fmt: skip
        """A learner on its own.

        Args:
            rules: among which it chooses; only FTPL takes a class that is known through an optimiser alone.
            people: k, how many arrive in a round, at least 1.
            seed: of its random choices, at least 0.
            prior: float64 ``[H]``: losses to begin with; None: 0.
            max_pending, expire_after: see :class:`~heedful.bandits.base.Ledger`.

        Raises ValueError for numbers out of range, a prior of another length, and rules that it cannot enumerate.
        """
        if not isinstance(rules, LinearRules):
            raise ValueError(f"rules: {self.name} wants LinearRules; only context-semi-bandit-ftpl takes an optimiser")
        return EnumeratingLearner(self, rules, people, seed, prior, max_pending, expire_after)


class OneSidedLearner(Learner[Labels]):
    """``decide(people)``, ``update(Labels)``.

    >>> import numpy as np
    >>> from heedful.bandits import Exp2, Labels, LinearRules
    >>> rules = LinearRules(np.array([[0.0], [0.0], [1.0]]), np.array([-np.inf, np.inf, 0.5]))
    >>> learner = Exp2(rounds=100).start(rules, people=2, seed=1)
    >>> decision = learner.decide([[0.2], [0.9]])
    >>> learner.update(Labels(decision.token, np.where(decision.accepted, [0.0, 1.0], np.nan)))
    >>> learner.counts.learned
    1
    """

    method: OneSidedMethod
    people: int
    features: int

    def bits(self, people: Floats) -> Bits:
        """int8 ``[H, k]``: what each rule says of people float64 ``[k, d]``."""
        raise NotImplementedError

    def decide(self, people: ArrayLike | Sequence[Sequence[float]]) -> Acceptance:
        """Accepts or rejects everybody of a round.

        Args:
            people: float64 ``[k, d]``, finite.

        Raises ValueError for another shape, for numbers that are not finite, and where a method accepts somebody with
        a probability of 0, whose label it could not divide by anything.
        """
        try:
            array = np.array(people, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError("people: must be an array of numbers") from None
        if array.shape != (self.people, self.features):
            raise ValueError(f"people: must have shape [{self.people}, {self.features}], has {list(array.shape)}")
        if not np.isfinite(array).all():
            raise ValueError("people: must be finite")
        bits = self.bits(array)
        treatment, accepted, inverse = self.method.act(self.state, bits, array)
        if self.method.exact and not (treatment[accepted] > 0).all():
            raise ValueError(f"treatment: {self.method.name} accepted somebody with probability 0; must be above 0")
        token = self.ledger.issue((array, bits, accepted, inverse))
        return Acceptance(token, accepted, treatment, self.method.exact)

    def check_feedback(self, kept: Kept, feedback: Labels) -> None:
        labels = np.asarray(getattr(feedback, "labels", None))
        if labels.shape != (self.people,) or labels.dtype.kind not in "fiub":
            raise ValueError(f"labels: must be {self.people} numbers, has shape {list(labels.shape)}")
        wrong = _wrong(labels.astype(np.float64), kept[2], self.method.sees_all)
        if wrong == 1:
            raise ValueError("labels: must be 0 or 1 for everybody whose label is seen")
        if wrong == 2:
            raise ValueError("labels: must be NaN for the rejected, whose labels nobody sees")
        if feedback.reported is not None:
            pair = feedback.reported
            if not (isinstance(pair, tuple) and len(pair) == 2 and all(0 <= i < self.people for i in pair)):
                raise ValueError(f"reported={pair!r}: must be a pair of places in 0..{self.people - 1}, or None")
            if pair[0] == pair[1]:
                raise ValueError(f"reported={pair!r}: must be two different people")

    def learn(self, kept: Kept, feedback: Labels) -> None:
        a, b = (-1, -1) if feedback.reported is None else feedback.reported
        self.method.learn(self.state, kept, np.asarray(feedback.labels, dtype=np.float64), a, b)


class EnumeratingLearner(OneSidedLearner):
    """One that asks every rule about everybody."""

    def __init__(
        self, method: OneSidedMethod, rules: LinearRules, people: int, seed: int, prior: ArrayLike | None,
        max_pending: int | None, expire_after: int | None,
    ) -> None:  # fmt: skip
        self.rules, self.people, self.features = rules, whole("people", people), rules.features
        losses = np.zeros((1, len(rules))) if prior is None else np.array(prior, dtype=np.float64).reshape(1, -1)
        if losses.shape != (1, len(rules)) or not np.isfinite(losses).all():
            raise ValueError(f"prior: must be {len(rules)} finite numbers, has shape {list(losses.shape[1:])}")
        rng = np.random.default_rng(whole("seed", seed, least=0))
        super().__init__(method, method.begin(rules, self.people, rng, losses), 1, max_pending, expire_after)

    def bits(self, people: Floats) -> Bits:
        return self.rules.predict(people)

    def _about(self) -> str:
        digest = zlib.crc32(self.rules.weights.tobytes() + self.rules.offsets.tobytes())
        return f"{super()._about()}, {len(self.rules)} rules {digest:08x}, {self.people} people"
