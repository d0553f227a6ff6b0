"""Figures of optimistic feasible search."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from heedful.lab import Figure


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    loop = rows.filter((pl.col("part") == "loop") & (pl.col("rho_min") == 0))
    found = [_paths(loop.filter(pl.col("round").is_not_null())), _means(rows.filter(pl.col("part") == "loop"))]
    special = rows.filter(pl.col("part").is_in(["many-points", "slow-drift", "infeasible", "harm", "growth", "tuned"]))
    return [*found, _special(special), _phase(rows.filter(pl.col("part") == "phase"))]


def _paths(rows: pl.DataFrame) -> Figure:
    table = rows.select("env", "eps", "method", "round", "violation_so_far", "reward_so_far").sort(
        "env", "eps", "method", "round"
    )
    chart = (
        alt.Chart(table)
        .mark_line()
        .encode(
            x=alt.X("round:Q", title="round"),
            y=alt.Y("violation_so_far:Q", scale=alt.Scale(type="symlog", constant=5), title="cumulative violation"),
            color=alt.Color("method:N", title=None),
            column=alt.Column("env:N", title=None),
            row=alt.Row("eps:O", title="tolerance"),
            tooltip=["env", "eps", "method", "round", alt.Tooltip("violation_so_far", format=".1f")],
        )
        .properties(width=190, height=170)
    )
    last = table.filter(pl.col("round") == pl.col("round").max())
    return Figure(
        "Cumulative violation",
        chart,
        last.pivot("method", index=["env", "eps"], values="violation_so_far"),
        "Of the population, means over seeds; the table has the last round. No service constraint.",
    )


def _means(rows: pl.DataFrame) -> Figure:
    table = (
        rows.filter(pl.col("round").is_null() & (pl.col("rho_min") == 0))
        .group_by("env", "eps", "method")
        .agg(pl.col("reward", "charged", "violation", "violation_seen", "to_oracle", "steady_gap").mean())
        .sort("env", "eps", "violation")
    )
    both = table.unpivot(
        ["reward", "charged"], index=["env", "eps", "method"], variable_name="measure", value_name="value"
    )
    chart = (
        alt.Chart(both)
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("value:Q", title="per applicant and round"),
            y=alt.Y("method:N", title=None),
            color=alt.Color("measure:N", title=None),
            column=alt.Column("env:N", title=None),
            row=alt.Row("eps:O", title="tolerance"),
            tooltip=["env", "eps", "method", "measure", alt.Tooltip("value", format=".4f")],
        )
        .properties(width=190, height=150)
    )
    return Figure(
        "Raw reward, and reward less violation",
        chart,
        table,
        "Means over seeds, no service constraint. A method that ignores groups earns more and is charged more.",
    )


def _special(rows: pl.DataFrame) -> Figure:
    harm = pl.when(pl.col("part") == "harm").then(pl.format("harm {}", "harm")).otherwise(pl.col("part"))
    table = (
        rows.group_by(harm.alias("regime"), "env", "eps", "method")
        .agg(pl.col("reward", "charged", "violation", "steady_violation", "exponent").mean())
        .sort("regime", "env", "eps", "method")
    )
    chart = (
        alt.Chart(table.filter(pl.col("regime") != "tuned"))
        .mark_bar()
        .encode(
            x=alt.X("violation:Q", title="cumulative violation"),
            y=alt.Y("method:N", title=None),
            color=alt.Color("method:N", legend=None),
            facet=alt.Facet("regime:N", columns=3, title=None),
            tooltip=["regime", "method", alt.Tooltip("violation", format=".1f")],
        )
        .properties(width=230, height=120)
        .resolve_scale(x="independent", y="independent")
    )
    return Figure(
        "Regimes in which it should do badly, and tuned methods",
        chart,
        table,
        "Means over seeds; synthetic loop, but for the tuned methods.",
    )


def _phase(rows: pl.DataFrame) -> Figure:
    keys = ["points", "eta", "eps"]
    means = rows.group_by(*keys, "method").agg(pl.col("violation").mean())
    table = means.pivot("method", index=keys, sort_columns=True)
    table = table.with_columns(((pl.col("ofs") + 0.1) / (pl.col("primal-dual") + 0.1)).alias("ratio")).sort(keys)
    chart = (
        alt.Chart(table)
        .mark_rect()
        .encode(
            x=alt.X("eps:O", title="tolerance"),
            y=alt.Y("eta:O", title="speed of the loop", sort="descending"),
            color=alt.Color("ratio:Q", scale=alt.Scale(type="log", scheme="blueorange", domainMid=1), title="ratio"),
            column=alt.Column("points:O", title="thresholds"),
            tooltip=["points", "eta", "eps", *(alt.Tooltip(c, format=".2f") for c in ("ofs", "primal-dual", "ratio"))],
        )
        .properties(width=190, height=150)
    )
    return Figure(
        "Where OFS violates less than primal-dual UCB",
        chart,
        table,
        "Ratio of cumulative violations (both plus 0.1): below 1 OFS is better; means over seeds.",
    )
