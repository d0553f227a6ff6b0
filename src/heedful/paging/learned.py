"""Bits that are learned: gradient boosting or logistic regression on what a cache can know about a page.

Features of a request's page, all from the past: the last and the second last gap between its requests, how often it was
asked for, the time since it was first seen, and how far the present k-phase has come. Labels are the oracle's bits on
the part of the trace that is learned from; the bits of a later part are then predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from heedful.paging.base import Trace, check_k
from heedful.paging.predictors import Kind, true_bits
from heedful.paging.structures import compiled

FEATURES = ("last gap", "gap before", "requests", "age", "position in phase")


def features(trace: Trace, k: int) -> NDArray[np.float32]:
    """float32 ``[n, 5]``: :data:`FEATURES` of every request, as logarithms; a gap that there was not counts as n."""
    check_k(k)
    found = np.empty((len(trace), len(FEATURES)), dtype=np.float32)
    _features(trace.pages, k, np.full((4, trace.distinct), -1, dtype=np.int64), found)
    return np.log1p(found)


@compiled
def _features(pages, k, seen, found):  # type: ignore[no-untyped-def]
    """``seen``: per page its last time, its first time, its last gap, and its count."""
    n, different, begun = len(pages), 0, 0
    for t in range(n):
        page = pages[t]
        if seen[0, page] < begun:
            if different == k:
                different, begun = 0, t
            different += 1
        gap = t - seen[0, page] if seen[0, page] >= 0 else n
        if seen[1, page] < 0:
            seen[1, page], seen[2, page], seen[3, page] = t, n, 0
        seen[3, page] += 1
        found[t, 0] = gap
        found[t, 1] = seen[2, page]
        found[t, 2] = seen[3, page]
        found[t, 3] = t - seen[1, page]
        found[t, 4] = different
        seen[0, page], seen[2, page] = t, gap


@dataclass(frozen=True)
class LearnedBits:
    """A predictor of bits.

    Args:
        kind: ``"discard"`` or ``"phase"``.
        model: ``"boosting"`` (histogram gradient boosting) or ``"logistic"``.
        seed: of the fit.

    >>> trace = Trace.of(np.random.default_rng(0).zipf(1.3, 4000) % 500)
    >>> first, second = trace.part(0, 2000), trace.part(2000, 4000)
    >>> LearnedBits("discard").fit(first, k=20).predict(second, k=20).shape
    (2000,)
    """

    kind: Kind = "discard"
    model: Literal["boosting", "logistic"] = "boosting"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("discard", "phase"):
            raise ValueError(f"kind={self.kind!r}: must be 'discard' or 'phase'")
        if self.model not in ("boosting", "logistic"):
            raise ValueError(f"model={self.model!r}: must be 'boosting' or 'logistic'")

    def fit(self, trace: Trace, k: int) -> Fitted:
        """Learns the oracle's bits on a trace. Raises ValueError for an empty trace or k below 1."""
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if not len(trace):
            raise ValueError("trace: is empty; nothing to learn from")
        labels = true_bits(trace, k, self.kind)
        if labels.min() == labels.max():
            return Fitted(int(labels[0]))
        made: Any = (
            HistGradientBoostingClassifier(max_iter=100, random_state=self.seed)
            if self.model == "boosting"
            else make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        )
        return Fitted(made.fit(features(trace, k), labels))


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted predictor: a classifier, or the one bit that all of its labels were."""

    classifier: Any

    def predict(self, trace: Trace, k: int) -> NDArray[np.int8]:
        """int8 ``[n]``: the predicted bits of a trace, whose requests are seen as the first ones of all."""
        if isinstance(self.classifier, int):
            return np.full(len(trace), self.classifier, dtype=np.int8)
        if not len(trace):
            return np.zeros(0, dtype=np.int8)
        bits: NDArray[np.int8] = self.classifier.predict(features(trace, k)).astype(np.int8)
        return bits
