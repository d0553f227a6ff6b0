"""LazyEviction's figures."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from heedful.lab import Figure


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    found = []
    for part, metric, title, caption in (
        (
            "live",
            "far_accuracy",
            "Accuracy where the operand was last seen long ago",
            "Live decoding on the cut cache; plus_minus is half the 95 % interval over items.",
        ),
        (
            "replay",
            "hit_rate",
            "Needed entries still held when needed",
            "Replay of recorded full-cache attention, mean over layers and heads; belady_hit_rate bounds it.",
        ),
    ):
        chosen = rows.filter(pl.col("part") == part)
        if part == "live" and len(chosen):
            chosen = chosen.filter(~pl.col("tuned"))
        if not len(chosen):
            continue
        table = (
            chosen.group_by("task", "method", "share")
            .agg(
                pl.col(metric).mean(),
                (1.96 * pl.col(metric).std() / pl.len().sqrt()).alias("plus_minus"),
                pl.len().alias("items"),
                pl.col("slots", "peak_slots").mean(),
            )
            .sort("task", "share", metric, descending=[False, False, True])
        )
        chart = (
            alt.Chart(table.filter(pl.col("method") != "full"))
            .mark_line(point=True)
            .encode(
                x=alt.X("share:Q", axis=alt.Axis(format="%"), title="budget, share of the sequence"),
                y=alt.Y(f"{metric}:Q", title=metric.replace("_", " ")),
                color=alt.Color("method:N", legend=alt.Legend(labelLimit=320)),
                tooltip=["task", "method", "share", metric, "plus_minus", "items", "slots", "peak_slots"],
            )
            .properties(width=240, height=220)
            .facet(facet=alt.Facet("task:N", title=None), columns=2)
        )
        found.append(Figure(title, chart, table, caption))
    tuned = rows.filter((pl.col("part") == "live") & pl.col("tuned"))
    if len(tuned):
        table = (
            tuned.group_by("method")
            .agg(pl.col("far_accuracy", "accuracy", "slots", "peak_slots").mean())
            .sort("far_accuracy", descending=True)
        )
        chart = (
            alt.Chart(table)
            .mark_bar()
            .encode(
                x=alt.X("far_accuracy:Q", scale=alt.Scale(domain=[0, 1])),
                y=alt.Y("method:N", sort="-x"),
                tooltip=["method", "far_accuracy"],
            )
            .properties(width=420)
        )
        found.append(
            Figure(
                "Tuned on calibration items, six settings each",
                chart,
                table,
                "Far accuracy on test items at the tuned budget.",
            )
        )
    return found
