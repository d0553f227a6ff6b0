"""Learners that choose one of K fixed vectors, and are told one number.

A method of this kind fills in four functions (:class:`VectorMethod`): a state, a decision, what it learns, and a whole
run against a :class:`~heedful.bandits.dynamical.World` in one compiled call, which makes the same decisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from heedful.bandits.arms import Choice, Reward
from heedful.bandits.base import Kept, Learner, Method
from heedful.bandits.ridge import dot, quadratic
from heedful.bandits.streams import streams

if TYPE_CHECKING:
    from heedful.bandits.dynamical import World

Floats = NDArray[np.float64]


def action_set(actions: ArrayLike, features: int | None = None) -> Floats:
    """A copy as float64 ``[K, d]``. Raises ValueError for an empty set, another shape, or numbers not finite."""
    try:
        vectors = np.array(actions, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("actions: must be vectors of numbers") from None
    if vectors.ndim != 2 or vectors.size == 0 or (features is not None and vectors.shape[1] != features):
        raise ValueError(f"actions: must have shape [K, {features or 'd'}], K at least 1, has {list(vectors.shape)}")
    if not np.isfinite(vectors).all():
        raise ValueError("actions: must be finite")
    return vectors


@numba.njit(cache=True, nogil=True)
def most_promising(vectors, inverse, estimate, radius):  # type: ignore[no-untyped-def]
    """``argmax <estimate, u> + radius sqrt(u^T inverse u)``, the lowest of equals (to 1e-12)."""
    top, found = -np.inf, 0
    for k in range(len(vectors)):
        index = dot(vectors[k], estimate) + radius * np.sqrt(quadratic(inverse, vectors[k]))
        if index > top + 1e-12:  # actions that are equal but for rounding: the lowest
            top, found = index, k
    return found


@dataclass(frozen=True)
class VectorMethod(Method):
    """A deterministic method that chooses one of K vectors of d numbers, the same ones in every round."""

    kind: ClassVar[str] = "vectors"

    def begin(self, vectors: Floats) -> Any:
        """The state at first: a named tuple of arrays with a leading axis of length 1."""
        raise NotImplementedError

    def decide(self, state: Any) -> tuple[int, bool]:
        """The next action, and whether its reward will be learned from. The state changes in place."""
        raise NotImplementedError

    def learn(self, state: Any, action: int, reward: float) -> None:
        """Takes a reward that is learned from."""
        raise NotImplementedError

    def longest(self, rounds: int) -> int:
        """For how many rounds it may hold an action, within that many."""
        return 1

    def run(self, state: Any, world: World, chosen: NDArray[np.int16]) -> None:
        """A whole run; fills in int16 ``[T]``, what is played in each round."""
        raise NotImplementedError

    def start(
        self, actions: ArrayLike, seed: int = 0, max_pending: int | None = None, expire_after: int | None = None
    ) -> VectorLearner:
        """A learner.

        Args:
            actions: float64 ``[K, d]``.
            seed: of methods that draw.
            max_pending, expire_after: see :class:`~heedful.bandits.base.Ledger`.

        Raises ValueError for an empty set of actions, numbers that are not finite, or a negative seed.
        """
        return VectorLearner(self, action_set(actions), seed, max_pending, expire_after)


class VectorLearner(Learner[Reward]):
    """``decide()``, ``update(Reward)``.

    >>> from heedful.bandits import OFUL, Reward
    >>> learner = OFUL(scale=0.1).start(actions=[[1.0, 0.0], [0.0, 1.0]])
    >>> choice = learner.decide()
    >>> learner.update(Reward(choice.token, 1.0))
    >>> choice.action, learner.counts.learned
    (0, 1)
    """

    method: VectorMethod

    def __init__(
        self, method: VectorMethod, vectors: Floats, seed: int, max_pending: int | None, expire_after: int | None
    ) -> None:
        streams([seed])  # no method of this kind draws yet, but a bad seed is refused all the same
        super().__init__(method, method.begin(vectors), 1, max_pending, expire_after)
        self.actions = vectors

    def decide(self) -> Choice:
        """Chooses an action."""
        action, counts = self.method.decide(self.state)
        return Choice(self.ledger.issue((action, counts)), action, 1.0, False)

    def check_feedback(self, kept: Kept, feedback: Reward) -> None:
        try:
            reward = float(feedback.reward)
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"feedback={feedback!r}: must be a Reward with a number") from None
        if not -np.inf < reward < np.inf:
            raise ValueError(f"reward={reward}: must be finite")

    def learn(self, kept: Kept, feedback: Reward) -> None:
        action, counts = kept
        if counts:
            self.method.learn(self.state, action, float(feedback.reward))

    def _about(self) -> str:
        return f"{super()._about()}, {len(self.actions)} actions, {self.actions.shape[1]} features"
