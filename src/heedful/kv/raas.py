"""RaaS keeps the prompt and the entries that were attended to most recently: least recently *used* goes first.

Hu et al., "RaaS: Reasoning-Aware Attention Sparsity for Efficient LLM Reasoning", 2025, arXiv 2502.11147. Each entry
carries the last step at which some query head of its group gave it at least ``alpha``; the oldest timestamp leaves.
Whatever was given several tokens at a time, a later question included, counts as prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heedful.kv.attention import Seen
from heedful.kv.base import Budgeted, Reads, resolve
from heedful.kv.slots import Slots


@dataclass(frozen=True)
class RaaS(Budgeted):
    """Timestamps of use; decides in decoding only, and never about the prompt.

    Args:
        budget: entries kept per layer and KV head, the prompt included. A prompt that fills the budget alone is kept
            whole, together with the newest entry.
        window: steps between two decisions.
        alpha: attention weight, >= 0, from which an entry counts as used.

    Raises ValueError if ``alpha`` is negative or not a number.
    """

    name: ClassVar[str] = "raas"
    fields: ClassVar[Mapping[str, torch.dtype]] = {"used": torch.int32, "given": torch.bool}
    evicts_prompt: ClassVar[bool] = False

    alpha: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_alpha(self.alpha)

    @property
    def reads(self) -> Reads:
        return Reads(step=True)

    def observe(self, slots: Slots, seen: Seen) -> None:
        if seen.rows is None:
            slots.born("used", slots.steps)
            slots.born("given", True)
            return
        used = seen.rows.amax(dim=(2, 3)) >= self.alpha
        slots["used"].masked_fill_(used, slots.steps)
        slots.born("used", slots.steps)

    def protected(self, slots: Slots) -> Tensor | None:
        return slots["given"]

    def score(self, slots: Slots, seen: Seen) -> Tensor:
        if seen.rows is not None and math.isnan(seen.rows.amin()):
            raise ValueError(f"attention of layer {slots.layer} contains NaN")
        return slots["used"].float()

    def room(self, slots: Slots) -> int | Tensor:
        keep, least = resolve(self.budget, slots.prompt_length), slots.prompt_length + 1
        if isinstance(keep, int) and isinstance(least, int):
            return max(keep, least)
        return torch.maximum(torch.as_tensor(keep), torch.as_tensor(least))


def check_alpha(alpha: float) -> None:
    """Raises ValueError unless the activation threshold is a number >= 0."""
    if not alpha >= 0:
        raise ValueError(f"alpha={alpha}: must be a number >= 0 (a post-softmax attention weight)")
