"""LazyEviction waits: an entry leaves only when it has been silent for longer than it usually is.

Zhang et al., "LazyEviction: Lagged KV Eviction with Attention Pattern Observation for Efficient Long Reasoning",
2025, arXiv 2506.15969, Section 4. Every entry carries the step TS of its last activation (attention >= alpha) and the
longest interval MRI between two activations. Every W decode steps, with D = t - TS and sigma the logistic function,

    I = 2 sigma(-D / MRI) + 2 sigma(1 - MRI)        (0 for an entry that was never active again)

decides: the W newest entries and the B - W with the largest I stay.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from heedful.kv.attention import Seen
from heedful.kv.base import Budgeted, Reads, check_count
from heedful.kv.raas import check_alpha
from heedful.kv.slots import Slots


@dataclass(frozen=True)
class LazyEviction(Budgeted):
    """Recurrence intervals; decides in decoding only, every ``window`` steps.

    Args:
        budget: entries kept per layer and KV head after a decision, the ``window`` newest included.
        window: W, steps between two decisions and newest entries that always stay; below the budget.
        alpha: attention weight, >= 0, from which an entry counts as active; above 1 nothing ever is.
        variant: the score. ``"paper"``: as printed; ``"reference"``: the published code's, with 1 added inside the
            first term; ``"h1"``, ``"h2"``: one term of the paper's alone; ``"lag"``: most recently active first.
        birth: ``"ignore"``: activations within ``grace`` steps of an entry's creation do not count as an interval;
            ``"reference"``: they do, so that nearly every entry is born with an interval of 1.
        grace: those first steps.
        group: an entry is active if any query head of its group activates it (``"max"``), if their average does
            (``"mean"``), or separately per query head, at group times the memory (``"query-head"``).

    Raises ValueError if the budget does not exceed ``window`` or a parameter is out of its range. A prompt longer than
    the budget is allowed: the first decision shrinks it, with a warning.
    """

    name: ClassVar[str] = "lazy-eviction"
    fields: ClassVar[Mapping[str, torch.dtype]] = {"last": torch.int32, "recurrence": torch.int32}
    ties: ClassVar[Literal["older", "newer"]] = "older"
    evicts_prompt: ClassVar[bool] = False

    window: int = 16
    alpha: float = 1e-3
    variant: Literal["paper", "reference", "h1", "h2", "lag"] = "paper"
    birth: Literal["ignore", "reference"] = "ignore"
    grace: int = 4
    group: Literal["max", "mean", "query-head"] = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_alpha(self.alpha)
        for field, allowed in (
            ("variant", ("paper", "reference", "h1", "h2", "lag")),
            ("birth", ("ignore", "reference")),
            ("group", ("max", "mean", "query-head")),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}={getattr(self, field)!r}: must be one of {', '.join(allowed)}")
        check_count("grace", self.grace, least=0)

    @property
    def reads(self) -> Reads:
        return Reads(step=True)

    @property
    def per_query_head(self) -> bool:
        return self.group == "query-head"

    @property
    def least(self) -> int:
        return self.window + 1

    def due(self, slots: Slots) -> bool:
        return slots.steps % self.window == 0

    def prompted(self, slots: Slots, seen: Seen) -> None:
        super().prompted(slots, seen)
        if slots.fresh and isinstance(self.budget, int) and slots.exceeds(self.budget):
            warnings.warn(
                f"budget={self.budget}: the prompt alone is longer; {self.name} cuts it after {self.window} steps",
                stacklevel=2,
            )

    def observe(self, slots: Slots, seen: Seen) -> None:
        t = slots.steps
        if seen.rows is None:
            slots.born("last", t)
            return
        slots.born("last", t - 1)
        over = (2, 3)  # the group's query heads, and the one query
        active = (seen.rows.mean(dim=over) if self.group == "mean" else seen.rows.amax(dim=over)) >= self.alpha
        last, recurrence = slots["last"], slots["recurrence"]
        counts = active > slots.recent(self.grace) if self.birth == "ignore" and self.grace else active
        torch.maximum(recurrence, (t - last) * counts, out=recurrence)
        last.masked_fill_(active, t)

    def protected(self, slots: Slots) -> Tensor | None:
        return slots.recent(self.window)

    def score(self, slots: Slots, seen: Seen) -> Tensor:
        if seen.rows is not None and math.isnan(seen.rows.amin()):
            raise ValueError(f"attention of layer {slots.layer} contains NaN")
        return importance(slots.steps - slots["last"], slots["recurrence"], self.variant)


def importance(silence: Tensor, recurrence: Tensor, variant: str = "paper") -> Tensor:
    """The score of an entry that was last active ``silence`` steps ago and whose longest interval is ``recurrence``.

    Args:
        silence: D = t - TS >= 0, any shape, integer.
        recurrence: MRI >= 0, same shape.
        variant: as in :class:`LazyEviction`.

    Returns:
        float32, same shape; 0 where ``recurrence`` is 0, except for ``"lag"``, which is ``-silence``.
    """
    if variant == "lag":
        return -silence.float()
    silence, interval = silence.float(), recurrence.float()
    if variant == "reference":
        usual = 2 * torch.sigmoid(-(1 + silence / (interval + 1e-5)))
    else:
        usual = 2 * torch.sigmoid(-silence / interval.clamp(min=1))
    often = 2 * torch.sigmoid(1 - interval)
    total = {"h1": usual, "h2": often}.get(variant, usual + often)
    return total.masked_fill(recurrence == 0, 0.0)
