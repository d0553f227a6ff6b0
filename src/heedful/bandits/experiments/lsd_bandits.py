"""Last-switch-dependent bandits: schedules for arms that tire and recover, and how they are learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.bandits.experiments._lsd_bandits_claims import CLAIMS, RANDOM
from heedful.lab import Cell, Experiment, Figure, Metric, Paper, Row, Scale, Tuning

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

SHAPES = ((3, 3), (5, 5), (10, 5), (10, 10))
"""Arms and window of the random instances on which the guarantee is checked."""
FAMILIES = (("rand", 30, 10, 3), ("sticky", 4, 5, 3), ("trap", 2, 10, 3), ("trap", 5, 10, 6), ("flat", 4, 5, 3))
"""Further families: arms, window, and the rounds that a trap needs to recover."""
LEARNERS = (
    "optimistic", "explore-commit", "comb-ucb1", "isi-comb-ucb1", "calibrated", "ucb1", "sliding-window-ucb",
)  # fmt: skip
YARDSTICKS = ("planner", "greedy", "round-robin")
"""What is earned on the same instances by who knows the payoffs, or needs to know nothing."""
GRIDS: dict[str, list[dict[str, Any]]] = {
    "optimistic": [{"scale": scale} for scale in (1.0, 0.5, 0.3, 0.15, 0.05)],
    "explore-commit": [{"exploration": c} for c in (0.05, 0.01, 0.02, 0.1, 0.2)],
    "block-ucb": [
        {"variant": "comb", "length": 3}, {"variant": "comb", "length": 2}, {"variant": "comb", "length": 4},
        {"variant": "isi", "length": 3}, {"variant": "calibrated", "length": 3},
    ],
    "sliding-window-ucb": [
        {"memory": share, "scale": scale}
        for share, scale in ((1.0, 1.0), (0.01, 1.0), (0.003, 1.0), (1.0, 30.0), (1.0, 100.0))
    ],
    "ucb1": [{"scale": scale} for scale in (1.0, 10.0, 30.0, 100.0, 300.0)],
}  # fmt: skip
"""Candidates: of the confidence width; c of explore-then-commit; blocks; the window as a share of the theory's."""
CALIBRATION = 10_000
"""Instances and seeds from here on are for tuning alone."""


def cells(params: Mapping[str, Any], tuned: Mapping[str, Any]) -> Iterator[Cell]:
    for family in RANDOM:
        for arms, window in SHAPES:
            yield Cell.of(part="plan", family=family, arms=arms, window=window, recovery=3)
    for family, arms, window, recovery in FAMILIES:
        yield Cell.of(part="plan", family=family, arms=arms, window=window, recovery=recovery)
    for method in (*LEARNERS, *YARDSTICKS):
        yield Cell.of(part="learn", method=method)
    for method, setting in tuned.items():
        yield Cell.of(part="tuned", method=method, **setting)
    for group in range(params["groups"]):
        yield Cell.of(part="grow", group=group, scale=tuned["optimistic"]["scale"])


def _candidates(params: Mapping[str, Any], method: str, setting: Mapping[str, Any]) -> Iterator[Cell]:
    yield Cell.of(part="tuning", method=method, **setting)


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.bandits.experiments import _lsd_bandits

    yield from _lsd_bandits.PARTS[cell["part"]](cell, ctx)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    from heedful.bandits.experiments import _lsd_bandits_figures

    return _lsd_bandits_figures.figures(rows)


experiment = Experiment(
    slug="lsd-bandits",
    room="bandits",
    title="Last Switch Dependent Bandits",
    question="When an arm's payoff depends on how long it has been played in a row or left alone, which schedule earns "
    "nearly the most, and how is it learned?",
    summary="Solves a small linear programme over cycles of rest and play, draws one cycle and an offset for each arm, "
    "and plays the best of those that are due.",
    paper=Paper(
        title="Last Switch Dependent Bandits with Monotone Payoff Functions",
        authors="Foussoul, Goyal, Papadigenopoulos, Zeevi",
        year=2023,
        arxiv="2306.00338",
        venue="ICML 2023",
    ),
    metrics=(
        Metric("ratio", "1", "higher", "Average payoff per round over the relaxation's bound LP*."),
        Metric("spread", "1", "neither", "Standard deviation of the ratio from draw to draw."),
        Metric(
            "broken",
            "1",
            "lower",
            "1 if the mean over draws is below the guaranteed share of LP* by more than three standard errors.",
        ),
        Metric("over", "1", "lower", "1 if the exact optimum exceeds LP*."),
        Metric("share", "1", "higher", "A learner's average payoff over LP*."),
        Metric(
            "target_regret", "1", "lower", "(1 - 1/e) LP* T less what was earned; below 0 is better than the target."
        ),
        Metric(
            "plan_regret",
            "1",
            "lower",
            "What the practical planner with known payoffs earns in T, less what was earned.",
        ),
        Metric("explored", "1", "neither", "Share of rounds that explore-then-commit explores."),
        Metric("slope", "1", "lower", "Least squares slope of log plan_regret against log T."),
    ),
    dimensions=("planner", "item", "seed", "learner", "horizon"),
    scales={
        "smoke": Scale(
            {
                "instances": 2,
                "draws": 30,
                "rounds": 100,
                "seeds": [0, 1],
                "horizon": 2000,
                "groups": 2,
                "members": 1,
                "horizons": [1000, 4000],
            },
            limit_s=120,
            leaves_out="Everything but a check that it runs: two instances of each family, 2000 rounds.",
        ),
        "small": Scale(
            {
                "instances": 30,
                "draws": 400,
                "rounds": 200,
                "seeds": list(range(10)),
                "horizon": 200_000,
                "groups": 10,
                "members": 4,
                "horizons": [20_000, 200_000, 2_000_000],
            },
            limit_s=600,
            leaves_out="100 000 random instances with up to 500 arms and W = 50: here 240 with up to 10 "
            "arms and W = 10, and 30 with 30 arms.",
        ),
        "full": Scale(
            {
                "instances": 500,
                "draws": 400,
                "rounds": 200,
                "seeds": list(range(40)),
                "horizon": 200_000,
                "groups": 40,
                "members": 5,
                "horizons": [20_000, 63_000, 200_000, 630_000, 2_000_000],
            },
            limit_s=3600,
            leaves_out="Instances with 500 arms and W = 50.",
        ),
    },
    cells=cells,
    measure=measure,
    figures=figures,
    tuning=Tuning(grids=lambda params: GRIDS, cells=_candidates, metric="share"),
    modules=(
        "heedful.bandits.experiments._lsd_bandits",
        "heedful.bandits.experiments._lsd_bandits_claims",
        *(
            f"heedful.bandits.{name}"
            for name in (
                "arms",
                "base",
                "checks",
                "block_ucb",
                "kernels",
                "lsd",
                "lsd_explore",
                "lsd_learner",
                "lsd_optimistic",
                "lsd_planning",
                "lsd_relaxation",
                "lsd_rounding",
                "posteriors",
                "sliding_window_ucb",
                "streams",
                "ucb1",
            )
        ),
    ),
    claims=CLAIMS,
    example="""\
import numpy as np

from heedful.bandits.lsd import Payoffs
from heedful.bandits.lsd_planning import greedy, plan
from heedful.bandits.lsd_rounding import arms_played, averages

payoffs = Payoffs(
    rested=[[0.05, 0.05, 0.05], [0.06, 0.06, 0.95], [0.06, 0.06, 0.95]],
    running=[[0.05, 0.05, 0.05], [0.06, 0.06, 0.06], [0.06, 0.06, 0.06]],
)
found = plan(payoffs, np.random.default_rng(0))
print(f"at most {found.bound:.3f}, planned {found.value:.3f}, greedy {averages([greedy(3)], payoffs, 400)[0]:.3f}")
print(arms_played(found.schedule, payoffs, rounds=12))
""",
)
