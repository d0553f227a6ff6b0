"""Figures of dynamical linear bandits."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from heedful.lab import Figure

_RHO = "believed rho / rho"


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    rivals = rows.filter(pl.col("part") == "rivals")
    limits = rows.filter(pl.col("part").is_in(["still", "short"]))
    return [
        _curves(rivals),
        _radii(rivals),
        _belief(rows.filter(pl.col("part") == "belief")),
        _random(rows.filter(pl.col("part") == "random")),
        _limits(limits),
    ]


def _curves(rivals: pl.DataFrame) -> Figure:
    paper = rivals.filter((pl.col("radius") == 1.0) & (pl.col("method") != "clairvoyant"))
    curves = (
        paper.filter(pl.col("so_far").is_not_null())
        .group_by("setting", "method", "round")
        .agg(pl.col("so_far").mean())
        .sort("setting", "method", "round")
    )
    chart = (
        alt.Chart(curves)
        .mark_line()
        .encode(
            x=alt.X("round:Q", scale=alt.Scale(type="log"), title="rounds"),
            y=alt.Y("so_far:Q", scale=alt.Scale(type="log"), title="regret / uniform's at the end"),
            color=alt.Color("method:N", title=None, scale=alt.Scale(scheme="category20")),
            facet=alt.Facet("setting:N", columns=2, title=None),
            tooltip=["setting", "method", "round", alt.Tooltip("so_far", format=".4f")],
        )
        .properties(width=300, height=220)
    )
    ends = paper.filter(pl.col("share").is_not_null())
    ends = ends.group_by("setting", "method").agg(pl.col("share", "slope").mean())
    order = ends.filter(pl.col("setting") == "real").sort("share").select("method")
    table = ends.pivot("setting", index="method", values="share", sort_columns=True)
    slopes = ends.filter(pl.col("setting") == "real").select("method", pl.col("slope").alias("slope, real"))
    return Figure(
        "Regret as a share of a random action's",
        chart,
        order.join(table, on="method", maintain_order="left").join(slopes, on="method", maintain_order="left"),
        "Means over seeds at the theory's radius; slope: of log regret over the last decade of rounds, 1 is linear.",
    )


def _radii(rivals: pl.DataFrame) -> Figure:
    table = (
        rivals.filter(pl.col("share").is_not_null() & pl.col("tuned").is_not_null())
        .group_by("setting", "method", "radius")
        .agg(pl.col("share").mean(), pl.col("share").std().alias("deviation"))
        .filter(pl.len().over("setting", "method") > 1)
        .sort("setting", "method", "radius")
    )
    chart = (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=alt.X("radius:Q", scale=alt.Scale(type="log"), title="radius, as a factor of the theory's"),
            y=alt.Y("share:Q", scale=alt.Scale(type="log"), title="regret / uniform's"),
            color=alt.Color("method:N", title=None),
            column=alt.Column("setting:N", title=None),
            tooltip=["setting", "method", "radius", alt.Tooltip("share", format=".4f")],
        )
        .properties(width=300, height=220)
    )
    wide = table.with_columns(pl.format("radius {}", "radius").alias("radius"))
    return Figure(
        "Smaller radii than the theory's",
        chart,
        wide.pivot("radius", index=["setting", "method"], values="share"),
        "Regret over uniform's, means over seeds, with the radius scaled down.",
    )


def _belief(belief: pl.DataFrame) -> Figure:
    table = (
        belief.filter(pl.col("share").is_not_null())
        .group_by("setting", "ratio")
        .agg(pl.col("share").mean(), pl.col("slope").mean())
        .sort("setting", "ratio")
        .rename({"ratio": _RHO})
    )
    chart = (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=alt.X(_RHO, type="quantitative"),
            y=alt.Y("share:Q", scale=alt.Scale(type="log"), title="regret / uniform's"),
            color=alt.Color("setting:N", title=None),
            tooltip=["setting", _RHO, alt.Tooltip("share", format=".4f"), alt.Tooltip("slope", format=".2f")],
        )
        .properties(width=360, height=220)
    )
    return Figure(
        "A wrong belief about the spectral radius",
        chart,
        table,
        "DynLin-UCB that believes in another rho (at most 0.95); real rho is 0.667, so that 1.5 and 2 times are one.",
    )


def _random(random: pl.DataFrame) -> Figure:
    edges = [0.0, 0.001, 0.25, 0.5, 1.0, 2.0]
    table = (
        random.with_columns(pl.col("myopic_gap").cut(edges, left_closed=True).cast(pl.String).alias("myopic gap"))
        .group_by("myopic gap")
        .agg(
            pl.len().alias("systems"), pl.col("win").mean().alias("DynLin-UCB better"),
            pl.col("share").mean().alias("DynLin-UCB"), pl.col("rival_share").mean().alias("Lin-UCB"),
            pl.col("myopic_gap").min().alias("from"),
        )
        .sort("from")
        .drop("from")
    )  # fmt: skip
    chart = (
        alt.Chart(random.select("system", "myopic_gap", "share", "rival_share"))
        .mark_circle(size=45)
        .encode(
            x=alt.X("rival_share:Q", title="Lin-UCB's regret / uniform's"),
            y=alt.Y("share:Q", title="DynLin-UCB's regret / uniform's"),
            color=alt.Color("myopic_gap:Q", title="myopic gap"),
            tooltip=["system", *(alt.Tooltip(name, format=".3f") for name in ("myopic_gap", "share", "rival_share"))],
        )
        .properties(width=320, height=280)
    )
    return Figure(
        "Random systems",
        chart,
        table,
        "By what the myopic action loses in the long run, over what a random one loses; regrets over uniform's.",
    )


def _limits(limits: pl.DataFrame) -> Figure:
    table = limits.group_by("part", "setting", "method").agg(pl.col("share").mean()).sort("part", "setting", "share")
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title="regret / uniform's"),
            y=alt.Y("method:N", title=None),
            row=alt.Row("setting:N", title=None),
            color=alt.Color("part:N", title=None),
            tooltip=["part", "setting", "method", alt.Tooltip("share", format=".4f")],
        )
        .properties(width=360, height=70)
    )
    return Figure(
        "Where it should not win",
        chart,
        table,
        "still: no dynamics that matter, a tenth of the rounds; short: few rounds, with rho believed to be 0.99 too.",
    )
