"""Tables and charts of a comparison: printed, as JSON, and as a page of the report."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from heedful.lab import console, text
from heedful.lab.console import Column
from heedful.lab.declare import Figure
from heedful.lab.intervals import bootstrap_interval

Row = Mapping[str, Any]
FEW = 6
"""Policies whose intervals a chart shows at once; of more, those that are picked."""
WIDTH = 110
"""Characters per line of a table's note, on a terminal that has as many."""


@dataclass(frozen=True)
class Table:
    """A table of a comparison.

    Attributes:
        title: its heading.
        note: what its columns mean.
        rows: every value under its plain name, the same keys in each row.
        names: the columns that say what a row is about, printed first.
        shown: the measures to print: column -> (heading, factor, decimal places, sign as in a format).
        measure: the measure that charts show.
    """

    title: str
    note: str
    rows: Sequence[Row]
    names: Sequence[str]
    shown: Mapping[str, tuple[str, float, int, str]]
    measure: str

    @property
    def frame(self) -> pl.DataFrame:
        """The rows as a frame; what is not a number is null."""
        frame = pl.DataFrame(list(self.rows), infer_schema_length=None).fill_nan(None)
        return frame.with_columns(pl.col(pl.Null).cast(pl.Float64))

    def show(self) -> None:
        """Prints the table and its note."""
        columns = [
            *(Column(name) for name in self.names),
            Column("asked", "budget", align="right"),
            Column("held", "slots end / peak", align="right"),
            Column("kib", "KiB end / peak", align="right"),
            *(Column(name, heading, align="right") for name, (heading, *_) in self.shown.items()),
            Column("speed", "tokens/s", align="right"),
        ]
        console.show_table([self._printed(row) for row in self.rows], columns, title=self.title)
        width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
        print(f"{textwrap.fill(self.note, width)}\n")

    def _printed(self, row: Row) -> dict[str, str]:
        slots, speed = row["budget_slots"], row["tokens_per_s"]
        asked = f"{row['budget']} = {slots:.0f}" if "%" in row["budget"] else row["budget"]
        return {
            **{name: row[name] for name in self.names},
            "asked": asked or text.MISSING,
            "held": f"{row['slots']:.0f} / {row['peak_slots']:.0f}",
            "kib": f"{row['bytes'] / 1024:,.0f} / {row['peak_bytes'] / 1024:,.0f}",
            **{name: spread(row, name, factor, places, sign) for name, (_, factor, places, sign) in self.shown.items()},
            "speed": text.MISSING if speed is None else f"{speed:,.0f}",
        }


def with_interval(name: str, values: Sequence[float], *, binary: bool = False) -> dict[str, float | None]:
    """A mean with its 95 % interval, as three entries of a row: ``name``, ``name_low``, ``name_high``.

    A bootstrap over the values, always the same one; Wilson's score interval if they are ``binary``, so that
    "all right" is not taken for certain. No interval for a single value; no mean if a value is not a number.
    """
    sample = np.asarray(values, dtype=np.float64)
    low = high = None
    if not np.isfinite(sample).all():
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    if len(sample) > 1 and binary:
        low, high = stats.binomtest(int(sample.sum()), len(sample)).proportion_ci(0.95, method="wilson")
    elif len(sample) > 1:
        low, high = bootstrap_interval(sample, None, np.random.default_rng(0))
    return {
        name: float(sample.mean()),
        f"{name}_low": None if low is None else float(low),
        f"{name}_high": None if high is None else float(high),
    }


def paired_difference(name: str, values: Sequence[float], control: Sequence[float]) -> dict[str, float | None]:
    """The mean difference to the control on the same items, with its bootstrap interval, likewise."""
    effects = np.asarray(values, dtype=np.float64) - np.asarray(control, dtype=np.float64)
    low = high = None
    if len(effects) > 1:
        low, high = bootstrap_interval(effects, None, np.random.default_rng(0))
    return {name: float(effects.mean()), f"{name}_low": low, f"{name}_high": high}


def spread(row: Row, name: str, factor: float = 1.0, places: int = 1, sign: str = "") -> str:
    """A value of a row with its interval as text, as ``93.1 [90.2, 95.4]``; the value alone if it has none.

    >>> spread({"a": 0.5, "a_low": 0.25, "a_high": 0.75}, "a", 100)
    '50.0 [25.0, 75.0]'
    """
    parts = []
    for key in (name, f"{name}_low", f"{name}_high"):
        value = row.get(key)
        parts.append("" if value is None else f"{round(factor * value, places) + 0.0:{sign}.{places}f}")
    if not parts[0]:
        return text.MISSING
    return f"{parts[0]} [{parts[1]}, {parts[2]}]" if parts[1] else parts[0]


def figures(table: Table) -> list[Figure]:
    """What is measured against slots, and against peak bytes: a line per policy, its interval as a band."""
    return [
        _frontier(table, "slots", "slots at the end, per layer and KV head"),
        _frontier(table, "peak_bytes", "bytes of the cache at its peak, per sequence"),
    ]


def _frontier(table: Table, size: str, meaning: str) -> Figure:
    import altair as alt

    frame = table.frame
    facets = ["task"] if "task" in frame.columns else []
    kept = [*facets, "policy", "budget", size, *(f"{table.measure}{end}" for end in ("", "_low", "_high"))]
    data = frame.select(kept)
    base = alt.Chart(data).encode(
        x=alt.X(f"{size}:Q", title=meaning, scale=alt.Scale(type="log", nice=False, padding=12)),
        color=alt.Color("policy:N", sort=None, legend=alt.Legend(symbolType="stroke", symbolOpacity=1)),
        tooltip=kept,
    )
    scale = table.measure.replace("_", " ")
    y = alt.Y(f"{table.measure}:Q", title=scale)
    few = frame["policy"].n_unique() <= FEW
    picked = alt.selection_point(fields=["policy"], bind="legend")
    line, band = (
        alt.when(picked, empty=empty).then(alt.value(opacity)).otherwise(alt.value(faint))
        for empty, opacity, faint in ((True, 1.0, 0.12), (few, 0.14, 0.0))
    )
    full = base.transform_filter("datum.policy == 'full'")
    others = base.transform_filter("datum.policy != 'full'")
    layers = alt.layer(
        others.mark_area().encode(
            y=alt.Y(f"{table.measure}_low:Q", title=scale), y2=f"{table.measure}_high:Q", opacity=band
        ),
        others.mark_line().encode(y=y, opacity=line),
        others.mark_point(filled=True, size=45).encode(y=y, opacity=line),
        full.mark_point(shape="diamond", filled=True, size=120).encode(y=y, opacity=line),
    ).add_params(picked)
    chart: Any = layers
    if facets:
        chart = layers.properties(width=330, height=240).facet(
            facet=alt.Facet("task:N", title=None, sort=frame["task"].unique(maintain_order=True).to_list()), columns=2
        )
    return Figure(
        f"{table.title}: {scale} against {'slots' if size == 'slots' else 'memory'}",
        chart,
        data,
        "A line per policy, a point per budget, the full cache as a diamond; a band is the 95 % interval. Click a "
        f"policy in the legend to see it alone{'' if few else ', with its band'}; shift and click for several.",
    )
