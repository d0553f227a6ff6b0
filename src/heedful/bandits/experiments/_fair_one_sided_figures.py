"""Figures of individually fair learning with one-sided feedback."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from heedful.lab import Figure


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    found = []
    for parts, draw in (
        (["main"], _main),
        (["exponents"], _growth),
        (["panel"], _panels),
        (["biased"], _auditors),
        (["explore"], _exploring),
        (["stumps", "oracle-time"], _oracles),
    ):
        chosen = rows.filter(pl.col("part").is_in(parts) & pl.col("horizon").is_not_null())
        if len(chosen):
            found.append(draw(chosen))
    special = rows.filter(pl.col("part").is_in(["pessimistic", "easy", "wide", "changing", "large-class", "tuned"]))
    return [*found, _special(special)] if len(special) else found


def _main(rows: pl.DataFrame) -> Figure:
    table = (
        rows.with_columns(pl.format("{}, C = {}", "method", pl.col("price").cast(pl.Int64)).alias("learner"))
        .group_by("people", "method", "price", "learner")
        .agg(pl.col("error", "violation_rate", "accepted", "cost", "fair_error").mean())
        .sort("people", "method", "price")
    )
    chart = (
        alt.Chart(table)
        .mark_point(filled=True, size=90)
        .encode(
            x=alt.X("violation_rate:Q", scale=alt.Scale(type="symlog", constant=0.01), title="rounds with a report"),
            y=alt.Y("error:Q", scale=alt.Scale(zero=False), title="errors per person"),
            color=alt.Color("method:N", title=None),
            shape=alt.Shape("price:O", title="C"),
            column=alt.Column("people:N", title=None),
            tooltip=["learner", *(alt.Tooltip(name, format=".3f") for name in ("error", "violation_rate", "accepted"))],
        )
        .properties(width=320, height=260)
        .resolve_scale(y="independent")
    )
    return Figure(
        "Errors against unfairness",
        chart,
        table.drop("learner"),
        "Last quarter, means over seeds; fair_error is what the best policy that is never reported makes.",
    )


def _growth(rows: pl.DataFrame) -> Figure:
    table = (
        rows.group_by("people", "horizon")
        .agg(pl.col("regret", "violations", "lagrangian", "bound", "fair_error").mean())
        .sort("people", "horizon")
    )
    lines = table.unpivot(
        ["regret", "violations", "lagrangian", "bound"], index=["people", "horizon"], variable_name="what",
        value_name="sum",
    )  # fmt: skip
    chart = (
        alt.Chart(lines.filter(pl.col("sum") > 0))
        .mark_line(point=True)
        .encode(
            x=alt.X("horizon:Q", scale=alt.Scale(type="log"), title="rounds"),
            y=alt.Y("sum:Q", scale=alt.Scale(type="log"), title="sum over rounds"),
            color=alt.Color("what:N", title=None),
            column=alt.Column("people:N", title=None),
            tooltip=["people", "horizon", "what", alt.Tooltip("sum", format=".1f")],
        )
        .properties(width=320, height=240)
    )
    return Figure(
        "Growth with the theory's settings",
        chart,
        table,
        "Exp2 started anew for each number of rounds, means over seeds; sums of 0 are not drawn.",
    )


def _panels(rows: pl.DataFrame) -> Figure:
    table = rows.group_by("gamma", "members").agg(pl.col("violation_rate", "error").mean()).sort("gamma", "members")
    chart = (
        alt.Chart(table)
        .mark_rect()
        .encode(
            x=alt.X("members:O", title="auditors"),
            y=alt.Y("gamma:O", title="share that must see a violation", sort="descending"),
            color=alt.Color("violation_rate:Q", title="rounds with a report"),
            tooltip=["gamma", "members", *(alt.Tooltip(n, format=".3f") for n in ("violation_rate", "error"))],
        )
        .properties(width=260, height=200)
    )
    return Figure(
        "Panels",
        chart,
        table,
        "Exp2 with a price of 8 under panels of different sizes and majorities; last quarter, means over seeds.",
    )


def _auditors(rows: pl.DataFrame) -> Figure:
    watching = pl.format("{} {}", pl.col("members"), pl.col("regime")).replace_strict(
        {"5 plain": "the usual panel", "1 plain": "one auditor", "1 biased": "one biased auditor"}
    )
    table = (
        rows.group_by(watching.alias("watching"))
        .agg(pl.col("error", "violation_rate", "panel_rate", "accepted").mean())
        .sort("panel_rate")
    )
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("panel_rate:Q", title="rounds that the usual panel would report"),
            y=alt.Y("watching:N", title=None, sort=None),
            tooltip=["watching", *(alt.Tooltip(n, format=".3f") for n in ("panel_rate", "violation_rate", "error"))],
        )
        .properties(width=340, height=110)
    )
    return Figure(
        "A single auditor in place of the panel",
        chart,
        table,
        "Exp2 with a price of 8, watched by five auditors, by one of their kind, and by one who takes people of "
        "different groups for different; last quarter, means over seeds.",
    )


def _exploring(rows: pl.DataFrame) -> Figure:
    table = (
        rows.group_by("people", "explore")
        .agg(pl.col("error", "violation_rate", "accepted", "cost").mean())
        .sort("people", "explore")
    )
    chart = (
        alt.Chart(table)
        .mark_point(filled=True, size=90)
        .encode(
            x=alt.X("violation_rate:Q", scale=alt.Scale(zero=False), title="rounds with a report"),
            y=alt.Y("error:Q", scale=alt.Scale(zero=False), title="errors per person"),
            color=alt.Color("explore:N", title="explores by"),
            tooltip=["people", "explore", *(alt.Tooltip(n, format=".3f") for n in ("violation_rate", "error"))],
        )
        .properties(width=320, height=220)
    )
    return Figure(
        "Exploration",
        chart,
        table,
        "Exp2 with a price of 8 and the same share of exploration: of accepting all, of a rule drawn uniformly, and of "
        "John's distribution; last quarter, means over seeds.",
    )


def _oracles(rows: pl.DataFrame) -> Figure:
    table = (
        rows.with_columns(pl.col("round_s") * 1000)
        .group_by("method", "oracle")
        .agg(pl.col("error", "violation_rate", "cost", "calls", "differs", "round_s").mean())
        .rename({"oracle": "optimiser", "round_s": "round_ms"})
        .sort("method", "optimiser")
    )
    chart = (
        alt.Chart(table.filter(pl.col("round_ms").is_not_null()))
        .mark_point(filled=True, size=90)
        .encode(
            x=alt.X("round_ms:Q", scale=alt.Scale(type="log"), title="milliseconds for a round"),
            y=alt.Y("optimiser:N", title=None),
            tooltip=["optimiser", alt.Tooltip("round_ms", format=".2f"), alt.Tooltip("calls", format=".0f")],
        )
        .properties(width=360, height=120)
    )
    return Figure(
        "Optimisers of FTPL",
        chart,
        table,
        "All stumps: looked through, or found by sums over sorted people; and linear rules by regression, timed alone. "
        "Last quarter, means over seeds; calls are per round.",
    )


def _special(rows: pl.DataFrame) -> Figure:
    table = (
        rows.group_by("part", "people", "method", "price")
        .agg(pl.col("error", "violation_rate", "accepted", "cost").mean())
        .sort("part", "people", "method", "price")
    )
    chart = (
        alt.Chart(
            table.with_columns(pl.format("{}, C = {}", "method", pl.col("price").cast(pl.Int64)).alias("learner"))
        )
        .mark_point(filled=True, size=70)
        .encode(
            x=alt.X("error:Q", scale=alt.Scale(zero=False), title="errors per person"),
            y=alt.Y("learner:N", title=None),
            color=alt.Color("people:N", title=None),
            facet=alt.Facet("part:N", columns=3, title=None),
            tooltip=["part", "people", "learner", alt.Tooltip("error", format=".3f")],
        )
        .properties(width=220, height=140)
        .resolve_scale(x="independent", y="independent")
    )
    return Figure(
        "Other regimes, and tuned methods",
        chart,
        table,
        "Last quarter, means over seeds; cost is over all rounds.",
    )
