"""Figures of regression oracles in generations."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from heedful.bandits.experiments.regression_oracles import LADDERS
from heedful.lab import Figure

_COLORS = {
    "uniform": "#8a8a8a", "contextual-epsilon": "#f58518", "epsilon-split": "#d6a400", "softmax": "#9d755d",
    "squarecb": "#4c78a8", "squarecb-50": "#9ecae9", "squarecb-300": "#6f9fd8", "squarecb-2000": "#1f4e8c",
    "falcon": "#54a24b", "greedy": "#e45756", "linucb": "#b279a2", "lints": "#00a3a3",
}  # fmt: skip
_WORLDS = {
    ("linear", "logistic"): "linear world, logistic model", ("bent", "logistic"): "nonlinear world, logistic model",
    ("bent", "boosting"): "nonlinear world, boosted trees", ("bent", "mlp"): "nonlinear world, small network",
    ("digits", "logistic"): "digits, logistic model", ("fees", "ridge"): "real fees, ridge model",
}  # fmt: skip
_SWEEPS = (
    ("window", "generations in the window", "How many logs the model is trained on"),
    ("delay", "generations until a log is released", "How late logs come"),
    ("rate", "authorised under random actions", "How rare failures are"),
)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    titled = pl.concat_str("world", "oracle", separator="|").replace({"|".join(k): v for k, v in _WORLDS.items()})
    learned = rows.filter(pl.col("oracle").is_not_null()).with_columns(panel=titled)
    main = learned.filter(pl.col("part").is_in(["main", "digits", "fees"]))
    found = [_regret(main), _tuned(learned), _errors(main)]
    sweeps = [_sweep(learned, *each) for each in _SWEEPS]
    off = rows.filter((pl.col("part") == "off-policy") & pl.col("miss").is_not_null())
    shop = rows.filter((pl.col("part") == "open-bandit") & pl.col("value").is_not_null())
    return [*found, *sweeps, *([_estimates(off)] if len(off) else []), *([_shop(shop)] if len(shop) else [])]


def _color(data: pl.DataFrame) -> alt.Color:
    names = [name for name in _COLORS if name in set(data["policy"])]
    scale = alt.Scale(domain=names, range=[_COLORS[name] for name in names])
    return alt.Color("policy:N", title=None, scale=scale, legend=alt.Legend(symbolOpacity=1))


def _regret(main: pl.DataFrame) -> Figure:
    now = main.filter(pl.col("regret_now").is_not_null())
    lines = now.group_by("panel", "policy", "generation").agg(
        pl.col("regret_now").mean().alias("regret"), (1.96 * pl.col("regret_now").std() / pl.len().sqrt()).alias("half")
    )
    lines = lines.with_columns(low=pl.col("regret") - pl.col("half"), high=pl.col("regret") + pl.col("half"))
    lines = lines.filter(pl.col("policy") != "epsilon-split").sort("panel", "policy", "generation")
    base = alt.Chart(lines).encode(
        x=alt.X("generation:Q", axis=alt.Axis(tickMinStep=1)), color=_color(lines),
        tooltip=["panel", "policy", "generation", alt.Tooltip("regret:Q", format=".4f")],
    )  # fmt: skip
    log = alt.Scale(type="log", nice=False)
    chart = (
        alt.layer(
            base.mark_area(opacity=0.12).encode(y=alt.Y("low:Q", scale=log), y2="high:Q"),
            base.mark_line(point=alt.OverlayMarkDef(size=18)).encode(
                y=alt.Y("regret:Q", scale=log, title="regret per request")
            ),
        )
        .properties(width=250, height=210)
        .facet(facet=alt.Facet("panel:N", title=None, sort=list(_WORLDS.values())), columns=3)
        .resolve_scale(y="independent")
    )
    summary = main.filter(pl.col("regret").is_not_null())
    columns = ("regret", "oscillation", "turning", "error_rise", "imbalance")
    table = summary.group_by("panel", "policy").agg(pl.col(*columns).mean()).sort("panel", "regret")
    return Figure(
        "Regret over generations",
        chart,
        table,
        "Means over seeds with 95 % intervals; generation 0 is uniform, window 3. In the table regret is the mean of "
        "the generations after it; the other columns are explained under the metrics.",
    )


def _tuned(learned: pl.DataFrame) -> Figure:
    """Every policy of the tuning stage as it is given and as it was tuned, and greedy, which has nothing to tune."""
    whole = learned.filter(pl.col("regret").is_not_null())
    tuned = whole.filter(pl.col("part") == "tuned")
    settings = [
        pl.when(pl.col(name).is_not_null()).then(pl.format(name + "={}", pl.col(name))) for name, _ in LADDERS.values()
    ]
    chosen = pl.coalesce(settings).first().alias("chosen")
    tuned = tuned.group_by("panel", "policy").agg(chosen, pl.col("regret").mean().alias("tuned"))
    names = {name: name for name in LADDERS} | {"greedy": "greedy", "squarecb": None, "squarecb-2000": "squarecb"}
    given = whole.filter((pl.col("part") == "main") & pl.col("panel").is_in(tuned["panel"].unique().to_list()))
    given = given.with_columns(pl.col("policy").replace_strict(names, default=None)).drop_nulls("policy")
    table = (
        given.group_by("panel", "policy")
        .agg(pl.col("regret").mean().alias("untuned"))
        .join(tuned, on=["panel", "policy"], how="left")
        .sort("panel", pl.coalesce("tuned", "untuned"))
    )
    long = table.unpivot(["untuned", "tuned"], index=["panel", "policy", "chosen"], variable_name="as")
    chart = (
        alt.Chart(long.filter(pl.col("value").is_not_null()))
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("value:Q", title="regret per request", scale=alt.Scale(zero=False)),
            y=alt.Y("policy:N", title=None),
            color=alt.Color("as:N", title=None, scale=alt.Scale(domain=["untuned", "tuned"])),
            facet=alt.Facet("panel:N", title=None, columns=2, sort=list(_WORLDS.values())),
            tooltip=["panel", "policy", "as", "chosen", alt.Tooltip("value:Q", format=".4f")],
        )
        .properties(width=300, height=130)
        .resolve_scale(x="independent", y="independent")
    )
    return Figure(
        "Untuned and tuned",
        chart,
        table,
        "Means over seeds; SquareCB untuned is that with gamma 2000. For each policy and model one value of five was "
        "chosen, on worlds that are not among these; for the logistic model one for both worlds.",
    )


def _errors(main: pl.DataFrame) -> Figure:
    names = {"error_uniform_now": "on random actions", "error_policy_now": "on its own actions"}
    chosen = main.filter(pl.col("policy").is_in(["uniform", "contextual-epsilon", "squarecb-2000", "greedy"]))
    served = chosen.filter(pl.col("error_uniform_now").is_not_null())
    long = served.select("panel", "policy", "generation", *names).unpivot(
        list(names), index=["panel", "policy", "generation"], variable_name="on", value_name="error"
    )
    lines = (
        long.with_columns(pl.col("on").replace(names))
        .group_by("panel", "policy", "generation", "on")
        .agg(pl.col("error").mean())
    )
    lines = lines.sort("panel", "policy", "on", "generation")
    chart = (
        alt.Chart(lines)
        .mark_line(point=alt.OverlayMarkDef(size=18))
        .encode(
            x=alt.X("generation:Q", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("error:Q", scale=alt.Scale(type="log", nice=False), title="squared error of predictions"),
            color=_color(lines),
            strokeDash=alt.StrokeDash("on:N", title=None, sort=list(names.values())),
            facet=alt.Facet("panel:N", title=None, columns=3, sort=list(_WORLDS.values())),
            tooltip=["panel", "policy", "on", "generation", alt.Tooltip("error:Q", format=".5f")],
        )
        .properties(width=250, height=210)
        .resolve_scale(y="independent")
    )
    kept = lines.filter(pl.col("generation").is_in([1, 3, 4, 8, 11]))
    table = kept.sort("generation").pivot("generation", index=["panel", "policy", "on"], values="error")
    renamed = {name: f"generation {name}" for name in table.columns if name.isdecimal()}
    return Figure(
        "What the model knows",
        chart,
        table.rename(renamed).sort("panel", "policy", "on"),
        "Squared error against true means. Generation 3 is the last whose model has seen the uniform generation.",
    )


def _sweep(learned: pl.DataFrame, column: str, axis: str, title: str) -> Figure:
    """Regret and oscillation over one setting; where the others stand at it, the main runs are a point of it."""
    swept = learned.filter((pl.col("part") == column) & pl.col("regret").is_not_null())
    keys = ["panel", "policy"]
    main = learned.filter((pl.col("part") == "main") & pl.col("regret").is_not_null() & pl.col(column).is_not_null())
    data = (
        pl.concat([swept, main.join(swept.select(keys).unique(), on=keys, how="semi")])
        .group_by("panel", "policy", column)
        .agg(pl.col("regret", "oscillation").mean())
        .sort("panel", "policy", column)
    )
    long = data.unpivot(["regret", "oscillation"], index=["panel", "policy", column], variable_name="measure")
    chart = (
        alt.Chart(long)
        .mark_line(point=True)
        .encode(
            x=alt.X(f"{column}:Q", title=axis, scale=alt.Scale(zero=False)),
            y=alt.Y("value:Q", title=None),
            color=_color(data),
            strokeDash=alt.StrokeDash("panel:N", title=None),
            column=alt.Column("measure:N", title=None, sort=["regret", "oscillation"]),
            tooltip=["panel", "policy", column, "measure", alt.Tooltip("value:Q", format=".4f")],
        )
        .properties(width=300, height=210)
        .resolve_scale(y="independent")
    )
    return Figure(
        title, chart, data, "Means over seeds. Elsewhere the window is 3, the delay 0, and rates are as they are drawn."
    )


def _estimates(off: pl.DataFrame) -> Figure:
    table = off.group_by("world", "estimator").agg(pl.col("miss", "bias", "coverage").mean()).sort("world", "miss")
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("miss:Q", title="root mean squared error of the estimate"),
            y=alt.Y("estimator:N", sort="x", title=None),
            color=alt.Color("estimator:N", legend=None),
            row=alt.Row("world:N", title=None),
            tooltip=["world", "estimator", *(alt.Tooltip(f"{name}:Q", format=".4f") for name in ("miss", "coverage"))],
        )
        .properties(width=420, height=90)
    )
    return Figure(
        "Off-policy estimates where the value is known",
        chart,
        table,
        "The value of SquareCB (gamma 300) from logs of 1000 requests by epsilon-greedy (0.3) on an older model; "
        "predictions come from a third one, which is wrong in the bent world.",
    )


def _shop(shop: pl.DataFrame) -> Figure:
    columns = ["value", "low", "high", "ess", "mean_weight"]
    table = shop.select("campaign", "estimator", *columns).sort("campaign", "estimator")
    base = alt.Chart(table).encode(y=alt.Y("estimator:N", title=None), color=alt.Color("estimator:N", legend=None))
    chart = (
        alt.layer(
            base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q"),
            base.mark_point(filled=True, size=60).encode(x=alt.X("value:Q", title="clicks per recommendation")),
        )
        .properties(width=420, height=80)
        .facet(row=alt.Row("campaign:N", title=None))
    )
    return Figure(
        "Random recommendations, measured and estimated",
        chart,
        table,
        "What random recommendations brought in the shop's random log, and what the log of its Thompson sampler says "
        "that they bring.",
    )
