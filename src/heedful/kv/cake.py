"""CAKE shares one cache out over the layers, and shrinks the first layers while the later ones still read the prompt.

Qin et al., "CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences", ICLR 2025, arXiv 2503.12491,
Section 4. With A a layer's attention rows of the last W queries, and X the part of them that falls on entries before
those W, a layer's preference is

    P = H^(1/tau1) V^(1/tau2),    H = - sum of X log X,    V = sum over entries of the variance of X over the W rows

and its budget is the share P_l / sum_j P_j of the pool (budget - W) x layers. Within a layer every KV head keeps the
W last entries and those with the largest indicator, averaged over the query heads of its group:

    I[n] = pool( mean over rows of A[:, n] + gamma x variance over rows of A[:, n] )

When layer m has read the prompt, the pool is shared out over layers 1..m and they shrink to that. No budget ever grows
as m does, so what is left at the end is what one decision at the end would have left.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from heedful.kv.attention import Seen
from heedful.kv.base import Reads, check_count
from heedful.kv.layer_budgets import reference_budgets, shares, whole
from heedful.kv.prefill import Prefill, check_kernel, pooled
from heedful.kv.slots import Slots


@dataclass
class Allocation:
    """What the layers of one generation have got so far.

    Attributes:
        layers: how many there are.
        preference: float64 ``[batch, layers that have read the prompt]``, P.
        budgets: int64, likewise: entries per KV head beyond the observation window; final once all layers are there.
        stores: the layers' entries, until the last layer has read the prompt.
        ranked: which of them lie in the order of their indicator.
    """

    layers: int
    preference: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    budgets: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    stores: list[Slots] = field(default_factory=list)
    ranked: list[bool] = field(default_factory=list)

    def add(self, slots: Slots, preference: Tensor, entries: Tensor) -> None:
        """A further layer: its P, float64 ``[batch]``, and how much it holds beyond the window, int64 ``[batch]``."""
        self.preference = torch.cat([self.preference, preference[:, None]], dim=1)
        self.budgets = torch.cat([self.budgets, entries[:, None]], dim=1)
        self.stores.append(slots)
        self.ranked.append(False)


@dataclass(frozen=True)
class CAKE(Prefill):
    """One pool for all layers, shared by how spread and how shifting their attention is.

    Args:
        budget: entries kept per layer and KV head of the prompt, on average over the layers, the observation window
            included.
        observation_window: last tokens of the prompt, whose attention is looked at, at least 2.
        gamma: weight of an entry's variance against its mean, at least 0. With 0 the indicator is SnapKV's.
        kernel: entries that are pooled, odd; 1 for no pooling.
        tau1: dampens the dispersion H, above 0; the larger, the less H counts.
        tau2: dampens the shift V, likewise.
        split: what the pool is shared by: ``"preference"`` H and V, ``"dispersion"`` H, ``"shift"`` V, ``"uniform"``
            nothing; ``"shuffled"`` gives the layers each other's budgets (a control; decides at the end).
        rounding: ``"remainder"``: water-filling, then whole numbers by largest remainder; ``"reference"``: as in the
            published code, where budgets may grow from layer to layer although what has left cannot come back.
        cascade: shrink layers while later ones read the prompt; if false, when all have, from the full cache.
        decode: ``"freeze"``: generated entries are added and nothing leaves; ``"capacity"``: each takes another's place
            and layers keep the sizes that the prompt left them (at most ``budget``, if the prompt was shorter).
        seed: of ``"shuffled"``.

    Raises ValueError if a parameter is out of its range, and for a Share that is no more than the observation window.
    Warns, and splits uniformly, if no layer's preference is above 0 and finite.
    """

    name: ClassVar[str] = "cake"
    fields: ClassVar[Mapping[str, torch.dtype]] = {"indicator": torch.float32}

    gamma: float = 200.0
    kernel: int = 5
    tau1: float = 1.0
    tau2: float = 1.0
    split: Literal["preference", "dispersion", "shift", "uniform", "shuffled"] = "preference"
    rounding: Literal["remainder", "reference"] = "remainder"
    cascade: bool = True
    decode: Literal["freeze", "capacity"] = "freeze"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel(self.kernel)
        check_count("seed", self.seed, least=0)
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise ValueError(f"gamma={self.gamma}: must be a number >= 0")
        for name in ("tau1", "tau2"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value}: must be a number above 0")
        for name, known in (
            ("split", ("preference", "dispersion", "shift", "uniform", "shuffled")),
            ("rounding", ("remainder", "reference")),
            ("decode", ("freeze", "capacity")),
            ("cascade", (False, True)),
        ):
            if getattr(self, name) not in known:
                choices = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
                raise ValueError(f"{name}={getattr(self, name)!r}: must be {choices}")

    @property
    def least_window(self) -> int:
        return 2

    @property
    def reads(self) -> Reads:
        return Reads(prompt="last", window=self.observation_window, step=self.decode == "capacity")

    @property
    def headroom(self) -> int:
        return 1 if self.decode == "capacity" else super().headroom

    def bound(self, slots: Slots) -> int | None:
        room, length = self.room(slots), slots.prompt_length
        if self.decode == "capacity" and isinstance(room, int) and isinstance(length, int) and length <= room:
            return room + self.headroom
        return None

    def begin(self, layers: int) -> Allocation:
        return Allocation(layers)

    def prompted(self, slots: Slots, seen: Seen) -> None:
        room = self.room(slots)
        if not slots.fresh or not slots.exceeds(room):
            return
        self.check_room(room)
        rows = self._rows(slots, seen)
        mean, variance = moments(rows)
        slots["indicator"] = self._indicator(mean, variance)
        state: Allocation = slots.state
        prompt = torch.as_tensor(slots.prompt_length).cpu().expand(slots.batch)
        cap = (prompt - self.observation_window).clamp(min=0)
        pool = (torch.as_tensor(room).cpu().expand(slots.batch) - self.observation_window) * state.layers
        state.add(slots, self.preference(rows, variance), cap)
        if len(state.stores) == state.layers:
            self._finish(state, pool, cap)
        elif self.cascade and self.split != "shuffled":
            self._shrink(state, pool, cap)

    def score(self, slots: Slots, seen: Seen) -> Tensor:
        return self._indicator(*moments(self._rows(slots, seen)))

    def _rows(self, slots: Slots, seen: Seen) -> Tensor:
        """X, with zeros in the place of the observation window."""
        assert seen.rows is not None
        return seen.rows.masked_fill(self.observed(slots)[:, :, None, None], 0.0)

    def _indicator(self, mean: Tensor, variance: Tensor) -> Tensor:
        return pooled(mean + self.gamma * variance, self.kernel, "avg").mean(dim=2)

    def preference(self, rows: Tensor, variance: Tensor) -> Tensor:
        """P of one layer, float64 ``[batch]``, on the CPU.

        Args:
            rows: ``[batch, heads, group, W, n]``, X: attention with zeros on the observation window and on padding.
            variance: ``[batch, heads, group, n]``, of X over the rows.
        """
        found = torch.ones(rows.shape[0], dtype=torch.float64)
        if self.split not in ("shift", "uniform"):
            found = found * dispersion(rows) ** (1 / self.tau1)
        if self.split not in ("dispersion", "uniform"):
            found = found * shift(variance) ** (1 / self.tau2)
        return found

    def _shrink(self, state: Allocation, pool: Tensor, cap: Tensor) -> None:
        """After layer m < layers: no layer needs more than its share among the first m."""
        if self.rounding == "reference":
            budgets = reference_budgets(state.preference, pool, cap)
        else:
            budgets = shares(state.preference, pool, cap).ceil().long()
        smaller = budgets < state.budgets
        state.budgets = torch.minimum(state.budgets, budgets)
        for layer, cut in enumerate(smaller.any(dim=0).tolist()):
            if not cut:
                continue
            slots, keep = state.stores[layer], state.budgets[:, layer] + self.observation_window
            if state.ranked[layer]:
                slots.truncate(keep)
            else:
                slots.keep_best(slots["indicator"], keep, self.observed(slots), "older", ranked=True)
                state.ranked[layer] = True

    def _finish(self, state: Allocation, pool: Tensor, cap: Tensor) -> None:
        """After the last layer: whole numbers that add up, and entries in the order of the sequence again."""
        unknown = ~(state.preference.isfinite() & (state.preference > 0)).any(dim=1) & (pool < cap * state.layers)
        if unknown.any() or not state.preference.isfinite().all():
            warnings.warn(
                "cake: the preference of some layers is not finite, or that of all layers is 0; the former count as "
                "0, the latter share the pool equally",
                stacklevel=2,
            )
        if self.rounding == "reference":
            budgets = reference_budgets(state.preference, pool, cap)
        else:
            budgets = whole(shares(state.preference, pool, cap), torch.minimum(pool, state.layers * cap))
        if self.split == "shuffled":
            generator = torch.Generator().manual_seed(self.seed)
            budgets = budgets[:, torch.randperm(state.layers, generator=generator)]
        state.budgets = torch.minimum(state.budgets, budgets)
        for layer, slots in enumerate(state.stores):
            keep = state.budgets[:, layer] + self.observation_window
            if state.ranked[layer]:
                column = torch.arange(slots.position.shape[2], device=slots.position.device)
                slots.keep((column < keep.to(column.device)[:, None, None]).expand(slots.position.shape))
            else:
                slots.keep_best(slots["indicator"], keep, self.observed(slots), "older")
        state.stores = []

    def decoded(self, slots: Slots, seen: Seen) -> None:
        if self.decode == "freeze":
            return
        keep = self._capacity(slots)
        if slots.exceeds(keep):
            assert seen.rows is not None
            observed = self.observed(slots)
            row = seen.rows[:, :, :, -1].mean(dim=2).masked_fill(observed, 0.0)
            slots.keep_best(_pooled_in_order(row, slots.position, self.kernel), keep, observed, "older")

    def _capacity(self, slots: Slots) -> int | Tensor:
        """What a layer may hold after a step: an int, or ``[batch, heads]``."""
        count, room, prompt = slots.count, self.room(slots), slots.prompt_length
        if isinstance(count, int) and isinstance(room, int) and isinstance(prompt, int):
            return count - 1 if prompt > room else room
        room, prompt = (torch.as_tensor(x, device=slots.position.device).reshape(-1, 1) for x in (room, prompt))
        return torch.where(prompt > room, slots.counts - 1, room)


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over the rows; of equal rows the variance is exactly 0.

    Args:
        rows: ``[..., W, n]``, float32 or float64, at least two rows.

    Returns:
        two tensors ``[..., n]``.

    Raises ValueError for fewer than two rows.
    """
    if rows.shape[-2] < 2:
        raise ValueError(f"rows: a variance needs at least 2, got {rows.shape[-2]}")
    centred = rows - rows[..., :1, :]
    centred -= centred.mean(dim=-2, keepdim=True)
    return rows.mean(dim=-2), centred.square_().sum(dim=-2).div_(rows.shape[-2] - 1)


def dispersion(rows: Tensor) -> Tensor:
    """H, float64 ``[batch]``, on the CPU: the entropy of X ``[batch, ...]``, in nats, summed over everything.

    Large where attention is spread over many entries. Section 4.1; X is not normalised again without the window.
    """
    entropy = -((rows + 1e-10).log_() * rows).flatten(1).sum(dim=1)
    return entropy.double().cpu().clamp(min=0)


def shift(variance: Tensor) -> Tensor:
    """V, float64 ``[batch]``, on the CPU: the variance ``[batch, ...]`` over the rows, summed over heads and entries.

    Large where the attended entries change from query to query. Section 4.1.
    """
    return variance.flatten(1).sum(dim=1).double().cpu()


def _pooled_in_order(row: Tensor, position: Tensor, kernel: int) -> Tensor:
    """Average pooling over neighbours in the sequence, wherever their columns are; all ``[batch, heads, n]``."""
    order = position.masked_fill(position < 0, torch.iinfo(position.dtype).max).argsort(dim=-1)
    found = pooled(row.gather(-1, order), kernel, "avg")
    return torch.empty_like(found).scatter_(-1, order, found)
