"""Yardstick for methods whose cache sizes were learned: as many tokens per layer and head, but random ones.

With the rates of every layer and head it tells whether *which* tokens are kept matters beside how many each head keeps;
with one rate for all, whether either does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heedful.kv.attention import Seen
from heedful.kv.base import Policy, check_count
from heedful.kv.baselines import lots
from heedful.kv.slots import Slots


@dataclass(frozen=True)
class RandomRates(Policy):
    """Keeps a given share of the prompt of every layer and head: the first tokens, the newest, and random others.

    What comes after the first call is kept. It has no name on the command line: its rates are another run's, from
    :func:`~heedful.kv.attention_gate.retention`.

    Args:
        rates: by managed layer, and KV head, the share of the prompt that is kept, in [0, 1].
        keep_first: first tokens that always stay; they count.
        keep_last: newest tokens that always stay; they count.
        seed: of the lots.

    Raises ValueError for a parameter out of its range, or if the rates are not those of this model's layers and heads.
    """

    rates: Sequence[Sequence[float]] = ()
    keep_first: int = 1
    keep_last: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("keep_first", "keep_last", "seed"):
            check_count(name, getattr(self, name), least=0)
        if any(not 0 <= rate <= 1 for layer in self.rates for rate in layer):
            raise ValueError(f"rates={self.rates}: each must be within [0, 1]")

    @property
    def headroom(self) -> int:
        return 16

    def begin(self, layers: int) -> dict[int, int]:
        if len(self.rates) != layers:
            raise ValueError(f"rates: given for {len(self.rates)} layers, but the model has {layers} to manage")
        return {}

    def prompted(self, slots: Slots, seen: Seen) -> None:
        if slots.fresh:
            slots.keep(self._kept(slots))

    def _kept(self, slots: Slots) -> Tensor:
        """bool ``[batch, heads, n]``: the same whenever it is asked for."""
        order: dict[int, int] = slots.state
        rates = torch.tensor(self.rates[order.setdefault(slots.layer, len(order))], dtype=torch.float64)
        if len(rates) != slots.heads:
            raise ValueError(f"rates: given for {len(rates)} heads, but layer {slots.layer} has {slots.heads}")
        position = slots.position
        always = (position >= 0) & ((position < self.keep_first) | slots.recent(self.keep_last))
        rank = lots(slots, self.seed).masked_fill(always, torch.inf).masked_fill(position < 0, -torch.inf)
        order_of = rank.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1, stable=True)
        count = (slots.counts * rates.to(position.device)).round()
        return always | ((order_of < count[..., None]) & (position >= 0))


@dataclass(frozen=True)
class HiddenRates(RandomRates):
    """The same, and tokens of the prompt do not see what is not kept, as with learned gates.

    Args:
        rates: as for :class:`RandomRates`.
        keep_first: first tokens that always stay, and are seen.
        keep_last: newest tokens that always stay; each token of the prompt sees as many before it, itself included.
        seed: of the lots.
    """

    def visible(self, slots: Slots) -> Tensor | None:
        if not slots.fresh or slots.seen == 1:
            return None
        kept = self._kept(slots)
        if self.keep_last < 2:
            return kept
        position = slots.position
        return kept[:, :, None] | (position[:, :, :, None] - position[:, :, None] < self.keep_last)
