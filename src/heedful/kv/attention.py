"""Attention over stored entries: plain, with its rows, and blockwise with its column sums.

Layouts: queries ``[batch, query heads, q, d]``; keys and values ``[batch, stored heads, n, d]``. Query heads that
share a stored head are neighbours, so ``query heads = stored heads x group``. Probabilities are computed in float32
or wider, whatever the model's precision.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

BLOCK = 64
"""Query rows that the blockwise pass holds at a time; fastest among 16 to 512 (benchmarks/kv_prefill.py)."""


class Seen(NamedTuple):
    """What a policy may see of one attention call; only the kind that it asked for is there.

    Attributes:
        sums: ``[batch, stored heads, n]``, probability mass that each entry received, summed over the call's
            queries and over the group's query heads; padding queries count nothing.
        rows: ``[batch, stored heads, group, r, n]``, the probabilities of the last ``r`` queries (all of them for
            ``"rows"``, at most the window for ``"last"``); rows of padding queries are zero.
        queries: ``[batch, stored heads, group, r, d]``, the scaled queries of those rows, if the policy reads them.
    """

    sums: Tensor | None = None
    rows: Tensor | None = None
    queries: Tensor | None = None

    def mass(self) -> Tensor:
        """``[batch, stored heads, n]``: the column sums, from the rows if those are what was kept."""
        if self.sums is not None:
            return self.sums
        assert self.rows is not None
        return self.rows.sum(dim=(2, 3)) if self.rows.shape[3] > 1 or self.rows.shape[2] > 1 else self.rows[:, :, 0, 0]


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    valid: Tensor | None = None,
    new: Tensor | None = None,
) -> Tensor:
    """Causal attention of the newest q entries over all n, by the fused kernel.

    Args:
        query: ``[batch, query heads, q, d]``; its rows belong to the last q of the n entries.
        keys: ``[batch, stored heads, n, d]``.
        values: ``[batch, stored heads, n, dv]``.
        scale: factor on the logits.
        valid: bool ``[batch, stored heads, n]``, which entries are real; ``[batch, stored heads, q, n]``, which may
            be seen by whom, their own aside; None if all are.
        new: bool ``[batch, q]``, which queries are real; None if all are. What a padding query gets is finite and
            means nothing.

    Returns:
        ``[batch, q, query heads, dv]``.
    """
    batch, heads, q, d = query.shape
    stored, n = keys.shape[1], keys.shape[2]
    group = heads // stored
    if q == 1 and new is None:
        mask = None if valid is None else valid[:, :, None, :]
        packed = query.reshape(batch, stored, group, d)
        out = scaled_dot_product_attention(packed, keys, values, attn_mask=mask, scale=scale)
        return out.reshape(batch, 1, heads, -1)
    if group > 1:
        keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
    if valid is None and new is None and q == n:
        out = scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scale)
    else:
        mask = causal(q, n, query.device)
        if valid is not None:
            seen = valid if valid.ndim == 4 else valid[:, :, None]
            mask = mask & seen.repeat_interleave(group, dim=1)
        mask = mask | torch.eye(q, n, dtype=torch.bool, device=query.device).roll(n - q, dims=1)
        out = scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    return out.transpose(1, 2)


def attend_step(
    query: Tensor, keys: Tensor, values: Tensor, scale: float, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of one new query per sequence, with its probabilities.

    Args:
        query: ``[batch, query heads, 1, d]``.
        keys: ``[batch, stored heads, n, d]``.
        values: ``[batch, stored heads, n, dv]``.
        scale: factor on the logits.
        valid: bool ``[batch, stored heads, n]``, which entries are real; None if all are.

    Returns:
        the output ``[batch, 1, query heads, dv]`` and the probabilities ``[batch, stored heads, group, n]``.
    """
    batch, heads, _, d = query.shape
    stored, n = keys.shape[1], keys.shape[2]
    packed = query.reshape(batch * stored, heads // stored, d) * scale
    logits = torch.bmm(packed, keys.flatten(0, 1).transpose(1, 2))
    if valid is not None:
        logits.masked_fill_(~valid.reshape(batch * stored, 1, n), -torch.inf)
    probs = torch.softmax(logits, dim=-1, dtype=wide(query.dtype))
    out = torch.bmm(probs.to(values.dtype), values.flatten(0, 1))
    return out.reshape(batch, 1, heads, -1), probs.view(batch, stored, heads // stored, n)


def attend_blockwise(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    kind: Literal["sums", "last", "rows"],
    window: int = 1,
    valid: Tensor | None = None,
    new: Tensor | None = None,
    block: int = BLOCK,
) -> tuple[Tensor, Seen]:
    """Causal attention of the newest q entries over all n, together with what a policy wants to see of it.

    Column sums come out of the same pass that computes the output, ``block`` query rows at a time, so memory is
    O(n x block) and no product is computed twice. The last rows come from one further ``window x n`` block beside
    the fused kernel.

    Args:
        query: ``[batch, query heads, q, d]``; its rows belong to the last q of the n entries.
        keys: ``[batch, stored heads, n, d]``.
        values: ``[batch, stored heads, n, dv]``.
        scale: factor on the logits.
        kind: ``"sums"``: column sums; ``"last"``: the last ``window`` rows; ``"rows"``: all rows.
        window: number of last rows, at least 1.
        valid: bool ``[batch, stored heads, n]``, which entries are real; None if all are.
        new: bool ``[batch, q]``, which queries are real; None if all are.
        block: query rows at a time.

    Returns:
        the output ``[batch, q, query heads, dv]`` and the :class:`Seen` of that kind.
    """
    batch, heads, q, _ = query.shape
    stored, n = keys.shape[1], keys.shape[2]
    group = heads // stored
    if kind == "last":
        rows = min(window, q)
        tail = _probabilities(query[:, :, q - rows :], keys, scale, valid, None if new is None else new[:, q - rows :])
        return attend(query, keys, values, scale, valid, new), Seen(rows=tail)
    out = query.new_empty(batch, q, heads, values.shape[-1])
    sums = torch.zeros(batch, stored, n, dtype=wide(query.dtype), device=query.device)
    kept = []
    step = q if kind == "rows" else block
    for start in range(0, q, step):
        stop = min(start + step, q)
        seen_by_block = n - q + stop
        probs = _probabilities(
            query[:, :, start:stop],
            keys[:, :, :seen_by_block],
            scale,
            None if valid is None else valid[:, :, :seen_by_block],
            None if new is None else new[:, start:stop],
        )
        flat = probs.view(batch * stored, group * (stop - start), seen_by_block)
        part = torch.bmm(flat.to(values.dtype), values[:, :, :seen_by_block].flatten(0, 1))
        part = part.view(batch, stored, group, stop - start, -1).permute(0, 3, 1, 2, 4)
        out[:, start:stop] = part.reshape(batch, stop - start, heads, -1)
        if kind == "rows":
            kept.append(probs)
        else:
            ones = flat.new_ones(1, 1, flat.shape[1]).expand(batch * stored, 1, -1)
            sums[:, :, :seen_by_block] += torch.bmm(ones, flat).view(batch, stored, seen_by_block)
    return out, Seen(rows=kept[0]) if kind == "rows" else Seen(sums=sums)


def _probabilities(query: Tensor, keys: Tensor, scale: float, valid: Tensor | None, new: Tensor | None) -> Tensor:
    """``[batch, stored heads, group, r, n]`` for the r newest queries; zero in the rows of padding queries."""
    batch, heads, r, d = query.shape
    stored, n = keys.shape[1], keys.shape[2]
    packed = query.reshape(batch * stored, heads // stored * r, d) * scale
    logits = torch.bmm(packed, keys.flatten(0, 1).transpose(1, 2)).view(batch, stored, heads // stored, r, n)
    if r > 1:
        future = ~causal(r, r, query.device)
        logits[..., n - r :].masked_fill_(future, -torch.inf)
    if valid is not None:
        logits.masked_fill_(~valid[:, :, None, None, :], -torch.inf)
    if new is None:
        return torch.softmax(logits, dim=-1, dtype=wide(query.dtype))
    padding = ~new[:, None, None, :, None]
    probs = torch.softmax(logits.masked_fill(padding, 0.0), dim=-1, dtype=wide(query.dtype))
    return probs.masked_fill_(padding, 0.0)


def grouped(query: Tensor, stored: int, scale: float) -> Tensor:
    """Scaled queries by the head that they read: ``[batch, query heads, r, d]`` as ``[batch, stored, group, r, d]``."""
    batch, heads, r, d = query.shape
    return (query * scale).reshape(batch, stored, heads // stored, r, d)


def causal(q: int, n: int, device: torch.device) -> Tensor:
    """bool ``[q, n]``: True where the i-th of the q newest entries may see the j-th of all n."""
    return torch.ones(q, n, dtype=torch.bool, device=device).tril_(n - q)


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)
