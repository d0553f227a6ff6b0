"""PyramidKV gives the first layers much and the last ones little of one cache, and each the entries that SnapKV keeps.

Cai et al., "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling", arXiv 2406.02069,
Section 4. With M = budget - W entries per layer and KV head on average, beyond the W last ones, the last layer gets
M / beta, the first 2 M - M / beta, and the layers between lie on the line between the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from heedful.kv.layer_budgets import whole
from heedful.kv.slots import Slots
from heedful.kv.snapkv import SnapKV


@dataclass
class Depths:
    """How deep each layer lies among those that the policy manages.

    Attributes:
        layers: how many there are.
        of: by layer index in the model, 0 for the first.
    """

    layers: int
    of: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PyramidKV(SnapKV):
    """SnapKV with budgets that fall linearly with depth.

    Args:
        budget: entries kept per layer and KV head of the prompt, on average over the layers, the observation window
            included.
        observation_window: last tokens of the prompt, whose queries score the others.
        kernel: entries that are pooled, odd; 1 for no pooling.
        pooling: ``"avg"``, as in the published code, or ``"max"``.
        beta: the mean budget over the last layer's, window aside, at least 1; 1 for equal budgets.

    Raises ValueError if a parameter is out of its range.
    """

    name: ClassVar[str] = "pyramidkv"

    beta: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.beta) and self.beta >= 1):
            raise ValueError(f"beta={self.beta}: must be a number >= 1")

    def begin(self, layers: int) -> Depths:
        return Depths(layers)

    def select(self, slots: Slots, score: Tensor, room: int | Tensor) -> None:
        depths: Depths = slots.state
        depth = depths.of.setdefault(slots.layer, len(depths.of))
        window = self.observation_window
        prompt = torch.as_tensor(slots.prompt_length).cpu().expand(slots.batch)
        mean = torch.minimum(torch.as_tensor(room).cpu().expand(slots.batch), prompt) - window
        budgets = slope(mean, prompt - window, depths.layers, self.beta)
        slots.keep_best(score, budgets[:, depth] + window, self.observed(slots), "older")


def slope(mean: Tensor, cap: Tensor, layers: int, beta: float) -> Tensor:
    """Whole numbers on a falling line.

    Args:
        mean: int64 ``[batch]``, at most ``cap``.
        cap: int64 ``[batch]``, the most that a layer can take; where the first layer's budget would exceed it, the line
            is flatter.
        layers: how many.
        beta: mean over the smallest.

    Returns:
        int64 ``[batch, layers]``, never rising, between 0 and the cap, summing to ``layers x mean``.
    """
    middle = mean.double()
    half = torch.minimum(middle - middle / beta, (cap - mean).double()).clamp(min=0)
    place = torch.linspace(1, -1, layers, dtype=torch.float64) if layers > 1 else torch.zeros(1, dtype=torch.float64)
    exact = middle[:, None] + half[:, None] * place
    return whole(exact, layers * mean)
