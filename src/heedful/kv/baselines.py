"""Yardsticks that nobody published: everything, the newest, a random subset, and what the task's generator knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from heedful.kv.attention import Seen
from heedful.kv.base import Budgeted, Policy, check_count
from heedful.kv.slots import Slots


@dataclass(frozen=True)
class Full(Policy):
    """Keeps everything, in a preallocated cache: what every other policy is compared with."""

    name: ClassVar[str] = "full"
    evicts: ClassVar[bool] = False


@dataclass(frozen=True)
class Local(Budgeted):
    """Keeps the newest ``budget`` entries."""

    name: ClassVar[str] = "local"

    def score(self, slots: Slots, seen: Seen) -> Tensor:
        return slots.position.float()


@dataclass(frozen=True)
class Random(Budgeted):
    """Keeps the newest entry and a uniformly random subset of the others, drawn per layer and head.

    Every entry draws a fixed lot, so that the subset does not depend on the batch or on when decisions are made.

    Args:
        budget: entries kept per layer and KV head.
        window: steps between two decisions.
        seed: of the lots.
    """

    name: ClassVar[str] = "random"

    seed: int = 0

    def __post_init__(self) -> None:
        check_count("seed", self.seed, least=0)
        super().__post_init__()

    def protected(self, slots: Slots) -> Tensor | None:
        return slots.recent(1)

    def score(self, slots: Slots, seen: Seen) -> Tensor:
        return lots(slots, self.seed)


def lots(slots: Slots, seed: int) -> Tensor:
    """``[batch, heads, n]``, float: a lot per entry that follows from its position, head and layer, and the seed."""
    head = torch.arange(slots.heads, device=slots.position.device)[None, :, None]
    lot = slots.position.long() + 1_000_003 * (head + 1_009 * (slots.layer + 10_007 * seed))
    for shift, factor in ((31, -7046029254386353131), (29, -4417276706812531889), (32, 1)):
        lot = (lot ^ (lot >> shift)) * factor
    return (lot & 0xFFFFFF).float()


@dataclass(frozen=True)
class Clairvoyant(Budgeted):
    """Keeps what the task's generator says will be needed soonest. A reference, not a bound.

    The model may read elsewhere than the generator thinks, so the neighbours of a needed position count as needed
    too, and the first and the newest entries stay. It exists only where needs are known.

    Args:
        budget: entries kept per layer and KV head.
        window: steps between two decisions.
        needs: per batch item, position -> the positions of the tokens whose prediction needs it, sorted.
        recent: newest entries that always stay.

    Raises ValueError if there are no needs for some batch item, or the budget is below ``recent + 1``.
    """

    name: ClassVar[str] = "clairvoyant"

    needs: Sequence[Mapping[int, Sequence[int]]] = ()
    recent: int = 4

    def __post_init__(self) -> None:
        check_count("recent", self.recent, least=0)
        super().__post_init__()

    @property
    def least(self) -> int:
        return self.recent + 1

    @cached_property
    def _uses(self) -> Tensor:
        """int32 ``[batch, positions, uses]``: when each position is needed, padded with a far future."""
        never = torch.iinfo(torch.int32).max
        widened = []
        for needs in self.needs:
            times: dict[int, set[int]] = {}
            for position, uses in needs.items():
                for neighbour in (position - 1, position, position + 1):
                    times.setdefault(neighbour, set()).update(uses)
            widened.append(times)
        positions = 2 + max((p for times in widened for p in times), default=0)
        depth = 1 + max((len(uses) for times in widened for uses in times.values()), default=0)
        table = torch.full((len(widened), positions, depth), never, dtype=torch.int32)
        for item, times in enumerate(widened):
            for position, when in times.items():
                if position >= 0:
                    table[item, position, : len(when)] = torch.tensor(sorted(when), dtype=torch.int32)
        return table

    def protected(self, slots: Slots) -> Tensor | None:
        return slots.recent(self.recent) | (slots.position == 0)

    def score(self, slots: Slots, seen: Seen) -> Tensor:
        if len(self.needs) != slots.batch:
            raise ValueError(f"needs: given for {len(self.needs)} sequences, but the batch has {slots.batch}")
        uses = self._uses.to(slots.position.device)
        position = slots.position.long()
        item = torch.arange(slots.batch, device=position.device)[:, None, None]
        when = uses[item, position.clamp(0, uses.shape[1] - 1)]
        now = slots.length if isinstance(slots.length, int) else slots.length[:, None, None, None]
        soonest = when.masked_fill(when <= now, torch.iinfo(torch.int32).max).amin(dim=-1)
        known = (position < uses.shape[1]) & (soonest < torch.iinfo(torch.int32).max)
        return torch.where(known, -soonest.double(), -1e9 + position.double())
