"""CriticalKV fills the first half of a head's budget by attention, the rest by attention times what the value can do.

Feng et al., "Identify Critical KV Cache in LLM Inference from an Output Perturbation Perspective", arXiv 2502.03805,
Algorithm 1, with SnapKV's scores s. Of a head that may keep b entries, the best floor(b / 2) by s stay; the others are
those with the largest

    (s[i] + 1e-4) * |v_i Wo_h|_1        (mean over the query heads h of the group)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from heedful.kv.adakv import AdaKV, best_of_each
from heedful.kv.base import Reads
from heedful.kv.slots import Slots
from heedful.kv.snapkv import SnapKV
from heedful.kv.value_norms import check_projection, projection_of, value_norms

EPSILON = 1e-4
"""Added to scores, so that an entry that nobody looked at is still judged by its value."""


@dataclass(frozen=True)
class CriticalKV(SnapKV):
    """SnapKV whose second half of the budget is chosen with the values' norms; every head keeps the same number.

    Where the model has no plain output projection, a warning is given and SnapKV's scores decide alone.

    Args:
        budget: entries kept per layer and KV head of the prompt, the observation window included.
        observation_window: last tokens of the prompt, whose queries score the others; they count in the first half.
        kernel: entries that are pooled, odd; 1 for no pooling.
        pooling: ``"avg"`` or ``"max"``.
    """

    name: ClassVar[str] = "criticalkv"

    @property
    def reads(self) -> Reads:
        return Reads(prompt="last", window=self.observation_window, outputs=True)

    def attach(self, model: Any) -> None:
        check_projection(model, self.name)

    def select(self, slots: Slots, score: Tensor, room: int | Tensor) -> None:
        most = room if isinstance(room, int) else room[:, None]
        counts = slots.counts.clamp(max=most)
        keep_critical(slots, score, counts, self.observed(slots))


@dataclass(frozen=True)
class AdaCriticalKV(AdaKV):
    """AdaKV decides how many entries each head keeps, CriticalKV which ones.

    Where the model has no plain output projection, a warning is given and this is AdaKV.

    Args:
        budget: entries kept per layer and KV head of the prompt, on average, the observation window included.
        observation_window: last tokens of the prompt, whose queries score the others; every head keeps them.
        kernel: entries that are pooled, odd; 1 for no pooling.
        pooling: ``"avg"`` or ``"max"``.
        safeguard: share of the budget that every head is sure of, within 0..1; the window counts.
    """

    name: ClassVar[str] = "ada-criticalkv"

    @property
    def reads(self) -> Reads:
        return Reads(prompt="last", window=self.observation_window, outputs=True)

    def attach(self, model: Any) -> None:
        check_projection(model, self.name)

    def select(self, slots: Slots, score: Tensor, room: int | Tensor) -> None:
        counts = self.together(slots, score, room).sum(dim=-1)
        keep_critical(slots, score, counts, self.observed(slots))


def keep_critical(slots: Slots, score: Tensor, counts: Tensor, window: Tensor) -> None:
    """Shrinks a layer to ``counts`` entries per head: half of them by score, the others by score and value.

    Args:
        slots: the layer's entries.
        score: ``[batch, heads, n]``.
        counts: int64 ``[batch, heads]``.
        window: bool ``[batch, heads, n]``: entries that stay whatever they score.
    """
    projection = projection_of(slots.module, slots.values)
    if projection is None:
        slots.keep_best(score, counts, window, "older")
        return
    first = best_of_each(score.masked_fill(window, torch.inf).masked_fill(slots.position < 0, -torch.inf), counts // 2)
    worth = (score + EPSILON) * value_norms(slots.values, projection)
    slots.keep_best(worth, counts, first | window, "older")
