"""LookaheadKV keeps what the answer will attend to, as a few trained tokens behind the prompt foresee it.

Ahn et al., "LookaheadKV: Fast and Accurate KV Cache Eviction by Glimpsing into the Future without Generation",
ICLR 2026, arXiv 2603.10899. Trained embeddings P of m tokens run through the frozen model behind the prompt, with a
LoRA in every linear layer that is active on these rows alone,

    Y = [X; P] W + (alpha / r) [0; P] A B.

With A_i the attention row of the i-th of them over the n prompt tokens and the rows before it, an entry's score is

    s[j] = (1/m) sum over i of A_i[j],   j < n

averaged over the query heads of a group, then max-pooled. The rows run as a second pass over the finished prompt, so
that what the prompt computes is the plain model's; their own entries are never stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from heedful.kv.base import Reads
from heedful.kv.cache import EvictingCache
from heedful.kv.foresight import Foresight, attention_of, embedded
from heedful.kv.parts import Parts, beside, check, load

KIND = "lookahead"
FILE = "lookahead.safetensors"


@dataclass(frozen=True)
class LookaheadKV(Foresight):
    """Trained lookahead tokens; the same number of entries for every head.

    Args:
        budget: entries kept per layer and KV head of the prompt, everything counted.
        reduction: over the query heads of a group: ``"mean"`` or ``"max"``.
        pooling: along the prompt: ``"max"`` or ``"avg"``.
        kernel: entries that are pooled, odd; 1 for no pooling.
        keep_first: first tokens of the prompt that always stay.
        keep_last: last tokens of the prompt that always stay.
        parts: file of the trained parts (:func:`heedful.kv.lookahead_training.train_lookahead`); empty:
            ``lookahead.safetensors`` in the model's folder.

    A cache for a model raises ValueError if there are no parts, or they were made for another model.
    """

    name: ClassVar[str] = "lookaheadkv"

    parts: str = ""

    @property
    def reads(self) -> Reads:
        return Reads(inputs=True)

    def attach(self, model: Any) -> None:
        path = self.source(model)
        check(_loaded(path, _stamp(path), "cpu"), model, str(path))

    def source(self, model: Any) -> Path:
        """The file of the trained parts for that model. Raises ValueError if none is given and none is beside it."""
        if self.parts:
            return Path(self.parts)
        found = beside(model, FILE)
        if found is None:
            raise ValueError(
                f"{self.name}: no {FILE} beside the model; give parts=FILE, or train them with: heedful kv train {KIND}"
            )
        return found

    def foreseen(self, cache: EvictingCache) -> dict[int, Tensor]:
        path = self.source(cache.model)
        parts = _loaded(path, _stamp(path), str(cache.slots(cache.evicting[0]).keys.device))
        return lookahead_attention(cache, parts.tensors, parts.settings)


def lookahead_attention(
    cache: EvictingCache, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> dict[int, Tensor]:
    """The mean attention row of the lookahead tokens over a prompt that has just been read.

    Args:
        cache: holds the whole prompt; it stays as it is.
        tensors: ``embeddings [m, width]`` and, by the name of each linear layer of the decoder, ``NAME.a [r, in]``
            and ``NAME.b [out, r]``; without embeddings the prompt's own last m tokens run again.
        settings: what they were trained with: ``tokens`` (m), ``rank`` (r), ``alpha``.

    Returns:
        by managed layer ``[batch, heads, group, n]``, at least float32. Gradients reach ``tensors``.

    Raises ValueError if the prompt's own last tokens are to run again and there are fewer than m.
    """
    model = cache.model
    if "embeddings" in tensors:
        like = model.get_input_embeddings().weight
        rows = tensors["embeddings"].to(like.device, like.dtype).expand(cache.slots(cache.evicting[0]).batch, -1, -1)
    else:
        rows = _last(cache, settings["tokens"])
    with _adapted(model, tensors, settings["alpha"] / max(1, settings["rank"])):
        return attention_of(cache, rows)


def _last(cache: EvictingCache, count: int) -> Tensor:
    """Embeddings ``[batch, count, width]`` of the prompt's last tokens."""
    slots, inputs = cache.slots(cache.evicting[0]), cache.inputs
    assert inputs is not None
    if int(slots.counts.min()) < count:
        raise ValueError(f"lookaheadkv: these parts run the last {count} tokens again, but a prompt is shorter")
    return inputs[:, -count:] if inputs.is_floating_point() else embedded(cache.model, inputs[:, -count:])


def linear_layers(model: Any) -> dict[str, nn.Linear]:
    """The linear layers of a model's decoder, by their names in it."""
    return {name: module for name, module in model.get_decoder().named_modules() if isinstance(module, nn.Linear)}


@contextmanager
def _adapted(model: Any, tensors: Mapping[str, Tensor], scale: float) -> Iterator[None]:
    """Within, every row that runs through the model gets the LoRA."""
    hooks = [
        module.register_forward_hook(_lora(tensors[f"{name}.a"], tensors[f"{name}.b"], scale))
        for name, module in linear_layers(model).items()
        if f"{name}.a" in tensors
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _lora(a: Tensor, b: Tensor, scale: float) -> Any:
    def add(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        x = args[0]
        return out + F.linear(F.linear(x, a.to(x)) * scale, b.to(x))

    return add


def _stamp(path: Path) -> int:
    """Changes when the file does."""
    return path.stat().st_mtime_ns if path.is_file() else 0


@lru_cache(maxsize=8)
def _loaded(path: Path, stamp: int, device: str) -> Parts:
    parts = load(path, KIND)
    return Parts(parts.kind, {name: x.to(device) for name, x in parts.tensors.items()}, parts.settings, parts.model)
