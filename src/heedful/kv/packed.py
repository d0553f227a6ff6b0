"""Keys and values of heads that hold different numbers of entries, packed in small pages.

A row is one head of one batch item. Every row owns as many consecutive pages as its entries need, so that what is
stored is what is kept (and the rest of a page), and a decode step reads no more than that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heedful.kv.attention import wide


class Packed:
    """Entries of ``rows`` heads.

    Attributes:
        keys: ``[pages, page, d]``.
        values: ``[pages, page, dv]``.
        width: entries of the fullest row.
        start: int64 ``[rows]``: each row's first place, counting entries of pages.
    """

    def __init__(self, keys: Tensor, values: Tensor, source: Tensor, counts: Tensor) -> None:
        """Takes entries out of ``keys [N, d]`` and ``values [N, dv]``.

        Args:
            keys: where the keys are now.
            values: where the values are now.
            source: int64 ``[rows, width]``: row r's entries are at ``source[r, : counts[r]]``.
            counts: int64 ``[rows]``.
        """
        mean = int(counts.sum()) // max(1, len(counts))
        page = next((size for size in (64, 32) if mean >= 8 * size), 16)
        pages = counts // page + 1  # room for at least one more entry
        first = pages.cumsum(0) - pages
        column = torch.arange(source.shape[1], device=source.device)
        filled = column < counts[:, None]
        self.start = first * page
        taken, to = source[filled], (self.start[:, None] + column)[filled]
        total = int(pages.sum())
        # Zeros, not whatever memory holds: an empty place takes part in products, with no weight.
        self.keys = keys.new_zeros(total, page, keys.shape[-1])
        self.values = values.new_zeros(total, page, values.shape[-1])
        self.keys.flatten(0, 1)[to] = keys.index_select(0, taken)
        self.values.flatten(0, 1)[to] = values.index_select(0, taken)
        self.width = int(counts.max())
        self._tail = self.start + counts
        self._spare = int((pages * page - counts).min())
        self._row = torch.arange(len(counts), device=source.device).repeat_interleave(pages)
        self._number = torch.arange(total, device=source.device) - first.index_select(0, self._row)
        self._bias = keys.new_full((total, 1, page), -torch.inf)
        self._bias.view(-1)[to] = 0

    @property
    def rows(self) -> int:
        """Heads of all batch items."""
        return len(self.start)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages, and of what says whose they are."""
        own = (self.keys, self.values, self.start, self._tail, self._row, self._number, self._bias)
        return sum(x.nbytes for x in own)

    def copy(self) -> Packed:
        """The same entries, in memory of their own."""
        twin = object.__new__(Packed)
        for name, value in vars(self).items():
            setattr(twin, name, value.clone() if isinstance(value, Tensor) else value)
        return twin

    def append(self, keys: Tensor, values: Tensor) -> None:
        """One new entry per row, ``[rows, d]`` and ``[rows, dv]``, behind the others."""
        if self._spare == 0:
            column = torch.arange(self.width, device=self.start.device)
            flat_keys, flat_values = self.keys.flatten(0, 1), self.values.flatten(0, 1)
            source = (self.start[:, None] + column).clamp(max=len(flat_keys) - 1)
            vars(self).update(vars(Packed(flat_keys, flat_values, source, self._tail - self.start)))
        self.keys.flatten(0, 1).index_copy_(0, self._tail, keys)
        self.values.flatten(0, 1).index_copy_(0, self._tail, values)
        self._bias.view(-1).index_fill_(0, self._tail, 0)
        self._tail = self._tail + 1
        self._spare -= 1
        self.width += 1

    def put(self, column: Tensor, keys: Tensor, values: Tensor) -> None:
        """One entry per row in the place of the row's ``column``-th, ``[rows]``; shapes as for :meth:`append`."""
        self.keys.flatten(0, 1).index_copy_(0, self.start + column, keys)
        self.values.flatten(0, 1).index_copy_(0, self.start + column, values)

    def padded(self) -> tuple[Tensor, Tensor]:
        """Copies of keys ``[rows, width, d]`` and values ``[rows, width, dv]``; short rows end in zeros."""
        return self._spread(self.keys), self._spread(self.values)

    def _spread(self, x: Tensor) -> Tensor:
        """``[pages, page, ...]`` to ``[rows, width, ...]``, zero where a row holds nothing."""
        most = int(self._number.max()) + 1
        spread = x.new_zeros(self.rows, most, *x.shape[1:])
        spread[self._row, self._number] = x
        return spread.flatten(1, 2)[:, : self.width]

    def attend(self, query: Tensor, stored: int, scale: float, rows_wanted: bool) -> tuple[Tensor, Tensor | None]:
        """Attention of one new query per sequence over what each head holds.

        All pages at once, each against its own row's query; the pages' softmax parts are then put together per row.

        Args:
            query: ``[batch, query heads, 1, d]``.
            stored: stored heads per sequence.
            scale: factor on the logits.
            rows_wanted: whether the probabilities are needed.

        Returns:
            the output ``[batch, 1, query heads, dv]`` and, if wanted, the probabilities ``[batch, stored, group,
            width]``, zero where a head holds nothing.
        """
        batch, heads, _, d = query.shape
        group, row = heads // stored, self._row
        packed = (query * scale).reshape(self.rows, group, d)
        logits = torch.bmm(packed.index_select(0, row), self.keys.transpose(1, 2)).add_(self._bias)
        logits = logits.to(wide(query.dtype))
        peak = logits.new_full((self.rows, group), -torch.inf)
        peak.scatter_reduce_(0, row[:, None].expand(-1, group), logits.amax(dim=-1), "amax")
        weight = logits.sub_(peak.index_select(0, row)[..., None]).exp_()
        total = peak.new_zeros(self.rows, group).index_add_(0, row, weight.sum(dim=-1))
        part = torch.bmm(weight.to(self.values.dtype), self.values).to(weight.dtype)
        out = part.new_zeros(self.rows, group, part.shape[-1]).index_add_(0, row, part).div_(total[..., None])
        probs = None
        if rows_wanted:
            spread = self._spread(weight.transpose(1, 2))  # [rows, width, group]
            probs = (spread.transpose(1, 2) / total[..., None]).view(batch, stored, group, -1)
        return out.to(query.dtype).reshape(batch, 1, heads, -1), probs
