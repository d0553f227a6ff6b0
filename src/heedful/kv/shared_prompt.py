"""One pass over a prompt for any number of policies that evict when it is over.

What a prompt's tokens compute does not depend on what is dropped afterwards. So the prompt is read once, under a full
cache that notes what policies want to see, and every policy then gets a copy of the entries and the same sights that
it would have had: the caches are those that each policy's own pass would have left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from heedful.kv.attention import Seen
from heedful.kv.base import Policy, Reads
from heedful.kv.cache import EvictingCache
from heedful.kv.slots import Slots


@dataclass
class _Notes:
    rows: dict[int, Tensor]
    sums: dict[int, Tensor]
    queries: dict[int, Tensor]


@dataclass(frozen=True)
class _Observer(Policy):
    """Keeps everything and notes the last ``window`` rows and, if ``sums``, all column sums."""

    evicts: ClassVar[bool] = False

    window: int = 32
    sums: bool = True

    @property
    def reads(self) -> Reads:
        return Reads(prompt="rows" if self.sums else "last", window=self.window, queries=True, inputs=True)

    def begin(self, layers: int) -> _Notes:
        return _Notes({}, {}, {})

    def prompted(self, slots: Slots, seen: Seen) -> None:
        assert seen.rows is not None and seen.queries is not None
        notes: _Notes = slots.state
        if self.sums:
            notes.sums[slots.layer] = seen.rows.sum(dim=(2, 3))
        notes.rows[slots.layer] = seen.rows[:, :, :, -self.window :].clone()
        notes.queries[slots.layer] = seen.queries.clone()


class SharedPrompt:
    """A prompt that has been read.

    Attributes:
        logits: ``[batch, vocabulary]``: of the token that comes next.
        cache: the full cache, which every policy's cache is copied from.

    Args:
        model: a Hugging Face causal language model, in evaluation mode.
        tokens: int64 ``[batch, q]``, padded on the left.
        mask: int64 ``[batch, q]``, 0 for padding; None if there is none.
        window: last rows that are noted; a policy that reads more is refused.
        sums: whether column sums are noted too (for policies that read them), at the cost of all rows of a layer.
    """

    def __init__(
        self, model: Any, tokens: Tensor, mask: Tensor | None = None, window: int = 32, sums: bool = True
    ) -> None:
        observer = _Observer(window, sums)
        self.cache = observer.cache_for(model)
        self._window, self._sums, self._tokens = window, sums, tokens
        position = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            self.logits = model(
                tokens,
                attention_mask=mask,
                position_ids=position,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]

    @torch.inference_mode()
    def cache_for(self, policy: Policy) -> EvictingCache:
        """The cache that ``policy`` would have left, had it read the prompt itself; made for decoding on.

        Args:
            policy: the policy.

        Raises ValueError for a policy that :func:`takes_part` in reading the prompt, and for one that reads more rows
        than were noted.
        """
        reads = policy.reads
        if takes_part(policy):
            raise ValueError(f"{policy.name}: takes part in reading the prompt, so it cannot share it")
        if reads.prompt == "rows" or (reads.prompt == "last" and reads.window > self._window):
            raise ValueError(f"{policy.name}: reads more attention rows than the {self._window} that were noted")
        if reads.prompt == "sums" and not self._sums:
            raise ValueError(f"{policy.name}: reads column sums, which were not noted")
        cache, notes = self.cache.heir(policy), self.cache.state
        cache.inputs = self._tokens if reads.inputs else None
        for layer in cache.evicting:
            slots = cache.slots(layer)
            slots.fresh, slots.peak_nbytes = True, slots.nbytes
            cache.note_peak()
            rows = notes.rows[layer][:, :, :, -reads.window :] if reads.prompt == "last" else None
            sums = notes.sums[layer] if reads.prompt == "sums" else None
            queries = notes.queries[layer][:, :, :, -reads.window :] if reads.queries else None
            policy.prompted(slots, Seen(sums, rows, queries))
            slots.fresh = False
        policy.passed(cache)
        cache.inputs = None
        for layer in cache.evicting:
            cache.slots(layer).pack()
        return cache


def takes_part(policy: Policy) -> bool:
    """Whether a policy has to be there while a prompt is read: it hides entries, reads the layers' inputs, or stores
    entries per query head."""
    return policy.reads.hidden or policy.per_query_head or type(policy).visible is not Policy.visible
