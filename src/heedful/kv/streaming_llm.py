"""StreamingLLM keeps the first few entries, which soak up attention, and the most recent ones.

Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, arXiv 2309.17453, Section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from heedful.kv.attention import Seen
from heedful.kv.base import Budgeted, check_count
from heedful.kv.slots import Slots


@dataclass(frozen=True)
class StreamingLLM(Budgeted):
    """Sinks plus recent entries.

    Args:
        budget: entries kept per layer and KV head, sinks included.
        window: steps between two decisions.
        sinks: first entries that always stay.

    Raises ValueError if the budget does not exceed ``sinks``.
    """

    name: ClassVar[str] = "streaming-llm"

    sinks: int = 4

    def __post_init__(self) -> None:
        check_count("sinks", self.sinks, least=0)
        super().__post_init__()

    @property
    def least(self) -> int:
        return self.sinks + 1

    def protected(self, slots: Slots) -> Tensor | None:
        return slots.position < self.sinks

    def score(self, slots: Slots, seen: Seen) -> Tensor:
        return slots.position.float()
