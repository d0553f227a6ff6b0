"""The parts that every page is made of: tables, charts with their tables, and plots of intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from heedful.lab import text
from heedful.lab.declare import Claim

SHOWN_ROWS = 500


@dataclass(frozen=True)
class TableColumn:
    """A heading; numeric columns stand to the right."""

    name: str
    numeric: bool


@dataclass(frozen=True)
class TableView:
    """A table as a page shows it: its first rows as text, and the address of all of it as CSV."""

    columns: tuple[TableColumn, ...]
    rows: tuple[tuple[str, ...], ...]
    height: int
    csv: str


@dataclass(frozen=True)
class FigureView:
    """A chart as a page shows it: a Vega-Lite specification with its data, and the numbers behind it."""

    title: str
    caption: str
    spec: Mapping[str, Any]
    table: TableView


@dataclass(frozen=True)
class Forest:
    """An interval drawn against the region where its claim holds; positions on an axis from 0 to 150."""

    low: float
    middle: float
    high: float
    zero: float | None
    region_left: float
    region_width: float
    label: str


def table_view(frame: pl.DataFrame, site: Path, address: str) -> TableView:
    """Write a frame as CSV at ``site / address`` and describe it for a page one folder below ``site``."""
    target = site / address
    target.parent.mkdir(parents=True, exist_ok=True)
    frame.write_csv(target)
    return TableView(
        tuple(TableColumn(name, dtype.is_numeric()) for name, dtype in frame.schema.items()),
        tuple(tuple(text.number(value) for value in row) for row in frame.head(SHOWN_ROWS).iter_rows()),
        frame.height,
        f"../{address}",
    )


def spec_of(chart: Any) -> dict[str, Any]:
    """The Vega-Lite specification of an Altair chart with all its data; as wide as the page by default."""
    import altair as alt

    with alt.data_transformers.disable_max_rows():
        spec: dict[str, Any] = chart.to_dict()
    spec.get("config", {}).pop("view", None)
    if ("mark" in spec or "layer" in spec) and not {"row", "column", "facet"} & set(spec.get("encoding", {})):
        spec.setdefault("width", "container")
        spec.setdefault("height", 340)
    return spec


def forest(claim: Claim, middle: float | None, low: float | None, high: float | None) -> Forest | None:
    """The plot of a claim's interval; None where there is no interval to plot.

    >>> plot = forest(Claim("a", "better", "score", d=0.1), 0.2, 0.15, 0.25)
    >>> plot.zero < plot.region_left < plot.low < plot.middle < plot.high
    True
    """
    if claim.kind == "exact" or middle is None or low is None or high is None:
        return None
    edge = {"superior": (claim.d, None), "noninferior": (-claim.d, None), "tie": (-claim.d, claim.d)}[claim.rule]
    points = [low, high, 0.0, *(x for x in edge if x is not None)]
    span = (max(points) - min(points)) or 1.0
    start, end = min(points) - 0.08 * span, max(points) + 0.08 * span

    def place(x: float) -> float:
        return round(150 * (x - start) / (end - start), 2)

    left, right = place(edge[0]), 150.0 if edge[1] is None else place(edge[1])
    holds = f"above {edge[0]:g}" if edge[1] is None else f"between {edge[0]:g} and {edge[1]:g}"
    label = f"effect {text.effect(middle, low, high)}; the claim holds {holds}"
    return Forest(place(low), place(middle), place(high), place(0.0), left, round(right - left, 2), label)
