"""LazyEviction's figures."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from heedful.kv.experiments._lazy_eviction_claims import MAIN
from heedful.kv.experiments.lazy_eviction import ABLATIONS
from heedful.lab import Figure

INTERVAL = "plus_minus is half the 95 % interval over items"


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    live = rows.filter(pl.col("part") == "live")
    plain = live.filter(~pl.col("tuned"))
    found = [
        _by_budget(
            plain.filter(pl.col("task") == MAIN),
            "far_accuracy",
            "Far recall on the ledger, by budget",
            f"Accuracy where the operand was last mentioned long ago; live decoding on the cut cache. {INTERVAL}.",
        ),
        _by_task(plain.filter((pl.col("task") != MAIN) & ~pl.col("method").is_in(ABLATIONS))),
        _by_budget(
            rows.filter((pl.col("part") == "replay") & (pl.col("task") == MAIN)),
            "hit_rate",
            "Needed entries still held when needed, by budget",
            f"Replay of recorded full-cache attention, far needs, mean over layers and heads. {INTERVAL}; "
            "belady_hit_rate bounds what any policy of that size can reach.",
        ),
        _tuned(live.filter(pl.col("tuned"))),
        _recurrence(rows.filter(pl.col("part") == "recurrence")),
    ]
    return [figure for figure in found if len(figure.table)]


def _averages(rows: pl.DataFrame, metric: str, *keys: str) -> pl.DataFrame:
    """Mean, half interval and number of items of a metric; and the other averages that a table shows."""
    others = [name for name in ("slots", "peak_slots", "belady_hit_rate") if rows[name].null_count() < len(rows)]
    return (
        rows.group_by(keys)
        .agg(
            pl.col(metric).mean(),
            (1.96 * pl.col(metric).std() / pl.len().sqrt()).alias("plus_minus"),
            pl.len().alias("items"),
            pl.col(others).mean(),
        )
        .sort(*keys[:-1], metric, keys[-1], descending=[False] * (len(keys) - 1) + [True, False])
    )


def _by_budget(rows: pl.DataFrame, metric: str, title: str, caption: str) -> Figure:
    table = _averages(rows, metric, "share", "method")
    chart = (
        alt.Chart(table.filter(~pl.col("method").is_in(ABLATIONS)))
        .mark_line(point=True)
        .encode(
            x=alt.X("share:Q", axis=alt.Axis(format="%"), title="budget, share of the sequence"),
            y=alt.Y(f"{metric}:Q", title=metric.replace("_", " "), scale=alt.Scale(zero=False)),
            color=alt.Color("method:N", legend=alt.Legend(labelLimit=320), scale=alt.Scale(scheme="tableau20")),
            tooltip=table.columns,
        )
        .properties(width=460, height=300)
    )
    return Figure(title, chart, table, caption)


def _by_task(rows: pl.DataFrame) -> Figure:
    table = _averages(rows, "accuracy", "task", "method")
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("accuracy:Q", axis=alt.Axis(format="%")),
            y=alt.Y("method:N", title=None),
            tooltip=table.columns,
        )
        .properties(width=200, height=200)
        .facet(facet=alt.Facet("task:N", title=None), columns=2)
    )
    return Figure("Other tasks, at 35 %", chart, table, f"Accuracy over all scored tokens. {INTERVAL}.")


def _tuned(rows: pl.DataFrame) -> Figure:
    table = _averages(rows, "far_accuracy", "method")
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("far_accuracy:Q", axis=alt.Axis(format="%")),
            y=alt.Y("method:N", sort="-x", title=None),
            tooltip=table.columns,
        )
        .properties(width=420)
    )
    return Figure(
        "Tuned on calibration items, six settings each", chart, table, f"Far recall on the ledger at 35 %. {INTERVAL}."
    )


def _recurrence(rows: pl.DataFrame) -> Figure:
    names = ["recurring", "beyond_window", "interval_p80", "alpha", "window"]
    table = rows.group_by("task").agg(pl.col(names).mean()).sort("task")
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("beyond_window:Q", axis=alt.Axis(format="%"), title="needed entries with MRI > W"),
            y=alt.Y("task:N", title=None),
            tooltip=table.columns,
        )
        .properties(width=420)
    )
    return Figure(
        "Recurrence under the full cache",
        chart,
        table,
        "recurring: entries with MRI > 1; beyond_window: among entries that some prediction needs, those with MRI > W; "
        "interval_p80 is not clipped, window is.",
    )
