"""H2O keeps the entries that have received the most attention so far, and the most recent ones.

Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models", NeurIPS 2023,
arXiv 2306.14048, Section 4. With A_s the attention row of query s over the entries alive at that time, an entry's
score is

    F_t[i] = sum over s <= t of A_s[i]

summed over the query heads of a group. When a head holds more than its budget, the entry with the smallest F among
all but the newest ``recent`` leaves, for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from heedful.kv.attention import Seen
from heedful.kv.base import Budgeted, Reads, Share, Size, check_size, resolve
from heedful.kv.slots import Slots


@dataclass(frozen=True)
class H2O(Budgeted):
    """Heavy hitters plus recent entries.

    Args:
        budget: entries kept per layer and KV head, recent ones included.
        window: steps between two decisions.
        recent: how many of them are the newest; a Share is taken of the prompt, as the budget's is. None: half of
            the budget, the paper's split.
        statistic: ``"sum"``, the paper's; ``"mean"`` divides by the number of queries that could see the entry,
            which removes the advantage of age; ``"ema"`` forgets with factor ``decay`` per query.
        granularity: ``"head"`` decides per KV head; ``"layer"`` sums the scores over the heads of a layer first.
        decay: the factor of ``"ema"``, in (0, 1).

    Raises ValueError if ``recent`` exceeds the budget or a parameter is out of its range.
    """

    name: ClassVar[str] = "h2o"
    fields: ClassVar[Mapping[str, torch.dtype]] = {"mass": torch.float32}

    recent: Size | None = None
    statistic: Literal["sum", "mean", "ema"] = "sum"
    granularity: Literal["head", "layer"] = "head"
    decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recent is not None:
            check_size("recent", self.recent, least=0)
            both = isinstance(self.recent, int) and isinstance(self.budget, int)
            shares = isinstance(self.recent, Share) and isinstance(self.budget, Share)
            if (both and self.recent > self.budget) or (shares and self.recent.value > self.budget.value):  # type: ignore[operator,union-attr]
                raise ValueError(f"recent={self.recent}: must not exceed budget={self.budget}")
        if self.statistic not in ("sum", "mean", "ema"):
            raise ValueError(f"statistic={self.statistic!r}: must be 'sum', 'mean' or 'ema'")
        if self.granularity not in ("head", "layer"):
            raise ValueError(f"granularity={self.granularity!r}: must be 'head' or 'layer'")
        if not 0 < self.decay < 1:
            raise ValueError(f"decay={self.decay}: must lie in (0, 1)")

    @property
    def reads(self) -> Reads:
        return Reads(prompt="rows" if self.statistic == "ema" else "sums", step=True)

    def observe(self, slots: Slots, seen: Seen) -> None:
        if self.statistic == "ema":
            assert seen.rows is not None
            rows = seen.rows.sum(dim=2)
            weight = self.decay ** torch.arange(rows.shape[2] - 1, -1, -1, dtype=rows.dtype, device=rows.device)
            slots["mass"] *= self.decay ** rows.shape[2]
            slots["mass"] += torch.einsum("bhqn,q->bhn", rows, weight)
        else:
            slots["mass"].add_(seen.mass())

    def score(self, slots: Slots, seen: Seen) -> Tensor:
        mass = slots["mass"]
        if self.statistic == "mean":
            length = slots.length if isinstance(slots.length, int) else slots.length[:, None, None]
            mass = mass / (length - slots.position)
        return mass if self.granularity == "head" else mass.sum(dim=1, keepdim=True).expand_as(mass)

    def protected(self, slots: Slots) -> Tensor | None:
        if self.recent is None:
            budget = resolve(self.budget, slots.prompt_length)
            return slots.recent(budget // 2)
        return slots.recent(resolve(self.recent, slots.prompt_length))
