"""SnapKV keeps what the last queries of the prompt attend to, with its neighbours.

Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation", NeurIPS 2024, arXiv 2404.14469, Section 4.
With A_j the attention row of the j-th of the last W queries, an entry's score is

    s[i] = pool( sum over j of A_j )[i]

averaged over the query heads of a group. The W last entries stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from heedful.kv.attention import Seen
from heedful.kv.prefill import Prefill, check_kernel, pooled
from heedful.kv.slots import Slots


@dataclass(frozen=True)
class SnapKV(Prefill):
    """The observation window's mean attention, pooled; the same number of entries for every head.

    Args:
        budget: entries kept per layer and KV head of the prompt, the observation window included.
        observation_window: last tokens of the prompt, whose queries score the others.
        kernel: entries that are pooled, odd; 1 for no pooling.
        pooling: ``"avg"``, as in the published code, or ``"max"``.
    """

    name: ClassVar[str] = "snapkv"

    kernel: int = 5
    pooling: Literal["avg", "max"] = "avg"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel(self.kernel)
        if self.pooling not in ("avg", "max"):
            raise ValueError(f"pooling={self.pooling!r}: must be 'avg' or 'max'")

    def score(self, slots: Slots, seen: Seen) -> Tensor:
        assert seen.rows is not None
        rows = seen.rows.masked_fill(self.observed(slots)[:, :, None, None], 0.0)
        return pooled(rows.mean(dim=3), self.kernel, self.pooling).mean(dim=2)
