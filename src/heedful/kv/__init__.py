"""KV-cache eviction inside transformer decoding: which entries to keep, on your own model.

>>> from heedful.kv import H2O
>>> policy = H2O(budget=256)

``model.generate(..., past_key_values=policy.cache_for(model))`` then holds at most 256 entries per layer and KV head
(and one more while a step is under way).

Names are loaded when they are first used, so that listing experiments does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heedful.kv.adakv import AdaKV
    from heedful.kv.attention_gate import AttentionGate
    from heedful.kv.base import Budgeted, Policy, Reads, Share, Sized
    from heedful.kv.baselines import Clairvoyant, Full, Local, Random
    from heedful.kv.cache import EvictingCache, Usage
    from heedful.kv.cake import CAKE
    from heedful.kv.criticalkv import AdaCriticalKV, CriticalKV
    from heedful.kv.defensive_kv import DefensiveKV, LayerDefensiveKV
    from heedful.kv.foresight import Foresight
    from heedful.kv.h2o import H2O
    from heedful.kv.laq import LAQ
    from heedful.kv.lazy_eviction import LazyEviction
    from heedful.kv.lookahead_kv import LookaheadKV
    from heedful.kv.oracle import Oracle
    from heedful.kv.prefill import Prefill
    from heedful.kv.pyramidkv import PyramidKV
    from heedful.kv.raas import RaaS
    from heedful.kv.random_rates import RandomRates
    from heedful.kv.slots import Slots
    from heedful.kv.snapkv import SnapKV
    from heedful.kv.spec_kv import SpecKV
    from heedful.kv.streaming_llm import StreamingLLM
    from heedful.kv.tova import TOVA

__all__ = [
    "CAKE",
    "H2O",
    "LAQ",
    "TOVA",
    "AdaCriticalKV",
    "AdaKV",
    "AttentionGate",
    "Budgeted",
    "Clairvoyant",
    "CriticalKV",
    "DefensiveKV",
    "EvictingCache",
    "Foresight",
    "Full",
    "LayerDefensiveKV",
    "LazyEviction",
    "Local",
    "LookaheadKV",
    "Oracle",
    "Policy",
    "Prefill",
    "PyramidKV",
    "RaaS",
    "Random",
    "RandomRates",
    "Reads",
    "Share",
    "Sized",
    "Slots",
    "SnapKV",
    "SpecKV",
    "StreamingLLM",
    "Usage",
]

_HOME = {
    "AdaCriticalKV": "criticalkv", "AdaKV": "adakv", "AttentionGate": "attention_gate", "CriticalKV": "criticalkv",
    "DefensiveKV": "defensive_kv", "LayerDefensiveKV": "defensive_kv",
    "Budgeted": "base", "Policy": "base", "Reads": "base", "Share": "base", "Sized": "base",
    "CAKE": "cake", "PyramidKV": "pyramidkv",
    "Clairvoyant": "baselines", "Full": "baselines", "Local": "baselines", "Random": "baselines",
    "RandomRates": "random_rates",
    "EvictingCache": "cache", "Usage": "cache",
    "Foresight": "foresight", "LAQ": "laq", "LookaheadKV": "lookahead_kv", "Oracle": "oracle", "SpecKV": "spec_kv",
    "H2O": "h2o", "LazyEviction": "lazy_eviction", "Prefill": "prefill", "RaaS": "raas", "Slots": "slots",
    "SnapKV": "snapkv", "StreamingLLM": "streaming_llm", "TOVA": "tova",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"heedful.kv.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
