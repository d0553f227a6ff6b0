"""Policies that decide once, when the prompt has been read: what they share.

The last ``observation_window`` tokens of the prompt always stay, and their attention rows say what the others are
worth. What comes after the first call (generated tokens, a later question) is appended and never evicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from heedful.kv.attention import Seen
from heedful.kv.base import Reads, Sized, check_count
from heedful.kv.slots import Slots


@dataclass(frozen=True)
class Prefill(Sized):
    """A policy that evicts once, after the first call, and keeps the best entries by a score.

    Fill in :meth:`score`, and :meth:`select` if heads of a layer are not to get the same number of entries.

    Args:
        budget: entries kept per layer and KV head of the prompt, on average, the observation window included.
        observation_window: last tokens of the prompt, which always stay and whose attention rows are seen.

    Raises ValueError if the budget does not exceed the observation window, or a parameter is out of its range.
    """

    observation_window: int = 32

    def __post_init__(self) -> None:
        check_count("observation_window", self.observation_window, least=self.least_window)
        super().__post_init__()

    @property
    def least_window(self) -> int:
        """The shortest observation window that the method can work with."""
        return 1

    @property
    def least(self) -> int:
        return self.observation_window + 1

    @property
    def reads(self) -> Reads:
        return Reads(prompt="last", window=self.observation_window)

    @property
    def headroom(self) -> int:
        return 16

    def score(self, slots: Slots, seen: Seen) -> Tensor:
        """``[batch, heads, n]``, float: the largest stay."""
        raise NotImplementedError

    def prompted(self, slots: Slots, seen: Seen) -> None:
        if slots.fresh:
            room = self.room(slots)
            if slots.exceeds(room):
                self.check_room(room)
            self.select(slots, self.score(slots, seen), room)

    def select(self, slots: Slots, score: Tensor, room: int | Tensor) -> None:
        """Shrinks the layer to ``room`` entries per head, or ``[batch]``: here the best of each head."""
        slots.keep_best(score, room, self.observed(slots), "older")

    def observed(self, slots: Slots) -> Tensor:
        """bool ``[batch, heads, n]``: the entries of the observation window."""
        return slots.recent(self.observation_window)


def pooled(score: Tensor, kernel: int, kind: Literal["avg", "max"]) -> Tensor:
    """Pooling along the entries, stride 1, same length; beyond the ends there are zeros, which averages count.

    Args:
        score: ``[..., n]``, at least 0.
        kernel: entries that are pooled, odd.
        kind: of pooling.
    """
    if kernel == 1:
        return score
    if kind == "max":
        flat = score.reshape(-1, 1, score.shape[-1])
        return F.max_pool1d(flat, kernel, stride=1, padding=kernel // 2).view(score.shape)
    # Shifted sums: on a CPU avg_pool1d takes eight times as long for the same result.
    n, padded = score.shape[-1], F.pad(score, (kernel // 2, kernel // 2))
    total = padded[..., :n].clone()
    for shift in range(1, kernel):
        total += padded[..., shift : shift + n]
    return total.div_(kernel)


def check_kernel(kernel: int) -> None:
    """Raises ValueError unless ``kernel`` is an odd whole number, at least 1."""
    check_count("kernel", kernel)
    if kernel % 2 == 0:
        raise ValueError(f"kernel={kernel}: must be odd, so that pooling keeps the length")


def best_of_all(scores: Sequence[Tensor], keep: Tensor | int) -> list[Tensor]:
    """The best ``keep`` entries over all heads of all given layers.

    Equally good entries: the lower layer's, then the older, then the lower head's.

    Args:
        scores: per layer ``[batch, heads, n]``; ``-inf`` is never kept.
        keep: how many of each batch item, an int or ``[batch]``.

    Returns:
        per layer bool ``[batch, heads, n]``.

    Raises ValueError if a score is not a number.
    """
    flat = torch.cat([score.transpose(1, 2).flatten(1) for score in scores], dim=1)
    if bool(flat.isnan().any()):
        raise ValueError("scores contain NaN: the model's attention is not finite")
    order = flat.argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(flat.shape[1], device=flat.device)
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen.scatter_(1, order, (rank < (keep if isinstance(keep, int) else keep[:, None])).expand_as(order))
    chosen &= flat > -torch.inf
    parts = chosen.split([score.shape[1] * score.shape[2] for score in scores], dim=1)
    return [
        part.view(score.shape[0], score.shape[2], score.shape[1]).transpose(1, 2) for part, score in zip(parts, scores)
    ]
