"""Attention-Gate's figures."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from heedful.lab import Figure

_TOKENS = ("recall", "repeat", "drill")
"""Tasks with many scored tokens; of the others whole answers count."""


def _score() -> pl.Expr:
    return pl.when(pl.col("task").is_in(_TOKENS)).then("token_accuracy").otherwise("accuracy").alias("score")


def _quality(rows: pl.DataFrame) -> Figure:
    """One line per method over the gates' betas, one panel per task."""
    chosen = rows.filter(pl.col("main") & ~pl.col("tuned"))
    evicted = chosen.filter(pl.col("method") == "attention-gate").group_by("task", "beta").agg(pl.col("evicted").mean())
    table = (
        chosen.group_by("task", "beta", "method")
        .agg(
            _score().mean(),
            (1.96 * _score().std() / pl.len().sqrt()).alias("plus_minus"),
            pl.col("slots").mean(),
            pl.len().alias("items"),
        )
        .join(evicted, on=["task", "beta"])
        .select("task", "beta", "evicted", "method", "score", "plus_minus", "slots", "items")
        .sort("task", "beta", "method")
    )
    chart = (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=alt.X("evicted:Q", axis=alt.Axis(format="%"), title="evicted by the gates", scale=alt.Scale(zero=False)),
            y=alt.Y("score:Q", title="accuracy", scale=alt.Scale(zero=False)),
            color="method:N",
            facet=alt.Facet("task:N", columns=3, title=None),
            tooltip=table.columns,
        )
        .resolve_scale(x="independent", y="independent")
        .properties(width=210, height=180)
    )
    return Figure(
        "Accuracy at the sizes that the gates chose",
        chart,
        table,
        "Every method holds as much as the gates do. Whole answers of marked and niah2, tokens of the others; "
        "plus_minus is half the 95 % interval over items. random-rates: random tokens at the gates' own rates per "
        "layer and head, dropped after the prompt or hidden in it as the gates' are.",
    )


def _variants(rows: pl.DataFrame) -> Figure:
    table = (
        rows.filter(pl.col("method") == "attention-gate")
        .group_by("task", "gate", "beta", "gate_seed")
        .agg(_score().mean(), pl.col("evicted", "evicted_if_padded", "spread").mean(), pl.len().alias("items"))
        .sort("task", "gate", "beta", "gate_seed")
        .with_columns(gates=pl.format("{} {}, seed {}", "gate", "beta", "gate_seed"))
    )
    chart = (
        alt.Chart(table)
        .mark_circle(size=80)
        .encode(
            x=alt.X("evicted:Q", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False)),
            y=alt.Y("score:Q", title="accuracy", scale=alt.Scale(zero=False)),
            color="gates:N",
            facet=alt.Facet("task:N", columns=3, title=None),
            tooltip=table.columns,
        )
        .resolve_scale(y="independent")
        .properties(width=210, height=180)
    )
    return Figure(
        "Gates with and without an attention of their own, and without newest tokens that always stay",
        chart,
        table.drop("gates"),
        "evicted_if_padded is what would be saved if every head took as much as its layer's fullest.",
    )


def _tuned(rows: pl.DataFrame) -> Figure:
    chosen = rows.filter(pl.col("tuned") | (pl.col("method") == "attention-gate"))
    table = (
        chosen.filter(pl.col("main"))
        .group_by("task", "beta", "method")
        .agg(_score().mean(), pl.len().alias("items"))
        .sort("task", "beta", "method")
    )
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("score:Q", title="accuracy"),
            y=alt.Y("method:N", title=None),
            row=alt.Row("task:N", title=None),
            column=alt.Column("beta:N"),
            color="method:N",
        )
        .properties(width=180)
    )
    return Figure("Rivals, tuned", chart, table, "Six settings each, chosen on marked spans of other items.")


def _marks(rows: pl.DataFrame) -> Figure:
    table = (
        rows.filter((pl.col("task") == "marked") & pl.col("main") & (pl.col("method") == "attention-gate"))
        .group_by("beta", "marks")
        .agg(pl.col("evicted").mean(), pl.len().alias("prompts"))
        .sort("beta", "marks")
    )
    chart = (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=alt.X("marks:Q", title="marked sentences, of twelve"),
            y=alt.Y("evicted:Q", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False)),
            color="beta:N",
            tooltip=table.columns,
        )
        .properties(width=360, height=200)
    )
    return Figure("What is evicted, by the number of marks", chart, table, "All prompts are of one length.")


def _text(rows: pl.DataFrame) -> Figure:
    table = (
        rows.group_by("method")
        .agg(
            pl.col("bits").mean(),
            (1.96 * pl.col("bits").std() / pl.len().sqrt()).alias("plus_minus"),
            pl.col("slots", "evicted").mean(),
            pl.len().alias("chunks"),
        )
        .sort("bits")
    )
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("bits:Q", title="bits per byte"), y=alt.Y("method:N", sort="x", title=None), tooltip=table.columns
        )
        .properties(width=360)
    )
    return Figure(
        "Plain text: bits per byte of the last third",
        chart,
        table,
        "Held-out source text under the byte-level model; what comes after the prompt is kept by every method.",
    )


def _finetune(rows: pl.DataFrame) -> Figure:
    table = (
        rows.filter(pl.col("item").is_not_null())
        .group_by("method", "seed")
        .agg(pl.col("accuracy", "evicted").mean(), pl.len().alias("items"))
        .sort("method", "seed")
    )
    chart = (
        alt.Chart(table)
        .mark_circle(size=80)
        .encode(
            x=alt.X("evicted:Q", axis=alt.Axis(format="%")),
            y=alt.Y("accuracy:Q", scale=alt.Scale(zero=False)),
            color="method:N",
            tooltip=table.columns,
        )
        .properties(width=360, height=200)
    )
    return Figure(
        "Fine-tuning on few samples: gates and LoRA, LoRA alone",
        chart,
        table,
        "One point per seed of samples, weights and items; as many steps for both.",
    )


def _speed(rows: pl.DataFrame) -> Figure:
    table = (
        rows.group_by("what", "context", "method")
        .agg(pl.col("prefill_s", "tokens_per_s", "slots", "cache_bytes", "evicted").mean())
        .sort("what", "context", "method")
    )
    chart = (
        alt.Chart(table.filter(pl.col("what") == "decode"))
        .mark_line(point=True)
        .encode(
            x=alt.X("context:Q", scale=alt.Scale(type="log", base=2)),
            y="tokens_per_s:Q",
            color="method:N",
            tooltip=table.columns,
        )
        .properties(width=360, height=200)
    )
    return Figure(
        "Reading a prompt and decoding, one thread",
        chart,
        table,
        "Random weights. Decoding: 30 % are left, from 2 to 58 % in a layer's four heads, in pages.",
    )


def _cost(rows: pl.DataFrame) -> Figure:
    table = rows.select("geometry", "context", "gate_heads", "gate_size", "extra_multiplications", "extra_weights")
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("extra_multiplications:Q", axis=alt.Axis(format="%")), y=alt.Y("geometry:N", title=None),
            tooltip=table.columns,
        )
        .properties(width=360)
    )  # fmt: skip
    return Figure("What gates add to reading a prompt, counted", chart, table, "Shares of the layers' own.")


def _training(rows: pl.DataFrame) -> Figure:
    table = rows.select("gate", "beta", "gate_seed", "loss", "mean_score", "mean_flag").sort(
        "gate", "beta", "gate_seed"
    )
    chart = (
        alt.Chart(table)
        .mark_circle(size=80)
        .encode(
            x=alt.X("mean_score:Q"), y=alt.Y("mean_flag:Q"), color="gate:N", tooltip=table.columns
        )
        .properties(width=240, height=240)
    )  # fmt: skip
    return Figure(
        "The mean of the scores, and what it lets through",
        chart,
        table,
        "At the end of training, over its data; a mean of beta is not a rate of beta.",
    )


_FIGURES = {
    "quality": (_quality, _variants, _tuned, _marks),
    "text": (_text,),
    "finetune": (_finetune,),
    "training": (_training,),
    "speed": (_speed,),
    "cost": (_cost,),
}


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    found: list[Figure] = []
    for part, drawn in _FIGURES.items():
        chosen = rows.filter(pl.col("part") == part)
        if len(chosen):
            found.extend(draw(chosen) for draw in drawn)
    return found
