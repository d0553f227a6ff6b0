"""CAKE's figures."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from heedful.kv.experiments._cake_claims import KNOWN, RIVALS
from heedful.lab import Figure

INTERVAL = "plus_minus is half the 95 % interval over items"


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    quality = rows.filter(pl.col("part") == "quality")
    known = quality.filter(pl.col("task").is_in(KNOWN))
    plain = known.filter(pl.col("method").is_in(["full", "cake", *RIVALS]))
    found = [
        _all_tasks(plain),
        _by_task(plain),
        _others(known),
        _layers(rows.filter(pl.col("layer_slots").is_not_null() & pl.col("task").is_in(KNOWN))),
        _variation(rows.filter(pl.col("cv").is_not_null() & pl.col("task").is_in(KNOWN))),
        _split(rows.filter((pl.col("part") == "oracle") & pl.col("accuracy").is_not_null())),
        _late(rows.filter(pl.col("part") == "late")),
        _memory(rows.filter(pl.col("part") == "memory")),
        _speed(rows.filter(pl.col("part") == "speed")),
    ]
    return [figure for figure in found if len(figure.table)]


def _averages(rows: pl.DataFrame, *keys: str) -> pl.DataFrame:
    return (
        rows.group_by(keys)
        .agg(
            pl.col("accuracy").mean(),
            (1.96 * pl.col("accuracy").std() / pl.len().sqrt()).alias("plus_minus"),
            pl.len().alias("items"),
            pl.col("slots").mean(),
        )
        .sort(*keys[:-1], "accuracy", keys[-1], descending=[False] * (len(keys) - 1) + [True, False])
    )


def _all_tasks(rows: pl.DataFrame) -> Figure:
    table = _averages(rows, "share", "method")
    chart = _lines(table).properties(width=460, height=300)
    return Figure(
        "Answers by budget, over the tasks that the model knows",
        chart,
        table,
        f"Share of items answered right in full; full cache at 100 %. {INTERVAL} and tasks; slots at the end, the "
        "answer's included where a policy keeps it.",
    )


def _by_task(rows: pl.DataFrame) -> Figure:
    table = _averages(rows, "task", "share", "method").filter(pl.col("share") < 0.1)
    chart = _lines(table).properties(width=200, height=150).facet(facet=alt.Facet("task:N", title=None), columns=3)
    return Figure("Answers by budget and task", chart, table, f"Budgets up to 48 of 512 entries. {INTERVAL}.")


def _lines(table: pl.DataFrame) -> alt.Chart:
    return (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "share:Q", scale=alt.Scale(type="log"), axis=alt.Axis(format="%"), title="budget, share of the sequence"
            ),
            y=alt.Y("accuracy:Q", axis=alt.Axis(format="%")),
            color=alt.Color("method:N"),
            tooltip=table.columns,
        )
    )


def _others(rows: pl.DataFrame) -> Figure:
    chosen = rows.filter((pl.col("share") < 0.07) & ~pl.col("method").is_in(["h2o", "tova", "streaming-llm", "random"]))
    table = _averages(chosen, "share", "method")
    return Figure(
        "Ablations and tuned forms",
        _bars(table, "share"),
        table,
        f"The tasks that the model knows; @tuned: set on calibration items, nine settings each. {INTERVAL} and tasks.",
    )


def _bars(table: pl.DataFrame, by: str) -> alt.Chart:
    return (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("accuracy:Q", axis=alt.Axis(format="%")),
            y=alt.Y("method:N", title=None),
            row=alt.Row(f"{by}:N"),
            tooltip=table.columns,
        )
        .properties(width=420)
    )


def _layers(rows: pl.DataFrame) -> Figure:
    named = rows.with_columns(task=pl.coalesce("method", "task"))
    table = named.group_by("task", "layer").agg(pl.col("preference", "layer_slots").mean()).sort("task", "layer")
    chart = (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(x="layer:O", y="layer_slots:Q", color="task:N", tooltip=table.columns)
        .properties(width=420, height=220)
    )
    return Figure(
        "What each layer gets",
        chart,
        table,
        "With 32 entries per layer on average, 16 of them the window; preference is the layer's share of the sum of P. "
        "greedy split: found on calibration items, with 24.",
    )


def _variation(rows: pl.DataFrame) -> Figure:
    table = (
        rows.group_by("task")
        .agg(
            pl.col("cv").mean(),
            pl.col("cv").min().alias("least"),
            pl.col("cv").max().alias("most"),
            pl.len().alias("items"),
        )
        .sort("task")
    )
    chart = (
        alt.Chart(rows.select("task", "cv"))
        .mark_tick()
        .encode(x="cv:Q", y=alt.Y("task:N", title=None))
        .properties(width=420)
    )
    return Figure(
        "How unequal the layers are",
        chart,
        table,
        "Coefficient of variation of P over the layers, one tick per prompt; 0 would make CAKE's split uniform.",
    )


def _split(rows: pl.DataFrame) -> Figure:
    table = _averages(rows, "task", "method")
    return Figure(
        "A split found on calibration items",
        _bars(table, "task"),
        table,
        f"greedy: CAKE's choice within layers, budgets grown where calibration answers gained most. {INTERVAL}.",
    )


def _late(rows: pl.DataFrame) -> Figure:
    table = _averages(rows, "share", "method")
    return Figure(
        "The question comes after eviction",
        _bars(table, "share"),
        table,
        f"One needle; the window holds the end of the context. {INTERVAL}.",
    )


def _memory(rows: pl.DataFrame) -> Figure:
    table = (
        rows.group_by("context", "method").agg(pl.col("peak_entries", "peak_bytes").mean()).sort("context", "method")
    )
    chart = (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=alt.X("context:Q", scale=alt.Scale(type="log", base=2), title="prompt, tokens"),
            y=alt.Y("peak_entries:Q", scale=alt.Scale(type="log"), title="peak entries per KV head, all layers"),
            color="method:N",
            tooltip=table.columns,
        )
        .properties(width=420, height=220)
    )
    return Figure(
        "Peak of the cache while a prompt is read",
        chart,
        table,
        "12 layers, 256 entries per layer on average; cascade=0 decides when all layers have read the prompt.",
    )


def _speed(rows: pl.DataFrame) -> Figure:
    table = (
        rows.group_by("context", "contender")
        .agg(pl.col("tokens_per_s", "slots", "cache_bytes").mean())
        .sort("context", "contender")
    )
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(x="tokens_per_s:Q", y=alt.Y("contender:N", title=None), row="context:O", tooltip=table.columns)
        .properties(width=420)
    )
    return Figure("Decode speed, one thread", chart, table, "Batch of one; frozen decoding.")
