"""Oracle keeps what the given answer attends to: a bound on policies that score the prompt by foreseen attention.

The answer's tokens run through the model behind the prompt. With A_i the attention row of the i-th of them,

    g[j] = (1/m) sum over i of A_i[j],   j < n

is what LookaheadKV (Ahn et al., ICLR 2026, arXiv 2603.10899) is trained to foresee.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heedful.kv.cache import EvictingCache
from heedful.kv.foresight import Foresight, attention_of, embedded


@dataclass(frozen=True)
class Oracle(Foresight):
    """The true answer's attention; the same number of entries for every head.

    Without pooling, the default, the kept entries are those of a head that receive the most of it.

    Args:
        budget: entries kept per layer and KV head of the prompt, everything counted.
        reduction: over the query heads of a group: ``"mean"`` or ``"max"``.
        pooling: along the prompt: ``"max"`` or ``"avg"``.
        kernel: entries that are pooled, odd; 1 for no pooling.
        keep_first: first tokens of the prompt that always stay.
        keep_last: last tokens of the prompt that always stay.
        answers: per batch item, the token ids of the answer that generation feeds: without the one that ends it.

    Reading a prompt raises ValueError unless there is an answer of at least one token for each batch item.
    """

    name: ClassVar[str] = "oracle"

    kernel: int = 1
    answers: Sequence[Sequence[int]] = ()

    def foreseen(self, cache: EvictingCache) -> dict[int, Tensor]:
        slots = cache.slots(cache.evicting[0])
        if len(self.answers) != slots.batch:
            raise ValueError(f"answers: given for {len(self.answers)} sequences, but the batch has {slots.batch}")
        if not all(len(answer) for answer in self.answers):
            raise ValueError("answers: each needs at least one token")
        longest = max(len(answer) for answer in self.answers)
        tokens = torch.zeros(slots.batch, longest, dtype=torch.int64)
        counted = torch.zeros(slots.batch, longest, dtype=torch.bool)
        for row, answer in enumerate(self.answers):
            tokens[row, : len(answer)] = torch.as_tensor(answer)
            counted[row, : len(answer)] = True
        device = slots.keys.device
        return attention_of(cache, embedded(cache.model, tokens.to(device)), counted.to(device))
