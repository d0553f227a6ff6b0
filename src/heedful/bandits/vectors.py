"""Learners that choose one of K fixed vectors, and are told one number.

A method of this kind fills in four functions (:class:`VectorMethod`): a state, a decision, what it learns, and a whole
run against a :class:`~heedful.bandits.dynamical.World` in one compiled call, which makes the same decisions. One
learner and many seeds together run by the same compiled step.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from heedful.bandits.arms import Choice, Choices, Reward, Rewards, check_reward, check_rewards
from heedful.bandits.base import Kept, Learner, Method
from heedful.bandits.checks import LARGEST, numbers_of
from heedful.bandits.kernels import REORDER
from heedful.bandits.ridge import dot
from heedful.bandits.streams import streams

if TYPE_CHECKING:
    from heedful.bandits.dynamical import World

Floats = NDArray[np.float64]


def action_set(actions: ArrayLike, features: int | None = None) -> Floats:
    """A copy as float64 ``[K, d]``. Raises ValueError for an empty set, another shape, or numbers not finite."""
    vectors = numbers_of("actions", actions).copy()
    if vectors.ndim != 2 or vectors.size == 0 or (features is not None and vectors.shape[1] != features):
        raise ValueError(f"actions: must have shape [K, {features or 'd'}], K at least 1, has {list(vectors.shape)}")
    if not (np.abs(vectors) <= LARGEST).all():
        raise ValueError(f"actions: must be finite, and at most {LARGEST:g}")
    return vectors


@numba.njit(cache=True, nogil=True, fastmath=REORDER)
def most_promising(vectors, pairs, inverse, estimate, radius):  # type: ignore[no-untyped-def]
    """``argmax <estimate, u> + radius sqrt(u^T inverse u)``, the lowest of equals (to 1e-12).

    Args:
        vectors: float64 ``[K, D]``, padded to a multiple of four.
        pairs: float64 ``[K, D (D + 4) / 2]``: their :func:`~heedful.bandits.ridge.products`.
        inverse: float64 ``[D (D + 4) / 2]``, in :mod:`~heedful.bandits.blocks`.
        estimate: float64 ``[D]``.
        radius: of the ellipsoid.
    """
    top, found = -np.inf, 0
    for k in range(len(vectors)):
        length = dot(inverse, pairs[k])
        index = dot(vectors[k], estimate) + radius * np.sqrt(0.0 if length < 0.0 else length)
        if index > top + 1e-12:  # actions that are equal but for rounding: the lowest
            top, found = index, k
    return found


@dataclass(frozen=True)
class VectorMethod(Method):
    """A deterministic method that chooses one of K vectors of d numbers, the same ones in every round."""

    kind: ClassVar[str] = "vectors"

    def begin(self, vectors: Floats, lanes: int = 1) -> Any:
        """The state at first: a named tuple of arrays with a leading axis of lanes."""
        raise NotImplementedError

    def decide(self, state: Any, actions: NDArray[np.int64], counted: NDArray[np.bool_]) -> None:
        """Decides in every lane: fills in the actions, and whether their rewards will be learned from.

        Args:
            state: changes in place.
            actions: int64 ``[lanes]``.
            counted: bool ``[lanes]``, all True.
        """
        raise NotImplementedError

    def learn(self, state: Any, actions: NDArray[np.int64], rewards: Floats, counted: NDArray[np.bool_]) -> None:
        """Takes the rewards of the lanes that are counted; arrays ``[lanes]``."""
        raise NotImplementedError

    def longest(self, rounds: int) -> int:
        """For how many rounds it may hold an action, within that many."""
        return 1

    def run(self, state: Any, world: World, chosen: NDArray[np.int16]) -> None:
        """A whole run of a single lane; fills in int16 ``[T]``, what is played in each round."""
        raise NotImplementedError

    def start(
        self, actions: ArrayLike, seed: int = 0, max_pending: int | None = None, expire_after: int | None = None
    ) -> VectorLearner:
        """A learner on its own.

        Args:
            actions: float64 ``[K, d]``.
            seed: these rules draw nothing: taken so that all methods of the room are started alike.
            max_pending, expire_after: see :class:`~heedful.bandits.base.Ledger`.

        Raises ValueError for an empty set of actions, numbers that are not finite, or a negative seed.
        """
        return VectorLearner(self, actions, [seed], max_pending, expire_after)

    def many(
        self, actions: ArrayLike, seeds: Sequence[int] = (0,),
        max_pending: int | None = None, expire_after: int | None = None,
    ) -> VectorLanes:  # fmt: skip
        """A lane per seed, each deciding as ``start(actions)`` would on its rewards. Raises as :meth:`start`."""
        return VectorLanes(self, actions, seeds, max_pending, expire_after)


class _Vectors(Learner[Any]):
    """What a learner on its own and many together have in common."""

    method: VectorMethod

    def __init__(
        self, method: VectorMethod, actions: ArrayLike, seeds: Sequence[int], max_pending: int | None,
        expire_after: int | None,
    ) -> None:  # fmt: skip
        self.actions, lanes = action_set(actions), len(streams(seeds))
        super().__init__(method, method.begin(self.actions, lanes), lanes, max_pending, expire_after)

    def _decide(self) -> tuple[int, NDArray[np.int64]]:
        actions, counted = np.empty(self.lanes, dtype=np.int64), np.ones(self.lanes, dtype=np.bool_)
        self.method.decide(self.state, actions, counted)
        return self.ledger.issue((actions, counted)), actions

    def _about(self) -> str:
        digest = zlib.crc32(self.actions.tobytes())
        return f"{super()._about()}, {len(self.actions)} actions of {self.actions.shape[1]} features {digest:08x}"


class VectorLearner(_Vectors):
    """One learner: ``decide()``, ``update(Reward)``.

    >>> from heedful.bandits import OFUL, Reward
    >>> learner = OFUL(scale=0.1).start(actions=[[1.0, 0.0], [0.0, 1.0]])
    >>> choice = learner.decide()
    >>> learner.update(Reward(choice.token, 1.0))
    >>> choice.action, learner.counts.learned
    (0, 1)
    """

    def decide(self) -> Choice:
        """Chooses an action."""
        token, actions = self._decide()
        return Choice(token, int(actions[0]), 1.0, False)

    def check_feedback(self, kept: Kept, feedback: Reward) -> None:
        check_reward(feedback, unit=False)

    def learn(self, kept: Kept, feedback: Reward) -> None:
        self.method.learn(self.state, kept[0], np.array([feedback.reward], dtype=np.float64), kept[1])


class VectorLanes(_Vectors):
    """Many seeds together: ``decide()`` and ``update(Rewards)``, with a leading axis of lanes.

    >>> from heedful.bandits import OFUL, Rewards
    >>> lanes = OFUL(scale=0.1).many(actions=[[1.0, 0.0], [0.0, 1.0]], seeds=range(3))
    >>> choices = lanes.decide()
    >>> lanes.update(Rewards(choices.token, choices.actions + 1.0))
    >>> choices.actions.tolist(), lanes.counts.learned
    ([0, 0, 0], 1)
    """

    def decide(self) -> Choices:
        """Chooses an action in every lane."""
        token, actions = self._decide()
        return Choices(token, actions.copy(), np.ones(self.lanes), False)

    def check_feedback(self, kept: Kept, feedback: Rewards) -> None:
        check_rewards(feedback, np.ones(self.lanes, dtype=np.bool_), unit=False)

    def learn(self, kept: Kept, feedback: Rewards) -> None:
        self.method.learn(self.state, kept[0], np.asarray(feedback.rewards, dtype=np.float64), kept[1])
