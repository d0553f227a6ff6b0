"""Optimistic Feasible Search: which threshold earns most, and stays fair, when every decision changes who applies?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.bandits.experiments._ofs_claims import CLAIMS
from heedful.lab import Cell, Experiment, Figure, Metric, Paper, Row, Scale, Tuning

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

FILES = {
    "synthetic": (),
    "german": ("german-credit/german.parquet",),
    "compas": ("compas-deidentified/compas.parquet",),
    "fico": tuple(
        f"fico-transrisk/{name}.parquet"
        for name in ("transrisk_cdf_by_race_ssa", "transrisk_performance_by_race_ssa", "totals")
    ),
}
"""Environments by name: the data files that they are made of."""
METHODS = {
    "ofs": "ofs",
    "primal-dual": "primal-dual-ucb",
    "primal-dual-mean": "primal-dual-ucb:residual=mean",
    "ucb": "threshold-ucb",
    "epsilon-greedy": "epsilon-greedy",
    "pessimistic": "pessimistic-search",
    "static": "static-threshold",
}
"""Methods by name: how they are made; those that know constraints are given them."""
OPTIONS = {
    "ofs-window": "ofs:window=1000",
    "ofs-discount": "ofs:discount=0.999",
    "ofs-lipschitz": "ofs:lipschitz=2.0",
}
GRIDS: dict[str, list[dict[str, Any]]] = {
    "ofs": [{"width": width} for width in (0.5, 0.1, 0.2, 0.35, 0.7, 1.0)],
    "primal-dual": [{"width": width, "step": step} for width in (0.5, 0.2) for step in (0.05, 0.01, 0.2)],
    "ucb": [{"width": width} for width in (0.5, 0.1, 0.2, 0.35, 0.7, 1.0)],
    "epsilon-greedy": [{"epsilon": epsilon} for epsilon in (0.1, 0.01, 0.02, 0.05, 0.15, 0.2)],
}
CALIBRATION = 1000
"""Seeds from here on are for tuning alone."""


def there(env: str) -> bool:
    from heedful.lab import data

    return all(data.find(file) is not None for file in FILES[env])


def _cell(part: str, env: str, method: str, eps: float, rounds: int, **rest: Any) -> Cell:
    given = {"rho_min": 0.0, "points": 25, "eta": 0.02, "harm": 0.0, "first_seed": 0} | rest
    return Cell.of(part=part, env=env, method=method, eps=eps, rounds=rounds, **given)


def cells(params: Mapping[str, Any], tuned: Mapping[str, Mapping[str, Any]]) -> Iterator[Cell]:
    rounds = params["rounds"]
    envs = [env for env in params["envs"] if there(env)]
    for env in envs:
        for eps in params["eps"]:
            for rho_min in (0.0, 0.3):
                for method in METHODS:
                    yield _cell("loop", env, method, eps, rounds, rho_min=rho_min)
            for method, setting in tuned.items():
                yield _cell("tuned", env, method, eps, rounds, **setting)
    for method in ("ofs", "primal-dual", "primal-dual-mean", "ofs-lipschitz"):
        yield _cell("many-points", "synthetic", method, 0.05, 500, points=200)
    for method in ("ofs", "ofs-window", "ofs-discount", "primal-dual"):
        yield _cell("slow-drift", "synthetic", method, 0.05, params["long"], eta=0.0005)
    for method in ("ofs", "primal-dual", "primal-dual-mean"):
        yield _cell("infeasible", "synthetic", method, 0.0, rounds)
    for method in ("ofs", "primal-dual", "ucb"):
        for harm in params["harms"]:
            yield _cell("harm", "synthetic", method, 0.05, rounds, harm=harm)
    for method in ("ofs", "primal-dual"):
        yield _cell("growth", "synthetic", method, 0.05, params["long"], eta=0.0)
        for eps in params["phase_eps"]:
            for eta in params["phase_eta"]:
                for points in params["phase_points"]:
                    yield _cell("phase", "synthetic", method, eps, params["phase_rounds"], eta=eta, points=points)


def calibration(params: Mapping[str, Any], method: str, setting: Mapping[str, Any]) -> Iterator[Cell]:
    for eps in params["eps"]:
        yield _cell("tuning", "synthetic", method, eps, params["rounds"], first_seed=CALIBRATION, **setting)


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.bandits.experiments import _ofs

    yield from _ofs.measure(cell, ctx)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    from heedful.bandits.experiments import _ofs_figures

    return _ofs_figures.figures(rows)


def _files(params: Mapping[str, Any]) -> dict[str, str]:
    from heedful.lab import data

    return {file: data.declared(file).content for env in params["envs"] if there(env) for file in FILES[env]}


experiment = Experiment(
    slug="ofs",
    room="bandits",
    title="Optimistic Feasible Search",
    question="Which single score threshold earns the most while the acceptance rates of two groups stay within a "
    "tolerance, when every decision changes who applies next and only the tried threshold is observed?",
    summary="Plays, of the thresholds that may still be feasible, the one that may still be worth most.",
    paper=Paper(
        title="Optimistic Feasible Search for Closed-Loop Fair Threshold Decision-Making",
        authors="Du",
        year=2025,
        arxiv="2512.22313",
    ),
    metrics=(
        Metric("reward", "1", "higher", "Mean reward per applicant that was to be expected of the population."),
        Metric("charged", "1", "higher", "The same, less the mean violation per round (weight 1)."),
        Metric(
            "violation",
            "1",
            "lower",
            "Sum over rounds of how far the population's gap (or rate) is beyond what is allowed.",
        ),
        Metric("violation_seen", "1", "lower", "The same of the noisy cohorts that were seen."),
        Metric("steady_reward", "1", "higher", "Reward in the last fifth of the rounds."),
        Metric("steady_gap", "1", "neither", "Signed gap of acceptance rates there, of the population."),
        Metric("steady_rate", "1", "neither", "Acceptance rate there, of the population."),
        Metric("steady_violation", "1", "lower", "Mean violation per round there."),
        Metric("to_oracle", "1", "higher", "Steady reward less that of the best feasible fixed threshold."),
        Metric("excess", "1", "lower", "Steady violation less that of the best (least infeasible) fixed threshold."),
        Metric("exponent", "1", "lower", "Slope of log violation against log rounds over the last decade."),
        Metric("violation_so_far", "1", "lower", "Sum of violations up to a round, mean over seeds."),
        Metric("reward_so_far", "1", "higher", "Mean reward up to a round, mean over seeds."),
    ),
    dimensions=("seed", "round"),
    scales={
        "smoke": Scale(
            {
                "seeds": [0, 1],
                "rounds": 100,
                "long": 600,
                "sweep": 40,
                "envs": ["synthetic"],
                "eps": [0.05],
                "harms": [0.5],
                "phase_eps": [0.05],
                "phase_eta": [0.02],
                "phase_points": [10],
                "phase_rounds": 50,
            },
            limit_s=120,
            leaves_out="Everything but a check that it runs: one environment, 100 rounds, two seeds.",
        ),
        "small": Scale(
            {
                "seeds": list(range(20)),
                "rounds": 3000,
                "long": 10_000,
                "sweep": 2000,
                "envs": list(FILES),
                "eps": [0.05, 0.1],
                "harms": [0.5, 2.0],
                "phase_eps": [0.02, 0.05, 0.1, 0.2],
                "phase_eta": [0.0, 0.0005, 0.02, 0.2],
                "phase_points": [10, 50, 200],
                "phase_rounds": 1000,
            },
            limit_s=600,
            leaves_out="Runs of 20,000 rounds, and the phase diagram over 65,536 settings: 48 of them are here.",
        ),
        "full": Scale(
            {
                "seeds": list(range(50)),
                "rounds": 20_000,
                "long": 100_000,
                "sweep": 5000,
                "envs": list(FILES),
                "eps": [0.02, 0.05, 0.1],
                "harms": [0.1, 0.5, 1.0, 2.0],
                "phase_eps": [0.0, 0.01, 0.02, 0.05, 0.1, 0.2],
                "phase_eta": [0.0, 0.0001, 0.0005, 0.002, 0.02, 0.2],
                "phase_points": [5, 10, 25, 50, 100, 200],
                "phase_rounds": 3000,
            },
            limit_s=3600,
        ),
    },
    cells=cells,
    measure=measure,
    figures=figures,
    inputs=_files,
    tuning=Tuning(grids=lambda params: GRIDS, cells=calibration, metric="charged"),
    modules=(
        "heedful.bandits.experiments._ofs",
        "heedful.bandits.experiments._ofs_claims",
        *(
            f"heedful.bandits.{name}"
            for name in (
                "arms",
                "base",
                "checks",
                "epsilon_greedy",
                "kernels",
                "learners",
                "lending",
                "lending_rounds",
                "ofs",
                "populations",
                "posteriors",
                "primal_dual",
                "streams",
                "threshold_averages",
                "threshold_baselines",
                "thresholds",
            )
        ),
    ),
    claims=CLAIMS,
    example="""\
from heedful.bandits import OFS
from heedful.bandits.lending import Synthetic, run
from heedful.bandits.thresholds import thresholds_of

grid = thresholds_of(25)
history = run(Synthetic(), OFS(eps=0.1), grid, rounds=500, seeds=range(4))
print(history.points[-1], history.violation(eps=0.1).sum(axis=0).round(1))
""",
)
