"""LookaheadKV's figures."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from heedful.lab import Figure


def _curves(quality: pl.DataFrame, metric: str, title: str, caption: str) -> Figure:
    """One line per method over the budget, one panel per task."""
    table = (
        quality.filter(~pl.col("tuned") & pl.col(metric).is_not_null())
        .group_by("task", "method", "share")
        .agg(
            pl.col(metric).mean(),
            (1.96 * pl.col(metric).std() / pl.len().sqrt()).alias("plus_minus"),
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
            y=alt.Y(f"{metric}:Q", title=metric),
            color=alt.Color("method:N"),
            facet=alt.Facet("task:N", columns=3, title=None),
            tooltip=["task", "method", "share", metric, "plus_minus", "items"],
        )
        .properties(width=220, height=180)
    )
    return Figure(title, chart, table, caption)


def _tuned(quality: pl.DataFrame) -> Figure:
    table = (
        quality.filter(pl.col("tuned"))
        .group_by("task", "method")
        .agg(pl.col("accuracy", "kl", "recall").mean(), pl.len().alias("items"))
        .sort("task", "method")
    )
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(x="accuracy:Q", y=alt.Y("method:N", title=None), row=alt.Row("task:N", title=None), color="method:N")
        .properties(width=320)
    )
    return Figure("Tuned with equal effort, at a tenth", chart, table, "Four settings each, chosen on other items.")


def _ablation(rows: pl.DataFrame) -> Figure:
    rival = pl.col("method") == "snapkv"
    table = (
        rows.with_columns(parts=pl.when(rival).then(pl.lit("SnapKV")).otherwise(pl.col("variant")))
        .group_by("parts", "task", "share")
        .agg(
            pl.col("accuracy", "recall", "spearman", "kl").mean(),
            pl.col("trained").n_unique().alias("trainings"),
        )
        .sort("parts", "task", "share")
    )
    chart = (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=alt.X("share:Q", axis=alt.Axis(format="%"), title="budget, share of the sequence"),
            y=alt.Y("recall:Q", scale=alt.Scale(zero=False)),
            color=alt.Color("parts:N", title=None),
            column=alt.Column("task:N", title=None),
            tooltip=["parts", "task", "share", "accuracy", "recall", "spearman", "trainings"],
        )
        .properties(width=220, height=200)
    )
    return Figure(
        "What the parts contribute",
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
    quality = rows.filter((pl.col("part") == "quality") & (pl.col("split") == "test"))
    if len(quality):
        found += [
            _curves(quality, "accuracy", "Answers right", "Full cache at 100 %. plus_minus is half the 95 % interval."),
            _curves(
                quality,
                "recall",
                "Kept of what the true answer attends to most",
                "As many entries as the budget, by the true answer's attention; the oracle keeps them all.",
            ),
            _curves(quality, "kl", "Divergence from the full cache", "In nats, after the answer's first token."),
            _curves(
                quality.filter(pl.col("share") == 0.1),
                "spearman",
                "Scores against the true answer's attention",
                "Rank correlation over the prompt, before pooling. SnapKV and PyramidKV without their window.",
            ),
        ]
        if quality["tuned"].any():
            found.append(_tuned(quality))
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
