"""Keys and values of heads that hold different numbers of entries, packed in small pages.

A row is one head of one batch item. Every row owns as many pages as its entries need, so that what is stored is what
is kept (and the rest of a page), and a decode step reads no more than that. A row whose last page is full gets another
one behind all pages; nothing is moved.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heedful.kv.attention import wide


class Packed:
    """Entries of ``rows`` heads.

    Attributes:
        keys: ``[pages, page, d]``; the last pages may be unused.
        values: ``[pages, page, dv]``, likewise.
        width: entries of the fullest row.
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
        taken, to = source[filled], (page * first[:, None] + column)[filled]
        total = int(pages.sum())
        # Zeros, not whatever memory holds: an empty place takes part in products, with no weight.
        self.keys = keys.new_zeros(total, page, keys.shape[-1])
        self.values = values.new_zeros(total, page, values.shape[-1])
        self.keys.flatten(0, 1)[to] = keys.index_select(0, taken)
        self.values.flatten(0, 1)[to] = values.index_select(0, taken)
        self.width = int(counts.max())
        self._bias = keys.new_full((total, 1, page), -torch.inf)
        self._bias.view(-1)[to] = 0
        self._tail = page * first + counts  # [rows]: the place of a row's next entry, counting entries of pages
        self._spare = int((pages * page - counts).min())
        self._row = torch.arange(len(counts), device=source.device).repeat_interleave(pages)  # whose each page is
        self._number = torch.arange(total, device=source.device) - first.index_select(0, self._row)  # which of its own
        self._lay_out()

    def _lay_out(self) -> None:
        """Notes ``[rows, most pages]``: each row's pages; what is derived from them is worked out when asked for."""
        self._pages = self._row.new_zeros(self.rows, int(self._number.max()) + 1)
        self._pages[self._row, self._number] = torch.arange(len(self._row), device=self._row.device)
        self._lines: tuple[int, Tensor] = (0, self._row[:0])

    @property
    def rows(self) -> int:
        """Heads of all batch items."""
        return len(self._tail)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages, and of what says whose they are."""
        own = (self.keys, self.values, self._bias, self._tail, self._row, self._number, self._pages, self._lines[1])
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
            self._extend()
        self.keys.flatten(0, 1).index_copy_(0, self._tail, keys)
        self.values.flatten(0, 1).index_copy_(0, self._tail, values)
        self._bias.view(-1).index_fill_(0, self._tail, 0)
        self._tail = self._tail + 1
        self._spare -= 1
        self.width += 1

    def _extend(self) -> None:
        """Gives another page to every row that has filled its last one."""
        page, used = self.keys.shape[1], len(self._row)
        full = (self._tail % page == 0).nonzero()[:, 0]
        new = torch.arange(used, used + len(full), device=full.device)
        if used + len(full) > len(self.keys):
            room = used + max(self.rows, used // 8)
            self.keys, self.values = (_longer(x, room, 0.0) for x in (self.keys, self.values))
            self._bias = _longer(self._bias, room, -torch.inf)
        number = torch.bincount(self._row, minlength=self.rows).index_select(0, full)
        self._row, self._number = torch.cat([self._row, full]), torch.cat([self._number, number])
        self._tail = self._tail.index_copy(0, full, new * page)
        self._spare = page - int((self._tail % page).max())
        self._lay_out()

    def places(self, column: Tensor) -> Tensor:
        """Where entries are, counting entries of pages: of row r the ``column[r]``-th, int64 ``[rows, n]``."""
        page = self.keys.shape[1]
        return self._pages.gather(1, column // page) * page + column % page

    def put(self, column: Tensor, keys: Tensor, values: Tensor) -> None:
        """One entry per row in the place of the row's ``column``-th, ``[rows]``; shapes as for :meth:`append`."""
        place = self.places(column[:, None])[:, 0]
        self.keys.flatten(0, 1).index_copy_(0, place, keys)
        self.values.flatten(0, 1).index_copy_(0, place, values)

    def padded(self) -> tuple[Tensor, Tensor]:
        """Copies of keys ``[rows, width, d]`` and values ``[rows, width, dv]``; short rows end in zeros."""
        return self._padded(self.keys), self._padded(self.values)

    def _padded(self, x: Tensor) -> Tensor:
        padded = x.new_zeros(*self._pages.shape, *x.shape[1:])
        padded[self._row, self._number] = x[: len(self._row)]
        return padded.flatten(1, 2)[:, : self.width]

    def attend(self, query: Tensor, stored: int, scale: float, rows_wanted: bool) -> tuple[Tensor, Tensor | None]:
        """Attention of one new query per sequence over what each head holds.

        All pages at once, each against its own row's query. Only the logits, which are few beside keys and values,
        are laid out row by row, for the softmax.

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
        group, row, page = heads // stored, self._row, self.keys.shape[1]
        keys, values, bias = (x[: len(row)] for x in (self.keys, self.values, self._bias))
        queries = query.reshape(self.rows, group, d).index_select(0, row)
        logits = torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=scale)
        line = self._lines_of(group)
        spread = logits.new_full((group * self._pages.numel(), page), -torch.inf)
        spread.index_copy_(0, line, logits.view(-1, page))
        probs = torch.softmax(spread.view(self.rows * group, -1), dim=-1, dtype=wide(query.dtype))
        weight = probs.view(-1, page).index_select(0, line).view(-1, group, page)
        part = torch.bmm(weight.to(values.dtype), values).to(weight.dtype)
        out = part.new_zeros(self.rows, group, part.shape[-1]).index_add_(0, row, part)
        return (
            out.to(query.dtype).reshape(batch, 1, heads, -1),
            probs.view(batch, stored, group, -1)[..., : self.width] if rows_wanted else None,
        )

    def _lines_of(self, group: int) -> Tensor:
        """int64 ``[pages x group]``: of each page and query head, its line in ``[rows, group, most pages]``."""
        if self._lines[0] != group:
            head = torch.arange(group, device=self._row.device)
            line = (self._row[:, None] * group + head) * self._pages.shape[1] + self._number[:, None]
            self._lines = (group, line.flatten())
        return self._lines[1]


def _longer(x: Tensor, length: int, fill: float) -> Tensor:
    new = x.new_full((length, *x.shape[1:]), fill)
    new[: len(x)] = x
    return new
