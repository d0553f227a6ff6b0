"""DefensiveKV's figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import altair as alt
import polars as pl

from heedful.kv.experiments._defensive_kv_claims import KNOWN, LAYER, OURS
from heedful.kv.experiments.defensive_kv import RIVALS
from heedful.lab import Figure

MAIN = ("full", *RIVALS, OURS, LAYER)
RETAINED = ("retained_mean", "retained_worst_step", "retained_p01", "retained_min")


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    quality = rows.filter(pl.col("part") == "quality").with_columns(
        task=pl.col("task").str.replace("@.*", ""),
        protocol=pl.when(pl.col("task").str.contains("@"))
        .then(pl.col("task").str.replace(".*@", ""))
        .otherwise(pl.lit("aware")),
    )
    known = quality.filter(pl.col("task").is_in(KNOWN))
    return [
        *_by_budget(known.filter(pl.col("method").is_in(MAIN), pl.col("protocol") != "repeat")),
        *_by_task(quality.filter(pl.col("method").is_in(MAIN), pl.col("protocol") == "reask")),
        *_ablations(known.filter(pl.col("protocol") == "reask")),
        *_fragility(rows.filter(pl.col("part") == "fragility")),
        *_held(rows.filter(pl.col("part") == "peak")),
    ]


def _summary(rows: pl.DataFrame, *by: str) -> pl.DataFrame:
    """Means over items, half the 95 % interval of accuracy, and what is lost of the full cache's accuracy."""
    known = [name for name in by if name not in ("method", "share")]
    full = rows.filter(pl.col("method") == "full").group_by(known).agg(pl.col("accuracy").mean().alias("full"))
    found = rows.group_by(by).agg(
        pl.col("accuracy").mean(),
        (1.96 * pl.col("accuracy").std() / pl.len().sqrt()).alias("plus_minus"),
        pl.col("lost").mean(),
        pl.len().alias("items"),
    )
    found = found.join(full, on=known, how="left")
    return found.with_columns(relative_loss=1 - pl.col("accuracy") / pl.col("full")).drop("full").sort(by)


def _by_budget(rows: pl.DataFrame) -> Iterator[Figure]:
    if not len(rows):
        return
    table = _summary(rows, "protocol", "method", "share")
    chart = (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "share:Q", scale=alt.Scale(type="log"), axis=alt.Axis(format="%"), title="budget, share of the item"
            ),
            y=alt.Y("accuracy:Q", scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("method:N", sort=list(MAIN)),
            column=alt.Column("protocol:N", title=None),
            tooltip=["protocol", "method", "share", "accuracy", "plus_minus", "lost", "relative_loss"],
        )
        .properties(width=220, height=240)
    )
    yield Figure(
        "Items answered in full, by budget and protocol",
        chart,
        table,
        "Mean over the tasks that the model knows. aware: the question is read before eviction; reask: a second "
        "question comes after it, and only that one is scored; agnostic: all questions come after it. lost: share of "
        "items that the full cache answers and the method does not.",
    )


def _by_task(rows: pl.DataFrame) -> Iterator[Figure]:
    shares = rows["share"].unique().to_list()
    share = 0.2 if 0.2 in shares else max((s for s in shares if s < 1), default=None)
    if share is None:
        return
    table = _summary(rows.filter(pl.col("share").is_in([share, 1.0])), "task", "method")
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("method:N", sort=list(MAIN), title=None),
            y=alt.Y("accuracy:Q", scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("method:N", sort=list(MAIN), legend=None),
            column=alt.Column("task:N", title=None),
            tooltip=["task", "method", "accuracy", "plus_minus", "lost", "relative_loss"],
        )
        .properties(width=130, height=180)
    )
    yield Figure(
        f"Second question after eviction, budget {share:.0%}, by task",
        chart,
        table,
        "Where the full cache is below 95 %, losses are not the policy's alone.",
    )


def _ablations(rows: pl.DataFrame) -> Iterator[Figure]:
    chosen = rows.filter(pl.col("method").str.contains("defensivekv"))
    if not len(chosen):
        return
    full = rows.filter(pl.col("method") == "full")
    table = _summary(pl.concat([chosen, full]), "protocol", "method", "share").drop("protocol")
    table = table.filter(pl.col("method") != "full")
    chart = (
        alt.Chart(table)
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("accuracy:Q", scale=alt.Scale(zero=False)),
            y=alt.Y("method:N", title=None),
            color=alt.Color("share:O", title="budget"),
            tooltip=["method", "share", "accuracy", "plus_minus", "lost", "relative_loss"],
        )
        .properties(width=360)
    )
    yield Figure(
        "What each part of the method is worth",
        chart,
        table,
        "Mean over the tasks that the model knows, second question after eviction. stage1=0: nothing is protected by "
        "mean attention; aggregation, floor, value_term, temperature: the other parts changed.",
    )


def _fragility(rows: pl.DataFrame) -> Iterator[Figure]:
    if not len(rows):
        return
    table = (
        rows.group_by("model", "share", "method")
        .agg(pl.col(*RETAINED, "first_stage").mean(), pl.len().alias("items"))
        .sort("model", "share", "method")
    )
    long = table.unpivot(
        list(RETAINED),
        index=["model", "share", "method"],
        variable_name="statistic",
        value_name="retained",
    )
    chart = (
        alt.Chart(long)
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("retained:Q", scale=alt.Scale(domain=[0, 1]), title="retained importance"),
            y=alt.Y("method:N", title=None),
            color=alt.Color("statistic:N", title=None),
            column=alt.Column("share:O", title="budget"),
            row=alt.Row("model:N", title=None),
            tooltip=["model", "share", "method", "statistic", "retained"],
        )
        .properties(width=220)
    )
    yield Figure(
        "Importance retained while decoding",
        chart,
        table,
        "Share of a decode step's attention to the prompt that falls on kept entries, averaged over items: mean, 1st "
        "percentile and minimum over steps, layers and query heads, and the minimum over steps of the mean over layers "
        "and heads. first_stage: share of the budget beyond the window "
        "that the first stage hands out.",
    )


def _held(rows: pl.DataFrame) -> Iterator[Figure]:
    if not len(rows):
        return
    table = (
        rows.group_by("method", "share")
        .agg(pl.col("held_peak").mean(), pl.len().alias("items"))
        .sort("method", "share")
    )
    chart = (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=alt.X("share:Q", axis=alt.Axis(format="%"), title="budget, share of the prompt"),
            y=alt.Y("held_peak:Q", title="entries per layer and KV head"),
            color="method:N",
            tooltip=["method", "share", "held_peak"],
        )
        .properties(width=360, height=200)
    )
    yield Figure(
        "The most entries held at one time while a prompt is read",
        chart,
        table,
        "Over all layers; each layer's prompt is held in full while that layer attends.",
    )
