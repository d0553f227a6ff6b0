"""The tables and charts of a comparison: printed, as JSON, and as a page of the report."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from heedful.bandits.commands.online import BEST, POINTS, SEEDS, Plan
from heedful.bandits.commands.scores import Terms
from heedful.bandits.off_policy import LEAST_ESS, MOST_UNCOVERED
from heedful.lab import console, text
from heedful.lab.console import Column
from heedful.lab.declare import Figure

Row = Mapping[str, Any]
WIDTH = 110
"""Characters per line of a table's note, on a terminal that has as many."""
NAMES = {
    "dr": "doubly robust", "snips": "SNIPS", "ips": "IPS", "direct": "direct", "replay": "replay",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """The table of a comparison.

    Attributes:
        title: its heading.
        note: what its columns mean.
        rows: every value under its plain name, the same keys in each row.
        columns: what is printed.
        shown: a row -> what is printed of it.
    """

    title: str
    note: str
    rows: Sequence[Row]
    columns: Sequence[Column]
    shown: Any

    @property
    def frame(self) -> pl.DataFrame:
        """The rows as a frame."""
        frame = pl.DataFrame(list(self.rows), infer_schema_length=None)
        return frame.with_columns(pl.col(pl.Null).cast(pl.Float64))

    def show(self) -> None:
        """Prints the table and its note."""
        console.show_table([self.shown(row) for row in self.rows], self.columns, title=self.title)
        width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
        print(f"{textwrap.fill(self.note, width)}\n")


def policies(title: str, note: str, rows: Sequence[Row], estimators: Sequence[str], estimated: bool) -> Table:
    """The table of policies; ``estimated``: whether propensities are."""
    by = " (estimated p)" if estimated else ""
    columns = [Column("policy"), Column("oracle", "model")]
    if any(row["truth"] is not None for row in rows):
        columns.append(Column("truth", "true value", align="right"))
    for name in (*estimators, *(["replay"] if any(row["matched"] is not None for row in rows) else [])):
        columns.append(Column(name, NAMES[name] + ("" if name == "direct" else by), align="right"))
    if any(row["gain"] is not None for row in rows):
        columns.append(Column("gain", "over the log", align="right"))
    if any(row["ess"] is not None for row in rows):
        columns += [Column("ess", "ESS", align="right"), Column("max_weight", "max w", align="right")]
        columns += [Column("mean_weight", "mean w", align="right"), Column("unlogged", "never logged %", align="right")]
    return Table(title, note, rows, columns, _printed)


def _printed(row: Row) -> dict[str, str]:
    printed = {"policy": row["policy"], "oracle": row["oracle"] or text.MISSING}
    for name in (*NAMES, "gain"):
        printed[name] = spread(row, name, sign=name == "gain")
    printed["truth"] = _plain(row["truth"], ".4f")
    printed["ess"] = _plain(row["ess"], ",.0f")
    printed["max_weight"], printed["mean_weight"] = _plain(row["max_weight"], ".3g"), _plain(row["mean_weight"], ".3f")
    printed["unlogged"] = _plain(None if row["unlogged"] is None else 100 * row["unlogged"], ".2f")
    return printed


def _plain(value: float | None, form: str) -> str:
    return text.MISSING if value is None else format(value, form)


def spread(row: Row, name: str, sign: bool = False, places: int = 4) -> str:
    """A value of a row with its interval, as ``0.8131 [0.8012, 0.8249]``.

    >>> spread({"a": 0.5, "a_low": 0.25, "a_high": 0.75}, "a", places=2)
    '0.50 [0.25, 0.75]'
    """
    value, low, high = (row.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return text.MISSING
    form = f"{'+' if sign else ''}.{places}f"
    return format(value, form) + ("" if low is None else f" [{format(low, form)}, {format(high, form)}]")


def figures(table: Table, logged: float, estimators: Sequence[str]) -> list[Figure]:
    """Values of policies with intervals, and how far the log carries each."""
    import altair as alt

    frame = table.frame.with_columns(
        label=pl.when(pl.col("oracle") == "").then("policy").otherwise(pl.format("{} on {}", "policy", "oracle"))
    )
    used = [name for name in (*estimators, "replay") if frame[name].is_not_null().any()]
    parts = [
        frame.select("label", estimator=pl.lit(NAMES[name]), value=name, low=f"{name}_low", high=f"{name}_high")
        for name in used
    ]
    if frame["truth"].is_not_null().any():
        missing = pl.lit(None, dtype=pl.Float64)
        parts.append(frame.select("label", estimator=pl.lit("true value"), value="truth", low=missing, high=missing))
    data = pl.concat(parts).filter(pl.col("value").is_not_null())
    order = data.group_by("label").agg(pl.col("value").first()).sort("value", descending=True)["label"].to_list()
    names = [*(NAMES[name] for name in used), "true value"]
    base = alt.Chart(data).encode(
        y=alt.Y("label:N", title=None, sort=order, axis=alt.Axis(labelLimit=320)),
        yOffset=alt.YOffset("estimator:N", sort=names),
        color=alt.Color("estimator:N", title=None, sort=names, scale=alt.Scale(range=list(COLORS), domain=names)),
        tooltip=list(data.columns),
    )
    line = alt.Chart(pl.DataFrame({"logged": [logged]})).mark_rule(strokeDash=[4, 3], color="#8a8a8a")
    chart = alt.layer(
        line.encode(x="logged:Q"),
        base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_point(filled=True, size=45, opacity=1).encode(
            x=alt.X("value:Q", title="reward per decision", scale=alt.Scale(zero=False))
        ),
    ).properties(width=520, height=alt.Step(12))
    found = [
        Figure(
            "What policies would have brought",
            chart,
            data,
            "Estimates with 95 % intervals; the dashed line is what was logged.",
        )
    ]
    carried = frame.filter(pl.col("ess").is_not_null()).select("label", "ess", "max_weight", "unlogged", "problems")
    if len(carried):
        found.append(_support(carried))
    return found


COLORS = ("#1f4e8c", "#4c78a8", "#f58518", "#54a24b", "#b279a2", "#111111")


def _support(carried: pl.DataFrame) -> Figure:
    import altair as alt

    data = carried.with_columns(carried=pl.when(pl.col("problems") == "").then(pl.lit("yes")).otherwise(pl.lit("no")))
    chart = (
        alt.Chart(data)
        .mark_bar()
        .encode(
            x=alt.X("ess:Q", title="effective sample size"),
            y=alt.Y("label:N", title=None, sort="-x", axis=alt.Axis(labelLimit=320)),
            color=alt.Color(
                "carried:N", title="carried by the log", scale=alt.Scale(domain=["yes", "no"], range=list(COLORS[1:3]))
            ),
            tooltip=list(data.columns),
        )
        .properties(width=520)
    )
    return Figure(
        "How far the log carries each policy",
        chart,
        data,
        f"As many rows of the policy's own would say as much. Below {LEAST_ESS:g}, or with more than "
        f"{100 * MOST_UNCOVERED:g} % of what it does never logged, an estimate means little.",
    )


def thresholds(title: str, terms: Terms, share: float, rows: Sequence[Row]) -> Table:
    """The table of thresholds that were found on the first ``share`` of the people."""
    groups = [name for name in rows[0] if name.startswith("accepted ")]
    columns = [
        Column("policy"), Column("threshold", align="right"), Column("reward", align="right"),
        Column("gap", "gap %", align="right"), Column("kept", "within tolerance"),
        Column("accepted", "accepted %", align="right"),
        *(Column(name, f"{name.removeprefix('accepted ')} %", align="right") for name in groups),
        Column("unobserved", "never observed %", align="right"),
    ]  # fmt: skip
    note = (
        f"Thresholds were found on the first {100 * share:g} % of people and measured on the rest; a score of at least "
        f"the threshold is accepted. reward: per person whose outcome is known, {terms.gain:g} for an accepted 1 and "
        f"-{terms.loss:g} for an accepted 0. gap: the largest difference between two groups' acceptance rates, which "
        f"parity keeps within {terms.tolerance:g} where it was found. never observed: of those accepted. []: the 95 % "
        "interval, by moving-block bootstrap."
    )
    return Table(title, note, rows, columns, _printed_threshold)


def learned(terms: Terms, plan: Plan, rows: Sequence[Row]) -> Table:
    """The table of what learned its threshold online."""
    columns = [
        Column("policy"), Column("threshold", align="right"), Column("reward", align="right"),
        Column("late_reward", "last fifth", align="right"), Column("late_gap", "gap %, last fifth", align="right"),
        Column("violation", "over tolerance %", align="right"),
    ]  # fmt: skip
    note = (
        f"Nothing is known at first: in each of {plan.rounds:,} rounds one of {POINTS} thresholds, quantiles of the "
        f"first part's scores, is played for {plan.cohort:,} people drawn with replacement from the measured ones, and "
        "only what it brought is told; the population does not answer. threshold: the one played most in the last "
        "fifth. reward, gap: of the people as a whole under what was played. over tolerance: by how much the gap "
        f"exceeded {terms.tolerance:g}, a round. {BEST}: the best of these thresholds within the tolerance, known "
        f"beforehand. []: the 95 % interval over {SEEDS} seeds."
    )
    return Table("Learning the threshold online", note, rows, columns, _printed_learned)


def _printed_learned(row: Row) -> dict[str, str]:
    percent = {
        f"{name}{end}": None if row[f"{name}{end}"] is None else 100 * row[f"{name}{end}"]
        for name in ("late_gap", "violation") for end in ("", "_low", "_high")
    }  # fmt: skip
    return {
        "policy": row["policy"],
        "threshold": f"{row['threshold']:.4g}",
        "reward": spread(row, "reward"),
        "late_reward": spread(row, "late_reward"),
        "late_gap": spread(percent, "late_gap", places=1),
        "violation": spread(percent, "violation", places=2),
    }


def course(rows: Sequence[Row]) -> Figure:
    """How learning went, round by round."""
    import altair as alt

    data = pl.DataFrame(list(rows))
    base = alt.Chart(data).mark_line().encode(
        x=alt.X("round:Q"), color=alt.Color("policy:N", title=None, scale=alt.Scale(range=list(COLORS))),
        tooltip=list(data.columns),
    )  # fmt: skip
    parts = [
        base.encode(y=alt.Y("reward:Q", title="reward per person so far", scale=alt.Scale(zero=False))),
        base.encode(y=alt.Y("violation:Q", title="violation so far")),
    ]
    chart = alt.hconcat(*(part.properties(width=300, height=220) for part in parts))
    return Figure("Learning the threshold online", chart, data, "Means over seeds; violation is summed over rounds.")


def _printed_threshold(row: Row) -> dict[str, str]:
    percent = {name: f"{100 * value:.1f}" for name, value in row.items() if name.startswith("accepted")}
    gap = {name: 100 * row[name] for name in ("gap", "gap_low", "gap_high")}
    return percent | {
        "policy": row["policy"],
        "threshold": f"{row['threshold']:.4g}",
        "reward": spread(row, "reward"),
        "gap": spread(gap, "gap", places=1),
        "kept": "yes" if row["kept"] else "no",
        "unobserved": f"{100 * row['unobserved']:.1f}",
    }


def threshold_figures(table: Table, tolerance: float) -> list[Figure]:
    """Reward against the gap between groups."""
    import altair as alt

    data = table.frame
    base = alt.Chart(data).encode(
        color=alt.Color("policy:N", title=None, scale=alt.Scale(range=list(COLORS))), tooltip=list(data.columns)
    )
    x, y = alt.X("gap:Q", title="gap between groups' acceptance rates"), alt.Y("reward:Q", title="reward per person")
    line = alt.Chart(pl.DataFrame({"tolerance": [tolerance]})).mark_rule(strokeDash=[4, 3], color="#8a8a8a")
    chart = alt.layer(
        line.encode(x="tolerance:Q"),
        base.mark_rule(opacity=0.6).encode(x=alt.X("gap_low:Q"), x2="gap_high:Q", y=y),
        base.mark_rule(opacity=0.6).encode(x=x, y=alt.Y("reward_low:Q"), y2="reward_high:Q"),
        base.mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y),
    ).properties(width=460, height=300)
    return [Figure("Reward and gap", chart, data, "With 95 % intervals; the dashed line is the tolerance.")]
