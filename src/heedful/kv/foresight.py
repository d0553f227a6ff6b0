"""Policies that decide once, when the prompt has been read, by what tokens that are yet to come attend to.

They differ in where those tokens come from: trained ones, a draft, or the answer itself. What follows is the same.
With A_i the attention row of the i-th of m coming tokens, an entry's score is

    s[j] = (1/m) sum over i of A_i[j]

per query head, then the mean over the query heads of a group, pooled along the prompt. The best entries of each head
stay. What comes after the first call (generated tokens, a later question) is appended and never evicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from heedful.kv.attention import Seen
from heedful.kv.base import Sized, check_count
from heedful.kv.cache import EvictingCache
from heedful.kv.prefill import check_kernel, pooled
from heedful.kv.slots import Slots


@dataclass
class Turn:
    """Whether the call under way is the first of its generation."""

    first: bool = True


@dataclass(frozen=True)
class Foresight(Sized):
    """A policy that scores the prompt by the attention of tokens that come after it; fill in :meth:`foreseen`.

    Args:
        budget: entries kept per layer and KV head of the prompt, everything counted.
        reduction: over the query heads of a group: ``"mean"`` or ``"max"``.
        pooling: along the prompt: ``"max"`` or ``"avg"``.
        kernel: entries that are pooled, odd; 1 for no pooling.
        keep_first: first tokens of the prompt that always stay.
        keep_last: last tokens of the prompt that always stay.

    Raises ValueError if the budget does not exceed what always stays, or a parameter is out of its range.
    """

    reduction: Literal["mean", "max"] = "mean"
    pooling: Literal["max", "avg"] = "max"
    kernel: int = 7
    keep_first: int = 0
    keep_last: int = 0

    def __post_init__(self) -> None:
        check_kernel(self.kernel)
        check_count("keep_first", self.keep_first, least=0)
        check_count("keep_last", self.keep_last, least=0)
        super().__post_init__()
        if self.reduction not in ("mean", "max"):
            raise ValueError(f"reduction={self.reduction!r}: must be 'mean' or 'max'")
        if self.pooling not in ("max", "avg"):
            raise ValueError(f"pooling={self.pooling!r}: must be 'max' or 'avg'")

    @property
    def least(self) -> int:
        return self.keep_first + self.keep_last + 1

    @property
    def headroom(self) -> int:
        return 16

    def begin(self, layers: int) -> Turn:
        return Turn()

    def foreseen(self, cache: EvictingCache) -> dict[int, Tensor]:
        """By managed layer ``[batch, heads, group, n]``, at least float32: the coming tokens' mean attention row."""
        raise NotImplementedError

    def prompted(self, slots: Slots, seen: Seen) -> None:
        slots.state.first = slots.fresh

    @torch.no_grad()
    def passed(self, cache: EvictingCache) -> None:
        slots = cache.slots(cache.evicting[0])
        room = self.room(slots)
        if cache.state.first and slots.exceeds(room):
            self.check_room(room)
            for layer, attention in self.foreseen(cache).items():
                slots = cache.slots(layer)
                slots.keep_best(self.score(attention), room, self.protected(slots), "older")

    def score(self, attention: Tensor) -> Tensor:
        """``[batch, heads, n]`` from ``[batch, heads, group, n]``: the group's reduction, then pooling."""
        group = attention.mean(dim=2) if self.reduction == "mean" else attention.amax(dim=2)
        return pooled(group, self.kernel, self.pooling)

    def protected(self, slots: Slots) -> Tensor | None:
        """bool ``[batch, heads, n]``: the first and the last tokens of the prompt; None if none are to stay."""
        if self.keep_first == self.keep_last == 0:
            return None
        return (slots.position < self.keep_first) | slots.recent(self.keep_last)


def attention_of(cache: EvictingCache, embeddings: Tensor, counted: Tensor | None = None) -> dict[int, Tensor]:
    """How tokens that would come next attend to what a cache holds, on average.

    Args:
        cache: the cache, which stays as it is.
        embeddings: ``[batch, m, width]``, in the place of token embeddings.
        counted: bool ``[batch, m]``: which rows count, at least one of each item; None for all.

    Returns:
        by managed layer ``[batch, heads, group, n]``, at least float32; what the rows give each other is left out, so
        sums over the n entries are at most 1.
    """
    return {
        layer: mean_row(rows[..., : cache.slots(layer).position.shape[2]], counted)
        for layer, rows in cache.probe(embeddings).items()
    }


def mean_row(rows: Tensor, counted: Tensor | None) -> Tensor:
    """``[batch, heads, group, n]``: the mean of rows ``[batch, heads, group, m, n]``, of those that count."""
    if counted is None:
        return rows.mean(dim=3)
    weight = counted.to(rows.dtype)
    return torch.einsum("bhgmn,bm->bhgn", rows, weight / weight.sum(dim=1, keepdim=True))


def embedded(model: Any, tokens: Tensor) -> Tensor:
    """``[batch, m, width]``: the model's embeddings of token ids ``[batch, m]``."""
    found: Tensor = model.get_input_embeddings()(tokens)
    return found


def greedy(model: Any, cache: EvictingCache, logits: Tensor, count: int) -> Tensor:
    """The most likely continuation, token by token, until it has ended in every item.

    Args:
        model: a Hugging Face causal language model.
        cache: what has been read; it grows by one token less than are returned.
        logits: ``[batch, vocabulary]``, of the first token.
        count: tokens, at most.

    Returns:
        int64 ``[batch, m]``, ``m <= count``; what follows an item's end means nothing, see :func:`before_end`.
    """
    length = cache.slots(cache.evicting[0]).length
    tokens = logits.argmax(dim=-1, keepdim=True)
    while tokens.shape[1] < count and not _ended(model, tokens)[:, -1].all():
        position = torch.as_tensor(length + tokens.shape[1] - 1, device=logits.device).expand(len(logits))[:, None]
        out = model(tokens[:, -1:], position_ids=position, past_key_values=cache, use_cache=True)
        tokens = torch.cat([tokens, out.logits[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    return tokens


def before_end(model: Any, tokens: Tensor) -> Tensor:
    """bool ``[batch, m]``: the tokens before the one that ends the text, which generation would never feed.

    The first token always counts, so that there is one.
    """
    counted = ~_ended(model, tokens)
    counted[:, 0] = True
    return counted


def _ended(model: Any, tokens: Tensor) -> Tensor:
    """bool ``[batch, m]``: the tokens that end the text, and all after them."""
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return torch.isin(tokens, torch.tensor(ends, dtype=tokens.dtype, device=tokens.device)).cumsum(dim=1) > 0
