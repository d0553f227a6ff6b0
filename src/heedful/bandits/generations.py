"""Generations: a frozen policy serves a batch, its log is released after a delay, the next model forgets early ones.

Vangara, Egg, "Contextual Bandits in Payment Processing: Non-uniform Exploration and Supervised Learning at Adyen"
(arXiv 2412.00569). Score, weigh, sample, log; then wait, take the last ``window`` released logs, fit from scratch.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heedful.bandits.checks import numbers_of, whole
from heedful.bandits.exploring import Rule, draw, mask_of
from heedful.bandits.oracle_policies import EpsilonSplit
from heedful.bandits.oracles import Model, Oracle, check_contexts

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Log:
    """What a generation did.

    Attributes:
        generation: its number, from 0.
        contexts: float64 ``[n, d]``.
        feasible: bool ``[n, K]``.
        scores: float64 ``[n, K]``: the model's predictions; 0 where there was no model yet.
        probabilities: float64 ``[n, K]``: exact, 0 for infeasible actions.
        actions: int64 ``[n]``.
        trains: bool ``[n]``: rows that the next models may learn from.
        rewards: float64 ``[n]``, in [0, 1]; NaN until the generation is closed.
    """

    generation: int
    contexts: Floats
    feasible: NDArray[np.bool_]
    scores: Floats
    probabilities: Floats
    actions: NDArray[np.int64]
    trains: NDArray[np.bool_]
    rewards: Floats

    @property
    def propensities(self) -> Floats:
        """float64 ``[n]``: the probability of what was done."""
        return self.probabilities[np.arange(len(self.actions)), self.actions]

    @property
    def predicted(self) -> Floats:
        """float64 ``[n]``: the prediction of what was done."""
        return self.scores[np.arange(len(self.actions)), self.actions]

    def entropy(self) -> float:
        """The mean entropy of the probabilities, in nats. Raises ValueError for a generation without requests."""
        p = self.probabilities
        if not len(p):
            raise ValueError("probabilities: there are none in a generation without requests")
        return float(-np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=1).mean())


class Generations:
    """A policy that is retrained between batches.

    Args:
        oracle: what is fitted.
        rule: what turns its predictions into probabilities.
        actions: K.
        features: d.
        window: of the released logs, so many train the next model; None: all. If none of these holds a row to train on,
            as may happen with :class:`~heedful.bandits.oracle_policies.EpsilonSplit`, the model before serves on,
            although it knows older logs than the window has; ``outdated`` says for how many generations.
        delay: a log is released so many generations late; 0: before the next one.
        seed: of what it draws.

    Until a log is released every feasible action has the same probability.

    Raises ValueError for numbers out of range.

    >>> import numpy as np
    >>> from heedful.bandits import Generations, RidgeOracle, SquareCB
    >>> served = Generations(RidgeOracle(), SquareCB(), actions=2, features=1)
    >>> contexts = np.ones((50, 1))
    >>> for _ in range(3):
    ...     log = served.serve(contexts)
    ...     log = served.close(np.where(log.actions == 1, 0.9, 0.1))
    >>> log.generation, served.trained_on, bool(log.probabilities[0, 1] > 0.9)
    (2, (0, 1, 2), True)
    """

    def __init__(
        self, oracle: Oracle, rule: Rule, actions: int, features: int,
        window: int | None = 3, delay: int = 0, seed: int = 0,
    ) -> None:  # fmt: skip
        self.oracle, self.rule = oracle, rule
        self.actions, self.features = whole("actions", actions), whole("features", features, least=0)
        self.window = None if window is None else whole("window", window)
        self.delay = whole("delay", delay, least=0)
        self._rng = np.random.default_rng(whole("seed", seed, least=0))
        self._logs: deque[Log] = deque(maxlen=None if window is None else self.window + self.delay)  # type: ignore[operator]
        self._open: Log | None = None
        self.generation = 0
        self.model: Model | None = None
        """The model that serves; None while there is nothing to learn from."""
        self.trained_on: tuple[int, ...] = ()
        """The generations that it was fitted to."""
        self.outdated = 0
        """For how many generations in a row the released logs of the window have held no row to train on, so that the
        model is that much older than the window says; 0 while it was fitted to what the window holds now."""

    def probabilities(self, contexts: ArrayLike, feasible: ArrayLike | None = None) -> tuple[Floats, Floats]:
        """Predictions and probabilities, both float64 ``[n, K]``, of the policy that serves now.

        Raises ValueError for contexts or masks of another shape, rows that are not finite, or without an action.
        """
        x = check_contexts(contexts, self.features)
        mask = mask_of(feasible, len(x), self.actions)
        if self.model is None:
            equal = np.broadcast_to(mask / mask.sum(axis=1, keepdims=True), (len(x), self.actions))
            return np.zeros((len(x), self.actions)), np.ascontiguousarray(equal)
        scores = self.model.predict(x)
        return scores, self.rule.probabilities(scores, mask, self.model.rows)

    def serve(self, contexts: ArrayLike, feasible: ArrayLike | None = None) -> Log:
        """Decides a whole generation.

        Args:
            contexts: float64 ``[n, d]``.
            feasible: bool ``[K]`` or ``[n, K]``; None: all.

        Returns:
            its log, without rewards.

        Raises ValueError as :meth:`probabilities`, and if the last generation is not closed.
        """
        if self._open is not None:
            raise ValueError(f"contexts: generation {self.generation} is open; close it with its rewards first")
        x = check_contexts(contexts, self.features)
        scores, chances = self.probabilities(x, feasible)
        mask = np.broadcast_to(mask_of(feasible, len(x), self.actions), chances.shape)
        trains, drawn = np.ones(len(x), dtype=np.bool_), chances
        if isinstance(self.rule, EpsilonSplit) and self.model is not None:
            trains = self._rng.random(len(x)) < self.rule.epsilon
            best = np.zeros_like(chances)
            best[np.arange(len(x)), chances.argmax(axis=1)] = 1.0
            drawn = np.where(trains[:, None], mask / mask.sum(axis=1, keepdims=True), best)
        actions = draw(drawn, self._rng)
        self._open = Log(self.generation, x, mask, scores, chances, actions, trains, np.full(len(x), np.nan))
        return self._open

    def close(self, rewards: ArrayLike) -> Log:
        """Ends the generation with what its choices brought, and fits the next model.

        Args:
            rewards: float64 ``[n]``, in [0, 1].

        Returns:
            its whole log.

        Raises ValueError if no generation is open, and for rewards of another shape or out of range.
        """
        if self._open is None:
            raise ValueError("rewards: no generation is open; serve one first")
        y = numbers_of("rewards", rewards)
        if y.shape != self._open.rewards.shape or not ((y >= 0) & (y <= 1)).all():
            raise ValueError(f"rewards: must be {len(self._open.rewards)} numbers in [0, 1]")
        log = replace(self._open, rewards=y)
        self._logs.append(log)
        self._open = None
        self.generation += 1
        self._refit()
        return log

    def _refit(self) -> None:
        """From scratch, to the last ``window`` of the logs that are released by now, if they hold rows to train on."""
        released = [log for log in self._logs if log.generation < self.generation - self.delay]
        used = released if self.window is None else released[-self.window :]
        rows = [log.trains for log in used]
        if not any(part.any() for part in rows):
            self.outdated += bool(used)
            return
        x, a, y = (
            np.concatenate([getattr(log, name)[part] for log, part in zip(used, rows)])
            for name in ("contexts", "actions", "rewards")
        )
        self.model = self.oracle.fit(x, a, y, self.actions)
        self.trained_on, self.outdated = tuple(log.generation for log in used), 0


def calibration_error(predicted: ArrayLike, rewards: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: over bins of equal count of predictions, the mean distance between what was
    predicted and what came, in [0, 1] for both in [0, 1].

    Args:
        predicted, rewards: float64 ``[n]``, finite, n at least 1.
        bins: at least 1; of n of them at most.

    Raises ValueError for other shapes, and for numbers that are not finite or out of range.
    """
    p, y = numbers_of("predicted", predicted), numbers_of("rewards", rewards)
    if p.ndim != 1 or p.shape != y.shape or not len(p):
        raise ValueError(f"predicted: must be as many numbers as rewards, is {list(p.shape)} for {list(y.shape)}")
    for name, array in (("predicted", p), ("rewards", y)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: must be finite, are not in row {int(np.isfinite(array).argmin())}")
    parts = np.array_split(np.argsort(p, kind="stable"), min(whole("bins", bins), len(p)))
    return float(sum(abs(p[part].mean() - y[part].mean()) * len(part) for part in parts) / len(p))


def oscillation(regrets: ArrayLike) -> float:
    """The mean over generations of how far regret lies above the least regret of an earlier generation.

    Args:
        regrets: float64 ``[generations]``, finite.

    Returns:
        at least 0; 0 for fewer than two generations.

    Raises ValueError for another shape and numbers that are not finite.
    """
    r = _regrets(regrets)
    if len(r) < 2:
        return 0.0
    return float(np.maximum(0.0, r[1:] - np.minimum.accumulate(r)[:-1]).mean())


def turning(regrets: ArrayLike) -> float:
    """Autocorrelation at lag 1 of changes in regret; negative where it swings.

    Args:
        regrets: float64 ``[generations]``, finite.

    Returns:
        in [-1, 1]; NaN for fewer than four generations or a regret that never changes.

    Raises ValueError for another shape and numbers that are not finite.
    """
    changes = np.diff(_regrets(regrets))
    if len(changes) < 3:
        return float("nan")
    centred = changes - changes.mean()
    total = float(centred @ centred)
    return float(centred[1:] @ centred[:-1]) / total if total else float("nan")


def _regrets(values: ArrayLike) -> Floats:
    array = numbers_of("regrets", values)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError("regrets: must be a list of finite numbers")
    return array
