"""The entries that one layer stores: keys, values, positions and a policy's fields, aligned, each head on its own.

Entries live in preallocated columns ``[batch, heads, capacity, d]``. Their order does not matter, because keys carry
their original rotary phases; ``position`` says which token an entry belongs to, -1 marks an empty column. In steady
one-in-one-out eviction the next entry overwrites the evicted one's column and nothing is moved. Heads, layers and
batch items may hold different numbers of entries; where heads or items of a layer do, keys and values are packed
(:class:`~heedful.kv.packed.Packed`), so that memory is what is kept. Positions and fields stay in columns.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from torch import Tensor

from heedful.kv.base import Policy
from heedful.kv.packed import Packed

_FAR = torch.iinfo(torch.int32).max  # a position beyond every other


class Slots:
    """The entries of one layer.

    Attributes:
        layer: index of the layer in the model.
        policy: the policy that decides about them.
        module: the layer's attention module (``module.o_proj`` is its output projection); None in replay.
        state: the generation's shared state, from ``policy.begin``.
        hidden: the attention module's input ``[batch, q, width]`` of this call, if the policy reads it.
        fresh: True until the first call is over.
        steps: decode steps so far, the current one included.
        seen: tokens given to the model so far, padding included.
        length: real tokens so far: an int, or ``[batch]`` int64 if sequences differ; also the next position.
        prompt_length: real tokens that came several at a time, likewise.
        evicted: entries dropped so far, over the batch and all heads.
        entries: entries stored now, over the batch and all heads; ``peak_entries`` the most there ever were.
        aside: bytes that the policy keeps for this layer beside its entries.
        peak_nbytes: the most bytes that were ever allocated.
    """

    def __init__(self, layer: int, policy: Policy, state: Any = None, capacity: int | None = None) -> None:
        self.layer = layer
        self.policy = policy
        self.state = state
        self.module: Any = None
        self.hidden: Tensor | None = None
        self.fresh = True
        self.steps = 0
        self.seen = 0
        self.length: int | Tensor = 0
        self.prompt_length: int | Tensor = 0
        self.evicted = self.entries = self.peak_entries = self.aside = self.peak_nbytes = 0
        self._capacity = capacity
        self._used = 0  # columns in use, holes included
        self._count: int | Tensor = 0  # entries per head: an int while all heads agree, else [batch, heads]
        self._hole: Tensor | None = None  # [batch, heads, 1]: the column that every head frees for the next entry
        self._dense = True  # no empty column among those in use, the hole aside
        self._written: int | Tensor = 0  # where this call's entries are: from this column on, or in these columns
        self._keys = self._values = torch.empty(0)
        self._packed: Packed | None = None  # keys and values, when heads hold different numbers of entries
        self._position = torch.empty(0, dtype=torch.int32)
        self._fields: dict[str, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Slots:
        """Entries of their own; the policy and the model's module stay shared."""
        twin = copy.copy(self)
        memo[id(self)] = twin
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(twin, name, value.clone())
        twin._fields = {name: field.clone() for name, field in self._fields.items()}
        twin._packed = None if self._packed is None else self._packed.copy()
        twin.state = copy.deepcopy(self.state, memo)
        return twin

    # what is stored

    @property
    def keys(self) -> Tensor:
        """``[batch, heads, n, d]``, a view, or a copy if packed; empty columns hold anything finite."""
        if self._packed is not None:
            return self._packed.padded()[0].view(self.batch, self.heads, self._used, -1)
        return self._keys[:, :, : self._used]

    @property
    def values(self) -> Tensor:
        """``[batch, heads, n, dv]``, likewise."""
        if self._packed is not None:
            return self._packed.padded()[1].view(self.batch, self.heads, self._used, -1)
        return self._values[:, :, : self._used]

    @property
    def packed(self) -> Packed | None:
        """Keys and values, if heads or items hold different numbers of entries and no call is under way."""
        return self._packed

    @property
    def position(self) -> Tensor:
        """int32 ``[batch, heads, n]``, a view: 0-based position among the sequence's real tokens, -1 if empty."""
        return self._position[:, :, : self._used]

    def __getitem__(self, field: str) -> Tensor:
        """One of the policy's fields, ``[batch, heads, n]``, a view that may be written to."""
        return self._fields[field][:, :, : self._used]

    def __setitem__(self, field: str, value: Tensor) -> None:
        self._fields[field][:, :, : self._used] = value

    @property
    def batch(self) -> int:
        """Sequences in the batch."""
        return self._position.shape[0]

    @property
    def heads(self) -> int:
        """Stored heads: KV heads, or query heads if the policy stores per query head."""
        return self._position.shape[1]

    @property
    def counts(self) -> Tensor:
        """int64 ``[batch, heads]``: entries stored per head."""
        if isinstance(self._count, int):
            return torch.full((self.batch, self.heads), self._count, device=self._position.device)
        return self._count

    @property
    def count(self) -> int | Tensor:
        """The same as one int while all heads agree."""
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes allocated for keys, values, positions and fields, and for what the policy keeps beside them."""
        stored = self._keys.nbytes + self._values.nbytes if self._packed is None else self._packed.nbytes
        return stored + self.aside + sum(x.nbytes for x in (self._position, *self._fields.values()))

    def born(self, field: str, value: float) -> None:
        """Sets a field of the entries that this call has appended."""
        if isinstance(self._written, int):
            self._fields[field][:, :, self._written : self._used] = value
        else:
            self._fields[field].scatter_(2, self._written, value)

    def valid(self) -> Tensor | None:
        """bool ``[batch, heads, n]``: which columns hold an entry; None if all do."""
        return None if self._dense and self._hole is None else self.position >= 0

    def recent(self, count: int | Tensor) -> Tensor:
        """bool ``[batch, heads, n]``: the entries of the ``count`` newest real tokens (``[batch]`` if they differ)."""
        bound = self.length - count
        if isinstance(bound, Tensor):
            bound = bound[:, None, None]
        return self.position >= bound

    def exceeds(self, keep: int | Tensor) -> bool:
        """Whether any head holds more than ``keep`` entries (an int, or ``[batch]``)."""
        if isinstance(self._count, int) and isinstance(keep, int):
            return self._count > keep
        return bool((self.counts > _per_head(keep)).any())

    # what changes it

    def append(self, keys: Tensor, values: Tensor, real: Tensor | None = None) -> None:
        """Stores new entries.

        Args:
            keys: ``[batch, heads, q, d]``.
            values: ``[batch, heads, q, dv]``.
            real: bool ``[batch, q]``, False for padding; None if all tokens are real.
        """
        q = keys.shape[2]
        if self._position.ndim != 3:
            self._allocate(keys, values)
        if self._packed is not None and not (q == 1 and real is None):
            self._unpack()
        position = self._positions(q, real, keys.device)
        self.seen += q
        if self._hole is not None and q == 1 and real is None:
            self._fill(keys, values, position)
        elif self._packed is not None:
            self._append_packed(keys, values, position)
        else:
            if self._hole is not None:
                self._dense, self._hole = False, None
            self._reserve(q)
            start = self._written = self._used
            self._used += q
            self._keys[:, :, start : self._used] = keys
            self._values[:, :, start : self._used] = values
            self._position[:, :, start : self._used] = position
            for field in self._fields.values():
                field[:, :, start : self._used] = 0
        if real is None:
            self.entries += q * self.batch * self.heads
            self._count = self._count + q
        else:
            added = real.sum(dim=1)
            self.entries += int(added.sum()) * self.heads
            self._count = self.counts + added[:, None]
            self._dense = False
        self.peak_entries = max(self.peak_entries, self.entries)

    def keep_best(
        self,
        score: Tensor,
        keep: int | Tensor,
        protected: Tensor | None = None,
        ties: Literal["older", "newer"] = "newer",
        ranked: bool = False,
    ) -> None:
        """Keeps the best ``keep`` entries of each head, protected ones first.

        Args:
            score: ``[batch, heads, n]``; the largest stay. What it says about empty columns is ignored.
            keep: how many, counting the protected ones: an int, ``[batch]`` or ``[batch, heads]``.
            protected: bool ``[batch, heads, n]``, or None.
            ties: which of two equally good entries stays.
            ranked: if entries leave, those that stay lie in columns from the best to the worst, for
                :meth:`truncate`; nothing is packed.

        Raises ValueError if a score is not a number.
        """
        if isinstance(self._count, int) and isinstance(keep, int) and self._count <= keep:
            return
        if self._hole is None and not ranked and self._exceeds_by_one(keep):
            self._drop_one(score, protected, ties)
            return
        self._check(score)
        n = self._used
        empty = self.position < 0
        rank = score.to(torch.promote_types(score.dtype, torch.float32))
        rank = rank.clamp(torch.finfo(rank.dtype).min, torch.finfo(rank.dtype).max)
        rank = rank.masked_fill(empty, -torch.inf)
        if protected is not None:
            rank = rank.masked_fill(protected & ~empty, torch.inf)
        by_age = self.position.argsort(dim=-1, descending=ties == "newer", stable=True)
        order = by_age.gather(-1, rank.gather(-1, by_age).argsort(dim=-1, descending=True, stable=True))
        counts = torch.minimum(self.counts, _per_head(keep).to(score.device))
        if ranked:
            self._take(order[..., : int(counts.max())], counts, pack=False)
            return
        chosen = torch.zeros(self.batch, self.heads, n, dtype=torch.bool, device=score.device)
        chosen.scatter_(-1, order, torch.arange(n, device=score.device) < counts[..., None])
        self.keep(chosen)

    def truncate(self, keep: int | Tensor) -> None:
        """Keeps the first ``keep`` columns of each head and moves nothing, unless a quarter of the memory can be freed.

        Only where :meth:`keep_best` has ranked the entries, and before anything is appended: what stays is then what
        :meth:`keep_best` would keep, at a fraction of its cost.

        Args:
            keep: an int, ``[batch]`` or ``[batch, heads]``.
        """
        assert self._packed is None and self._hole is None
        counts = torch.minimum(self.counts, _per_head(keep).to(self._position.device))
        width = self._settle(counts)
        room = width + self.policy.headroom
        self._keys, self._values, self._position = (
            _fitted(x, width, room) for x in (self._keys, self._values, self._position)
        )
        self._fields = {name: _fitted(field, width, room) for name, field in self._fields.items()}
        self._blank(counts)

    def keep(self, chosen: Tensor) -> None:
        """Keeps a subset of the entries and closes the gaps; frees the memory that is no longer needed.

        Args:
            chosen: bool ``[batch, heads, n]``; empty columns are never kept.
        """
        self._arrange(chosen, pack=self.policy.evicts)

    def pack(self) -> None:
        """Packs keys and values if heads or items hold different numbers of entries; called after each prompt."""
        if self.policy.evicts and self._packed is None and not self._dense:
            self._arrange(self.position >= 0, pack=True)

    def _arrange(self, chosen: Tensor, pack: bool) -> None:
        chosen = chosen & (self.position >= 0)
        counts = chosen.sum(dim=-1)
        width = int(counts.max()) if counts.numel() else 0
        key = self.position.masked_fill(~chosen, _FAR)
        self._take(key.argsort(dim=-1, stable=True)[..., :width], counts, pack)

    def _take(self, index: Tensor, counts: Tensor, pack: bool) -> None:
        """Keeps the columns ``index[..., :counts]`` of each head, in that order."""
        width = self._settle(counts)
        room = width + self.policy.headroom
        if self._packed is None and (self._dense or not pack):
            self._keys = _compact(self._keys, index, room)
            self._values = _compact(self._values, index, room)
        else:
            self._move(index, counts, room, self._dense or not pack)
        self._position = _compact(self._position, index, room)
        self._fields = {name: _compact(field, index, room) for name, field in self._fields.items()}
        self._blank(counts)

    def _settle(self, counts: Tensor) -> int:
        """Notes that the first columns hold so many entries per head, and no others; returns how many columns."""
        width = int(counts.max()) if counts.numel() else 0
        stored = int(counts.sum())
        self.evicted += self.entries - stored
        self.entries = stored
        self._dense = bool((counts == width).all())
        self._used, self._hole = width, None
        self._count = width if self._dense else counts
        return width

    def _blank(self, counts: Tensor) -> None:
        """Marks the columns beyond a head's entries as empty."""
        if not self._dense:
            beyond = torch.arange(self._used, device=counts.device) >= counts[..., None]
            self._position[:, :, : self._used].masked_fill_(beyond, -1)

    def _move(self, index: Tensor, counts: Tensor, room: int, dense: bool) -> None:
        """Keys and values to where they are packed, or out of there into columns."""
        rows = index.flatten(0, 1)
        if self._packed is None:
            keys, values = self._keys.flatten(0, 2), self._values.flatten(0, 2)
            source = rows + self._keys.shape[2] * torch.arange(len(rows), device=index.device)[:, None]
        else:
            keys, values = self._packed.keys.flatten(0, 1), self._packed.values.flatten(0, 1)
            source = self._packed.places(rows)
        if dense:
            self._keys, self._values = (
                _resized(x.index_select(0, source.flatten()).view(*index.shape, x.shape[-1]), index.shape[2], room)
                for x in (keys, values)
            )
            self._packed = None
        else:
            self._packed = Packed(keys, values, source, counts.flatten())
            self._keys, self._values = self._keys[:, :, :0].clone(), self._values[:, :, :0].clone()

    def _unpack(self) -> None:
        """Back into columns, while several tokens attend at once."""
        assert self._packed is not None
        keys, values = self.keys, self.values
        self._packed = None
        room = self._position.shape[2]
        self._keys, self._values = (_resized(x, self._used, room) for x in (keys, values))

    def _append_packed(self, keys: Tensor, values: Tensor, position: int | Tensor) -> None:
        """One new entry per head, behind the head's others."""
        assert self._packed is not None
        before = self._packed.keys
        self._packed.append(keys.flatten(0, 2), values.flatten(0, 2))
        column = self.counts[..., None]
        if self._used == self._position.shape[2]:
            room = self._used + max(16, self._used // 8)
            self._position = _resized(self._position, self._used, room)
            self._fields = {name: _resized(field, self._used, room) for name, field in self._fields.items()}
        self._position[:, :, self._used] = -1
        for field in self._fields.values():
            field[:, :, self._used] = 0
            field.scatter_(2, column, 0)
        self._used += 1
        self._position.scatter_(2, column, position if isinstance(position, int) else position.expand_as(column))
        self._written = column
        if self._packed.keys is not before:
            self.peak_nbytes = max(self.peak_nbytes, self.nbytes)

    def drop_newest(self, tokens: int) -> None:
        """Forgets the last ``tokens`` tokens, as if they had never been given; only before any eviction."""
        bound = self.length - tokens
        evicted = self.evicted
        self.keep(self.position < (bound if isinstance(bound, int) else bound[:, None, None]))
        self.evicted = evicted
        self.seen -= tokens
        self.length = self.length - tokens

    def select_batch(self, index: Tensor) -> None:
        """Makes batch item i the former item ``index[i]`` (beam search, contrastive search)."""
        scale = index.shape[0] / self.batch
        if self._packed is not None:
            self._unpack()
        self._keys, self._values, self._position = (
            x.index_select(0, index) for x in (self._keys, self._values, self._position)
        )
        self._fields = {name: field.index_select(0, index) for name, field in self._fields.items()}
        if self._hole is not None:
            self._hole = self._hole.index_select(0, index)
        for name in ("_count", "length", "prompt_length"):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                setattr(self, name, value.index_select(0, index))
        self.entries = round(self.entries * scale) if isinstance(self._count, int) else int(self.counts.sum())
        self.pack()
        self.policy.reordered(self, index)
        self.peak_nbytes = max(self.peak_nbytes, self.nbytes)

    def heir(self, policy: Policy, state: Any, chosen: Tensor | None = None) -> Slots:
        """A store for another policy that begins with copies of these entries, or of some of them.

        Args:
            policy: what decides about the copy; its fields begin as zero.
            state: the copy's generation's shared state.
            chosen: bool ``[batch, heads, n]``; None for all.
        """
        twin = Slots(self.layer, policy, state)
        for name in ("module", "fresh", "steps", "seen", "length", "prompt_length", "entries", "_count", "_dense"):
            value = getattr(self, name)
            setattr(twin, name, value.clone() if isinstance(value, Tensor) else value)
        keys, values = self.keys, self.values
        twin._allocate(keys, values)
        twin._keys, twin._values = (x.clone() if self._packed is None else x for x in (keys, values))
        twin._position, twin._used = self.position.clone(), self._used
        if self._hole is not None:
            twin._dense = False
        twin.peak_entries = twin.entries
        if chosen is not None:
            twin.keep(chosen)
            twin.evicted, twin.peak_entries = 0, twin.entries
        return twin

    # inside

    def _exceeds_by_one(self, keep: int | Tensor) -> bool:
        """Whether every head holds one entry more than ``keep``, in its first columns."""
        if isinstance(self._count, int) and isinstance(keep, int):
            return self._count == keep + 1 and self._dense
        return (self._dense or self._packed is not None) and bool((self.counts - _per_head(keep) == 1).all())

    def _drop_one(self, score: Tensor, protected: Tensor | None, ties: Literal["older", "newer"]) -> None:
        """The steady state: every head gives up one column, which the next entry overwrites."""
        if protected is not None:
            score = torch.where(protected, torch.inf, score)
        if not self._dense:
            score = torch.where(self.position < 0, torch.inf, score)
        worst = score.amin(dim=-1, keepdim=True)
        self._check(worst)
        among = score == worst
        if ties == "newer":
            hole = torch.where(among & (self.position >= 0), self.position, _FAR).argmin(dim=-1, keepdim=True)
        else:
            hole = torch.where(among, self.position, -1).argmax(dim=-1, keepdim=True)
        self._position.scatter_(-1, hole, -1)
        self._hole = hole
        self._count = self._count - 1
        dropped = self.batch * self.heads
        self.entries -= dropped
        self.evicted += dropped

    def _fill(self, keys: Tensor, values: Tensor, position: int | Tensor) -> None:
        """Writes one new entry per head into the hole."""
        assert self._hole is not None
        hole = self._hole
        if self._packed is None:
            self._keys.scatter_(2, hole[..., None].expand_as(keys), keys)
            self._values.scatter_(2, hole[..., None].expand_as(values), values)
        else:
            self._packed.put(hole.flatten(), keys.flatten(0, 2), values.flatten(0, 2))
        self._position.scatter_(2, hole, position if isinstance(position, int) else position.expand_as(hole))
        for field in self._fields.values():
            field.scatter_(2, hole, 0)
        self._written, self._hole = hole, None

    def _positions(self, q: int, real: Tensor | None, device: torch.device) -> int | Tensor:
        """int32 ``[batch or 1, 1, q]``, or one for all: positions of the next q tokens; advances the counters."""
        if real is None:
            start = self.length
            self.length = self.length + q
            if q > 1 or self.fresh:
                self.prompt_length = self.prompt_length + q
            if q == 1 and isinstance(start, int):
                return start
            offset = torch.arange(q, dtype=torch.int32, device=device)
            if isinstance(start, int):
                return (offset + start)[None, None]
            return (offset[None] + start[:, None]).int()[:, None]
        start = self.length
        if isinstance(start, int):
            start = torch.full((real.shape[0],), start, device=device)
        position = (start[:, None] + real.cumsum(dim=1) - 1).masked_fill(~real, -1)
        self.length = start + real.sum(dim=1)
        self.prompt_length = self.prompt_length + real.sum(dim=1)
        return position.int()[:, None]

    def _allocate(self, keys: Tensor, values: Tensor) -> None:
        batch, heads, q, _ = keys.shape
        room = max(q, self._capacity or 0)
        self._keys = keys.new_empty(batch, heads, room, keys.shape[-1])
        self._values = values.new_empty(batch, heads, room, values.shape[-1])
        self._position = torch.full((batch, heads, room), -1, dtype=torch.int32, device=keys.device)
        self._fields = {
            name: torch.zeros(batch, heads, room, dtype=_field_type(dtype, keys.dtype), device=keys.device)
            for name, dtype in self.policy.fields.items()
        }
        self.peak_nbytes = self.nbytes

    def _reserve(self, q: int) -> None:
        """Makes room for q more columns: closes gaps if many columns are empty, else grows by half."""
        widest = self._count if isinstance(self._count, int) else int(self._count.max())
        if not self._dense and self._used > widest + 64:
            self._arrange(self.position >= 0, pack=False)
        if self._used + q <= min(self._keys.shape[2], self._position.shape[2]):
            return
        room = self._used + q + max(16, self._used // 2)
        bound = self.policy.bound(self)
        if bound is not None and bound >= self._used + q:
            room = min(room, bound)
        self._keys = _resized(self._keys, self._used, room)
        self._values = _resized(self._values, self._used, room)
        self._position = _resized(self._position, self._used, room)
        self._fields = {name: _resized(field, self._used, room) for name, field in self._fields.items()}
        self.peak_nbytes = max(self.peak_nbytes, self.nbytes)

    def _check(self, score: Tensor) -> None:
        if score.numel() and math.isnan(score.amin()):
            raise ValueError(f"scores of layer {self.layer} contain NaN: the model's attention is not finite")


def _field_type(field: torch.dtype, model: torch.dtype) -> torch.dtype:
    """A policy's floats are as wide as the model's attention rows; its integers are what it asked for."""
    return torch.promote_types(field, torch.promote_types(model, torch.float32)) if field.is_floating_point else field


def _per_head(keep: int | Tensor) -> Tensor:
    """``keep`` broadcastable against ``[batch, heads]``."""
    if isinstance(keep, int):
        return torch.tensor(keep)
    return keep[:, None] if keep.ndim == 1 else keep


def _compact(x: Tensor, index: Tensor, room: int) -> Tensor:
    """The columns ``index`` of x, in front, in a buffer of ``room`` columns; x's own memory if it is no larger."""
    batch, heads, width = index.shape
    if x.ndim == 3:
        taken = x.gather(2, index)
    else:  # whole rows at a time: gather would go element by element, ten times as slowly
        row = index + x.shape[2] * torch.arange(batch * heads, device=index.device).view(batch, heads, 1)
        taken = x.flatten(0, 2).index_select(0, row.flatten()).view(*index.shape, x.shape[-1])
    if x.shape[2] > room + room // 4 or x.shape[2] < width:
        x = _resized(taken, width, room)
    else:
        x[:, :, :width] = taken
    return x


def _fitted(x: Tensor, used: int, room: int) -> Tensor:
    """x, or its first ``used`` columns in a buffer of ``room`` columns if that is smaller by more than a fifth."""
    return _resized(x, used, room) if x.shape[2] > room + room // 4 else x


def _resized(x: Tensor, used: int, room: int) -> Tensor:
    new = x.new_empty(*x.shape[:2], room, *x.shape[3:])
    new[:, :, :used] = x[:, :, :used]
    return new
