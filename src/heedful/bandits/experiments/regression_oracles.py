"""Can a plain supervised model drive exploration when feedback comes in batches, late, and is soon forgotten?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.bandits.experiments._regression_oracles_claims import CLAIMS, FORGETS_NOTHING
from heedful.lab import Cell, Experiment, Figure, Metric, Paper, Row, Scale, Tuning

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

FEES = tuple(
    f"dabstep-fees/{name}.parquet"
    for name in ("fees", "merchants", "merchant_acquirers", "acquirer_countries", "merchant_months")
)
CAMPAIGNS = ("all", "men", "women")
LOGS = tuple(f"open-bandit-sample/{policy}_{name}.parquet" for policy in ("random", "bts") for name in CAMPAIGNS)
POLICIES = (
    "uniform", "contextual-epsilon", "epsilon-split", "softmax", "squarecb", "squarecb-50", "squarecb-300",
    "squarecb-2000", "falcon", "greedy", "linucb", "lints",
)  # fmt: skip
FEW = ("contextual-epsilon", "squarecb-2000", "greedy")
SOME = ("uniform", "contextual-epsilon", "squarecb-300", "squarecb-2000", "greedy")
LADDERS: dict[str, tuple[str, tuple[float, ...]]] = {
    "contextual-epsilon": ("epsilon", (0.1, 0.01, 0.001, 0.0001, 0.00001)),
    "squarecb": ("gamma", (2e3, 2e4, 2e5, 2e6, 2e7)),
    "softmax": ("sharpness", (20.0, 200.0, 2e3, 2e4, 2e5)),
    "linucb": ("width", (1.0, 0.1, 0.01, 0.001, 0.0001)),
    "lints": ("scale", (0.3, 0.03, 0.003, 0.0003, 0.00003)),
}
"""What is tuned of a policy: from its untuned value on by factors of ten, to where it is greedy in all but name."""
TUNED_IN = {"logistic": ("linear", "bent"), "boosting": ("bent",), "mlp": ("bent",)}
"""The worlds that one value per policy and model is chosen for."""
GRIDS: dict[str, list[dict[str, float]]] = {
    f"{policy}@{oracle}": [{name: value} for value in ladder]
    for oracle in TUNED_IN
    for policy, (name, ladder) in LADDERS.items()
    if oracle == "logistic" or policy in ("contextual-epsilon", "squarecb")
}
CALIBRATION = 1000
"""Seeds from here on are for tuning alone."""


def _there(files: Sequence[str]) -> bool:
    from heedful.lab import data

    return all(data.find(name) is not None for name in files)


def _cell(part: str, world: str, oracle: str, policy: str, seed: int, **changed: Any) -> Cell:
    fixed = {"window": 3, "delay": 0, "rate": None, **changed}
    return Cell.of(part=part, world=world, oracle=oracle, policy=policy, seed=seed, **fixed)


def cells(params: Mapping[str, Any], tuned: Mapping[str, Mapping[str, Any]]) -> Iterator[Cell]:
    def cell(part: str, world: str, oracle: str, policy: str, **changed: Any) -> Cell:
        return _cell(part, world, oracle, policy, seed, **changed)

    for seed in params["seeds"]:
        for world in ("linear", "bent"):
            for policy in POLICIES:
                yield cell("main", world, "logistic", policy)
            yield Cell.of(part="off-policy", world=world, seed=seed, rate=None)
        for policy in SOME:
            yield cell("main", "bent", "boosting", policy)
        for policy in FEW:
            yield cell("main", "bent", "mlp", policy)
        for method, setting in tuned.items():
            policy, _, oracle = method.partition("@")
            for world in TUNED_IN[oracle]:
                yield cell("tuned", world, oracle, policy, **setting)
        for window in params["windows"]:
            for policy in FEW:
                yield cell("window", "bent", "logistic", policy, window=window)
        for window in params["boosting_windows"]:
            yield cell("window", "bent", "boosting", "greedy", window=window)
        for delay in params["delays"]:
            for policy in FEW:
                yield cell("delay", "bent", "logistic", policy, delay=delay)
        for rate in params["rates"]:
            for policy in FEW:
                yield cell("rate", "linear", "logistic", policy, rate=rate)
        for policy in SOME:
            yield cell("digits", "digits", "logistic", policy)
        if _there(FEES):
            for policy in SOME:
                yield cell("fees", "fees", "ridge", policy)
    if _there(LOGS):
        for campaign in CAMPAIGNS:
            yield Cell.of(part="open-bandit", campaign=campaign)


def calibration(params: Mapping[str, Any], method: str, setting: Mapping[str, Any]) -> Iterator[Cell]:
    """As many cells for every candidate: where there is one world instead of two, it is drawn twice as often."""
    policy, _, oracle = method.partition("@")
    worlds = TUNED_IN[oracle]
    for world in worlds:
        for drawn in range(params["calibration"] // len(worlds)):
            yield _cell("tuning", world, oracle, policy, CALIBRATION + drawn, **setting)


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.bandits.experiments import _regression_oracles

    yield from _regression_oracles.PARTS.get(cell["part"], _regression_oracles.learn)(cell, ctx)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    from heedful.bandits.experiments import _regression_oracles_figures

    return _regression_oracles_figures.figures(rows)


def _files(params: Mapping[str, Any]) -> dict[str, str]:
    from heedful.lab import data

    present = [files for files in (FEES, LOGS) if _there(files)]
    return {name: data.declared(name).content for files in present for name in files}


experiment = Experiment(
    slug="regression-oracles",
    room="bandits",
    title="Regression oracles in generations",
    question="Can a plain supervised model drive exploration when feedback is late, logged in batches and soon "
    "forgotten, and what goes wrong over generations?",
    summary="A model is retrained on the last logs alone; an action is played with a probability that is the inverse "
    "of how much worse it is predicted to be.",
    paper=Paper(
        title="Contextual Bandits in Payment Processing: Non-uniform Exploration and Supervised Learning at Adyen",
        authors="Vangara, Egg",
        year=2024,
        arxiv="2412.00569",
    ),
    metrics=(
        Metric(
            "regret",
            "1",
            "lower",
            "What the best feasible action would have brought more per request, in "
            "expectation; mean over the generations that a model served.",
        ),
        Metric("oscillation", "1", "lower", "Mean over generations of the regret above the least of an earlier one."),
        Metric("turning", "1", "neither", "Autocorrelation at lag 1 of changes in regret; noise alone gives -0.5."),
        Metric("error", "1", "lower", "Squared error of predictions against true means, after generation 3."),
        Metric(
            "error_rise",
            "1",
            "neither",
            "Error on uniformly random actions after generation 3, when no uniform "
            "generation is in the window any more, as a multiple of that at generation 3.",
        ),
        Metric(
            "imbalance",
            "1",
            "neither",
            "How far the share of positive rewards in the training data rises from the first model to the last.",
        ),
        Metric("miss", "1", "lower", "Root mean squared error of an off-policy estimate against the known value."),
        Metric("bias", "1", "neither", "Mean error of an off-policy estimate."),
        Metric("coverage", "1", "higher", "Share of 95 % intervals that hold the known value."),
        Metric("value", "1", "neither", "Clicks per recommendation, measured or estimated."),
        Metric("low", "1", "neither", "Lower end of its interval."),
        Metric("high", "1", "neither", "Upper end of its interval."),
        Metric("ess", "1", "higher", "Effective sample size of an off-policy estimate."),
        Metric("mean_weight", "1", "neither", "Mean importance weight; 1 if the stated probabilities are right."),
        Metric("violations", "1", "lower", "1 if propensities or estimates do not fit what was logged."),
        Metric("regret_now", "1", "lower", "Regret of a generation."),
        Metric("reward_now", "1", "higher", "Expected reward of a generation."),
        Metric("entropy_now", "1", "neither", "Mean entropy of the probabilities of a generation, in nats."),
        Metric("error_uniform_now", "1", "lower", "Squared error on uniformly random feasible actions."),
        Metric("error_policy_now", "1", "lower", "Squared error on the actions that were played."),
        Metric("calibration_uniform_now", "1", "lower", "Calibration error on uniformly random feasible actions."),
        Metric("calibration_policy_now", "1", "lower", "Calibration error on the actions that were played."),
        Metric("positive_now", "1", "neither", "Mean reward in the data that the serving model was fitted to."),
        Metric("least_expected_now", "1", "neither", "Expected plays of the action that is played least."),
        Metric("changed_now", "1", "neither", "Requests whose best action is another one for the model before."),
    ),
    dimensions=("generation", "slice", "estimator"),
    scales={
        "smoke": Scale(
            {
                "seeds": [0, 1],
                "calibration": 2,
                "generations": 6,
                "requests": 200,
                "digits": 100,
                "trees": 5,
                "log": 200,
                "logs": 4,
                "windows": [2],
                "boosting_windows": [FORGETS_NOTHING],
                "delays": [2],
                "rates": [0.9],
            },
            limit_s=120,
            leaves_out="Everything but a check that it runs: small generations, two worlds, few trees.",
        ),
        "small": Scale(
            {
                "seeds": list(range(10)),
                "calibration": 6,
                "generations": 12,
                "requests": 2000,
                "digits": 500,
                "trees": 50,
                "log": 1000,
                "logs": 100,
                "windows": [1, 2, 6, FORGETS_NOTHING],
                "boosting_windows": [1, FORGETS_NOTHING],
                "delays": [1, 3],
                "rates": [0.5, 0.8, 0.95],
            },
            limit_s=300,
            leaves_out="20 worlds; 100 trees; every window from 1 to 12 and delay from 0 to 3; a million "
            "requests per generation.",
        ),
        "full": Scale(
            {
                "seeds": list(range(40)),
                "calibration": 20,
                "generations": 12,
                "requests": 2000,
                "digits": 500,
                "trees": 100,
                "log": 1000,
                "logs": 200,
                "windows": [1, 2, 4, 6, 9, FORGETS_NOTHING],
                "boosting_windows": [1, 2, 6, FORGETS_NOTHING],
                "delays": [1, 2, 3],
                "rates": [0.5, 0.65, 0.8, 0.9, 0.95],
            },
            limit_s=900,
            leaves_out="A million requests per generation.",
        ),
    },
    cells=cells,
    measure=measure,
    figures=figures,
    tuning=Tuning(grids=lambda params: GRIDS, cells=calibration, metric="regret"),
    inputs=_files,
    modules=(
        "heedful.bandits.experiments._regression_oracles",
        "heedful.bandits.experiments._regression_oracles_claims",
        *(
            f"heedful.bandits.{name}"
            for name in (
                "arms",
                "base",
                "checks",
                "blocks",
                "exploring",
                "falcon",
                "fee_payments",
                "generations",
                "kernels",
                "lints",
                "off_policy",
                "oracle_policies",
                "oracles",
                "payments",
                "posteriors",
                "ridge",
                "squarecb",
                "streams",
            )
        ),
    ),
    claims=CLAIMS,
    example="""\
import numpy as np

from heedful.bandits import Generations, LogisticOracle, Payments, SquareCB

world = Payments(seed=0)
served = Generations(LogisticOracle(), SquareCB(), world.actions, world.features, window=3)
for generation in range(4):
    asked = world.requests(1000, np.random.default_rng(generation))
    log = served.serve(asked.contexts, asked.feasible)
    print(generation, served.trained_on, asked.regret(log.actions).mean().round(3))
    served.close(asked.outcomes[np.arange(1000), log.actions])
""",
)
