"""Individually fair learning with one-sided feedback: whom to accept, when only the accepted show what was right."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.lab import Cell, Claim, Experiment, Figure, Metric, Paper, Row, Scale, Tuning

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

FILES = {
    "made": (),
    "german": ("german-credit/german.parquet",),
    "compas": ("compas-deidentified/compas.parquet",),
}
"""People by name: the data files that they are in."""
GRIDS: dict[str, list[dict[str, Any]]] = {
    **{
        method: [{"eta": eta} for eta in (0.02, 0.05, 0.15, 0.5)]
        for method in ("exp2", "full-information", "naive-weights", "explore-first")
    },
    "context-semi-bandit-ftpl": [{"noise": noise} for noise in (10.0, 3.0, 1.0, 0.3)],
}
ETA, MIX = 0.02, 0.05
"""Untuned, the same for all methods that have them; the theory's own are in the part about exponents."""
PRICES = (0.0, 2.0, 8.0, 30.0)
MAIN = (
    *(("exp2", price) for price in PRICES),
    ("full-information", 0.0),
    ("full-information", 8.0),
    ("naive-weights", 0.0),
    ("naive-weights", 8.0),
    ("explore-first", 8.0),
    ("bank-rule", 0.0),
    ("accept-all", 0.0),
    ("context-semi-bandit-ftpl", 8.0),
)
CALIBRATION = 1000
"""Seeds from here on are for tuning alone."""


def there(people: str) -> bool:
    from heedful.lab import data

    return all(data.find(file) is not None for file in FILES[people])


def _cell(part: str, people: str, method: str, price: float | None, rounds: int, **rest: Any) -> Cell:
    given: dict[str, Any] = {
        "rules": 150,
        "members": 5,
        "gamma": 0.5,
        "regime": "plain",
        "mix": MIX,
        "first_seed": 0,
    } | rest
    return Cell.of(part=part, people=people, method=method, price=price, rounds=rounds, **given)


def cells(params: Mapping[str, Any], tuned: Mapping[str, Mapping[str, Any]]) -> Iterator[Cell]:
    rounds, named = params["rounds"], [name for name in params["people"] if there(name)]
    for people in named:
        for method, price in MAIN:
            yield _cell("main", people, method, price, rounds)
        for method, setting in tuned.items():
            yield _cell("tuned", people, method, 8.0, rounds, **setting)
    for people in named[:1]:
        for gamma in params["gammas"]:
            for members in params["members"]:
                yield _cell("panel", people, "exp2", 8.0, rounds, gamma=gamma, members=members)
        for price in (0.0, 8.0):
            yield _cell("changing", people, "exp2", price, rounds, regime="changing")
            yield _cell("wide", people, "exp2", price, rounds, regime="wide")
        for method in ("exp2", "full-information", "naive-weights"):
            mix = 0.0 if method == "naive-weights" else MIX
            yield _cell("pessimistic", people, method, 0.0, rounds, regime="pessimistic", mix=mix)
        yield _cell("pessimistic", people, "bank-rule", 0.0, rounds, regime="pessimistic")
        for method in ("exp2", "accept-all"):
            yield _cell("easy", people, method, 8.0, rounds, regime="easy")
            yield _cell("large-class", people, method, 8.0, rounds // 4, rules=2000)
    for people in dict.fromkeys(["made", *named[:1]]):
        yield _cell("exponents", people, "exp2", None, max(params["horizons"]))


def calibration(params: Mapping[str, Any], method: str, setting: Mapping[str, Any]) -> Iterator[Cell]:
    yield _cell("tuning", "made", method, 8.0, params["rounds"], first_seed=CALIBRATION, **setting)


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.bandits.experiments import _fair_one_sided

    yield from _fair_one_sided.measure(cell, ctx)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    from heedful.bandits.experiments import _fair_one_sided_figures

    return _fair_one_sided_figures.figures(rows)


def _files(params: Mapping[str, Any]) -> dict[str, str]:
    from heedful.lab import data

    return {file: data.declared(file).content for name in params["people"] if there(name) for file in FILES[name]}


def _side(method: str, price: float) -> dict[str, Any]:
    return {"method": method, "price": price}


_MAIN: dict[str, Any] = {"part": "main"}
_REAL = "random rules and panels over two real populations"

experiment = Experiment(
    slug="fair-one-sided",
    room="bandits",
    title="Individually Fair Learning with One-Sided Feedback",
    question="How to accept or reject people accurately when the outcome is seen only for the accepted, while a "
    "changing panel of possibly disagreeing auditors points out pairs of similar people who are treated differently?",
    summary="Charges each reported pair to the rules that cause it, and divides what the accepted show by the chance "
    "of seeing it.",
    paper=Paper(
        title="Individually Fair Learning with One-Sided Feedback",
        authors="Bechavod, Roth",
        year=2023,
        arxiv="2206.04475",
        venue="ICML 2023",
    ),
    metrics=(
        Metric("error", "1", "lower", "Expected errors per person in the last quarter, rejected people included."),
        Metric("violation_rate", "1", "lower", "Share of the last quarter's rounds in which a pair was reported."),
        Metric("cost", "1", "lower", "Errors per person, all rounds, a report counting as one error."),
        Metric("accepted", "1", "neither", "Share of people who were accepted in the last quarter."),
        Metric("violations", "1", "lower", "Rounds in which a pair was reported."),
        Metric("regret", "1", "lower", "Errors, less those of the best fair policy in hindsight (a linear program)."),
        Metric("lagrangian", "1", "lower", "Lagrangian regret against that policy."),
        Metric("fair_error", "1", "neither", "Errors per person of that policy."),
        Metric("broken", "1", "lower", "1 if regret and violations are not within what Lagrangian regret allows."),
        Metric("beyond", "1", "lower", "1 if mean Lagrangian regret exceeds the finite-time bound."),
        Metric("bound", "1", "neither", "The finite-time bound on expected Lagrangian regret."),
        Metric("regret_exponent", "1", "lower", "Slope of log (1 + regret) against log rounds."),
        Metric("violation_exponent", "1", "lower", "Slope of log (1 + violations) against log rounds."),
    ),
    dimensions=("seed", "horizon"),
    scales={
        "smoke": Scale(
            {
                "seeds": [0, 1],
                "rounds": 60,
                "people": ["made"],
                "gammas": [0.5],
                "members": [1],
                "horizons": [20, 60],
            },
            limit_s=120,
            leaves_out="Everything but a check that it runs: made people, 60 rounds, two seeds.",
        ),
        "small": Scale(
            {
                "seeds": list(range(10)),
                "rounds": 2000,
                "people": ["german", "compas"],
                "gammas": [0.2, 0.5, 1.0],
                "members": [1, 5, 15],
                "horizons": [500, 1000, 2000, 4000, 8000],
            },
            limit_s=600,
            leaves_out="Runs of 20,000 and 32,000 rounds; classes of a million rules.",
        ),
        "full": Scale(
            {
                "seeds": list(range(30)),
                "rounds": 20_000,
                "people": ["german", "compas", "made"],
                "gammas": [0.2, 0.4, 0.5, 0.8, 1.0],
                "members": [1, 3, 5, 15],
                "horizons": [500, 2000, 8000, 32_000],
            },
            limit_s=7200,
            leaves_out="Classes of a million rules.",
        ),
    },
    cells=cells,
    measure=measure,
    figures=figures,
    inputs=_files,
    tuning=Tuning(grids=lambda params: GRIDS, cells=calibration, metric="cost"),
    modules=(
        "heedful.bandits.experiments._fair_one_sided",
        *(
            f"heedful.bandits.{name}"
            for name in (
                "admissions",
                "auditors",
                "base",
                "context_semi_bandit_ftpl",
                "exp2",
                "fair_comparator",
                "learners",
                "one_sided",
                "one_sided_baselines",
            )
        ),
    ),
    claims=(
        Claim(
            "mechanism",
            "Regret plus C x slack per violation is at most Lagrangian regret in every run.",
            "broken",
            kind="exact",
            treatment={"part": ["main", "exponents"], "method": ["exp2", "full-information"]},
            published="the reduction",
        ),
        Claim(
            "finite-time",
            "With the theory's settings mean Lagrangian regret stays within the finite-time bound at every horizon.",
            "beyond",
            kind="exact",
            treatment={"part": "exponents"},
        ),
        *(
            Claim(
                f"{what}-exponent-{people}",
                f"With the theory's settings {title} slower than rounds (exponent below 1) among {among}.",
                f"{what}_exponent",
                unit=("seed",),
                treatment={"part": "exponents", "people": people},
                control=1.0,
                published="at most 4/5",
            )
            for what, title in (("regret", "regret grows"), ("violation", "violations grow"))
            for people, among in (("made", "made people"), ("german", "applicants of German Credit"))
        ),
        *(
            Claim(
                f"price-{high:g}",
                f"Raising the price of a report from {low:g} to {high:g} lowers violations by at least a fifth.",
                "violation_rate",
                d=0.2,
                relative=True,
                unit=("seed",),
                treatment=_side("exp2", high),
                control=_side("exp2", low),
                where=_MAIN,
                fixed=_REAL,
            )
            for low, high in itertools.pairwise(PRICES)
        ),
        Claim(
            "cheap",
            "A price of 8 costs at most 0.01 errors per person against no price.",
            "error",
            rule="noninferior",
            d=0.01,
            unit=("seed",),
            treatment=_side("exp2", 8.0),
            control=_side("exp2", 0.0),
            where=_MAIN,
            fixed=_REAL,
        ),
        Claim(
            "one-sided",
            "With a price of 8 one-sidedness costs Exp2 at most 0.005 errors per person against full information.",
            "error",
            rule="noninferior",
            d=0.005,
            unit=("seed",),
            treatment=_side("exp2", 8.0),
            control=_side("full-information", 8.0),
            where=_MAIN,
            fixed=_REAL,
        ),
        Claim(
            "naive",
            "Without importance weights at least 0.002 more errors per person are made (no price).",
            "error",
            d=0.002,
            unit=("seed",),
            treatment=_side("exp2", 0.0),
            control=_side("naive-weights", 0.0),
            where=_MAIN,
            fixed=_REAL,
        ),
        Claim(
            "changing",
            "Under a panel that changes every round a price of 8 still halves the violation rate.",
            "violation_rate",
            d=0.5,
            relative=True,
            unit=("seed",),
            treatment={"price": 8.0},
            control={"price": 0.0},
            where={"part": "changing"},
            published="any dynamically chosen panel",
        ),
        Claim(
            "ftpl-fair",
            "FTPL with a price of 8 halves Exp2's violation rate without one.",
            "violation_rate",
            d=0.5,
            relative=True,
            unit=("seed",),
            treatment=_side("context-semi-bandit-ftpl", 8.0),
            control=_side("exp2", 0.0),
            where=_MAIN,
            fixed=_REAL,
        ),
        Claim(
            "ftpl-accurate",
            "FTPL, which needs an optimiser alone, makes at most 0.01 more errors per person than Exp2 (price 8).",
            "error",
            rule="noninferior",
            d=0.01,
            unit=("seed",),
            treatment=_side("context-semi-bandit-ftpl", 8.0),
            control=_side("exp2", 8.0),
            where=_MAIN,
            published="oracle-efficient, T^(41/45)",
            fixed=_REAL,
        ),
        Claim(
            "recovers-naive",
            "From a pessimistic start among 30 % good people Exp2 makes fewer errors than greedy naive weights.",
            "error",
            unit=("seed",),
            treatment={"method": "exp2"},
            control={"method": "naive-weights"},
            where={"part": "pessimistic"},
        ),
        Claim(
            "recovers-bank",
            "Among 30 % good people Exp2, from a pessimistic start, makes fewer errors than the bank's rule.",
            "error",
            unit=("seed",),
            treatment={"method": "exp2"},
            control={"method": "bank-rule"},
            where={"part": "pessimistic"},
        ),
        Claim(
            "tuned-one-sided",
            "With both tuned (on made people), one-sidedness costs Exp2 at most 0.005 against full information.",
            "cost",
            rule="noninferior",
            d=0.005,
            unit=("seed",),
            treatment={"method": "exp2"},
            control={"method": "full-information"},
            where={"part": "tuned"},
            fixed=_REAL,
        ),
        Claim(
            "tuned-naive",
            "With both tuned Exp2 costs less than naive weights, a report counting as one error.",
            "cost",
            unit=("seed",),
            treatment={"method": "exp2"},
            control={"method": "naive-weights"},
            where={"part": "tuned"},
            fixed=_REAL,
        ),
        Claim(
            "unfair-is-better",
            "The bank's rule, which no auditor stops, makes fewer errors than Exp2 with a price of 8.",
            "error",
            unit=("seed",),
            boundary=True,
            treatment=_side("bank-rule", 0.0),
            control=_side("exp2", 8.0),
            where=_MAIN,
            fixed=_REAL,
        ),
        Claim(
            "easy",
            "Among 90 % good people accepting all makes at most 0.005 more errors per person than Exp2.",
            "error",
            rule="noninferior",
            d=0.005,
            unit=("seed",),
            boundary=True,
            treatment={"method": "accept-all"},
            control={"method": "exp2"},
            where={"part": "easy"},
        ),
        Claim(
            "wide",
            "Where auditors find nearly everything negligible a price changes errors by at most 0.001.",
            "error",
            rule="tie",
            d=0.001,
            unit=("seed",),
            boundary=True,
            treatment={"price": 8.0},
            control={"price": 0.0},
            where={"part": "wide"},
        ),
        Claim(
            "large-class",
            "With 3002 rules and 500 rounds accepting all makes at most 0.01 more errors per person than Exp2.",
            "error",
            rule="noninferior",
            d=0.01,
            unit=("seed",),
            boundary=True,
            treatment={"method": "accept-all"},
            control={"method": "exp2"},
            where={"part": "large-class"},
        ),
    ),
    example="""\
import numpy as np
from heedful.bandits import Exp2, LinearRules, Panel
from heedful.bandits.admissions import Applicants, run

rng = np.random.default_rng(0)
features = rng.uniform(size=(300, 4))
pool = Applicants(features, (rng.uniform(size=300) < 0.2 + 0.6 * features[:, 0]).astype(int))
rules, panel = LinearRules.random(features, 40, rng), Panel.random(4, 5, rng)
history = run(pool, rules, panel, Exp2(rounds=500, penalty=8.0, eta=0.05), rounds=500, seed=0)
print(history.errors[-100:].mean().round(2), history.violations[-100:].sum(), history.accepted.mean().round(2))
""",
)
