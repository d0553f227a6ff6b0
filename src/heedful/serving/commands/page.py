"""The tables and the charts of a comparison: printed, as JSON, and as a page of the report."""

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

WIDTH = 110
"""Characters per line of a table's note, on a terminal that has as many."""
COLORS = ("#111111", "#d62728", "#ff9896", "#1f77b4", "#08306b", "#41ab5d", "#00441b", "#9467bd", "#d6a400", "#8c564b")
"""The oracle's first."""


@dataclass(frozen=True)
class Section:
    """What was compared on one workload.

    Attributes:
        title: what it is.
        note: how it was measured.
        unit: what a load is: clients, or the speed of arrivals.
        reference: the load of the search for the smallest cache.
        summaries: a row per scheduler.
        rows: a row per scheduler and load.
    """

    title: str
    note: str
    unit: str
    reference: float | None
    summaries: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """Title -> table, of what is stored."""
        return {
            self.title: pl.DataFrame(list(self.summaries), infer_schema_length=None).with_columns(
                pl.col(pl.Null).cast(pl.Float64)
            ),
            f"{self.title}, by load": pl.DataFrame(list(self.rows), infer_schema_length=None),
        }

    def show(self) -> None:
        """Prints the summary, with what happened under each load beside it."""
        loads = sorted({row["load"] for row in self.rows})
        served = {(row["scheduler"], row["load"]): row for row in self.rows}
        printed = []
        for summary in self.summaries:
            spec = summary["scheduler"]
            cells = {f"{load:g}": _cell(served[spec, load]) for load in loads}
            slots = summary["smallest_capacity"]
            best = summary["sustained"]
            printed.append(
                {
                    "scheduler": spec,
                    "sustained": "none" if best is None else f"{best:g}",
                    "goodput": f"{summary['goodput']:,.0f}",
                    "slots": text.MISSING if slots is None else f"{slots:,}",
                    "evictions": f"{summary['most_evictions_per_100']:.1f}",
                    "rejected": f"{summary['rejected']}",
                    **cells,
                }
            )
        columns = [
            Column("scheduler"),
            Column("sustained", align="right"),
            Column("goodput", align="right"),
            *([Column("slots", f"slots for {self.reference:g}", align="right")] if self.reference is not None else []),
            Column("evictions", "evictions/100", align="right"),
            *([Column("rejected", align="right")] if any(row["rejected"] for row in self.summaries) else []),
            *(Column(f"{load:g}", align="right") for load in loads),
        ]
        console.show_table(printed, columns, title=self.title)
        width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
        print(f"{textwrap.fill(self.note, width)}\n")


def _cell(row: Mapping[str, Any]) -> str:
    return f"{row['goodput']:,.0f} ({100 * row['met']:.0f} %)"


def figure(section: Section) -> Figure:
    """Goodput against load, a line per scheduler."""
    import altair as alt

    data = section.tables[f"{section.title}, by load"]
    names = data["scheduler"].unique(maintain_order=True).to_list()
    colors = [COLORS[place % len(COLORS)] for place in range(len(names))]
    base = alt.Chart(data).encode(
        x=alt.X("load:Q", title=section.unit, scale=alt.Scale(zero=False)),
        color=alt.Color("scheduler:N", title=None, sort=names, scale=alt.Scale(domain=names, range=colors)),
        tooltip=["scheduler", "load", alt.Tooltip("goodput", format=",.0f"), alt.Tooltip("met", format=".1%"),
                 alt.Tooltip("ttft_p99_s", format=".2f"), alt.Tooltip("mtpot_p99_s", format=".2f"),
                 alt.Tooltip("evictions_per_100", format=".1f")],
    )  # fmt: skip
    lines = base.mark_line(strokeWidth=2).encode(y=alt.Y("goodput:Q", title="goodput, tokens/s"))
    points = base.mark_point(filled=True, size=40, opacity=1).encode(y="goodput:Q", shape=_sustained())
    met = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=24)).encode(
        y=alt.Y("met:Q", title="requests within limits", axis=alt.Axis(format="%"))
    )
    charts = alt.hconcat(
        alt.layer(lines, points).properties(width=400, height=280), met.properties(width=280, height=280)
    )
    return Figure(
        f"Goodput against load: {section.title}",
        charts,
        data,
        "Output tokens per second of requests within limits, and the share of requests that are. Crosses mark loads "
        "that are not sustained.",
    )


def _sustained() -> Any:
    import altair as alt

    scale = alt.Scale(domain=[True, False], range=["circle", "cross"])
    return alt.Shape("sustained:N", legend=None, scale=scale)
