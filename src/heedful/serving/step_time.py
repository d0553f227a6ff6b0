"""How long an engine's steps take, as a linear model, with constants that are given or fitted to measured steps."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

PICOSECONDS = 10**12
"""Per second. The simulator counts in whole picoseconds, so that sums are exact in whatever order they are made."""


@dataclass(frozen=True)
class StepTime:
    """Seconds that an engine takes, all at least 0.

    A decode step takes ``step + per_request * running + per_token * occupied``, a prefill
    ``prefill + per_prompt_token * tokens``; a step that decodes and computes a chunk of a prompt takes both, the
    fixed part of a prefill left out. The default constants are those of a model of 7 B parameters on an A100.

    Args:
        step: of every decode step: weights are read once.
        per_request: of a decode step, for each running request.
        per_token: of a decode step, for each token in the KV cache.
        prefill: of every prefill.
        per_prompt_token: of a prefill, for each token.

    >>> round(StepTime().decode(running=32, occupied=100_000), 6)
    0.03364
    """

    step: float = 8e-3
    per_request: float = 20e-6
    per_token: float = 0.25e-6
    prefill: float = 0.0
    per_prompt_token: float = 0.1e-3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < 1000:
                raise ValueError(f"{field.name}={value}: must lie in [0, 1000) seconds")
        if self.step == 0 and self.per_request == 0:
            raise ValueError("step and per_request: a decode step must take some time")

    def decode(self, running: int, occupied: int) -> float:
        """Seconds of one decode step."""
        return self.step + self.per_request * running + self.per_token * occupied

    def prompt(self, tokens: int) -> float:
        """Seconds of one prefill of so many tokens."""
        return self.prefill + self.per_prompt_token * tokens

    @property
    def picoseconds(self) -> NDArray[np.int64]:
        """int64 ``[5]``: the constants in the order of the arguments, in picoseconds."""
        return np.array([round(getattr(self, field.name) * PICOSECONDS) for field in fields(self)], np.int64)


@dataclass(frozen=True)
class Fit:
    """A step-time model and how well it describes the steps that it was fitted to.

    Attributes:
        model: the fitted constants.
        steps: number of measured steps.
        explained: share of the variance of step times that the model explains (R squared), at most 1.
        median_error: median of ``|predicted - measured| / measured``.
    """

    model: StepTime
    steps: int
    explained: float
    median_error: float


def fit(
    running: NDArray[np.integer],
    occupied: NDArray[np.integer],
    prefill_tokens: NDArray[np.integer],
    seconds: NDArray[np.floating],
) -> Fit:
    """Fits the constants to measured steps, by least squares with no constant below 0.

    Steps are weighted by the reciprocal of their duration, so that short ones count as much as long ones.

    Args:
        running: integers ``[n]``: requests that decoded in the step; 0 if it was a prefill alone.
        occupied: integers ``[n]``: tokens in the KV cache of those, before the step.
        prefill_tokens: integers ``[n]``: prompt tokens computed in the step.
        seconds: floats ``[n]``: how long it took, above 0.

    Raises ValueError for lengths that differ, fewer than 10 steps, values out of range, and steps so alike that they
    do not determine the constants.
    """
    from scipy.optimize import nnls

    n, occ, tokens = (np.asarray(column, float) for column in (running, occupied, prefill_tokens))
    y = np.asarray(seconds, float)
    if not len(n) == len(occ) == len(tokens) == len(y):
        raise ValueError(f"columns differ in length: {len(n)}, {len(occ)}, {len(tokens)}, {len(y)}")
    if len(y) < 10:
        raise ValueError(f"{len(y)} steps: at least 10 are needed")
    if not (np.isfinite(y).all() and (y > 0).all()):
        raise ValueError("seconds: must all be above 0")
    if min(n.min(), occ.min(), tokens.min()) < 0:
        raise ValueError("running, occupied and prefill_tokens: must be at least 0")
    decodes, alone = n > 0, (n == 0) & (tokens > 0)
    if not (decodes | alone).all():
        raise ValueError(
            f"step {int(np.flatnonzero(~(decodes | alone))[0]) + 1}: nothing ran and nothing was prefilled"
        )
    columns = np.stack([decodes, n, np.where(decodes, occ, 0), alone, tokens], axis=1).astype(float)
    used = columns.any(axis=0)
    weighted = columns[:, used] / y[:, None]
    scale = np.linalg.norm(weighted, axis=0)
    if np.linalg.matrix_rank(weighted / scale, tol=1e-6) < used.sum():
        raise ValueError("the steps are too alike: running, occupied and prefill_tokens must vary apart")
    found = np.zeros(5)
    found[used] = nnls(weighted / scale, np.ones(len(y)))[0] / scale
    predicted = columns @ found
    spread = ((y - y.mean()) ** 2).sum()
    explained = 1 - ((y - predicted) ** 2).sum() / spread if spread > 0 else 1.0
    error = float(np.median(np.abs(predicted - y) / y))
    return Fit(StepTime(*(float(value) for value in found)), len(y), float(explained), error)
