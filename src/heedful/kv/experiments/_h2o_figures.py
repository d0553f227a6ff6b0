"""H2O's figures."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from heedful.kv.experiments._h2o_claims import TEXT
from heedful.lab import Figure


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    found = []
    quality = rows.filter(pl.col("part") == "quality")
    for task, metric, title in (
        (TEXT, "bits_per_byte", "Bits per byte of held-out source text"),
        (None, "accuracy", "Accuracy"),
    ):
        chosen = quality.filter(pl.col("task") == task if task else pl.col("task") != TEXT)
        if not len(chosen):
            continue
        table = (
            chosen.group_by("task", "method", "share")
            .agg(
                pl.col(metric).mean(),
                (1.96 * pl.col(metric).std() / pl.len().sqrt()).alias("plus_minus"),
                pl.len().alias("items"),
                pl.col("slots").mean(),
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
                    axis=alt.Axis(format="%"),
                    title="budget, share of the sequence",
                ),
                y=alt.Y(f"{metric}:Q", scale=alt.Scale(zero=False), title=metric.replace("_", " ")),
                color=alt.Color("method:N"),
                column=alt.Column("task:N", title=None),
                tooltip=["task", "method", "share", metric, "plus_minus", "items", "slots"],
            )
            .properties(width=260, height=220)
        )
        found.append(
            Figure(
                title,
                chart,
                table,
                "One line per policy; full cache at 100 %. plus_minus is half the 95 % interval over items.",
            )
        )
    structure = rows.filter(pl.col("part") == "structure")
    if len(structure):
        table = (
            structure.group_by("model", "twin", "layer")
            .agg(pl.col("sparsity", "gini", "gini_without_sinks", "top_share", "frequency_correlation").mean())
            .sort("model", "twin", "layer")
            .with_columns(weights=pl.when(pl.col("twin")).then(pl.lit("random")).otherwise(pl.lit("trained")))
        )
        chart = (
            alt.Chart(table)
            .mark_line(point=True)
            .encode(
                x=alt.X("layer:O"),
                y=alt.Y("gini:Q", scale=alt.Scale(domain=[0, 1])),
                color="weights:N",
                column=alt.Column("model:N", title=None),
                tooltip=["model", "weights", "layer", "sparsity", "gini", "top_share"],
            )
            .properties(width=240, height=200)
        )
        found.append(
            Figure(
                "Concentration of received attention, by layer",
                chart,
                table,
                "Gini coefficient of the attention that entries received per query that could see them; the random "
                "twin shows what softmax alone does.",
            )
        )
    speed = rows.filter(pl.col("part") == "speed")
    if len(speed):
        table = (
            speed.with_columns(method=pl.format("{}, batch {}", "method", "batch"))
            .group_by("method", "context")
            .agg(pl.col("tokens_per_s", "slots", "cache_bytes").mean())
            .sort("method", "context")
        )
        chart = (
            alt.Chart(table)
            .mark_line(point=True)
            .encode(
                x=alt.X("context:Q", scale=alt.Scale(type="log", base=2)),
                y="tokens_per_s:Q",
                color="method:N",
                tooltip=["method", "context", "tokens_per_s", "slots", "cache_bytes"],
            )
            .properties(width=420, height=220)
        )
        found.append(
            Figure(
                "Decode speed, one thread",
                chart,
                table,
                "Tokens of all sequences of the batch; the larger batch uses the bytes of one full cache.",
            )
        )
    retained = rows.filter(pl.col("part") == "retained")
    if len(retained):
        table = retained.group_by("share").agg(pl.col("retained_ratio").mean(), pl.len().alias("items"))
        chart = (
            alt.Chart(retained)
            .mark_tick()
            .encode(x=alt.X("retained_ratio:Q", scale=alt.Scale(zero=False)))
            .properties(width=420)
        )
        found.append(
            Figure(
                "Attention mass retained online, over that of the best fixed set",
                chart,
                table,
                "One tick per ledger item, mean over layers and heads; the online set may change over time, so it can "
                "exceed 1.",
            )
        )
    return found
