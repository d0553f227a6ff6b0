"""Figures of last-switch-dependent bandits."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from heedful.lab import Figure

_ORDER = (
    "exact", "practical", "greedy", "rounding", "rounding, unscaled", "best cycle", "round robin", "recharging bound",
)  # fmt: skip


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    plans = rows.filter((pl.col("part") == "plan") & (pl.col("planner") != "bound"))
    return [
        *_planners(plans.with_columns(pl.format("{} k={} W={}", "family", "arms", "window").alias("instances"))),
        _learners(rows.filter(pl.col("part").is_in(["learn", "tuned"]))),
        _growth(rows.filter(pl.col("part") == "grow")),
    ]


def _planners(plans: pl.DataFrame) -> Sequence[Figure]:
    table = plans.group_by("instances", "planner").agg(
        pl.col("ratio").mean(), pl.col("ratio").min().alias("worst"), pl.col("spread").mean()
    )
    order = [planner for planner in _ORDER if planner in table["planner"].unique()]
    chart = (
        alt.Chart(table)
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("ratio:Q", title="average payoff / LP*"),
            y=alt.Y("planner:N", sort=order, title=None),
            color=alt.Color("planner:N", legend=None),
            facet=alt.Facet("instances:N", columns=4, title=None),
            tooltip=[
                "instances",
                "planner",
                *(alt.Tooltip(name, format=".3f") for name in ("ratio", "worst", "spread")),
            ],
        )
        .properties(width=150, height=130)
    )
    means = table.pivot("planner", index="instances", values="ratio").sort("instances")
    worst = table.pivot("planner", index="instances", values="worst").sort("instances")
    per_draw = table.filter(pl.col("planner") == "rounding").select(
        "instances", pl.col("spread").alias("one draw's deviation")
    )
    return [
        Figure(
            "What planners earn, as a share of the bound",
            chart,
            means.select("instances", *order),
            "Means over instances; rounding: over draws as well. The recharging bound is a bound, not a schedule.",
        ),
        Figure(
            "The worst instance of each family",
            chart,
            worst.select("instances", *order).join(per_draw, on="instances", maintain_order="left"),
            "The smallest share over instances; for rounding still the mean over draws, and how far one draw deviates.",
        ),
    ]


def _learners(learn: pl.DataFrame) -> Figure:
    learn = learn.with_columns(
        pl.when(part="tuned").then(pl.format("{}, tuned", "method")).otherwise("method").alias("method")
    )
    table = (
        learn.group_by("method")
        .agg(
            pl.col("share").mean(), pl.col("share").min().alias("worst seed"),
            pl.col("plan_regret").mean().alias("regret, planner"),
            pl.col("target_regret").mean().alias("regret, target"),
        )
        .sort("share", "method", descending=[True, False])
    )  # fmt: skip
    chart = (
        alt.Chart(learn.select("method", "seed", "share"))
        .mark_tick(thickness=2)
        .encode(
            x=alt.X("share:Q", scale=alt.Scale(zero=False), title="average payoff / LP*"),
            y=alt.Y("method:N", sort=table["method"].to_list(), title=None),
            tooltip=["method", "seed", alt.Tooltip("share", format=".3f")],
        )
        .properties(width=380, height=200)
    )
    return Figure(
        "What learners earn",
        chart,
        table,
        "One tick per instance of 8 arms with W = 8; regrets against the planner that knows the payoffs, and against "
        "1 - 1/e of LP*. Planner and greedy know the payoffs, round-robin needs none: their long-run average times T.",
    )


def _growth(grow: pl.DataFrame) -> Figure:
    regrets = (
        grow.filter(pl.col("horizon").is_not_null())
        .group_by("learner", "horizon")
        .agg(pl.col("plan_regret").mean(), pl.col("explored").mean())
        .sort("learner", "horizon")
    )
    chart = (
        alt.Chart(regrets)
        .mark_line(point=True)
        .encode(
            x=alt.X("horizon:Q", scale=alt.Scale(type="log"), title="horizon T"),
            y=alt.Y("plan_regret:Q", scale=alt.Scale(type="log"), title="regret against the planner"),
            color=alt.Color("learner:N", title=None),
            tooltip=["learner", "horizon", alt.Tooltip("plan_regret", format=".0f")],
        )
        .properties(width=380, height=240)
    )
    slopes = grow.filter(pl.col("slope").is_not_null()).group_by("learner").agg(pl.col("slope").mean())
    explored = regrets.filter(pl.col("explored").is_not_null())
    named = explored.select(
        pl.lit("explored by explore-commit").alias("learner"), "horizon", pl.col("explored").alias("value")
    )
    both = pl.concat([regrets.select("learner", "horizon", pl.col("plan_regret").alias("value")), named])
    wide = both.with_columns(pl.format("T = {}", "horizon").alias("horizon")).pivot(
        "horizon", index="learner", values="value"
    )
    return Figure(
        "How regret grows",
        chart,
        wide.join(slopes, on="learner", how="left", maintain_order="left"),
        "Mean regret against the planner that knows the payoffs; slope: of its logarithm against that of T.",
    )
