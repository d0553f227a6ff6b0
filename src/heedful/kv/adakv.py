"""AdaKV lets the heads of a layer share one budget: what counts is the score, not the head.

Feng et al., "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM Inference",
NeurIPS 2025, arXiv 2407.11550, Algorithm 1, with SnapKV's scores. Of the K heads' S entries each, a layer keeps

    top-(K x budget) of { s[k, i] }, but of every head at least its best  floor(safeguard x budget)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heedful.kv.prefill import best_of_all
from heedful.kv.slots import Slots
from heedful.kv.snapkv import SnapKV


@dataclass(frozen=True)
class AdaKV(SnapKV):
    """SnapKV's scores, one top-k over the heads of a layer.

    Args:
        budget: entries kept per layer and KV head of the prompt, on average, the observation window included.
        observation_window: last tokens of the prompt, whose queries score the others; every head keeps them.
        kernel: entries that are pooled, odd; 1 for no pooling.
        pooling: ``"avg"`` or ``"max"``.
        safeguard: share of the budget that every head is sure of, within 0..1; the window counts.
    """

    name: ClassVar[str] = "adakv"

    safeguard: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.safeguard) and 0 <= self.safeguard <= 1):
            raise ValueError(f"safeguard={self.safeguard}: must be within 0..1")

    def select(self, slots: Slots, score: Tensor, room: int | Tensor) -> None:
        slots.keep(self.together(slots, score, room))

    def together(self, slots: Slots, score: Tensor, room: int | Tensor) -> Tensor:
        """bool ``[batch, heads, n]``: ``room x heads`` entries of each item, the best ones of all heads."""
        score = score.masked_fill(self.observed(slots), torch.inf).masked_fill(slots.position < 0, -torch.inf)
        sure = torch.as_tensor(room, dtype=torch.float64, device=score.device) * self.safeguard
        safe = best_of_each(score, torch.floor(sure + 1e-9).long().view(-1, 1))
        return best_of_all([score.masked_fill(safe, torch.inf)], room * slots.heads)[0]


def best_of_each(score: Tensor, keep: Tensor) -> Tensor:
    """The best ``keep`` entries of each head; of equally good ones the older.

    Args:
        score: ``[batch, heads, n]``; ``-inf`` is never kept.
        keep: int64 ``[batch, heads]``, or what is broadcast to it.

    Returns:
        bool ``[batch, heads, n]``.
    """
    order = score.argsort(dim=-1, descending=True, stable=True)
    first = torch.arange(score.shape[-1], device=score.device) < keep[..., None]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, order, first.expand_as(order)) & (score > -torch.inf)
