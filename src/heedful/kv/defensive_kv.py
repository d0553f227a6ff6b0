"""DefensiveKV keeps what mattered most to any one query of the window, not what mattered on average.

Feng, Guo, Lv, Zhou, Xie, "Taming the Fragility of KV Cache Eviction in LLM Inference", ICLR 2026, arXiv 2510.13334.
With A[k, g, j, i] the attention that the j-th of the last W queries of the g-th head of KV head k pays to entry i
outside the window, and A~ the same smoothed along i so that each row's sum is what it was:

    worst case    R[k, i] = max over g, j of A~[k, g, j, i]
    prior risk    R[k, i] = max( R[k, i], mean over i of R[k, i] )
    value         R[k, i] = R[k, i] * n[k, i] / sum over k of n[k, i],     n[k, i] = mean over g of |v_i Wo_g|_1

The window stays, and so do the entries that make up most of a head's mean attention; the others compete over all heads
of the layer (:class:`DefensiveKV`), or of all layers (:class:`LayerDefensiveKV`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from heedful.kv.attention import Seen
from heedful.kv.base import Reads, resolve
from heedful.kv.prefill import Prefill, best_of_all, check_kernel, pooled
from heedful.kv.slots import Slots
from heedful.kv.value_norms import check_projection, projection_of, value_norms

QUANTILE, TOP = 0.9, 3
"""What the ``"quantile"`` and ``"top3"`` aggregations take."""


@dataclass(frozen=True)
class DefensiveKV(Prefill):
    """The worst case over the observation window; one budget for all heads of a layer.

    A layer keeps ``floor(share x prompt x heads)`` entries of an item, or ``budget x heads``. A prompt no longer than
    the window stays whole, with a warning if the budget asked for less. Where the model has no plain output projection,
    a warning is given and values do not count.

    Args:
        budget: entries kept per layer and KV head of the prompt, on average, the observation window included.
        observation_window: last tokens of the prompt, whose queries score the others; every head keeps them.
        kernel: entries that are averaged over, odd; 1 for no smoothing.
        aggregation: what becomes of the rows of a KV head: their ``"max"``, ``"mean"``, 0.9-``"quantile"``, or the sum
            of the ``"top3"``.
        floor: whether no entry counts as less important than the head's mean entry.
        value_term: whether values count.
        stage1: whether the head of the mean attention stays whatever the other scores say.
        threshold: the share of a head's mean attention, the window's included, that is protected so, within 0..1.
        window_mass: how much of it the window has: ``"true"``, or as in the published code (``"reference"``), what the
            last entries before the window have.
        temperature: of the softmax that the scores are taken from, above 0; 1 leaves the model's own.
    """

    name: ClassVar[str] = "defensivekv"

    kernel: int = 5
    aggregation: Literal["max", "mean", "quantile", "top3"] = "max"
    floor: bool = True
    value_term: bool = True
    stage1: bool = True
    threshold: float = 0.9
    window_mass: Literal["true", "reference"] = "true"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel(self.kernel)
        if self.aggregation not in ("max", "mean", "quantile", "top3"):
            raise ValueError(f"aggregation={self.aggregation!r}: must be 'max', 'mean', 'quantile' or 'top3'")
        for name in ("floor", "value_term", "stage1"):
            if getattr(self, name) not in (True, False):
                raise ValueError(f"{name}={getattr(self, name)!r}: must be 1 (on) or 0 (off)")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold}: must be within 0..1")
        if self.window_mass not in ("true", "reference"):
            raise ValueError(f"window_mass={self.window_mass!r}: must be 'true' or 'reference'")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature={self.temperature}: must be a number above 0")

    @property
    def reads(self) -> Reads:
        return Reads(prompt="last", window=self.observation_window, outputs=self.value_term)

    def attach(self, model: Any) -> None:
        if self.value_term:
            check_projection(model, self.name)

    def room(self, slots: Slots) -> Tensor:
        """Entries per head that the budget allows, int64 ``[batch]``; more than the prompt if the window covers it."""
        length = _lengths(slots)
        room = torch.as_tensor(resolve(self.budget, length), device=length.device).expand_as(length)
        short = length <= self.observation_window
        if bool((short & (room < length)).any()):
            warnings.warn(
                f"{self.name}: a prompt of at most observation_window={self.observation_window} tokens is kept whole",
                stacklevel=2,
            )
        return torch.where(short, self.least, room)

    def total(self, slots: Slots, heads: int) -> Tensor:
        """Entries of so many heads together that the budget allows, int64 ``[batch]``."""
        length = _lengths(slots)
        total = self.budget * heads if isinstance(self.budget, int) else resolve(self.budget, length * heads)
        return torch.where(length <= self.observation_window, length * heads, total)

    def score(self, slots: Slots, seen: Seen) -> Tensor:
        """``[batch, heads, n]``: infinite for what is kept before all others, ``-inf`` in empty columns."""
        assert seen.rows is not None
        score = slots.position.new_full(slots.position.shape, torch.inf, dtype=seen.rows.dtype)
        context = slots.position.shape[-1] - self.observation_window
        if context > 0:
            rows = seen.rows if self.temperature == 1 else _tempered(seen.rows, self.temperature)
            there = slots.position[..., :context] >= 0
            risk = self.risk(slots, rows[..., :context], there)
            if self.stage1:
                risk = risk.masked_fill(self.first_stage(slots, rows, there), torch.inf)
            score[..., :context] = risk
        return score.masked_fill(slots.position < 0, -torch.inf)

    def risk(self, slots: Slots, rows: Tensor, there: Tensor) -> Tensor:
        """What losing an entry outside the window may cost, ``[batch, heads, context]``.

        Args:
            slots: the layer's entries.
            rows: ``[batch, heads, group, W, context]``, the window's attention to them.
            there: bool ``[batch, heads, context]``, which of them are real.
        """
        risk = aggregated(smoothed(rows, self.kernel, there), self.aggregation)
        if self.floor:
            mean = risk.sum(dim=-1, keepdim=True) / there.sum(dim=-1, keepdim=True).clamp(min=1)
            risk = torch.maximum(risk, mean)
        projection = projection_of(slots.module, slots.values) if self.value_term else None
        if projection is not None:
            norms = value_norms(slots.values[:, :, : rows.shape[-1]], projection)
            risk = risk * norms / norms.sum(dim=1, keepdim=True).clamp(min=torch.finfo(norms.dtype).tiny)
        return risk

    def first_stage(self, slots: Slots, rows: Tensor, there: Tensor) -> Tensor:
        """bool ``[batch, heads, context]``: the longest prefix, in order of mean attention, with less mass than asked.

        The mass is that of the entries outside the window, normalised; the threshold is lowered by what the window has
        of all. At most ``room - W`` entries per head.
        """
        context = there.shape[-1]
        mean = rows[..., :context].mean(dim=(2, 3)).masked_fill(~there, 0.0)
        observed = rows[..., context:] if self.window_mass == "true" else rows[..., :context][..., -rows.shape[3] :]
        window = observed.sum(dim=-1).mean(dim=(1, 2, 3))
        order = mean.argsort(dim=-1, descending=True, stable=True)
        mass = mean.gather(-1, order)
        reached = mass.cumsum(dim=-1) / mass.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)
        most = (self.room(slots) - self.observation_window)[:, None, None]
        prefix = (reached < (self.threshold - window)[:, None, None]) & (mass > 0)
        prefix &= torch.arange(context, device=order.device) < most
        return torch.zeros_like(there).scatter_(-1, order, prefix)

    def select(self, slots: Slots, score: Tensor, room: int | Tensor) -> None:
        if slots.exceeds(room):
            slots.keep(best_of_all([score], self.total(slots, slots.heads))[0])


@dataclass
class _Reading:
    """A prompt that is being read: the layers so far, whose entries compete with those of layers to come."""

    layers: int
    slots: list[Slots] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)  # by position, [batch, heads, S]


@dataclass(frozen=True)
class LayerDefensiveKV(DefensiveKV):
    """The same scores, one budget for all heads of all layers: ``floor(share x prompt x heads x layers)`` entries.

    Scores are final when a layer has been read, and the score that an entry needs in order to stay only rises as more
    layers compete. So after each layer everything leaves that can no longer stay, and no more than the budget and one
    layer's prompt are ever held, beside one float per entry of the prompt until it has been read.

    Args:
        budget: entries kept per layer and KV head of the prompt, on average, the observation window included.
        observation_window: last tokens of the prompt, whose queries score the others; every head keeps them.
        kernel: entries that are averaged over, odd; 1 for no smoothing.
        aggregation: ``"max"``, ``"mean"``, ``"quantile"`` or ``"top3"``, as in :class:`DefensiveKV`.
        floor: whether no entry counts as less important than the head's mean entry.
        value_term: whether values count.
        stage1: whether the head of the mean attention stays whatever the other scores say.
        threshold: the share of a head's mean attention that is protected so, within 0..1.
        window_mass: ``"true"`` or ``"reference"``.
        temperature: of the softmax that the scores are taken from, above 0.
    """

    name: ClassVar[str] = "layer-defensivekv"

    def begin(self, layers: int) -> _Reading:
        return _Reading(layers)

    def select(self, slots: Slots, score: Tensor, room: int | Tensor) -> None:
        if not slots.exceeds(room):
            return
        reading: _Reading = slots.state
        reading.slots.append(slots)
        reading.scores.append(_by_position(score, slots.position))
        slots.aside = reading.scores[-1].nbytes
        to_come = reading.layers - len(reading.slots)
        windows = _lengths(slots).clamp(max=self.observation_window) * slots.heads * to_come
        keep = self.total(slots, slots.heads * reading.layers) - windows
        for each, chosen in zip(reading.slots, _best(reading, keep)):
            if bool((chosen != (each.position >= 0)).any()):
                each.keep(chosen)
        if to_come == 0:
            for each in reading.slots:
                each.aside = 0
            reading.slots.clear()
            reading.scores.clear()


def smoothed(rows: Tensor, kernel: int, there: Tensor) -> Tensor:
    """Rows averaged along the entries, rescaled to the sums that they had; rows without mass stay so.

    Args:
        rows: ``[batch, heads, group, W, n]``.
        kernel: entries that are averaged over.
        there: bool ``[batch, heads, n]``: entries that are real; the others are zero, before and after.
    """
    if kernel == 1:
        return rows
    flat = pooled(rows, kernel, "avg").masked_fill(~there[:, :, None, None], 0.0)
    mass = flat.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    return flat * (rows.sum(dim=-1, keepdim=True) / mass)


def aggregated(rows: Tensor, kind: Literal["max", "mean", "quantile", "top3"]) -> Tensor:
    """One number per entry, ``[batch, heads, n]``, from the rows of a KV head, ``[batch, heads, group, W, n]``."""
    if kind == "max":
        return rows.amax(dim=(2, 3))
    if kind == "mean":
        return rows.mean(dim=(2, 3))
    rows = rows.flatten(2, 3)
    if kind == "top3":
        return rows.topk(min(TOP, rows.shape[2]), dim=2).values.sum(dim=2)
    ordered = rows.sort(dim=2).values
    place = QUANTILE * (rows.shape[2] - 1)
    return torch.lerp(ordered[:, :, math.floor(place)], ordered[:, :, math.ceil(place)], place - math.floor(place))


def _tempered(rows: Tensor, temperature: float) -> Tensor:
    """The rows of the softmax of the same logits over ``temperature``."""
    sharp = rows.pow(1 / temperature)
    return sharp / sharp.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)


def _best(reading: _Reading, keep: Tensor) -> Sequence[Tensor]:
    """Per layer bool ``[batch, heads, n]``: the best ``keep`` (``[batch]``) of what the layers so far still hold.

    Equally good entries: the lower layer's, then the older, then the lower head's, as :func:`best_of_all` has it for
    entries whose columns are aligned over the heads.
    """
    position = torch.cat([slots.position.flatten(1) for slots in reading.slots], dim=1)
    score = torch.cat(
        [
            scores.gather(-1, slots.position.clamp(min=0).long()).flatten(1)
            for slots, scores in zip(reading.slots, reading.scores)
        ],
        dim=1,
    ).masked_fill(position < 0, -torch.inf)
    if bool(score.isnan().any()):
        raise ValueError("scores contain NaN: the model's attention is not finite")
    ranked = score.topk(min(int(keep.max()), score.shape[1]), dim=1).values
    least = ranked.gather(1, (keep - 1).clamp(max=ranked.shape[1] - 1)[:, None])
    chosen = score > least
    tied = (score == least) & (position >= 0)
    wanted = keep - chosen.sum(dim=1)
    if bool((tied.sum(dim=1) > wanted).any()):
        tied = _first(tied, position, reading.slots, wanted)
    sizes = [slots.position[0].numel() for slots in reading.slots]
    return [part.view(slots.position.shape) for part, slots in zip((chosen | tied).split(sizes, dim=1), reading.slots)]


def _first(tied: Tensor, position: Tensor, layers: Sequence[Slots], wanted: Tensor) -> Tensor:
    """The first ``wanted`` of the tied entries, by layer, position and head; bool ``[batch, entries]``."""
    span = int(position.max()) + 1
    place = []
    for number, slots in enumerate(layers):
        head = torch.arange(slots.heads, device=position.device)[None, :, None]
        place.append((((number * span) + slots.position.long()) * slots.heads + head).flatten(1))
    order = torch.cat(place, dim=1).masked_fill(~tied, torch.iinfo(torch.int64).max).argsort(dim=1)
    first = torch.arange(order.shape[1], device=order.device) < wanted[:, None]
    return torch.zeros_like(tied).scatter_(1, order, first) & tied


def _by_position(score: Tensor, position: Tensor) -> Tensor:
    """Scores in the order of the tokens' positions instead of the columns'."""
    end = score.shape[-1]
    table = score.new_empty(*score.shape[:2], end + 1)
    table.scatter_(-1, torch.where(position < 0, end, position).long(), score)
    return table[..., :end]


def _lengths(slots: Slots) -> Tensor:
    """Real tokens of each item's prompt, int64 ``[batch]``."""
    return torch.as_tensor(slots.prompt_length, device=slots.position.device).expand(slots.batch)
