"""TOVA drops, at every step, the entry that the newest query attends to least, averaged over a layer's heads.

Oren et al., "Transformers are Multi-State RNNs", EMNLP 2024, arXiv 2401.06104, Section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from heedful.kv.attention import Seen
from heedful.kv.base import Budgeted, Reads
from heedful.kv.slots import Slots


@dataclass(frozen=True)
class TOVA(Budgeted):
    """Token omission via attention: no memory of earlier steps, one decision for all heads of a layer.

    Args:
        budget: entries kept per layer and KV head.
        window: steps between two decisions.
    """

    name: ClassVar[str] = "tova"

    @property
    def reads(self) -> Reads:
        return Reads(prompt="last", window=1, step=True)

    def score(self, slots: Slots, seen: Seen) -> Tensor:
        assert seen.rows is not None
        newest = seen.rows[:, :, :, -1].mean(dim=(1, 2))
        return newest[:, None].expand(-1, slots.heads, -1)
