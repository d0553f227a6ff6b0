"""Yardsticks: what servers do today, and peak prediction that knows more or less than Past-Future.

Those named after the peak admit while M* < C, as Past-Future does with no reserve (see :mod:`heedful.serving.peak`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numba import njit

from heedful.serving.base import Batch, Scheduler
from heedful.serving.history import History
from heedful.serving.peak import CAP, MEAN, TRUE, admitted_below, pages

_NO_LENGTHS = np.ones(1, np.int64)


@dataclass(frozen=True)
class Aggressive(Scheduler):
    """Looks at now only: admits while what is held and the new prompt fit below a watermark (vLLM, TGI).

    Args:
        watermark: share of the capacity, in (0, 1].
    """

    name: ClassVar[str] = "aggressive"

    watermark: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.watermark <= 1:
            raise ValueError(f"watermark={self.watermark}: must lie in (0, 1]")

    def _admit(
        self,
        waiting: Batch,
        running: Batch,
        capacity: int,
        history: History | None,
        rng: np.random.Generator | None,
        page: int,
    ) -> int:
        return _fitting(running.held, waiting.held, self.watermark * capacity, page)


@dataclass(frozen=True)
class Conservative(Scheduler):
    """Looks at the worst case: admits while all prompts and caps fit together (TensorRT-LLM's guaranteed mode).

    Args:
        overcommit: times the capacity that may be promised, above 0; 1.0 never evicts.
    """

    name: ClassVar[str] = "conservative"

    overcommit: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.overcommit < float("inf"):
            raise ValueError(f"overcommit={self.overcommit}: must be above 0")

    def _admit(
        self,
        waiting: Batch,
        running: Batch,
        capacity: int,
        history: History | None,
        rng: np.random.Generator | None,
        page: int,
    ) -> int:
        limit = self.overcommit * capacity
        return _fitting(running.prompt + running.cap, waiting.prompt + waiting.cap, limit, page)


@dataclass(frozen=True)
class Oracle(Scheduler):
    """Peak prediction with the true output lengths: no evictions, and packed as tightly as that allows.

    It can only run where lengths are known beforehand: in the simulator.
    """

    name: ClassVar[str] = "oracle"
    knows_lengths: ClassVar[bool] = True

    def _admit(
        self,
        waiting: Batch,
        running: Batch,
        capacity: int,
        history: History | None,
        rng: np.random.Generator | None,
        page: int,
    ) -> int:
        for batch in (waiting, running):
            if (batch.output <= batch.generated).any():
                raise ValueError("oracle: needs the true output length of every request, above what is generated")
        return admitted_below(capacity, TRUE, _once(waiting, running), waiting, running, _NO_LENGTHS, 0.0, page)


@dataclass(frozen=True)
class PeakWithCap(Scheduler):
    """Peak prediction with the caps as output lengths: never evicts, and needs no history (LightLLM without one)."""

    name: ClassVar[str] = "peak-with-cap"

    def _admit(
        self,
        waiting: Batch,
        running: Batch,
        capacity: int,
        history: History | None,
        rng: np.random.Generator | None,
        page: int,
    ) -> int:
        return admitted_below(capacity, CAP, _once(waiting, running), waiting, running, _NO_LENGTHS, 0.0, page)


@dataclass(frozen=True)
class PeakWithMean(Scheduler):
    """Peak prediction with the mean of history as output length, or 1.1 times what is generated if that is more."""

    name: ClassVar[str] = "peak-with-mean"
    needs_history: ClassVar[bool] = True

    def _admit(
        self,
        waiting: Batch,
        running: Batch,
        capacity: int,
        history: History | None,
        rng: np.random.Generator | None,
        page: int,
    ) -> int:
        assert history is not None
        ordered, mean = history.ordered, history.mean
        return admitted_below(capacity, MEAN, _once(waiting, running), waiting, running, ordered, mean, page)


def _once(waiting: Batch, running: Batch) -> np.ndarray:
    """In place of random numbers, for one prediction that needs none."""
    return np.zeros((1, running.size + waiting.size))


@njit(cache=True, nogil=True)
def _fitting(running: np.ndarray, waiting: np.ndarray, limit: float, page: int) -> int:
    """How many of the waiting fit under the limit beside the running, in whole blocks."""
    total = 0
    for tokens in running:
        total += pages(tokens, page)
    for i in range(len(waiting)):
        total += pages(waiting[i], page)
        if total > limit:
            return i
    return len(waiting)
