"""The cache that an unmodified Hugging Face model generates with while a policy decides what it holds.

``policy.cache_for(model)`` switches the model to the attention function of :mod:`~heedful.kv.cache_layer`, where each
layer stores, attends and decides. Here is what the layers of one generation have in common: the policy's state, what
hooks note of the model's inputs, probes, copies, and the account of what was held.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicSlidingWindowLayer, get_layer_types_and_kwargs

from heedful.kv.base import Policy
from heedful.kv.cache_layer import NAME, EvictingLayer, ProbedError
from heedful.kv.slots import Slots


@dataclass(frozen=True)
class Usage:
    """What a generation's cache holds and held.

    Attributes:
        slots: entries stored now, per layer, averaged over batch items and KV heads.
        peak_slots: the most there ever were, likewise.
        nbytes: bytes allocated now, per layer (keys, values, positions and the policy's fields).
        peak_nbytes: the most that were ever allocated, per layer.
        evicted: entries dropped so far, per layer, averaged over batch items and KV heads.
        tokens: tokens given to the model so far, padding included.
        held_peak: the most entries that all layers together ever held at one time, averaged over batch items and KV
            heads; less than the sum of ``peak_slots`` where layers shrink before the last one has read the prompt.
        held_peak_nbytes: the most bytes that all layers together ever had allocated at one time.
    """

    slots: tuple[float, ...]
    peak_slots: tuple[float, ...]
    nbytes: tuple[int, ...]
    peak_nbytes: tuple[int, ...]
    evicted: tuple[float, ...]
    tokens: int
    held_peak: float
    held_peak_nbytes: int


class EvictingCache(Cache):
    """A Hugging Face cache whose full-attention layers are managed by a policy; other layers are left alone.

    Made by :meth:`Policy.cache_for`; one per generation. Several may be in use with one model and one policy at once.

    Args:
        policy: what decides.
        model: the Hugging Face model; its attention implementation is switched to ours.
        capacity: entries per head to preallocate; None grows as needed.

    Attributes:
        policy: as given.
        state: what ``policy.begin`` returned.
        evicting: indices of the layers that the policy manages.
        config: the text model's configuration.
        probed: the rows that a :meth:`probe` under way has recorded so far; None otherwise.
        inputs: what the model was given in a call with several new tokens, until that call's ``passed`` is over, if
            the policy reads it: token ids ``[batch, q]`` int64, or embeddings ``[batch, q, width]``; else None.

    ``copy.deepcopy`` gives a cache that goes on by itself from where this one is: one context, several questions.

    Raises ValueError if the model has no full-attention layer or cannot use our attention function.
    """

    def __init__(self, policy: Policy, model: Any, capacity: int | None = None) -> None:
        config = model.config.get_text_config(decoder=True)
        kinds = layer_kinds(model)
        self.policy = policy
        self.capacity = capacity
        self.config = config
        self.probed: dict[int, Tensor] | None = None
        self.inputs: Tensor | None = None
        self._held_peak = self._held_peak_nbytes = 0
        policy.attach(model)
        self._model = ref(model)
        self.evicting = tuple(i for i, kind in enumerate(kinds) if kind == "full_attention")
        self.state = policy.begin(len(self.evicting))
        self._mask: tuple[Any, Tensor | None] = (None, None)
        layers: list[Any] = [
            EvictingLayer(self, i) if kind == "full_attention" else DynamicSlidingWindowLayer(config.sliding_window)
            for i, kind in enumerate(kinds)
        ]
        super().__init__(layers=layers)
        model.set_attn_implementation(NAME)
        self._hooks = list(_listen(self, model))

    def slots(self, layer: int) -> Slots:
        """The entries of one managed layer, by the layer's index in the model."""
        managed: Any = self.layers[layer]
        found: Slots = managed.slots
        return found

    @property
    def model(self) -> Any:
        """The model that the cache was made for."""
        model = self._model()
        assert model is not None
        return model

    def heir(self, policy: Policy, chosen: Mapping[int, Tensor] | None = None) -> EvictingCache:
        """A cache for the same model and another policy that begins with copies of these entries.

        Args:
            policy: what decides about the copy; it has been shown nothing yet.
            chosen: by managed layer, bool ``[batch, heads, n]``: which entries are copied; None for all.
        """
        twin = EvictingCache(policy, self.model)
        for index, (mine, theirs) in enumerate(zip(self.layers, twin.layers)):
            if isinstance(mine, EvictingLayer) and isinstance(theirs, EvictingLayer):
                theirs.slots = mine.slots.heir(policy, twin.state, None if chosen is None else chosen[index])
                theirs.dtype, theirs.device, theirs.is_initialized = mine.dtype, mine.device, True
            else:
                vars(theirs).update(copy.deepcopy(vars(mine)))
        return twin

    def note_peak(self) -> None:
        """Compares what all layers together hold now with the most that they ever held."""
        layers = [self.slots(i) for i in self.evicting]
        self._held_peak = max(self._held_peak, sum(s.entries for s in layers))
        self._held_peak_nbytes = max(self._held_peak_nbytes, sum(s.nbytes for s in layers if s.seen))

    def probe(self, embeddings: Tensor) -> dict[int, Tensor]:
        """How a few extra rows would attend to what is stored; the cache stays exactly as it is.

        The rows run through the model as if they came next: each sees what is stored and the rows before it. Meant
        for :meth:`Policy.passed`, where the model is still inside the call that it has just attended to. Gradients
        reach the embeddings unless they are switched off.

        Args:
            embeddings: ``[batch, m, width]``, in the place of token embeddings.

        Returns:
            by managed layer, the probabilities ``[batch, stored heads, group, m, n + m]``: n columns aligned with the
            layer's entries, then those of the rows themselves.

        Raises ValueError for a padded batch if the model has layers that the policy does not manage.
        """
        model, length = self.model, self.slots(self.evicting[0]).length
        others = [layer for layer in self.layers if not isinstance(layer, EvictingLayer)]
        if others and isinstance(length, Tensor):
            raise ValueError("probe: a padded batch needs a model whose layers all attend to everything")
        before = [dict(vars(layer)) for layer in others]
        batch, m, _ = embeddings.shape
        start = length[:, None] if isinstance(length, Tensor) else length
        position = torch.arange(m, device=embeddings.device) + start
        rows: dict[int, Tensor] = {}
        self.probed = rows
        try:
            model.base_model(
                inputs_embeds=embeddings,
                position_ids=position.expand(batch, m),
                past_key_values=self,
                use_cache=True,
            )
        except ProbedError:
            pass
        finally:
            self.probed = None
            for layer, kept in zip(others, before):
                vars(layer).update(kept)
        return rows

    def real_tokens(self, mask: Tensor | None, q: int) -> Tensor | None:
        """bool ``[batch, q]``: which of the newest q tokens are real; None if all are. Worked out once per pass."""
        if mask is None:
            return None
        if self._mask[0] is not mask:
            real = mask[:, 0, -1, -q:]
            real = real if real.dtype == torch.bool else real == 0
            self._mask = (mask, None if bool(real.all()) else real)
        return self._mask[1]

    def usage(self) -> Usage:
        """Slots and bytes, per managed layer, now and at their peak."""
        self.note_peak()
        layers = [self.slots(i) for i in self.evicting]
        per_head = [max(1, s.batch * s.heads) if s.seen else 1 for s in layers]
        return Usage(
            slots=tuple(s.entries / h for s, h in zip(layers, per_head)),
            peak_slots=tuple(s.peak_entries / h for s, h in zip(layers, per_head)),
            nbytes=tuple(s.nbytes for s in layers),
            peak_nbytes=tuple(s.peak_nbytes for s in layers),
            evicted=tuple(s.evicted / h for s, h in zip(layers, per_head)),
            tokens=layers[0].seen,
            held_peak=self._held_peak / per_head[0],
            held_peak_nbytes=self._held_peak_nbytes,
        )

    def refuse_to_take_back(self) -> None:
        """Raises ValueError if the policy evicts: what it dropped, or learnt from a token, cannot be undone."""
        if self.policy.evicts:
            raise ValueError(
                "assistant_model / prompt_lookup_num_tokens: assisted decoding takes tokens back, which an evicting "
                f"cache ({self.policy.name}) cannot; use the full policy, or decode without it"
            )

    def activate_past_recording(self) -> None:
        """Called by ``generate`` before assisted decoding begins."""
        self.refuse_to_take_back()
        super().activate_past_recording()

    def reset(self) -> None:
        """Empties the cache for another generation."""
        self.state = self.policy.begin(len(self.evicting))
        self._held_peak = self._held_peak_nbytes = 0
        super().reset()

    def __deepcopy__(self, memo: dict[int, Any]) -> EvictingCache:
        twin = EvictingCache(self.policy, self.model, self.capacity)
        twin._held_peak, twin._held_peak_nbytes = self._held_peak, self._held_peak_nbytes
        memo[id(self)] = twin
        twin.state = copy.deepcopy(self.state, memo)
        for mine, theirs in zip(self.layers, twin.layers):
            own = {name: value for name, value in vars(mine).items() if name != "_cache"}
            vars(theirs).update(copy.deepcopy(own, memo))
        return twin

    def __del__(self) -> None:
        for hook in getattr(self, "_hooks", ()):
            hook.remove()


@contextmanager
def restored(policy: Policy, model: Any, capacity: int | None = None) -> Iterator[EvictingCache]:
    """Yields ``policy.cache_for(model, capacity)``; at the end the model's attention implementation is what it was."""
    before = model.config._attn_implementation
    try:
        yield EvictingCache(policy, model, capacity)
    finally:
        model.set_attn_implementation(before)


def layer_kinds(model: Any) -> list[str]:
    """What each layer attends to, ``"full_attention"`` or ``"sliding_attention"``.

    Raises ValueError for a model that is not supported, in one line that says why.
    """
    config = model.config.get_text_config(decoder=True)
    family = config.model_type
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"model family {family!r}: encoder-decoder models are not supported; use a decoder-only model")
    kinds = list(get_layer_types_and_kwargs(config)[0])
    if strange := sorted(set(kinds) - {"full_attention", "sliding_attention"}):
        raise ValueError(f"model family {family!r}: layers of type {', '.join(strange)} are not supported")
    if "full_attention" not in kinds:
        raise ValueError(f"model family {family!r}: no full-attention layer, nothing to evict (all sliding)")
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise ValueError(f"model family {family!r}: attention with attn_logit_softcapping is not supported")
    if not (hasattr(model, "set_attn_implementation") and model._can_set_attn_implementation()):
        raise ValueError(f"model family {family!r}: its attention function cannot be set (AttentionInterface)")
    return kinds


def _listen(cache: EvictingCache, model: Any) -> Iterator[Any]:
    """Forward hooks that note what the policy reads of the model's inputs while this cache is in use."""
    held, reads = ref(cache), cache.policy.reads

    def ours(kwargs: dict[str, Any]) -> EvictingCache | None:
        used = kwargs.get("past_key_values")
        return used if isinstance(used, EvictingCache) and used is held() and used.probed is None else None

    @torch.compiler.disable
    def note_hidden(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (used := ours(kwargs)) is not None:
            used.slots(module.layer_idx).hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]

    @torch.compiler.disable
    def note_inputs(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (used := ours(kwargs)) is not None:
            ids = kwargs.get("input_ids", args[0] if args else None)
            used.inputs = kwargs.get("inputs_embeds") if ids is None else ids

    if reads.inputs:
        yield model.base_model.register_forward_pre_hook(note_inputs, with_kwargs=True)
    for module in model.modules() if reads.hidden else ():
        if getattr(module, "layer_idx", None) in cache.evicting and hasattr(module, "o_proj"):
            yield module.register_forward_pre_hook(note_hidden, with_kwargs=True)
