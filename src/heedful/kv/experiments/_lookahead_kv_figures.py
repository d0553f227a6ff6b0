"""LookaheadKV's figures."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from heedful.kv.experiments._lookahead_kv_claims import DECIDED_ON, FAR, MAIN_SHARE
from heedful.lab import Figure


def _answered() -> pl.Expr:
    """What claims about a row's task are decided on."""
    found = pl.col("accuracy")
    for task, metric in DECIDED_ON.items():
        found = pl.when(pl.col("task") == task).then(pl.col(metric)).otherwise(found)
    return found


def _budgets(quality: pl.DataFrame) -> Figure:
    """One line per method over the budget, one panel per task."""
    table = (
        quality.filter(~pl.col("tuned") & pl.col("task").is_in(FAR))
        .filter((pl.col("share") < 1) | (pl.col("method") == "full"))
        .group_by("task", "method", "share")
        .agg(
            pl.col("answered").mean(),
            (1.96 * pl.col("answered").std() / pl.len().sqrt()).alias("plus_minus"),
            pl.len().alias("items"),
        )
        .sort("task", "method", "share")
    )
    chart = (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "share:Q",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format="%", values=[0.05, 0.1, 0.2, 0.5, 1]),
                title="budget, share of the sequence",
            ),
            y="answered:Q",
            color=alt.Color("method:N"),
            facet=alt.Facet("task:N", columns=2, title=None),
            tooltip=["task", "method", "share", "answered", "plus_minus", "items"],
        )
        .properties(width=260, height=200)
    )
    return Figure(
        "Answers, where the end of the prompt does not tell what matters",
        chart,
        table,
        "Whole answers right (early, twohop), tokens right (copy), answers as with the full cache (crowded). Full "
        "cache at 100 %. plus_minus is half the 95 % interval over items.",
    )


def _kept(quality: pl.DataFrame) -> Figure:
    table = (
        quality.filter(~pl.col("tuned") & pl.col("task").is_in(FAR) & (pl.col("share") == MAIN_SHARE))
        .group_by("task", "method")
        .agg(pl.col("recall", "spearman", "kl").mean())
        .sort("task", "method")
    )
    chart = (
        alt.Chart(table)
        .mark_point(filled=True, size=60)
        .encode(
            x="recall:Q",
            y=alt.Y("method:N", title=None),
            color="task:N",
            tooltip=["task", "method", "recall", "spearman", "kl"],
        )
        .properties(width=420)
    )
    return Figure(
        "What is kept at a tenth",
        chart,
        table,
        "Of the entries that the true answer attends to most, the share that is kept; the oracle keeps them all. "
        "SnapKV's and PyramidKV's rank correlation leaves out their window.",
    )


def _bars(rows: pl.DataFrame, title: str, caption: str) -> Figure:
    """Answers by method, one panel per task."""
    table = (
        rows.group_by("task", "method")
        .agg(pl.col("answered", "kl", "recall").mean(), pl.len().alias("items"))
        .sort("task", "method")
    )
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(x="answered:Q", y=alt.Y("method:N", title=None), row=alt.Row("task:N", title=None), color="method:N")
        .properties(width=320)
    )
    return Figure(title, chart, table, caption)


def _ablation(rows: pl.DataFrame) -> Figure:
    rival = pl.col("method") == "snapkv"
    table = (
        rows.filter(pl.col("share") == MAIN_SHARE)
        .with_columns(parts=pl.when(rival).then(pl.lit("SnapKV")).otherwise(pl.col("variant")))
        .group_by("parts", "task")
        .agg(
            pl.col("recall", "spearman", "answered", "kl").mean(),
            pl.col("trained").n_unique().alias("trainings"),
        )
        .sort("parts", "task")
    )
    chart = (
        alt.Chart(table)
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("recall:Q", scale=alt.Scale(zero=False)),
            y=alt.Y("parts:N", title=None),
            color="task:N",
            tooltip=["parts", "task", "recall", "spearman", "answered", "trainings"],
        )
        .properties(width=420)
    )
    return Figure(
        "What the parts contribute, at a tenth",
        chart,
        table,
        "Parts trained here, all for the same number of steps, fewer than the shipped ones.",
    )


def _overhead(rows: pl.DataFrame) -> Figure:
    table = (
        rows.group_by("method", "context")
        .agg(pl.col("overhead", "prefill_s").mean(), pl.len().alias("runs"))
        .sort("method", "context")
    )
    chart = (
        alt.Chart(table.filter(pl.col("method") != "full"))
        .mark_line(point=True)
        .encode(
            x=alt.X("context:Q", scale=alt.Scale(type="log", base=2), title="prompt tokens"),
            y=alt.Y("overhead:Q", axis=alt.Axis(format="%")),
            color="method:N",
            tooltip=["method", "context", "overhead", "prefill_s", "runs"],
        )
        .properties(width=420, height=220)
    )
    return Figure(
        "Overhead on reading a prompt, one thread",
        chart,
        table,
        "Over the full cache's time on the same prompt; a tenth is kept. Random weights, 6 layers of width 256.",
    )


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    found = []
    rows = rows.with_columns(answered=_answered())
    quality = rows.filter((pl.col("part") == "quality") & (pl.col("split") == "test"))
    if len(quality):
        found += [_budgets(quality), _kept(quality)]
        at_a_tenth = (pl.col("share") == MAIN_SHARE) | (pl.col("method") == "full")
        near = quality.filter(~pl.col("task").is_in(FAR) & ~pl.col("tuned") & at_a_tenth)
        if len(near):
            found.append(_bars(near, "Where the question ends the prompt, at a tenth", "Training has not seen marked."))
        tuned = quality.filter(pl.col("tuned"))
        if len(tuned):
            found.append(_bars(tuned, "Tuned with equal effort, at a tenth", "Settings chosen on other items."))
    ablation = rows.filter(pl.col("part") == "ablation")
    if len(ablation):
        found.append(_ablation(ablation))
    overhead = rows.filter(pl.col("part") == "overhead")
    if len(overhead):
        found.append(_overhead(overhead))
    size = rows.filter(pl.col("part") == "size")
    if len(size):
        table = size.select("method", "extra_parameters")
        share = alt.X("extra_parameters:Q", axis=alt.Axis(format="%"))
        chart = alt.Chart(table).mark_bar().encode(x=share, y="method:N")
        found.append(Figure("Parameters of the trained parts, over the model's", chart, table, "The model is small."))
    return found
