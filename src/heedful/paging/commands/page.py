"""The table and the chart of a comparison: printed, as JSON, and as a page of the report."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from heedful.lab import console, text
from heedful.lab.console import Column
from heedful.lab.declare import Figure
from heedful.paging.commands.options import OPT

Row = Mapping[str, Any]
WIDTH = 110
"""Characters per line of a table's note, on a terminal that has as many."""


@dataclass(frozen=True)
class Table:
    """The table of a comparison.

    Attributes:
        title: its heading.
        note: what its columns mean.
        rows: every value under its plain name, the same keys in each row.
    """

    title: str
    note: str
    rows: Sequence[Row]

    @property
    def frame(self) -> pl.DataFrame:
        """The rows as a frame."""
        frame = pl.DataFrame(list(self.rows), infer_schema_length=None)
        return frame.with_columns(pl.col(pl.Null).cast(pl.Float64))

    def show(self) -> None:
        """Prints the table and its note."""
        columns = [
            Column("k", align="right"),
            Column("algorithm"),
            Column("told", "told by"),
            Column("wrong", "wrong 0 / 1 %", align="right"),
            Column("miss_ratio", "miss ratio %", align="right"),
            Column("faults", align="right"),
            Column("gap_closed", "gap closed %", align="right"),
            Column("speed", "M requests/s", align="right"),
        ]
        console.show_table([_printed(row) for row in self.rows], columns, title=self.title)
        width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
        print(f"{textwrap.fill(self.note, width)}\n")


def _printed(row: Row) -> dict[str, str]:
    share = row["size"] != str(row["k"])
    zeros, ones = row["wrong_zeros"], row["wrong_ones"]
    return {
        "k": f"{row['size']} = {row['k']}" if share else row["size"],
        "algorithm": row["algorithm"],
        "told": row["predictor"] or text.MISSING,
        "wrong": text.MISSING if zeros is None else f"{100 * zeros:.1f} / {100 * ones:.1f}",
        "miss_ratio": spread(row, "miss_ratio", places=2),
        "faults": f"{row['faults']:,.0f}",
        "gap_closed": spread(row, "gap_closed"),
        "speed": f"{row['requests_per_s'] / 1e6:.1f}",
    }


def spread(row: Row, name: str, places: int = 1) -> str:
    """A share of a row in per cent, with its interval, as ``93.1 [90.2, 95.4]``; the share alone if it has none.

    >>> spread({"a": 0.5, "a_low": 0.25, "a_high": 0.75}, "a")
    '50.0 [25.0, 75.0]'
    """
    parts = []
    for key in (name, f"{name}_low", f"{name}_high"):
        value = row[key]
        parts.append("" if value is None else f"{round(100 * value, places) + 0.0:.{places}f}")
    if not parts[0]:
        return text.MISSING
    return f"{parts[0]} [{parts[1]}, {parts[2]}]" if parts[1] else parts[0]


REFERENCES = {OPT: "#111111", "lru": "#8a8a8a"}
COLORS = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#b279a2", "#9d755d", "#00a3a3", "#d6a400", "#7a5fd3", "#ff77a8",
    "#6b8e23", "#1b9aaa", "#c44900", "#5d4e8c", "#2a6f4e", "#b3005e",
)  # fmt: skip
SHOWN = {
    "miss_ratio": "miss ratio",
    "gap_closed": "gap from LRU (0 %) to the optimum that is closed",
}
"""What charts show, with the axis' title."""


def figures(table: Table) -> list[Figure]:
    """Miss ratios, and shares of the gap that are closed, over cache sizes."""
    alone = pl.col("predictor") == ""
    told = pl.when(alone).then(pl.lit("told nothing")).otherwise(pl.format("told by {}", "predictor"))
    measures = [f"{name}{end}" for name in SHOWN for end in ("", "_low", "_high")]
    data = table.frame.select("algorithm", told.alias("told"), "k", "size", *measures)
    draw = _lines if data["k"].n_unique() > 1 else _dots
    return [draw(data, name) for name in SHOWN if data[name].is_not_null().any()]


def _lines(data: pl.DataFrame, measure: str) -> Figure:
    """A line per algorithm, its interval as a band; a panel per predictor, with the two references in each."""
    import altair as alt

    reference = pl.col("algorithm").is_in(list(REFERENCES))
    panels = data.filter(~reference)["told"].unique(maintain_order=True).to_list() or ["told nothing"]
    references = data.filter(reference)
    shown = pl.concat([*(references.with_columns(told=pl.lit(panel)) for panel in panels), data.filter(~reference)])
    base = alt.Chart(shown.with_columns(combined=pl.col("algorithm").str.contains("\\+"))).encode(
        x=alt.X(
            "k:Q",
            title="k, pages that the cache holds",
            scale=alt.Scale(type="log", nice=False, padding=10),
            axis=alt.Axis(values=sorted(set(data["k"])), format=",d", grid=False),
        ),
        color=_colors(data, alt.Legend(title=None, symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1)),
        strokeDash=alt.StrokeDash("combined:N", legend=None, scale=alt.Scale(range=[[1, 0], [5, 3]])),
        tooltip=list(data.columns),
    )
    y = alt.Y(f"{measure}:Q", title=SHOWN[measure], axis=alt.Axis(format="%", tickCount=7), scale=alt.Scale(zero=False))
    band = alt.Y(f"{measure}_low:Q", title=SHOWN[measure])
    layers = alt.layer(
        base.mark_area(opacity=0.09).encode(y=band, y2=f"{measure}_high:Q"),
        base.mark_line(strokeWidth=2.2).encode(y=y),
        base.mark_point(filled=True, size=34, opacity=1).encode(y=y),
    ).properties(width=330, height=300)
    heading = alt.Header(title=None, labelFontSize=12, labelFontWeight="bold")
    return Figure(
        f"{_title(measure)} over cache sizes",
        layers.facet(facet=alt.Facet("told:N", sort=panels, header=heading), columns=2),
        data,
        "A line per algorithm, dashed for a combination of two, with the 95 % interval as a band; the optimum in black "
        "and LRU in grey stand in every panel.",
    )


def _dots(data: pl.DataFrame, measure: str) -> Figure:
    """A dot per algorithm with its interval, the best one on top."""
    import altair as alt

    panels = data["told"].unique(maintain_order=True).to_list()
    named = pl.format("{}, {}", "algorithm", pl.col("told").str.strip_prefix("told by "))
    one = len(panels) < 3
    shown = data.with_columns(label=pl.when((pl.col("told") == panels[0]) | one).then("algorithm").otherwise(named))
    order = shown.sort(measure, descending=measure == "gap_closed")["label"].to_list()
    base = alt.Chart(shown).encode(
        y=alt.Y("label:N", title=None, sort=order, axis=alt.Axis(labelLimit=320, grid=True, gridOpacity=0.5)),
        color=alt.Color("told:N", title=None, sort=panels, legend=alt.Legend(orient="top", symbolOpacity=1)),
        tooltip=list(data.columns),
    )
    x = alt.X(f"{measure}:Q", title=SHOWN[measure], axis=alt.Axis(format="%", tickCount=9), scale=alt.Scale(zero=False))
    return Figure(
        f"{_title(measure)}, k = {data['k'][0]:,}",
        alt.layer(
            base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=alt.X(f"{measure}_low:Q"), x2=f"{measure}_high:Q"),
            base.mark_point(filled=True, size=60, opacity=1).encode(x=x),
        ).properties(height=alt.Step(20)),
        data,
        "A dot per algorithm, with the 95 % interval.",
    )


def _colors(data: pl.DataFrame, legend: Any) -> Any:
    import altair as alt

    names = data["algorithm"].unique(maintain_order=True).to_list()
    others = [name for name in names if name not in REFERENCES]
    found = {**REFERENCES, **{name: COLORS[place % len(COLORS)] for place, name in enumerate(others)}}
    scale = alt.Scale(domain=list(found), range=list(found.values()))
    return alt.Color("algorithm:N", sort=list(found), scale=scale, legend=legend)


def _title(measure: str) -> str:
    return "Miss ratio" if measure == "miss_ratio" else "Share of the gap closed"
