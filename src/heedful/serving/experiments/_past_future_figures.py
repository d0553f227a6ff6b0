"""Figures of Past-Future."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from heedful.lab import Figure

SHOWN = {
    "oracle": ("oracle", "#111111"),
    "past-future:rho=0.03": ("past-future 0.03", "#d62728"),
    "past-future:rho=0.05": ("past-future 0.05", "#ff9896"),
    "peak-with-mean": ("peak-with-mean", "#9467bd"),
    "aggressive:watermark=0.99": ("aggressive 0.99", "#9ecae1"),
    "aggressive:watermark=0.95": ("aggressive 0.95", "#1f77b4"),
    "aggressive:watermark=0.9": ("aggressive 0.90", "#08306b"),
    "conservative:overcommit=1.0": ("conservative 1.00", "#a1d99b"),
    "conservative:overcommit=1.25": ("conservative 1.25", "#41ab5d"),
    "conservative:overcommit=1.5": ("conservative 1.50", "#00441b"),
}
"""Methods that charts show, as they are called there, and their colours."""


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    found = []
    service = rows.filter((pl.col("part") == "service") & pl.col("load").is_not_null())
    if len(service):
        found += [
            _goodput(service),
            _areas(rows.filter((pl.col("part") == "service") & pl.col("goodput_share").is_not_null())),
            _patience(rows.filter(pl.col("patience").is_not_null())),
        ]
    packing = rows.filter(pl.col("part") == "packing")
    if len(packing):
        found.append(_packing(packing))
    logs = rows.filter((pl.col("part") == "log") & pl.col("goodput").is_not_null())
    if len(logs):
        found.append(_logs(logs))
    engine = rows.filter(pl.col("part").str.starts_with("engine"))
    if len(engine):
        found.append(_engine(engine))
    return found


def _color(title: str | None = None) -> alt.Color:
    names, colors = zip(*SHOWN.values())
    return alt.Color("scheduler:N", title=title, scale=alt.Scale(domain=list(names), range=list(colors)), sort=None)


def _named(rows: pl.DataFrame) -> pl.DataFrame:
    names = {method: name for method, (name, _) in SHOWN.items()}
    return rows.filter(pl.col("method").is_in(list(names))).with_columns(
        pl.col("method").replace_strict(names).alias("scheduler")
    )


def _goodput(service: pl.DataFrame) -> Figure:
    data = (
        _named(service)
        .group_by("workload", "load", "scheduler")
        .agg(pl.col("goodput").mean(), pl.col("met").mean(), pl.len().alias("seeds"))
        .filter(pl.col("seeds") > pl.col("seeds").max().over("workload") / 2)
        .sort("workload", "load", "scheduler")
    )
    chart = (
        alt.Chart(data)
        .mark_line(point=alt.OverlayMarkDef(size=22), strokeWidth=1.8)
        .encode(
            x=alt.X("load:Q", title="clients", scale=alt.Scale(zero=False)),
            y=alt.Y("goodput:Q", title="goodput, tokens/s"),
            color=_color(),
            facet=alt.Facet("workload:N", columns=3, title=None),
            tooltip=[
                "workload",
                "load",
                "scheduler",
                alt.Tooltip("goodput", format=".0f"),
                alt.Tooltip("met", format=".1%"),
            ],
        )
        .properties(width=230, height=230)
        .resolve_scale(x="independent", y="independent")
    )
    names = [name for name, _ in SHOWN.values()]
    table = (
        data.with_columns(pl.col("goodput").round(0).cast(pl.Int64), pl.col("load").cast(pl.Int64).alias("clients"))
        .sort("workload", "clients")
        .pivot("scheduler", index=["workload", "clients"], values="goodput")
        .select("workload", "clients", *(name for name in names if name in data["scheduler"]))
    )
    return Figure(
        "Goodput against load",
        chart,
        table,
        "Output tokens per second of requests that met both limits, means over seeds; a closed loop of clients.",
    )


def _areas(summaries: pl.DataFrame) -> Figure:
    order = (
        summaries.group_by("method")
        .agg(pl.col("goodput_share").mean())
        .sort("goodput_share", "method", descending=[True, False])
    )
    data = (
        summaries.group_by("workload", "method")
        .agg(pl.col("goodput_share").mean(), pl.col("area_whole").mean(), pl.col("sustained").mean())
        .sort("workload", "method")
    )
    chart = (
        alt.Chart(data)
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("goodput_share:Q", title="mean goodput over loads, of the oracle's", axis=alt.Axis(format="%")),
            y=alt.Y("method:N", sort=order["method"].to_list(), title=None, axis=alt.Axis(labelLimit=280)),
            color=alt.Color("workload:N", title=None),
            tooltip=["workload", "method", alt.Tooltip("goodput_share", format=".1%"), "sustained"],
        )
        .properties(width=420, height=alt.Step(20))
    )
    wide = data.with_columns(
        pl.format("{} / {}", (100 * pl.col("goodput_share")).round(1), pl.col("sustained").round(1)).alias("cell")
    ).pivot("workload", index="method", values="cell")
    table = order.select("method").join(wide, on="method", maintain_order="left")
    return Figure(
        "One setting for all workloads",
        chart,
        table.select("method", *sorted(column for column in table.columns if column != "method")),
        "Mean goodput over loads in % of the oracle's / the most clients that were sustained; means over seeds.",
    )


def _patience(patient: pl.DataFrame) -> Figure:
    data = _named(patient.group_by("method", "patience").agg(pl.col("patient_share").mean()))
    data = data.sort("patience", "scheduler")
    chart = (
        alt.Chart(data)
        .mark_line(point=True, clip=True)
        .encode(
            x=alt.X(
                "patience:Q",
                title="limit on the time to the first token, s",
                scale=alt.Scale(type="log", domain=[10, 120]),
                axis=alt.Axis(values=[10, 30, 60, 120]),
            ),
            y=alt.Y(
                "patient_share:Q",
                title="mean goodput over loads, of the oracle's",
                axis=alt.Axis(format="%"),
                scale=alt.Scale(domain=[0.6, 1]),
            ),
            color=_color(),
            tooltip=["method", "patience", alt.Tooltip("patient_share", format=".1%")],
        )
        .properties(width=420, height=260)
    )
    table = (
        patient.group_by("method", "patience")
        .agg((pl.col("patient_share").mean() * 100).round(1))
        .with_columns(pl.format("{} s", pl.col("patience").cast(pl.Int64)).alias("patience"))
        .pivot("patience", index="method", values="patient_share", sort_columns=False)
    )
    order = ["method", *(f"{seconds} s" for seconds in (10, 30, 60, 120))]
    return Figure(
        "Who waits how long for the first token",
        chart,
        table.select(order).sort("60 s", descending=True),
        "Mean goodput over loads and workloads in % of the oracle's, of the same runs under other limits on the time "
        "to the first token; means over seeds.",
    )


def _packing(packing: pl.DataFrame) -> Figure:
    data = (
        packing.group_by("workload", "method")
        .agg(pl.col(name).mean() for name in ("steps", "utilisation", "future_peak", "evictions", "seconds"))
        .sort("workload", "steps")
    )
    chart = (
        alt.Chart(_named(data))
        .mark_point(filled=True, size=90)
        .encode(
            x=alt.X("steps:Q", title="decode steps", scale=alt.Scale(zero=False)),
            y=alt.Y("evictions:Q", title="evictions per 100 requests", scale=alt.Scale(type="symlog", constant=1)),
            color=_color(),
            facet=alt.Facet("workload:N", columns=4, title=None),
            tooltip=["workload", "method", "steps", alt.Tooltip("evictions", format=".1f")],
        )
        .properties(width=190, height=200)
        .resolve_scale(x="independent")
    )
    cell = pl.format(
        "{} / {} / {}",
        (pl.col("steps") / 1000).round(0).cast(pl.Int64),
        (100 * pl.col("utilisation")).round(0).cast(pl.Int64),
        pl.col("evictions").round(1),
    )
    return Figure(
        "A queue of requests that all wait from the start",
        chart,
        data.with_columns(cell.alias("cell")).pivot("workload", index="method", values="cell"),
        "Thousands of decode steps / utilisation in % / evictions per 100 requests, means over seeds.",
    )


def _logs(logs: pl.DataFrame) -> Figure:
    data = logs.select("workload", "cap_factor", "factor", "method", "load", "goodput", "met", "ttft", "evictions")
    chart = (
        alt.Chart(_named(data))
        .mark_line(point=True)
        .encode(
            x=alt.X("load:Q", title="speed of arrivals, times the log's", scale=alt.Scale(zero=False)),
            y=alt.Y("met:Q", title="requests within limits", axis=alt.Axis(format="%")),
            color=_color(),
            column=alt.Column("workload:N", title=None),
            row=alt.Row("cap_factor:O", title="caps, times the longest output's power of two"),
            tooltip=["workload", "load", "scheduler", alt.Tooltip("met", format=".1%"), "evictions"],
        )
        .properties(width=300, height=180)
        .resolve_scale(x="independent")
    )
    shown = data.sort("workload", "cap_factor", "factor").with_columns(
        pl.format("speed x {}", "factor").alias("at"),
        pl.format("{} / {}", (100 * pl.col("met")).round(1), pl.col("ttft").round(1)).alias("cell"),
    )
    return Figure(
        "Real logs",
        chart,
        _named(shown).pivot("at", index=["workload", "cap_factor", "scheduler"], values="cell"),
        "Share of requests within limits in % / 99th percentile of the time to the first token in s; speeds are "
        "relative to the largest one that the oracle sustains.",
    )


def _engine(engine: pl.DataFrame) -> Figure:
    data = (
        engine.group_by("lengths", "method")
        .agg(pl.col(name).mean() for name in ("engine_evictions", "recomputed", "engine_steps", "wall"))
        .sort("lengths", "method")
    )
    chart = (
        alt.Chart(data)
        .mark_bar()
        .encode(
            x=alt.X("engine_evictions:Q", title="evictions"),
            y=alt.Y("method:N", title=None),
            row=alt.Row("lengths:N", title=None),
            tooltip=list(data.columns),
        )
        .properties(width=380, height=alt.Step(26))
    )
    return Figure(
        "Inside transformers' continuous batching",
        chart,
        data,
        "Means over seeds: evictions, tokens computed twice, batches, and seconds for all requests; answers of hidden "
        "length, or as long as their caps.",
    )
