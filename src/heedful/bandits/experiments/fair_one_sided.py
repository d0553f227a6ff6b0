"""Individually fair learning with one-sided feedback: whom to accept, when only the accepted show what was right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.bandits.experiments._fair_one_sided_claims import CLAIMS, PRICES
from heedful.lab import Cell, Experiment, Figure, Metric, Paper, Row, Scale, Tuning

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
EXPLORE = ("accept-all", "uniform", "john")
ORACLES = ("exhaustive", "stumps", "linear")
"""Optimisers over people who are known beforehand: all stumps in a list, all stumps by sums, linear rules."""
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
        yield _cell("biased", people, "exp2", 8.0, rounds)
        for regime in ("plain", "biased"):
            yield _cell("biased", people, "exp2", 8.0, rounds, members=1, regime=regime)
        for method in ("exp2", "full-information", "naive-weights"):
            mix = 0.0 if method == "naive-weights" else MIX
            yield _cell("pessimistic", people, method, 0.0, rounds, regime="pessimistic", mix=mix)
        yield _cell("pessimistic", people, "bank-rule", 0.0, rounds, regime="pessimistic")
        for method in ("exp2", "accept-all"):
            yield _cell("easy", people, method, 8.0, rounds, regime="easy")
            yield _cell("large-class", people, method, 8.0, rounds // 4, rules=2000)
        for explore in EXPLORE:
            yield _cell("explore", people, "exp2", 8.0, rounds, explore=explore)
        yield _cell("stumps", people, "exp2", 8.0, rounds // 4, rules=0, oracle="exhaustive")
        for oracle in ("exhaustive", "stumps"):
            yield _cell("stumps", people, "context-semi-bandit-ftpl", 8.0, rounds // 4, rules=0, oracle=oracle)
        for oracle in ORACLES:
            given = {"rules": 0, "oracle": oracle, "exclusive": True}
            yield _cell("oracle-time", people, "context-semi-bandit-ftpl", 8.0, params["timed"], **given)
    for people in dict.fromkeys(["made", *named[:1]]):
        yield _cell("exponents", people, "exp2", None, max(params["horizons"]))


def calibration(params: Mapping[str, Any], method: str, setting: Mapping[str, Any]) -> Iterator[Cell]:
    yield _cell("tuning", "made", method, 8.0, params["rounds"], first_seed=CALIBRATION, **setting)


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.bandits.experiments import _fair_one_sided, _fair_one_sided_oracles

    yield from (_fair_one_sided_oracles if "oracle" in cell.dict else _fair_one_sided).measure(cell, ctx)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    from heedful.bandits.experiments import _fair_one_sided_figures

    return _fair_one_sided_figures.figures(rows)


def _files(params: Mapping[str, Any]) -> dict[str, str]:
    from heedful.lab import data

    return {file: data.declared(file).content for name in params["people"] if there(name) for file in FILES[name]}


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
        Metric(
            "panel_rate",
            "1",
            "lower",
            "Share of rounds, in the last quarter, in which the usual panel would report a pair, whoever watches.",
        ),
        Metric("cost", "1", "lower", "Errors per person, all rounds, a report counting as one error."),
        Metric("accepted", "1", "neither", "Share of people who were accepted in the last quarter."),
        Metric("violations", "1", "lower", "Rounds in which a pair was reported."),
        Metric("regret", "1", "lower", "Errors, less those of the best fair policy in hindsight (a linear program)."),
        Metric("lagrangian", "1", "lower", "Lagrangian regret against that policy."),
        Metric("fair_error", "1", "neither", "Errors per person of that policy."),
        Metric("broken", "1", "lower", "1 if regret and violations are not within what Lagrangian regret allows."),
        Metric("beyond", "1", "lower", "1 if mean Lagrangian regret exceeds the finite-time bound."),
        Metric("bound", "1", "neither", "The finite-time bound on expected Lagrangian regret."),
        Metric("calls", "1", "neither", "Calls of FTPL's optimiser in a round."),
        Metric("differs", "1", "lower", "Rounds that are not as with an optimiser that looks through all stumps."),
        Metric("round_s", "s", "lower", "Seconds for a round, auditors included, one thread.", timing=True),
        Metric("regret_exponent", "1", "lower", "Slope of log (1 + regret) against log rounds."),
        Metric("violation_exponent", "1", "lower", "Slope of log (1 + violations) against log rounds."),
    ),
    dimensions=("seed", "horizon"),
    scales={
        "smoke": Scale(
            {
                "seeds": [0, 1],
                "rounds": 60,
                "timed": 4,
                "people": ["made"],
                "gammas": [0.5],
                "members": [1],
                "horizons": [20, 60],
            },
            limit_s=120,
            repeats=1,
            leaves_out="Everything but a check that it runs: made people, 60 rounds, two seeds.",
        ),
        "small": Scale(
            {
                "seeds": list(range(10)),
                "rounds": 2000,
                "timed": 20,
                "people": ["german", "compas"],
                "gammas": [0.2, 0.5, 1.0],
                "members": [1, 5, 15],
                "horizons": [500, 1000, 2000, 4000, 8000],
            },
            limit_s=600,
            repeats=3,
            leaves_out="Runs of 20,000 and 32,000 rounds; classes of a million rules.",
        ),
        "full": Scale(
            {
                "seeds": list(range(30)),
                "rounds": 20_000,
                "timed": 20,
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
        "heedful.bandits.experiments._fair_one_sided_claims",
        "heedful.bandits.experiments._fair_one_sided_oracles",
        *(
            f"heedful.bandits.{name}"
            for name in (
                "admissions",
                "auditors",
                "base",
                "checks",
                "classification_oracles",
                "context_semi_bandit_ftpl",
                "exp2",
                "fair_comparator",
                "john",
                "kernels",
                "learners",
                "linear_rules",
                "one_sided",
                "one_sided_baselines",
                "streams",
            )
        ),
    ),
    claims=CLAIMS,
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
