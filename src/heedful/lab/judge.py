"""Verdicts: what the rows say about a claim that was written down before they were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from heedful.lab import intervals
from heedful.lab.declare import Claim, Experiment, Metric, Where, digest
from heedful.lab.rows import RESERVED, spread_columns
from heedful.lab.store import text

BOOTSTRAP_UNITS = 20
"""From this many replications on the interval is a bootstrap's; below, it is Student's."""

SHORTEST_LOG = 20

Status = Literal["holds", "fails", "inconclusive", "not measured"]


@dataclass(frozen=True)
class Verdict:
    """What was found about one claim.

    Attributes:
        claim: the claim's id.
        status: the decision.
        effect: the estimate; for an exact claim the number of violations. None if not measured.
        low, high: the 95 % interval; None for an exact claim.
        units: number of replications; for an exact claim, of rows.
        note: how the interval was made, what was left out and what was not varied, or why nothing was
            measured.
        published: the paper's figure.
        boundary: whether the claim is about where the method should not win.
    """

    claim: str
    status: Status
    effect: float | None
    low: float | None
    high: float | None
    units: int
    note: str
    published: str = ""
    boundary: bool = False


class _NotMeasuredError(Exception):
    """The rows do not answer the claim; the text says why."""


def judge(experiment: Experiment, rows: pl.DataFrame) -> list[Verdict]:
    """The verdict on every claim, in the order of declaration.

    Args:
        experiment: whose claims.
        rows: values and timings joined, as :func:`heedful.lab.results.read` returns them.
    """
    return [verdict(experiment, claim, rows) for claim in experiment.claims]


def verdict(experiment: Experiment, claim: Claim, rows: pl.DataFrame) -> Verdict:
    """Decide one claim.

    **Pairing.** The rows of the two sides are averaged per key and joined on it. The key is the claim's unit
    columns and every other identifying column (cell parameter or dimension) that is filled on both sides and
    that neither ``treatment`` nor ``control`` selects on. A column that only one side fills is averaged over;
    one with a single value on each side, but not the same (a tuned setting), describes the sides; the note
    names them. Rows whose metric is missing or NaN, and keys that only one side has, are left out and counted
    in the note.

    **Replications.** Effects are averaged from the innermost unit outwards, so that each unit weighs the
    same. A unit column with a single value was not varied: it is skipped, and the note says so. With 20 or
    more values of the outermost remaining unit the interval is a bootstrap over them, each with all that is
    nested in it; with fewer it is Student's t interval over their means. So ``("seed", "item")`` with 3 seeds
    is an interval over 3 means, wide as it must be to speak of other seeds; where the seed only labels
    independent draws of items, ``("item",)`` says that items replicate. A log is taken in the order of its
    unit columns; several logs are laid end to end.

    **Deciding.** ``superior`` and ``noninferior`` fail when the interval ends at or below the margin (below
    it, for ``noninferior``); ``tie`` holds when the interval lies within [-d, d] and fails when it lies
    outside.
    """
    try:
        if claim.reason:
            raise _NotMeasuredError(claim.reason)
        if claim.kind == "exact":
            return _exact(claim, rows)
        return _interval(experiment, claim, rows)
    except _NotMeasuredError as reason:
        return Verdict(claim.id, "not measured", None, None, None, 0, str(reason), claim.published, claim.boundary)


def _exact(claim: Claim, rows: pl.DataFrame) -> Verdict:
    chosen = _select(_select(rows, claim.where), claim.treatment)
    counts = _metric(chosen, claim.metric)
    present = counts.drop_nulls()
    if not len(present):
        raise _NotMeasuredError("no row reports the metric")
    # A NaN is a bound that could not be checked: it counts as violated.
    violations = present.fill_nan(1.0)
    total = float(violations.sum())
    status: Status = "holds" if not (violations != 0.0).any() else "fails"
    note = [f"{total:g} violations over {len(present)} rows of {chosen['cell'].n_unique()} cells"]
    if missing := len(counts) - len(present):
        note.append(f"{missing} rows do not report it")
    return _finish(claim, status, total, None, None, len(present), note)


def _interval(experiment: Experiment, claim: Claim, rows: pl.DataFrame) -> Verdict:
    metric = experiment.metric(claim.metric)
    pairs, note = _pairs(experiment, claim, rows, metric)
    units = [name for name in claim.unit if pairs[name].n_unique() > 1]
    if not units:
        raise _NotMeasuredError(f"a single replication ({', '.join(claim.unit)}); an interval needs two")
    if claim.kind == "seeds" and (fixed := [name for name in claim.unit if name not in units]):
        note.append(f"one {', one '.join(fixed)}")
    rng = np.random.default_rng(int(digest(experiment.slug, claim.id), 16))
    levels = [units] if claim.kind == "log" else [units[:depth] for depth in range(len(units), 0, -1)]
    averaged = _average(pairs, levels)
    effects = averaged["effect"].to_numpy()
    controls = averaged["control"].to_numpy() if claim.relative else None
    if controls is not None and controls.mean() == 0.0:
        raise _NotMeasuredError("the control's mean is 0: there is no share of it")
    if claim.kind == "log":
        if len(effects) < SHORTEST_LOG:
            raise _NotMeasuredError(f"a log of {len(effects)} entries is too short; {SHORTEST_LOG} are needed")
        block = intervals.block_length(effects)
        low, high = intervals.block_interval(effects, controls, rng, block)
        note.insert(0, f"moving-block bootstrap, blocks of {block}")
    elif len(effects) >= BOOTSTRAP_UNITS:
        low, high = intervals.bootstrap_interval(effects, controls, rng)
        note.insert(0, f"bootstrap over {len(effects)} values of {units[0]}")
    else:
        low, high = intervals.t_interval(effects, controls)
        note.insert(0, f"t interval over {len(effects)} values of {units[0]}")
    effect = intervals.estimate(effects, controls)
    if not np.isfinite([effect, low, high]).all():
        raise _NotMeasuredError("the effect is not finite: a metric is infinite or the control is close to 0")
    return _finish(claim, _decide(claim, low, high), effect, low, high, len(effects), note)


def _finish(
    claim: Claim,
    status: Status,
    effect: float,
    low: float | None,
    high: float | None,
    units: int,
    note: Sequence[str],
) -> Verdict:
    words = "; ".join([*note, *([claim.fixed] if claim.fixed else [])])
    return Verdict(claim.id, status, effect, low, high, units, words, claim.published, claim.boundary)


def _decide(claim: Claim, low: float, high: float) -> Status:
    if claim.rule == "superior":
        return "holds" if low > claim.d else "fails" if high <= claim.d else "inconclusive"
    if claim.rule == "noninferior":
        return "holds" if low >= -claim.d else "fails" if high < -claim.d else "inconclusive"
    if -claim.d <= low and high <= claim.d:
        return "holds"
    return "fails" if low > claim.d or high < -claim.d else "inconclusive"


def _select(rows: pl.DataFrame, where: Where) -> pl.DataFrame:
    """The rows that satisfy every condition, by Python's equality: 1 selects 1.0."""
    for name, wanted in where.items():
        if name not in rows.columns:
            raise _NotMeasuredError(f"no row has a column {name!r}")
        values = [wanted] if isinstance(wanted, str) or not isinstance(wanted, Sequence) else list(wanted)
        if rows.schema[name] == pl.String:
            values = [None if value is None else text(value) for value in values]
        present = rows[name].unique()
        chosen = pl.Series([value for value in present if value in values], dtype=present.dtype)
        rows = rows.filter(pl.col(name).is_in(chosen.implode(), nulls_equal=True))
    return rows


def _metric(rows: pl.DataFrame, name: str) -> pl.Series:
    if name not in rows.columns:
        raise _NotMeasuredError(f"no row has a column {name!r}")
    return rows[name]


def _reported(side: str, rows: pl.DataFrame, metric: str, note: list[str]) -> pl.DataFrame:
    """The rows that report the metric."""
    if not len(rows):
        raise _NotMeasuredError(f"no rows of the {side}")
    column = _metric(rows, metric)
    kept = rows.filter(column.is_not_null() & column.is_not_nan())
    if not len(kept):
        raise _NotMeasuredError(f"no row of the {side} reports the metric")
    if missing := len(rows) - len(kept):
        note.append(f"{missing} rows of the {side} do not report the metric")
    return kept


def _pairs(experiment: Experiment, claim: Claim, rows: pl.DataFrame, metric: Metric) -> tuple[pl.DataFrame, list[str]]:
    """One row per key: the unit columns, ``effect`` (signed so that positive is better) and ``control``."""
    note: list[str] = []
    measured = {name for each in experiment.metrics for name in (each.name, *spread_columns(each.name))}
    identifying = [name for name in rows.columns if name not in measured and name not in RESERVED]
    for name in claim.unit:
        if name not in identifying:
            raise _NotMeasuredError(f"no row has the unit column {name!r}")
    rows = _select(rows, claim.where)
    treated = _reported("treatment", _select(rows, claim.treatment), metric.name, note)
    sign = -1.0 if metric.better == "lower" else 1.0
    if not isinstance(claim.control, Mapping):
        keys = list(claim.unit)
        pairs = treated.group_by(keys).agg(pl.col(metric.name).mean().alias("treatment"))
        pairs = pairs.with_columns(control=pl.lit(float(claim.control)))
    else:
        controls = _reported("control", _select(rows, claim.control), metric.name, note)
        others = [name for name in identifying if name not in {*claim.unit, *claim.treatment, *claim.control}]
        shared, words = _shared(others, treated, controls)
        keys = [*claim.unit, *shared]
        note += words
        sides_frames = [
            side.group_by(keys).agg(pl.col(metric.name).mean().alias(name))
            for side, name in ((treated, "treatment"), (controls, "control"))
        ]
        pairs = sides_frames[0].join(sides_frames[1], on=keys, how="inner", nulls_equal=True)
        if not len(pairs):
            raise _NotMeasuredError(f"no paired rows: the two sides share no value of ({', '.join(keys)})")
        if unpaired := len(sides_frames[0]) + len(sides_frames[1]) - 2 * len(pairs):
            note.append(f"{unpaired} unpaired left out")
    effect = sign * (pl.col("treatment") - pl.col("control"))
    return pairs.sort(keys).with_columns(effect=effect), note


def _shared(names: Sequence[str], treated: pl.DataFrame, controls: pl.DataFrame) -> tuple[list[str], list[str]]:
    """The columns that pairs must agree on, and words about those that they need not."""
    shared, alone, differing = [], [], []
    for name in names:
        present = [side[name].drop_nulls().unique() for side in (treated, controls)]
        if not all(map(len, present)):
            if any(map(len, present)):
                alone.append(name)
        elif len(present[0]) == len(present[1]) == 1 and present[0][0] != present[1][0]:
            differing.append(f"{name} ({present[0][0]} against {present[1][0]})")
        else:
            shared.append(name)
    words = [f"averaged over {', '.join(alone)}, which one side alone has"] if alone else []
    return shared, [*words, *([f"the sides differ in {', '.join(differing)}"] if differing else [])]


def _average(pairs: pl.DataFrame, levels: Sequence[Sequence[str]]) -> pl.DataFrame:
    """Averages per unit, level by level from the innermost outwards, in the order of the units."""
    for keys in levels:
        pairs = pairs.group_by(keys, maintain_order=True).agg(pl.col("effect", "control").mean()).sort(keys)
    return pairs
