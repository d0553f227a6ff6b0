"""One layer of the cache: how the model's attention function stores entries, attends, and lets the policy decide.

One attention function (and its mask function) is registered with Hugging Face; a cache switches its model to it.
A layer's ``update`` hands the new keys over with a tag; the attention function finds the tag, stores the entries,
attends to what is alive, and lets the policy decide. Keys without the tag, from any other cache, go to the model's
usual SDPA path. In a compiled model, storing and attending run eagerly between the compiled parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from heedful.kv.attention import Seen, attend, attend_blockwise, attend_step, grouped
from heedful.kv.slots import Slots

if TYPE_CHECKING:
    from heedful.kv.cache import EvictingCache

NAME = "heedful"
_TAG = "_heedful_layer"


class ProbedError(Exception):
    """A probe has all that it needs: the layers behind the last managed one do not have to run."""


class EvictingLayer(CacheLayerMixin):
    """One full-attention layer of an :class:`~heedful.kv.cache.EvictingCache`; ``slots`` holds its entries."""

    is_compileable = False
    is_sliding = False

    def __init__(self, cache: EvictingCache, index: int) -> None:
        super().__init__()
        self._cache = ref(cache)
        self._index = index
        self._pending: tuple[Tensor, Tensor] | None = None
        self._start()

    def _start(self) -> None:
        cache = self.cache
        self.slots = Slots(self._index, cache.policy, cache.state, cache.capacity)
        self.is_initialized = False

    @property
    def cache(self) -> EvictingCache:
        """The cache that this layer belongs to."""
        cache = self._cache()
        assert cache is not None
        return cache

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]
        """Whether the newest tokens can be taken back: only if the policy keeps everything."""
        return not self.cache.policy.evicts

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    @torch.compiler.disable
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Hands the new keys and values to the attention function, which stores them."""
        if self.cache.config._attn_implementation != NAME or self._pending is not None:
            raise ValueError(
                f"the model's attn_implementation is no longer {NAME!r}: make the cache with policy.cache_for(model) "
                "and do not change it during a generation"
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._pending = (key_states, value_states)
        tagged = key_states.view_as(key_states)
        setattr(tagged, _TAG, self)
        return tagged, value_states

    @torch.compiler.disable
    def attend(self, module: Any, query: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """Stores the pending entries, attends to all that are alive, and lets the policy decide.

        Args:
            module: the attention module.
            query: ``[batch, query heads, q, d]``.
            mask: Hugging Face's mask ``[batch, 1, q, seen + q]``; only read to learn which new tokens are padding.
            scale: factor on the logits.

        Returns:
            ``[batch, q, query heads, dv]``.
        """
        assert self._pending is not None
        keys, values = self._pending
        self._pending = None
        cache, slots = self.cache, self.slots
        policy = cache.policy
        q = query.shape[2]
        if policy.per_query_head:
            group = query.shape[1] // keys.shape[1]
            keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
        if cache.probed is not None:
            valid = slots.valid()
            valid = None if valid is None else F.pad(valid, (0, q), value=True)
            keys, values = torch.cat([slots.keys, keys], dim=2), torch.cat([slots.values, values], dim=2)
            out, seen = attend_blockwise(query, keys, values, scale, "rows", valid=valid)
            assert seen.rows is not None
            cache.probed[self._index] = seen.rows
            if self._index == cache.evicting[-1]:
                raise ProbedError
            return out
        real = cache.real_tokens(mask, q)
        slots.module = module
        slots.append(keys, values, real)
        reads = policy.reads
        if q == 1 and not slots.fresh and real is None:
            slots.steps += 1
            out, probs = _attend_to(slots, query, scale, reads.step)
            queries = grouped(query, slots.heads, scale) if reads.queries else None
            policy.decoded(slots, Seen(rows=None if probs is None else probs.unsqueeze(3), queries=queries))
        else:
            valid = slots.valid()
            cache.note_peak()
            if (visible := policy.visible(slots)) is not None:
                valid = visible if valid is None else visible & (valid if visible.ndim == 3 else valid[:, :, None])
            if reads.prompt == "nothing" or visible is not None:
                out, seen = attend(query, slots.keys, slots.values, scale, valid, real), Seen()
            else:
                out, seen = attend_blockwise(
                    query, slots.keys, slots.values, scale, reads.prompt, reads.window, valid, real
                )
            if reads.queries:
                seen = seen._replace(queries=grouped(query[:, :, -reads.window :], slots.heads, scale))
            policy.prompted(slots, seen)
            slots.fresh = False
            if self._index == cache.evicting[-1]:
                policy.passed(cache)
                cache.inputs = None
                for layer in cache.evicting:
                    cache.slots(layer).pack()
                cache.note_peak()
        slots.hidden = None
        return out

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Hugging Face's mask covers all tokens seen; ours lives in the slots."""
        return self.slots.seen + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens seen, evicted ones included: the next token's position before padding is taken off."""
        return self.slots.seen

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self._pending = None
        self._start()

    def offload(self) -> None:
        raise ValueError("offloading: an evicting cache stays on the model's device; leave cache offloading off")

    prefetch = offload

    def crop(self, tokens_to_remove: int) -> None:
        """Takes the newest tokens back (assisted decoding); ValueError if the policy evicts."""
        self.cache.refuse_to_take_back()
        if tokens_to_remove:
            self.slots.drop_newest(abs(tokens_to_remove))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        if self.slots.seen:
            self.slots.select_batch(beam_idx.to(self.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.slots.seen:
            self.slots.select_batch(torch.arange(self.slots.batch, device=self.device).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.slots.seen:
            self.slots.select_batch(indices.to(self.device))


def _attend_to(slots: Slots, query: Tensor, scale: float, rows: bool) -> tuple[Tensor, Tensor | None]:
    """One new query per sequence over what its layer holds; with its probabilities if ``rows``."""
    if slots.packed is not None:
        return slots.packed.attend(query, slots.heads, scale, rows)
    valid = slots.valid()
    if rows:
        return attend_step(query, slots.keys, slots.values, scale, valid)
    return attend(query, slots.keys, slots.values, scale, valid), None


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    layer = getattr(key, _TAG, None)
    if layer is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    for option in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(option) is not None:
            raise ValueError(f"model family {module.config.model_type!r}: attention with {option} is not supported")
    scale = kwargs.get("scaling")
    return layer.attend(module, query, attention_mask, query.shape[-1] ** -0.5 if scale is None else scale), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
