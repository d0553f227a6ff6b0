"""Learners that choose one of K actions and are told one number: what is chosen, what is told, and how it is asked.

A method of this kind fills in three functions (:class:`ArmMethod`); the rest is here: one decision, a batch of rows,
and many seeds together, all by the same compiled step, so that all three make the same decisions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heedful.bandits.base import Kept, Learner, Method
from heedful.bandits.checks import between, flags_of, whole
from heedful.bandits.posteriors import Family, chance_of_largest
from heedful.bandits.streams import streams

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """One action.

    Attributes:
        token: by which feedback refers to it.
        action: in 0..K-1.
        chance: the probability of the action, or a function that works it out: integrals are done when asked for.
        supported: False for deterministic rules (probability 1) and where the probability is not known (NaN).
    """

    token: int
    action: int
    chance: float | Callable[[], Floats]
    supported: bool

    @property
    def probability(self) -> float:
        """The exact probability with which the action was drawn; NaN if the rule is random and it is not known."""
        return self.chance if isinstance(self.chance, float) else float(self.chance()[0])


class _Several:
    """What actions that were decided together have in common."""

    __slots__ = ()
    chances: Floats | Callable[[], Floats]

    @property
    def probability(self) -> Floats:
        """float64 ``[n]``: the exact probabilities with which they were drawn."""
        return self.chances() if callable(self.chances) else self.chances


@dataclass(frozen=True, slots=True, eq=False)
class Choices(_Several):
    """One action in every lane.

    Attributes:
        token: one for all lanes.
        actions: int64 ``[lanes]``.
        chances: their probabilities, or a function that works them out.
        supported: as in :class:`Choice`.
    """

    token: int
    actions: NDArray[np.int64]
    chances: Floats | Callable[[], Floats]
    supported: bool


@dataclass(frozen=True, slots=True, eq=False)
class Batch(_Several):
    """One action for every row of a batch.

    Attributes:
        tokens: one per row, consecutive.
        actions: int64 ``[rows]``.
        chances: their probabilities, or a function that works them out.
        supported: as in :class:`Choice`.
    """

    tokens: range
    actions: NDArray[np.int64]
    chances: Floats | Callable[[], Floats]
    supported: bool


@dataclass(frozen=True, slots=True)
class Reward:
    """What a choice brought: any finite number, in [0, 1] where the method says so."""

    token: int
    reward: float


@dataclass(frozen=True, slots=True, eq=False)
class Rewards:
    """What the choices of all lanes brought: float64 ``[lanes]``."""

    token: int
    rewards: Floats


def check_reward(feedback: Any, unit: bool) -> None:
    """Raises ValueError unless it is a :class:`Reward` with a finite number, in [0, 1] if ``unit``."""
    reward = feedback.reward if isinstance(feedback, Reward) else None
    if type(reward) is not float:
        if not isinstance(reward, float | int | np.integer | np.floating | np.bool_):
            raise ValueError(f"feedback={feedback!r}: must be a Reward with a number")
        try:
            reward = float(reward)
        except OverflowError:
            reward = math.inf
    if not (0.0 <= reward <= 1.0 if unit else -math.inf < reward < math.inf):
        raise ValueError(f"reward={reward}: must be {'in [0, 1]' if unit else 'finite'}")


def check_rewards(feedback: Any, counted: NDArray[np.bool_], unit: bool) -> None:
    """The same for :class:`Rewards`, of the lanes that are counted, bool ``[lanes]``."""
    rewards = np.asarray(feedback.rewards if isinstance(feedback, Rewards) else None)
    if rewards.shape != counted.shape or rewards.dtype.kind not in "fiub":
        raise ValueError(f"rewards: must be {len(counted)} numbers, has shape {list(rewards.shape)}")
    told = rewards[counted]
    if not np.isfinite(told).all() or (unit and not ((told >= 0) & (told <= 1)).all()):
        raise ValueError(f"rewards: must be {'in [0, 1]' if unit else 'finite'}")


@dataclass(frozen=True)
class ArmMethod(Method):
    """A method that chooses one of K actions, with or without a context.

    Contexts: methods without one ignore it; ``linear`` methods are given float64 ``[d]``, or ``[K, d]`` (a row per
    action, and as many actions as there are rows) if they are ``per_action``.
    """

    kind: ClassVar[str] = "arms"
    linear: ClassVar[bool] = False
    """Whether it reads a context."""
    family: ClassVar[Family] = "normal"
    """What the draws are, of methods whose action is the largest of independent draws."""
    unit_rewards: ClassVar[bool] = False
    """Whether rewards must lie in [0, 1]."""

    @property
    def randomised(self) -> bool:
        """Whether it draws its actions at random; a deterministic rule's log supports no other policy."""
        return False

    @property
    def per_action(self) -> bool:
        """Whether a context has a row per action."""
        return False

    def begin(self, words: NDArray[np.uint64], actions: int, features: int) -> Any:
        """The state at first: a named tuple of arrays with the leading axis of ``words`` (see
        :func:`~heedful.bandits.streams.streams`), which it holds if the method is randomised."""
        raise NotImplementedError

    def choose(
        self, state: Any, contexts: Floats, feasible: NDArray[np.bool_], step: int,
        actions: NDArray[np.int64], chances: Floats,
    ) -> tuple[int, Floats | None]:  # fmt: skip
        """Decides for n rows, row i in lane ``i * step``: ``step`` is 1 for lanes, 0 for a batch.

        Args:
            state: changes in place.
            contexts: float64 ``[n, 1 or K, d]``; ``[n, 0, 0]`` without context.
            feasible: bool ``[1 or n, K]``.
            step: 0 or 1.
            actions: int64 ``[n]``, all -1, filled in; -1 is left where no action's index is a number.
            chances: float64 ``[n]``, all 1, filled in unless the rule is deterministic or draws are returned.

        Returns:
            0, or a row that is refused (see :mod:`~heedful.bandits.kernels`), and then nothing has changed; and, if
            each action is the largest of independent draws, what they were drawn from, float64 ``[2, n, K]`` as in
            :func:`~heedful.bandits.posteriors.chance_of_largest`.
        """
        raise NotImplementedError

    def learn(self, state: Any, contexts: Floats, actions: NDArray[np.int64], chances: Floats, rewards: Floats) -> None:
        """Learns one reward per lane; arrays have the leading axis of lanes, contexts as in :meth:`choose`."""
        raise NotImplementedError

    def learn_logged(
        self, state: Any, contexts: Floats, actions: NDArray[np.int64], chances: Floats, rewards: Floats
    ) -> None:
        """Learns, as :meth:`learn`, from decisions of somebody else, which :meth:`choose` knows nothing of.

        Methods that note in ``choose`` what they decide note it here, so that the state is that of a learner that made
        these decisions itself. ``chances`` are those of whoever decided.
        """
        self.learn(state, contexts, actions, chances, rewards)

    def start(
        self, actions: int, features: int = 0, seed: int = 0,
        max_pending: int | None = None, expire_after: int | None = None,
    ) -> ArmLearner:  # fmt: skip
        """A learner on its own.

        Args:
            actions: how many there are at most (exactly, unless masked).
            features: d, the length of a context; methods without context ignore it.
            seed: of its random choices.
            max_pending, expire_after: see :class:`~heedful.bandits.base.Ledger`.

        Raises ValueError for numbers below 1, a linear method without features, or a negative seed.
        """
        return ArmLearner(self, actions, features, [seed], max_pending, expire_after)

    def many(
        self, actions: int, features: int = 0, seeds: Sequence[int] = (0,),
        max_pending: int | None = None, expire_after: int | None = None,
    ) -> ArmLanes:  # fmt: skip
        """A lane per seed, each making the decisions of ``start(..., seed)``. Raises as :meth:`start`."""
        return ArmLanes(self, actions, features, seeds, max_pending, expire_after)


class _Arms(Learner[Any]):
    """What a learner on its own and many together have in common."""

    method: ArmMethod

    def __init__(
        self, method: ArmMethod, actions: int, features: int, seeds: Sequence[int],
        max_pending: int | None, expire_after: int | None,
    ) -> None:  # fmt: skip
        self.actions = whole("actions", actions)
        self.features = whole("features", features, least=1 if method.linear else 0)
        state = method.begin(streams(seeds), self.actions, self.features)
        super().__init__(method, state, len(seeds), max_pending, expire_after)
        self._all = np.ones((1, self.actions), dtype=np.bool_)
        self._no_contexts = np.zeros((self.lanes, 0, 0))
        self._per_action, self._linear, self._unit = method.per_action, method.linear, method.unit_rewards
        self._supported = method.randomised

    def _contexts(self, context: Any, rows: int | None) -> Floats:
        """A copy as float64 ``[rows or 1, 1 or K, d]``; one without a leading axis of rows if ``rows`` is None."""
        try:
            given = np.asarray(context)
        except ValueError:  # lists of different lengths
            given = np.empty(0, dtype=object)
        if given.dtype.kind not in "fiub":
            raise ValueError(f"context: {self.method.name} needs an array of numbers")
        array = np.array(given, dtype=np.float64, order="C")
        shape, d = array.shape, self.features
        lead = 0 if rows is None else 1
        if len(shape) != lead + (2 if self._per_action else 1) or shape[-1] != d or shape[:lead] != (rows,)[:lead]:
            first = "" if rows is None else f"{rows}, "
            form = f"[{first}K, {d}]" if self._per_action else f"[{first}{d}]"
            raise ValueError(f"context: must have shape {form}, has {list(shape)}")
        return array.reshape(1 if rows is None else shape[0], shape[lead] if self._per_action else 1, d)

    def _feasible(self, feasible: Any, contexts: Floats, rows: int) -> NDArray[np.bool_]:
        """The mask as bool ``[1 or rows, K]``."""
        k = contexts.shape[1] if self._per_action else self.actions
        if feasible is None:
            return self._all if k == self.actions else np.ones((1, k), dtype=np.bool_)
        return flags_of("feasible", feasible, rows, k)

    def _late(
        self, draws: Floats | None, mask: NDArray[np.bool_], actions: NDArray[np.int64], chances: Floats
    ) -> tuple[Any, bool]:
        """The probabilities of many actions, or a function that works them out, and whether they are of use."""
        if draws is None:
            return chances, self._supported and not np.isnan(chances).any()
        return partial(chance_of_largest, self.method.family, draws, mask.copy(), actions), True

    def _check_decided(self, actions: NDArray[np.int64]) -> None:
        """Raises ValueError if for some row nothing could be decided: sums of numbers have overflowed."""
        if len(actions) and actions.min() < 0:
            where = f" in row {int(actions.argmin())}" if len(actions) > 1 else ""
            raise ValueError(f"rewards, context: too large to be summed; no action's index is a number{where}")

    def _refuse(self, code: int) -> NoReturn:
        where = f" in row {abs(code) - 1}" if abs(code) > 1 else ""
        if code > 0:
            raise ValueError(f"context: must be finite, is not{where}")
        raise ValueError(f"feasible: at least one action must be feasible{where}")

    def _about(self) -> str:
        return f"{super()._about()}, {self.actions} actions, {self.features} features"


class ArmLearner(_Arms):
    """One learner: ``decide``, ``decide_batch``, ``update(Reward)``.

    >>> from heedful.bandits import UCB1, Reward
    >>> learner = UCB1().start(actions=2)
    >>> choice = learner.decide()
    >>> learner.update(Reward(choice.token, 1.0))
    >>> choice.action, choice.probability, learner.counts.learned
    (0, 1.0, 1)
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._action, self._chance, self._reward = np.zeros(1, dtype=np.int64), np.ones(1), np.zeros(1)

    def decide(self, context: ArrayLike | None = None, feasible: ArrayLike | None = None) -> Choice:
        """Chooses an action.

        Args:
            context: float64 ``[d]``, or ``[K, d]`` for methods that are ``per_action``; ignored without context.
            feasible: bool ``[K]``: which actions may be chosen now; None: all.

        Raises ValueError for a context of another shape or that is not finite, for a mask of another shape, if no
        action is feasible, and if numbers were too large to be summed, so that no action's index is a number.
        """
        contexts = self._contexts(context, None) if self._linear else self._no_contexts
        mask = self._all if feasible is None and not self._per_action else self._feasible(feasible, contexts, 1)
        self._action[0], self._chance[0] = -1, 1.0
        code, draws = self.method.choose(self.state, contexts, mask, 0, self._action, self._chance)
        if code:
            self._refuse(code)
        action, chance = int(self._action[0]), float(self._chance[0])
        if action < 0:
            self._check_decided(self._action)
        token = self.ledger.issue((contexts, action, chance) if self._linear else (action, chance))
        if draws is None:
            return Choice(token, action, chance, self._supported and chance == chance)
        mask = mask.copy() if feasible is not None else mask
        return Choice(token, action, partial(chance_of_largest, self.method.family, draws, mask, action), True)

    def decide_batch(self, rows: int, contexts: ArrayLike | None = None, feasible: ArrayLike | None = None) -> Batch:
        """Chooses an action for every row: what ``decide`` would choose, one row after the other, untold of any reward.

        Args:
            rows: how many.
            contexts: float64 ``[rows, d]``, or ``[rows, K, d]``.
            feasible: bool ``[K]`` or ``[rows, K]``.

        Raises ValueError as :meth:`decide`, naming the row; then nothing has been decided. (Where numbers were too
        large to be summed, earlier rows have been counted all the same: such a learner is of no more use.)
        """
        rows = whole("rows", rows, least=0)
        given = self._contexts(contexts, rows) if self._linear else np.zeros((rows, 0, 0))
        mask = self._feasible(feasible, given, rows)
        actions, chances = np.full(rows, -1), np.ones(rows)
        code, draws = self.method.choose(self.state, given, mask, 0, actions, chances)
        if code:
            self._refuse(code)
        self._check_decided(actions)
        columns: list[Any] = [actions.tolist(), chances.tolist()]
        if self._linear:
            columns.insert(0, given[:, None])
        tokens = self.ledger.issue_all(list(zip(*columns)))
        late, supported = self._late(draws, mask, actions, chances)
        return Batch(tokens, actions, late, supported)

    def learn_logged(
        self, action: int, reward: float, probability: float = 1.0, context: ArrayLike | None = None
    ) -> None:
        """Learns from a decision that somebody else made, as if it had made it itself; it has no token.

        Args:
            action: in 0..K-1.
            reward: what it brought, in [0, 1] where the method says so.
            probability: with which it was decided, in (0, 1].
            context: as :meth:`decide`.

        Raises ValueError for all of these that is out of range; then nothing is learned.
        """
        contexts = self._contexts(context, None) if self._linear else self._no_contexts
        if not np.isfinite(contexts).all():
            raise ValueError("context: must be finite")
        actions = contexts.shape[1] if self._per_action else self.actions
        if whole("action", action, least=0) >= actions:
            raise ValueError(f"action={action}: must be in 0..{actions - 1}")
        between("probability", probability, 0.0, 1.0, open_low=True)
        check_reward(Reward(0, reward), self._unit)
        self._action[0], self._chance[0], self._reward[0] = action, probability, reward
        self.method.learn_logged(self.state, contexts, self._action, self._chance, self._reward)

    def check_feedback(self, kept: Kept, feedback: Reward) -> None:
        check_reward(feedback, self._unit)

    def learn(self, kept: Kept, feedback: Reward) -> None:
        contexts = kept[0] if self._linear else self._no_contexts
        self._action[0], self._chance[0], self._reward[0] = kept[-2], kept[-1], feedback.reward
        self.method.learn(self.state, contexts, self._action, self._chance, self._reward)


class ArmLanes(_Arms):
    """Many seeds together: ``decide`` and ``update(Rewards)``, with a leading axis of lanes.

    >>> from heedful.bandits import Rewards, Uniform
    >>> lanes = Uniform().many(actions=2, seeds=range(3))
    >>> choices = lanes.decide()
    >>> lanes.update(Rewards(choices.token, choices.actions * 1.0))
    >>> choices.actions.shape, choices.probability.tolist()
    ((3,), [0.5, 0.5, 0.5])
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._counted = np.ones(self.lanes, dtype=np.bool_)

    def decide(self, context: ArrayLike | None = None, feasible: ArrayLike | None = None) -> Choices:
        """Chooses an action in every lane.

        Args:
            context: float64 ``[lanes, d]``, or ``[lanes, K, d]``; ignored without context.
            feasible: bool ``[K]`` or ``[lanes, K]``.

        Raises ValueError as :meth:`ArmLearner.decide`, naming the lane as a row.
        """
        contexts = self._contexts(context, self.lanes) if self._linear else self._no_contexts
        mask = self._feasible(feasible, contexts, self.lanes)
        actions, chances = np.full(self.lanes, -1), np.ones(self.lanes)
        code, draws = self.method.choose(self.state, contexts, mask, 1, actions, chances)
        if code:
            self._refuse(code)
        self._check_decided(actions)
        kept = actions.copy(), chances.copy()  # what is handed out may be written to
        token = self.ledger.issue((contexts, *kept) if self._linear else kept)
        late, supported = self._late(draws, mask, actions, chances)
        return Choices(token, actions, late, supported)

    def check_feedback(self, kept: Kept, feedback: Rewards) -> None:
        check_rewards(feedback, self._counted, self._unit)

    def learn(self, kept: Kept, feedback: Rewards) -> None:
        contexts = kept[0] if self._linear else self._no_contexts
        self.method.learn(self.state, contexts, kept[-2], kept[-1], np.asarray(feedback.rewards, dtype=np.float64))
