"""From predicted rewards to probabilities of actions: what methods on a regression oracle have in common.

A rule of this kind is used in two ways. In batches, with predictions of whatever model: ``rule.probabilities(scores,
feasible, rows)``. One request at a time, with a ridge regression per action of its own: ``rule.start(...)``. Both go
through the same compiled row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from heedful.bandits.arms import ArmMethod
from heedful.bandits.checks import between, flags_of, numbers_of, true_or_false, whole
from heedful.bandits.kernels import REORDER, not_finite, refused
from heedful.bandits.ridge import add_rows, no_rows, predicted, take
from heedful.bandits.streams import uniform

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
INVERSE_GAP, EPSILON, SOFTMAX = 0, 1, 2
"""Ways to weigh."""


@numba.njit(cache=True, nogil=True)
def weigh(scores, row, way, strength, chance):  # type: ignore[no-untyped-def]
    """Fills ``chance`` [K] with probabilities from ``scores`` [K], 0 where ``row`` is False; at least one is True.

    ``strength`` is gamma of inverse-gap weighting, epsilon, or the inverse temperature of a softmax. Of equal scores
    the lowest index is the best.
    """
    best, count = -1, 0
    for k in range(len(row)):
        chance[k] = 0.0
        if row[k]:
            count += 1
            if best < 0 or scores[k] > scores[best]:
                best = k
    total = 0.0
    for k in range(len(row)):
        if row[k] and k != best:
            if way == INVERSE_GAP:
                chance[k] = 1.0 / (count + strength * (scores[best] - scores[k]))
            elif way == EPSILON:
                chance[k] = strength / count
            else:
                chance[k] = np.exp(strength * (scores[k] - scores[best]))
            total += chance[k]
    if way == SOFTMAX:
        for k in range(len(row)):
            chance[k] /= 1.0 + total
        chance[best] = 1.0 / (1.0 + total)
    else:
        chance[best] = 1.0 - total


@numba.njit(cache=True, nogil=True)
def _pick(chance, drawn):  # type: ignore[no-untyped-def]
    """The action at which the sum of probabilities passes a number in [0, 1)."""
    last = -1
    for k in range(len(chance)):
        if chance[k] > 0.0:
            last = k
            drawn -= chance[k]
            if drawn < 0.0:
                break
    return last


@numba.njit(cache=True, nogil=True)
def _weigh_rows(scores, feasible, way, strength, chances):  # type: ignore[no-untyped-def]
    for i in range(len(scores)):
        weigh(scores[i], feasible[i if len(feasible) > 1 else 0], way, strength, chances[i])


@numba.njit(cache=True, nogil=True)
def _pick_rows(chances, drawn, actions):  # type: ignore[no-untyped-def]
    for i in range(len(chances)):
        actions[i] = _pick(chances[i], drawn[i])


def draw(probabilities: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    """An action per row, int64 ``[n]``, drawn from float64 ``[n, K]`` by one uniform number each."""
    actions = np.empty(len(probabilities), dtype=np.int64)
    _pick_rows(probabilities, rng.random(len(probabilities)), actions)
    return actions


def mask_of(feasible: ArrayLike | None, rows: int, actions: int) -> Mask:
    """A mask as bool ``[1 or rows, K]``; None: all actions.

    Raises ValueError for another shape or type, for no actions at all, and for a row without a feasible action, naming
    the first.
    """
    if actions < 1:
        raise ValueError("feasible: there must be at least one action")
    if feasible is None:
        return np.ones((1, actions), dtype=np.bool_)
    mask = flags_of("feasible", feasible, rows, actions)
    empty = ~mask.any(axis=1)
    if empty.any():
        raise ValueError(f"feasible: no action is feasible in row {int(empty.argmax())}")
    return mask


class Rule:
    """What turns predictions into probabilities; ``way`` and ``strength`` say how."""

    way: ClassVar[int]

    def strength(self, rows: int, actions: int) -> float:
        """What :func:`weigh` is told, for a model that was trained on so many rows, and K actions."""
        raise NotImplementedError

    def probabilities(self, scores: ArrayLike, feasible: ArrayLike | None = None, rows: int = 0) -> Floats:
        """A probability for every action of every request.

        Args:
            scores: float64 ``[n, K]``: predicted rewards, on the scale of rewards in [0, 1].
            feasible: bool ``[K]`` or ``[n, K]``; None: all.
            rows: on how many rows the model was trained, for rules that grow bolder with them.

        Returns:
            float64 ``[n, K]``: rows sum to 1, infeasible actions have 0.

        Raises ValueError for other shapes, no actions, a row without a feasible action, a feasible score that is not
        finite, and a negative number of rows.
        """
        array = numbers_of("scores", scores)
        if array.ndim != 2:
            raise ValueError(f"scores: must have shape [n, K], has {list(array.shape)}")
        mask = mask_of(feasible, *array.shape)
        if not np.isfinite(np.where(mask, array, 0.0)).all():
            raise ValueError("scores: must be finite wherever an action is feasible")
        found = np.empty_like(array)
        _weigh_rows(array, mask, self.way, float(self.strength(whole("rows", rows, least=0), array.shape[1])), found)
        return found


class Rows(NamedTuple):
    """Ridge regressions, and how many rewards they have seen.

    Attributes:
        inverse, estimate, words: as in :class:`~heedful.bandits.ridge.Ridge`.
        told: int64 ``[lanes]``: rewards learned.
    """

    inverse: Floats
    estimate: Floats
    words: NDArray[np.uint64]
    told: NDArray[np.int64]


@numba.njit(cache=True, nogil=True, fastmath=REORDER)
def decide_rows(estimate, words, contexts, feasible, way, strength, step, actions, chances):  # type: ignore[no-untyped-def]
    """Decides for rows as :meth:`~heedful.bandits.arms.ArmMethod.choose` says; strength as in :func:`weigh`."""
    bad = refused(feasible)
    if bad == 0:
        bad = not_finite(contexts)
    if bad:
        return bad
    scores, chance = np.empty(feasible.shape[1]), np.empty(feasible.shape[1])
    models, estimates, x = estimate.shape[1], estimate.reshape(-1), np.zeros(estimate.shape[2])
    for i in range(len(actions)):
        s, row = i * step, feasible[i if len(feasible) > 1 else 0]
        for k in range(len(row)):
            if k == 0 or contexts.shape[1] > 1:
                take(contexts, i, k, x)
            scores[k] = predicted(estimates, s * models + (k if models > 1 else 0), x)
        weigh(scores, row, way, strength, chance)
        actions[i] = _pick(chance, uniform(words, s))
        chances[i] = chance[actions[i]]
    return 0


@dataclass(frozen=True)
class OracleMethod(Rule, ArmMethod):
    """A rule that also decides one request at a time, on a ridge regression of its own.

    Attributes:
        ridge: of that regression, above 0.
        shared: one regression for all actions; contexts are float64 ``[K, d]``, as many actions as there are rows.
    """

    linear: ClassVar[bool] = True
    ridge: float = 1.0
    shared: bool = False

    def __post_init__(self) -> None:
        between("ridge", self.ridge, 0.0, open_low=True)
        true_or_false("shared", self.shared)

    @property
    def randomised(self) -> bool:
        return True

    @property
    def per_action(self) -> bool:
        return self.shared

    def begin(self, words: NDArray[np.uint64], actions: int, features: int) -> Any:
        models = no_rows(words, 1 if self.shared else actions, features, self.ridge)
        return Rows(*models, np.zeros(len(words), dtype=np.int64))

    def choose(self, state: Any, contexts: Any, feasible: Any, step: int, actions: Any, chances: Any) -> Any:
        strength = float(self.strength(int(state.told[0]), feasible.shape[1]))  # lanes are told together
        code = decide_rows(state.estimate, state.words, contexts, feasible, self.way, strength, step, actions, chances)
        return code, None

    def learn(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        add_rows(state.inverse, state.estimate, contexts, actions, rewards)
        np.add(state.told, 1, out=state.told)
