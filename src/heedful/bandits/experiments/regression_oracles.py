"""Can a plain supervised model drive exploration when feedback comes in batches, late, and is soon forgotten?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.lab import Cell, Claim, Experiment, Figure, Metric, Paper, Row, Scale

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
FORGETS_NOTHING = 12
"""A window of all generations."""


def _there(files: Sequence[str]) -> bool:
    from heedful.lab import data

    return all(data.find(name) is not None for name in files)


def cells(params: Mapping[str, Any], tuned: Mapping[str, Any]) -> Iterator[Cell]:
    def cell(part: str, world: str, oracle: str, policy: str, **changed: Any) -> Cell:
        fixed = {"window": 3, "delay": 0, "rate": None, **changed}
        return Cell.of(part=part, world=world, oracle=oracle, policy=policy, seed=seed, **fixed)

    for seed in params["seeds"]:
        for world in ("linear", "bent"):
            for policy in POLICIES:
                yield cell("main", world, "logistic", policy)
            yield Cell.of(part="off-policy", world=world, seed=seed, rate=None)
        for policy in SOME:
            yield cell("main", "bent", "boosting", policy)
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


_WHOLE: dict[str, Any] = {"generation": None, "slice": None}
"""Rows of a policy as a whole, not of one of its generations."""


def _main(world: str, oracle: str = "logistic") -> dict[str, Any]:
    return {"part": "main", "world": world, "oracle": oracle, **_WHOLE}


_TITLES = {
    ("linear", "logistic"): "a logistic model of a linear world",
    ("bent", "logistic"): "a logistic model of a nonlinear world",
    ("bent", "boosting"): "boosted trees in a nonlinear world",
}

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
            leaves_out="20 worlds; 100 trees; every window from 1 to 12 and delay from 0 to 3; networks as models; a "
            "million requests per generation.",
        ),
        "full": Scale(
            {
                "seeds": list(range(40)),
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
            leaves_out="Networks as models; a million requests per generation.",
        ),
    },
    cells=cells,
    measure=measure,
    figures=figures,
    inputs=_files,
    modules=(
        "heedful.bandits.experiments._regression_oracles",
        *(
            f"heedful.bandits.{name}"
            for name in (
                "arms",
                "base",
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
    claims=(
        *(
            Claim(
                f"beats-uniform-{world}-{oracle}",
                f"SquareCB (gamma 2000) has less than half the regret of uniform exploration: {title}.",
                "regret",
                d=0.5,
                relative=True,
                unit=("seed",),
                treatment={"policy": "squarecb-2000"},
                control={"policy": "uniform"},
                where=_main(world, oracle),
                published="significantly better than uniform exploration",
            )
            for (world, oracle), title in _TITLES.items()
        ),
        *(
            Claim(
                f"beats-epsilon-{world}-{oracle}",
                f"SquareCB (gamma 2000) has at least 10 % less regret than epsilon-greedy (0.1): {title}.",
                "regret",
                d=0.1,
                relative=True,
                unit=("seed",),
                treatment={"policy": "squarecb-2000"},
                control={"policy": "contextual-epsilon"},
                where=_main(world, oracle),
            )
            for (world, oracle), title in _TITLES.items()
        ),
        Claim(
            "boosting-beats-greedy",
            "With boosted trees SquareCB (gamma 2000) has less regret than greedy.",
            "regret",
            unit=("seed",),
            treatment={"policy": "squarecb-2000"},
            control={"policy": "greedy"},
            where=_main("bent", "boosting"),
        ),
        *(
            Claim(
                f"error-rises-{world}-{oracle}",
                "Once the uniform generation has left the window, the error on uniformly random actions is at least "
                f"1.5 times what it was (SquareCB, gamma 2000): {title}.",
                "error_rise",
                d=0.5,
                unit=("seed",),
                treatment={"policy": "squarecb-2000"},
                control=1.0,
                where=_main(world, oracle),
                published="later generations may do worse as the reward distribution shifts",
            )
            for (world, oracle), title in _TITLES.items()
        ),
        Claim(
            "imbalance",
            "The share of positive rewards in the training data rises by at least 0.05 (SquareCB, gamma 2000).",
            "imbalance",
            d=0.05,
            unit=("seed",),
            treatment={"policy": "squarecb-2000"},
            control=0.0,
            where=_main("linear"),
            published="training data become imbalanced",
        ),
        Claim(
            "looks-fine",
            "On its own actions the model's error is at least 30 % smaller than on uniformly random ones.",
            "error",
            d=0.3,
            relative=True,
            unit=("seed",),
            treatment={"slice": "policy"},
            control={"slice": "uniform"},
            where={"part": "main", "world": "linear", "policy": "squarecb-2000"},
        ),
        Claim(
            "oscillates",
            "With boosted trees greedy oscillates more than SquareCB with more exploration (gamma 300).",
            "oscillation",
            unit=("seed",),
            treatment={"policy": "squarecb-300"},
            control={"policy": "greedy"},
            where=_main("bent", "boosting"),
            published="a possible oscillation over generations",
        ),
        Claim(
            "swings",
            "Greedy's regret (boosted trees) swings from generation to generation by more than noise does: its "
            "autocorrelation lies at least 0.1 below uniform's.",
            "turning",
            d=0.1,
            unit=("seed",),
            treatment={"policy": "uniform"},
            control={"policy": "greedy"},
            where=_main("bent", "boosting"),
            published="a possible oscillation over generations",
        ),
        Claim(
            "long-window-damps",
            "Greedy on boosted trees oscillates less if nothing is forgotten than if only the last log is kept.",
            "oscillation",
            unit=("seed",),
            treatment={"window": FORGETS_NOTHING},
            control={"window": 1},
            where={"part": "window", "oracle": "boosting", "policy": "greedy", **_WHOLE},
        ),
        Claim(
            "delay-worsens",
            "With logs released three generations late greedy oscillates more than with one (logistic model).",
            "oscillation",
            unit=("seed",),
            treatment={"delay": 1},
            control={"delay": 3},
            where={"part": "delay", "policy": "greedy", **_WHOLE},
        ),
        Claim(
            "digits-beats-uniform",
            "Naming digits, SquareCB (gamma 300) has less than half the regret of uniform exploration.",
            "regret",
            d=0.5,
            relative=True,
            unit=("seed",),
            treatment={"policy": "squarecb-300"},
            control={"policy": "uniform"},
            where={"part": "digits", **_WHOLE},
            fixed="one set of images",
        ),
        Claim(
            "digits-beats-greedy",
            "Naming digits, SquareCB (gamma 300) has at least 10 % less regret than greedy.",
            "regret",
            d=0.1,
            relative=True,
            unit=("seed",),
            treatment={"policy": "squarecb-300"},
            control={"policy": "greedy"},
            where={"part": "digits", **_WHOLE},
            fixed="one set of images",
        ),
        Claim(
            "fees-beat-epsilon",
            "Choosing acquirer and intervention under real fee rules, SquareCB (gamma 2000) has at least 10 % less "
            "regret than epsilon-greedy (0.1).",
            "regret",
            d=0.1,
            relative=True,
            unit=("seed",),
            treatment={"policy": "squarecb-2000"},
            control={"policy": "contextual-epsilon"},
            where={"part": "fees", **_WHOLE},
            fixed="one table of fees",
        ),
        *(
            Claim(
                f"dr-closer-{world}",
                f"Doubly robust estimates miss the known value by at least 10 % less than IPS: {title}.",
                "miss",
                d=0.1,
                relative=True,
                unit=("seed",),
                treatment={"estimator": "dr"},
                control={"estimator": "ips"},
                where={"part": "off-policy", "world": world},
            )
            for world, title in (("linear", "the model is right"), ("bent", "the model is wrong"))
        ),
        Claim(
            "intervals-cover",
            "95 % intervals of IPS, SNIPS and doubly robust estimates hold the known value: 95 % within 2 points.",
            "coverage",
            rule="tie",
            d=0.02,
            unit=("seed",),
            treatment={"estimator": ["ips", "snips", "dr"]},
            control=0.95,
            where={"part": "off-policy"},
        ),
        Claim(
            "open-bandit",
            "On the shop's logs propensities are as stated, IPS of the logging policy is its mean, and the value of "
            "random recommendations from the other log agrees within three standard errors.",
            "violations",
            kind="exact",
            treatment={"part": "open-bandit"},
            fixed="six logs of 10,000 rows",
        ),
        Claim(
            "greedy-is-enough",
            "In a linear world that the model can represent greedy is better than SquareCB (gamma 2000): rich contexts "
            "explore by themselves.",
            "regret",
            unit=("seed",),
            boundary=True,
            treatment={"policy": "greedy"},
            control={"policy": "squarecb-2000"},
            where=_main("linear"),
        ),
        Claim(
            "small-gamma",
            "SquareCB with gamma 50 explores too much: epsilon-greedy (0.1) has less regret.",
            "regret",
            unit=("seed",),
            boundary=True,
            treatment={"policy": "contextual-epsilon"},
            control={"policy": "squarecb-50"},
            where=_main("linear"),
        ),
        Claim(
            "falcon-as-proved",
            "FALCON with the constant of its proof stays close to uniform: epsilon-greedy has at least half less "
            "regret.",
            "regret",
            d=0.5,
            relative=True,
            unit=("seed",),
            boundary=True,
            treatment={"policy": "contextual-epsilon"},
            control={"policy": "falcon"},
            where=_main("linear"),
        ),
        Claim(
            "uniform-stays",
            "With uniform exploration the error does not rise: within a quarter of what it was.",
            "error_rise",
            rule="tie",
            d=0.25,
            unit=("seed",),
            boundary=True,
            treatment={"policy": "uniform"},
            control=1.0,
            where=_main("linear"),
        ),
    ),
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
