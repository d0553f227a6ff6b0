"""Learners that accept or reject people, see outcomes of the accepted alone, and are watched by auditors.

In each round a few people arrive. One rule of a class is drawn for all of them; who it accepts is accepted, and only
their labels come back. Auditors see the whole policy, the probability with which each person is accepted, and may
report one ordered pair (a, b) of which a is treated too well. With C as the price of a report the loss of rule h is

    sum_i 1[h(x_i) != y_i] + C (h(x_a) - h(x_b)),

and up to a constant its first term lives on accepted people, ``h (1 - 2y)``, so that dividing what was seen by the
probability of seeing it estimates the loss of every rule without bias.

One learner and many seeds together run by the same steps, on arrays with a leading axis of lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from heedful.bandits.base import Kept, Learner, Method
from heedful.bandits.checks import numbers_of, whole
from heedful.bandits.kernels import not_finite
from heedful.bandits.linear_rules import Bits, Floats, LinearRules
from heedful.bandits.streams import generators

if TYPE_CHECKING:
    from heedful.bandits.classification_oracles import ClassificationOracle

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Acceptance:
    """Who is accepted; of many seeds together, all arrays have a leading axis of lanes.

    Attributes:
        token: by which feedback refers to it.
        accepted: bool ``[k]``.
        treatment: float64 ``[k]``: the probability with which the policy accepts each person, which auditors see; an
            estimate where the policy is known through draws alone.
        supported: whether these probabilities are exact, and the policy random for anybody.
    """

    token: int
    accepted: Flags
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
        labels: float64 ``[k]``, or ``[lanes, k]``: 1 good, 0 bad; NaN for the rejected, whose labels nobody sees.
        reported: the pair (a, b) that auditors reported, a treated too well; None if there was none. Of many seeds
            together a sequence of these, one per lane.
    """

    token: int
    labels: Floats
    reported: tuple[int, int] | Sequence[tuple[int, int] | None] | None = None


class Losses(NamedTuple):
    """Estimated losses so far: float64 ``[lanes, H]``; and generators."""

    losses: Floats
    rngs: tuple[np.random.Generator, ...]


@numba.njit(cache=True, nogil=True)
def add_losses(losses, bits, seen, inverse, labels, pairs, penalty):  # type: ignore[no-untyped-def]
    """Adds to the loss of each rule what it is charged for the people that were seen, and for the reported pair.

    Args:
        losses: float64 ``[lanes, H]``.
        bits: int8 ``[lanes, H, k]``: what each rule says.
        seen: bool ``[lanes, k]``: whose labels count.
        inverse: float64 ``[lanes, k]``: what they are multiplied by.
        labels: float64 ``[lanes, k]``; read where seen.
        pairs: int64 ``[lanes, 2]``: the reported pairs; -1: none.
        penalty: C.
    """
    for s in range(len(losses)):
        total, says = losses[s], bits[s]
        for i in range(labels.shape[1]):
            if seen[s, i]:
                charge = (1.0 - 2.0 * labels[s, i]) * inverse[s, i]
                for h in range(len(total)):
                    total[h] += says[h, i] * charge
        a, b = pairs[s]
        if a >= 0:
            for h in range(len(total)):
                total[h] += penalty * (says[h, a] - says[h, b])


@numba.njit(cache=True, nogil=True)
def _wrong(labels, accepted, all_seen):  # type: ignore[no-untyped-def]
    """1 if a label that is seen is neither 0 nor 1, 2 if one is given that nobody can see, else 0."""
    for s in range(len(labels)):
        for i in range(labels.shape[1]):
            if all_seen or accepted[s, i]:
                if labels[s, i] != 0.0 and labels[s, i] != 1.0:
                    return 1
            elif labels[s, i] == labels[s, i]:
                return 2
    return 0


@numba.njit(cache=True, nogil=True)
def _impossible(treatment, accepted):  # type: ignore[no-untyped-def]
    """Whether somebody was accepted who has no chance of it."""
    for s in range(len(accepted)):
        for i in range(accepted.shape[1]):
            if accepted[s, i] and not treatment[s, i] > 0.0:
                return True
    return False


@dataclass(frozen=True)
class OneSidedMethod(Method):
    """A method that accepts or rejects people by rules of a class."""

    kind: ClassVar[str] = "one-sided"
    sees_all: ClassVar[bool] = False
    """Whether it is told the labels of rejected people too, as no real learner is."""
    exact: ClassVar[bool] = True
    """Whether its decisions are drawn with probabilities that it knows."""
    takes_optimiser: ClassVar[bool] = False
    """Whether its rules may be known through an optimiser alone."""
    takes_prior: ClassVar[bool] = True
    """Whether it keeps losses of rules, with which it may begin."""

    def begin(self, rules: Any, people: int, rngs: tuple[np.random.Generator, ...], prior: Floats) -> Any:
        """The state at first: a named tuple with a lane per generator; ``prior``, float64 ``[lanes, H]``, are losses to
        begin with."""
        return Losses(prior, rngs)

    def act(self, state: Any, bits: Bits, people: Floats) -> tuple[Floats, Flags, Floats]:
        """The policy on k people, who is accepted, and what labels will be multiplied by; ``[lanes, k]`` each.

        Args:
            state: random numbers are drawn from it; changes in place.
            bits: int8 ``[lanes, H, k]``; H is 0 where rules are known through an optimiser alone.
            people: float64 ``[lanes, k, d]``.
        """
        raise NotImplementedError

    def learn(self, state: Any, kept: Kept, labels: Floats, pairs: Ints) -> None:
        """Learns from labels float64 ``[lanes, k]`` and reported pairs int64 ``[lanes, 2]``, -1 where there is none;
        ``kept``: people, bits, accepted, inverse."""
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
            prior: float64 ``[H]``, finite: losses to begin with; None: 0. An optimiser takes none, nor does a method
                that keeps no losses of rules (``takes_prior`` says so).
            max_pending, expire_after: see :class:`~heedful.bandits.base.Ledger`.

        Raises ValueError for numbers out of range, a prior of another length or where none is taken, and rules that it
        cannot enumerate.
        """
        return OneSidedLearner(self, rules, people, [seed], prior, max_pending, expire_after)

    def many(
        self, rules: LinearRules | ClassificationOracle, people: int, seeds: Sequence[int] = (0,),
        prior: ArrayLike | None = None, max_pending: int | None = None, expire_after: int | None = None,
    ) -> OneSidedLanes:  # fmt: skip
        """A lane per seed, each making the decisions of ``start(..., seed)``. Raises as :meth:`start`."""
        return OneSidedLanes(self, rules, people, seeds, prior, max_pending, expire_after)


class _OneSided(Learner[Labels]):
    """What a learner on its own and many together have in common."""

    method: OneSidedMethod

    def __init__(
        self, method: OneSidedMethod, rules: LinearRules | ClassificationOracle, people: int, seeds: Sequence[int],
        prior: ArrayLike | None, max_pending: int | None, expire_after: int | None,
    ) -> None:  # fmt: skip
        self._listed = rules if isinstance(rules, LinearRules) else None
        if self._listed is None and not method.takes_optimiser:
            raise ValueError(
                f"rules: {method.name} wants LinearRules; only context-semi-bandit-ftpl takes an optimiser"
            )
        self.rules, self.people, self.features = rules, whole("people", people), rules.features
        losses = np.zeros(0 if self._listed is None else len(self._listed))
        if prior is not None:
            if self._listed is None:
                raise ValueError("prior: must be None with an optimiser, which knows no list of rules")
            if not method.takes_prior:
                raise ValueError(f"prior: must be None for {method.name}, which keeps no losses of rules")
            losses = numbers_of("prior", prior)
            if losses.shape != (len(self._listed),) or not np.isfinite(losses).all():
                raise ValueError(f"prior: must be {len(self._listed)} finite numbers, has shape {list(losses.shape)}")
        rngs = generators(seeds)
        state = method.begin(rules, self.people, rngs, np.tile(losses, (len(rngs), 1)))
        super().__init__(method, state, len(seeds), max_pending, expire_after)

    def _decide(self, people: Any, shape: tuple[int, ...]) -> tuple[int, Flags, Floats]:
        """A token, who is accepted and the policy, ``[lanes, k]``; people must have the shape."""
        array = numbers_of("people", people)
        if array.shape != shape:
            raise ValueError(f"people: must have shape {list(shape)}, has {list(array.shape)}")
        # A copy: it is kept until labels come, and the caller may go on with the array.
        array = array.reshape(self.lanes, self.people, self.features).copy()
        if not_finite(array):
            raise ValueError("people: must be finite")
        if self._listed is None:
            bits = np.empty((self.lanes, 0, self.people), dtype=np.int8)
        else:
            said = self._listed.predict(array.reshape(-1, self.features)).reshape(-1, self.lanes, self.people)
            bits = np.ascontiguousarray(said.transpose(1, 0, 2))
        treatment, accepted, inverse = self.method.act(self.state, bits, array)
        if self.method.exact and _impossible(treatment, accepted):
            raise ValueError(f"treatment: {self.method.name} accepted somebody with probability 0; must be above 0")
        token = self.ledger.issue((array, bits, accepted.copy(), inverse))  # what is handed out may be written to
        return token, accepted, treatment

    def _supported(self, treatment: Floats) -> bool:
        return self.method.exact and bool(((treatment > 0) & (treatment < 1)).any())

    def _check(self, kept: Kept, feedback: Labels, shape: tuple[int, ...], reported: Sequence[Any]) -> None:
        if not isinstance(feedback, Labels):
            raise ValueError(f"feedback={feedback!r}: must be Labels")
        found = np.asarray(feedback.labels)
        if found.shape != shape or found.dtype.kind not in "fiub":
            form = " x ".join(map(str, shape))
            raise ValueError(f"labels: must be {form} numbers, has shape {list(found.shape)}")
        told = np.asarray(found, dtype=np.float64).reshape(kept[2].shape)
        wrong = _wrong(told, kept[2], self.method.sees_all)
        if wrong == 1:
            raise ValueError("labels: must be 0 or 1 for everybody whose label is seen")
        if wrong == 2:
            raise ValueError("labels: must be NaN for the rejected, whose labels nobody sees")
        for pair in reported:
            if pair is None:
                continue
            whole_numbers = isinstance(pair, tuple) and all(isinstance(i, int | np.integer) for i in pair)
            if not (whole_numbers and len(pair) == 2 and all(0 <= i < self.people for i in pair)):
                raise ValueError(f"reported={pair!r}: must be a pair of places in 0..{self.people - 1}, or None")
            if pair[0] == pair[1]:
                raise ValueError(f"reported={pair!r}: must be two different people")

    def _learn(self, kept: Kept, labels: Any, reported: Sequence[Any]) -> None:
        pairs = np.array([(-1, -1) if pair is None else pair for pair in reported], dtype=np.int64)
        self.method.learn(self.state, kept, np.asarray(labels, dtype=np.float64).reshape(kept[2].shape), pairs)

    def _about(self) -> str:
        return f"{super()._about()}, {self.rules}, {self.people} people"


class OneSidedLearner(_OneSided):
    """One learner: ``decide(people)``, ``update(Labels)``.

    >>> import numpy as np
    >>> from heedful.bandits import Exp2, Labels, LinearRules
    >>> rules = LinearRules(np.array([[0.0], [0.0], [1.0]]), np.array([-np.inf, np.inf, 0.5]))
    >>> learner = Exp2(rounds=100).start(rules, people=2, seed=1)
    >>> decision = learner.decide([[0.2], [0.9]])
    >>> learner.update(Labels(decision.token, np.where(decision.accepted, [0.0, 1.0], np.nan)))
    >>> learner.counts.learned
    1
    """

    def decide(self, people: ArrayLike | Sequence[Sequence[float]]) -> Acceptance:
        """Accepts or rejects everybody of a round.

        Args:
            people: float64 ``[k, d]``, finite.

        Raises ValueError for another shape, for numbers that are not finite, and where a method accepts somebody with
        a probability of 0, whose label it could not divide by anything.
        """
        token, accepted, treatment = self._decide(people, (self.people, self.features))
        return Acceptance(token, accepted[0], treatment[0], self._supported(treatment))

    def check_feedback(self, kept: Kept, feedback: Labels) -> None:
        self._check(kept, feedback, (self.people,), [feedback.reported] if isinstance(feedback, Labels) else [])

    def learn(self, kept: Kept, feedback: Labels) -> None:
        self._learn(kept, feedback.labels, [feedback.reported])


class OneSidedLanes(_OneSided):
    """Many seeds together: ``decide(people)``, ``update(Labels)``, with a leading axis of lanes.

    >>> import numpy as np
    >>> from heedful.bandits import Exp2, Labels, LinearRules
    >>> rules = LinearRules(np.array([[0.0], [0.0], [1.0]]), np.array([-np.inf, np.inf, 0.5]))
    >>> lanes = Exp2(rounds=100).many(rules, people=2, seeds=range(3))
    >>> decision = lanes.decide(np.random.default_rng(0).random((3, 2, 1)))
    >>> labels = np.where(decision.accepted, 1.0, np.nan)
    >>> lanes.update(Labels(decision.token, labels, reported=[None, (0, 1), None]))
    >>> decision.treatment.shape, lanes.counts.learned
    ((3, 2), 1)
    """

    def decide(self, people: ArrayLike) -> Acceptance:
        """Accepts or rejects everybody of a round in every lane.

        Args:
            people: float64 ``[lanes, k, d]``, finite.

        Raises ValueError as :meth:`OneSidedLearner.decide`.
        """
        token, accepted, treatment = self._decide(people, (self.lanes, self.people, self.features))
        return Acceptance(token, accepted, treatment, self._supported(treatment))

    def _pairs(self, feedback: Labels) -> Sequence[Any]:
        """The reported pair of each lane."""
        if feedback.reported is None:
            return [None] * self.lanes
        if not isinstance(feedback.reported, Sequence) or len(feedback.reported) != self.lanes:
            raise ValueError(f"reported={feedback.reported!r}: must be a pair or None for each of {self.lanes} lanes")
        return feedback.reported

    def check_feedback(self, kept: Kept, feedback: Labels) -> None:
        reported = self._pairs(feedback) if isinstance(feedback, Labels) else []
        self._check(kept, feedback, (self.lanes, self.people), reported)

    def learn(self, kept: Kept, feedback: Labels) -> None:
        self._learn(kept, feedback.labels, self._pairs(feedback))
