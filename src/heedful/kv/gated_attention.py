"""A model's forward pass with what gates do not let through out of sight, and a gradient for the gates.

Zeng et al., "In-context KV-Cache Eviction for LLMs via Attention-Gate", arXiv 2410.12876. Attention is computed as if
what a gate does not let through were not there, for query i and key j

    w_ij = 1 if j = i, or j < keep_first, or i - j < keep_last; else F_j,
    out_i = sum_j p_ij w_ij v_j / sum_j p_ij w_ij,

and F_j takes its gradient from G_j (straight through): F~ = G + stop(F - G). It is the pass that
:class:`~heedful.kv.attention_gate.AttentionGate` computes with the entries gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from heedful.kv.attention import BLOCK, grouped, wide
from heedful.kv.gates import Gates, attentions

NAME = "heedful-gates"
_STASH = "_heedful_gate"
_STEEPEST = 1e4
"""The largest share of attention that one token out of sight may have, of all that is in sight, in the gradient."""


class _Gated(torch.autograd.Function):
    """Attention with the weights w; rows in blocks, forwards and backwards, so that no n x n matrix is ever held."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, weight: Tensor, real: Tensor, near: int) -> Tensor:
        """``query [b, s, g, n, d]`` (scaled), ``key, value [b, s, n, d]``, ``weight [b, s, n]``; like the query."""
        out = query.new_empty(*query.shape[:4], value.shape[-1])
        total = query.new_empty(query.shape[:4])
        log_weight = weight.log()
        for block in _blocks(query.shape[3], real, near):
            logits = block.logits(query, key)
            block.of_all(logits).add_(log_weight[:, :, None, None, : block.old])
            block.of_near(logits).add_(block.pairs(log_weight, 0.0))
            peak = logits.amax(-1, keepdim=True)
            mass = logits.sub_(peak).exp_().sum(-1, keepdim=True)
            rows = (logits @ value[:, :, : block.stop]).div_(mass)
            out[..., block.rows, :] = rows.view(*query.shape[:3], -1, value.shape[-1])
            total[..., block.rows] = (peak + mass.log()).view(*query.shape[:3], -1)
        ctx.save_for_backward(query, key, value, weight, real, out, total)
        ctx.near = near
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weight, real, out, total = ctx.saved_tensors
        (grad,) = grads
        d_query, d_weight = torch.empty_like(query), torch.zeros_like(weight)
        d_key, d_value = torch.zeros_like(key), torch.zeros_like(value)
        inner = (grad * out).sum(-1, keepdim=True)
        for block in _blocks(query.shape[3], real, ctx.near):
            rows, stop = block.flat(grad), block.stop
            # Each key's odds against all that is in sight: a share of the attention for those that are in sight.
            odds = block.logits(query, key).sub_(block.flat(total[..., None]))
            odds.clamp_(max=math.log(_STEEPEST)).exp_()
            pairs = block.pairs(weight, 1.0)
            probs = odds.clone()
            block.of_all(probs).mul_(weight[:, :, None, None, : block.old])
            block.of_near(probs).mul_(pairs)
            d_value[:, :, :stop] += probs.transpose(-1, -2) @ rows
            change = (rows @ value[:, :, :stop].transpose(-1, -2)).sub_(block.flat(inner))
            d_logits = probs.mul_(change)
            d_query[..., block.rows, :] = (d_logits @ key[:, :, :stop]).view(*query.shape[:3], -1, query.shape[-1])
            d_key[:, :, :stop] += d_logits.transpose(-1, -2) @ block.flat(query)
            by_weight = odds.mul_(change)
            block.of_near(by_weight).masked_fill_(block.always, 0.0)
            d_weight[:, :, :stop] += by_weight.sum(2)
        return d_query, d_key, d_value, d_weight, None, None


@dataclass(frozen=True)
class _Block:
    """Some rows, and the keys that they can see: ``old`` ones, and then those near enough to be seen by right.

    Attributes:
        start: first row.
        stop: row behind the last.
        old: keys before the first that a row sees by right.
        always: bool, broadcastable to ``[b, s, g, r, stop - old]``: keys that are seen whatever their weight.
    """

    start: int
    stop: int
    old: int
    always: Tensor

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)

    def flat(self, x: Tensor) -> Tensor:
        """These rows of ``[b, s, g, n, d]`` as ``[b, s, g r, d]``."""
        return x[..., self.rows, :].flatten(2, 3)

    def logits(self, query: Tensor, key: Tensor) -> Tensor:
        """``[b, s, g r, stop]``, -inf for what comes later."""
        found = self.flat(query) @ key[:, :, : self.stop].transpose(-1, -2)
        r = self.stop - self.start
        later = torch.ones(r, r, dtype=torch.bool, device=query.device).triu_(1)
        self._rows_apart(found)[..., self.start :].masked_fill_(later, -torch.inf)
        return found

    def pairs(self, weight: Tensor, seen: float) -> Tensor:
        """``[b, s, 1, r, stop - old]`` of ``weight [b, s, n]``: ``seen`` where a key is seen by right."""
        return torch.where(self.always, seen, weight[:, :, None, None, self.old : self.stop])

    def of_all(self, x: Tensor) -> Tensor:
        """The old keys' columns of ``[b, s, g r, stop]``, as ``[b, s, g, r, old]``."""
        return self._rows_apart(x)[..., : self.old]

    def of_near(self, x: Tensor) -> Tensor:
        """The other columns."""
        return self._rows_apart(x)[..., self.old :]

    def _rows_apart(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.stop - self.start))


def _blocks(n: int, real: Tensor, near: int) -> Iterator[_Block]:
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        old = max(0, start - near + 1)
        row = torch.arange(start, stop, device=real.device)[:, None]
        column = torch.arange(old, stop, device=real.device)
        close = (row - column < near) & (row >= column) & real[:, None, None, None, old:stop]
        yield _Block(start, stop, old, close | (row == column))


def attend(
    query: Tensor, key: Tensor, value: Tensor, weight: Tensor, real: Tensor, scale: float, near: int = 1
) -> Tensor:
    """Causal attention in which key j counts ``weight[j]`` times, but for the ``near`` newest keys of each query.

    Args:
        query: ``[batch, query heads, n, d]``.
        key: ``[batch, stored heads, n, d]``.
        value: ``[batch, stored heads, n, dv]``.
        weight: ``[batch, stored heads, n]``, at least 0; differentiable, also where it is 0.
        real: bool ``[batch, n]``, which tokens are not padding; the weight of padding must be 0.
        scale: factor on the logits.
        near: newest keys that each query sees whatever their weight, itself included.

    Returns:
        ``[batch, n, query heads, dv]``; computed in float32 or wider.
    """
    dtype = wide(query.dtype)
    packed = grouped(query.to(dtype), key.shape[1], scale)
    out = _Gated.apply(packed, key.to(dtype), value.to(dtype), weight.to(dtype), real, max(1, near))
    return out.flatten(1, 2).transpose(1, 2).to(query.dtype)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    stash = module.__dict__.pop(_STASH, None)
    if stash is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    for option in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(option) is not None:
            raise ValueError(f"model family {module.config.model_type!r}: attention with {option} is not supported")
    scale = kwargs.get("scaling")
    weight, real, near = stash
    return attend(query, key, value, weight, real, query.shape[-1] ** -0.5 if scale is None else scale, near), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@dataclass
class Noted:
    """What the gates said in one forward pass.

    Attributes:
        scores: by layer, G ``[batch, heads, n]``.
        flags: by layer, F, likewise.
        gated: bool ``[batch, n]``: the tokens that have a gate.
    """

    gated: Tensor
    scores: dict[int, Tensor] = field(default_factory=dict)
    flags: dict[int, Tensor] = field(default_factory=dict)

    def means(self, of: Mapping[int, Tensor]) -> Tensor:
        """``[layers]``: means over gated tokens and heads."""
        share = self.gated[:, None]
        return torch.stack([(x * share).sum() / (share.sum() * x.shape[1]).clamp(min=1) for x in of.values()])


@contextmanager
def gated(model: Any, gates: Gates, real: Tensor, prompt: Tensor) -> Iterator[Noted]:
    """While this lasts, the model's forward passes over one batch hide what the gates do not let through.

    Args:
        model: a Hugging Face causal language model.
        gates: its gates.
        real: bool ``[batch, n]``: which tokens are not padding.
        prompt: bool ``[batch, n]``: the prompt, for gates whose context it is.
    """
    rules = gates.rules
    own = real & prompt if rules.context == "prompt" else real
    first = (real.cumsum(1) - 1 < rules.keep_first) | (real & ~own)
    noted = Noted(own)

    def listen(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        score = gates[str(module.layer_idx)](hidden, own, rules.context == "prefix")
        flag = (score > rules.tau).to(score.dtype)
        noted.scores[module.layer_idx], noted.flags[module.layer_idx] = score, flag
        weight = torch.where(first[:, None], 1.0, score + (flag - score).detach()) * real[:, None]
        setattr(module, _STASH, (weight, real, rules.keep_last))

    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    hooks = [
        module.register_forward_pre_hook(listen, with_kwargs=True)
        for layer, module in attentions(model).items()
        if str(layer) in gates
    ]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()
        model.set_attn_implementation(before)
