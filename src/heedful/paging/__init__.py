"""Paging with predictions: which page to evict, told one bit per request, or a time, or nothing.

>>> from heedful.paging import Mark0, Trace, true_bits
>>> trace = Trace.of([1, 2, 3, 1, 2, 4, 1])
>>> Mark0().run(trace, k=2, told=true_bits(trace, 2, "discard")).faults
5

Names are loaded when they are first used, so that listing experiments does not import numba.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heedful.paging.base import Algorithm, Cache, Run, Trace
    from heedful.paging.blind_oracle import BlindOracle, lfd
    from heedful.paging.classical import CLOCK, FIFO, FWF, LFU, LRU, Random
    from heedful.paging.doubling_switch import DoublingSwitch
    from heedful.paging.flush import FlushWhenAll0s
    from heedful.paging.follow_cheaper import FollowCheaper
    from heedful.paging.learned import LearnedBits
    from heedful.paging.lmarker import LMarker
    from heedful.paging.lnonmarker import LNonMarker
    from heedful.paging.mark0 import Mark0
    from heedful.paging.mark_and_predict import MarkAndPredict
    from heedful.paging.marker import Marker
    from heedful.paging.predictive_marker import PredictiveMarker
    from heedful.paging.predictors import errors, flipped, noisy_next, reuse_distance_bits, true_bits
    from heedful.paging.traces import read_trace
    from heedful.paging.trust_and_doubt import TrustAndDoubt
    from heedful.paging.weighted_follow import WeightedFollow

__all__ = [
    "CLOCK",
    "FIFO",
    "FWF",
    "LFU",
    "LRU",
    "Algorithm",
    "BlindOracle",
    "Cache",
    "DoublingSwitch",
    "FlushWhenAll0s",
    "FollowCheaper",
    "LMarker",
    "LNonMarker",
    "LearnedBits",
    "Mark0",
    "MarkAndPredict",
    "Marker",
    "PredictiveMarker",
    "Random",
    "Run",
    "Trace",
    "TrustAndDoubt",
    "WeightedFollow",
    "errors",
    "flipped",
    "lfd",
    "noisy_next",
    "read_trace",
    "reuse_distance_bits",
    "true_bits",
]

_HOME = {
    "Algorithm": "base", "Cache": "base", "Run": "base", "Trace": "base",
    "BlindOracle": "blind_oracle", "lfd": "blind_oracle",
    "CLOCK": "classical", "FIFO": "classical", "FWF": "classical", "LFU": "classical", "LRU": "classical",
    "Random": "classical", "DoublingSwitch": "doubling_switch", "FlushWhenAll0s": "flush",
    "FollowCheaper": "follow_cheaper", "LearnedBits": "learned", "LMarker": "lmarker", "LNonMarker": "lnonmarker",
    "Mark0": "mark0", "MarkAndPredict": "mark_and_predict", "Marker": "marker",
    "PredictiveMarker": "predictive_marker", "errors": "predictors", "flipped": "predictors",
    "noisy_next": "predictors", "reuse_distance_bits": "predictors", "true_bits": "predictors",
    "TrustAndDoubt": "trust_and_doubt", "WeightedFollow": "weighted_follow",
    "read_trace": "traces",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"heedful.paging.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
