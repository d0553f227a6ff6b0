"""Figures of paging with succinct predictions."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from heedful.lab import Figure

_FLIPPED = {"both": "both kinds flipped", "ones": "true 1-bits flipped", "zeros": "true 0-bits flipped"}


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    found = []
    flips = rows.filter((pl.col("part") == "flips") & pl.col("ratio").is_not_null())
    if len(flips):
        found.append(_smoothness(flips))
    use = rows.filter((pl.col("part") == "use") & pl.col("gap_closed").is_not_null())
    if len(use):
        found.append(_use(use))
    rivals = rows.filter((pl.col("part") == "rivals") & pl.col("miss_ratio").is_not_null())
    if len(rivals):
        found.append(_rivals(rivals))
    return found


def _smoothness(flips: pl.DataFrame) -> Figure:
    table = (
        flips.with_columns(pl.col("side").replace_strict(_FLIPPED).alias("flipped"))
        .group_by("trace", "k", "flipped", "rate", "method")
        .agg(pl.col("ratio").mean(), pl.col("eta_zeros").mean(), pl.col("eta_ones").mean())
        .sort("trace", "k", "flipped", "method", "rate")
    )
    largest = flips.group_by("trace").agg(pl.col("k").max().alias("largest"))
    shown = table.join(largest, on="trace").filter(pl.col("k") == pl.col("largest")).drop("largest")
    both = shown.filter(pl.col("flipped") == _FLIPPED["both"])
    chart = (
        alt.Chart(both)
        .mark_line(point=True)
        .encode(
            x=alt.X("rate:Q", scale=alt.Scale(type="symlog", constant=0.02), title="share of bits flipped"),
            y=alt.Y("ratio:Q", scale=alt.Scale(type="log"), title="faults / optimal faults"),
            color=alt.Color("method:N", title=None),
            facet=alt.Facet("trace:N", columns=3, title=None),
            tooltip=["trace", "k", "method", "rate", alt.Tooltip("ratio", format=".3f")],
        )
        .properties(width=230, height=200)
        .resolve_scale(y="independent")
    )
    wide = both.with_columns(pl.format("{} flipped", "rate").alias("rate"))
    return Figure(
        "Faults against wrong bits",
        chart,
        wide.pivot("rate", index=["trace", "k", "method"], values="ratio"),
        "Faults over optimal faults, means over seeds, at each trace's largest cache; both kinds of bits flipped.",
    )


def _use(use: pl.DataFrame) -> Figure:
    table = (
        use.group_by("trace", "k", "predictor", "method")
        .agg(pl.col("gap_closed").mean(), pl.col("miss_ratio").mean())
        .sort("trace", "k", "predictor", "method")
    )
    chart = (
        alt.Chart(table)
        .mark_point(filled=True, size=55)
        .encode(
            x=alt.X("gap_closed:Q", axis=alt.Axis(format="%"), title="share of the gap from LRU to the optimum"),
            y=alt.Y("method:N", title=None),
            color=alt.Color("predictor:N", title=None),
            column=alt.Column("trace:N", title=None),
            row=alt.Row("k:O", title="k"),
            tooltip=["trace", "k", "predictor", "method", alt.Tooltip("gap_closed", format=".1%")],
        )
        .properties(width=170, height=190)
    )
    return Figure(
        "What bits from the past alone are worth",
        chart,
        table.pivot("predictor", index=["trace", "k", "method"], values="gap_closed"),
        "On the second half of each trace; 0 % is LRU, 100 % the optimum, and what lies left of 0 % is worse than LRU.",
    )


def _rivals(rivals: pl.DataFrame) -> Figure:
    table = (
        rivals.group_by("trace", "k", "method")
        .agg(pl.col("miss_ratio").mean(), pl.col("ratio").mean())
        .sort("trace", "k", "miss_ratio")
    )
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("ratio:Q", title="faults / optimal faults"),
            y=alt.Y("method:N", sort="x", title=None),
            facet=alt.Facet("trace:N", columns=3, title=None),
            color=alt.Color("k:O", title="k", scale=alt.Scale(scheme="blues")),
            yOffset="k:O",
            tooltip=["trace", "k", "method", *(alt.Tooltip(name, format=".3f") for name in ("ratio", "miss_ratio"))],
        )
        .properties(width=230, height=260)
    )
    return Figure(
        "Algorithms that are told nothing, or noisy times",
        chart,
        table.pivot("method", index=["trace", "k"], values="ratio"),
        "Means over seeds. Times of next requests are off by a log-normal factor of e.",
    )
