"""What was claimed of regression oracles before it was measured."""

from __future__ import annotations

from typing import Any

from heedful.lab import Claim

FORGETS_NOTHING = 12
"""A window of all generations."""
_WHOLE: dict[str, Any] = {"generation": None, "slice": None}
"""Rows of a policy as a whole, not of one of its generations."""


def _main(world: str, oracle: str = "logistic") -> dict[str, Any]:
    return {"part": "main", "world": world, "oracle": oracle, **_WHOLE}


_TITLES = {
    ("linear", "logistic"): "a logistic model of a linear world",
    ("bent", "logistic"): "a logistic model of a nonlinear world",
    ("bent", "boosting"): "boosted trees in a nonlinear world",
}
_NETWORK = {("bent", "mlp"): "a small network in a nonlinear world (a claim of ours)"}
"""A panel without uniform exploration and without gamma 300."""

CLAIMS = (
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
            f"SquareCB (gamma 2000) has at least 10 % less regret than epsilon-greedy (0.1), neither of them "
            f"tuned: {title}.",
            "regret",
            d=0.1,
            relative=True,
            unit=("seed",),
            treatment={"policy": "squarecb-2000"},
            control={"policy": "contextual-epsilon"},
            where=_main(world, oracle),
        )
        for (world, oracle), title in (_TITLES | _NETWORK).items()
    ),
    *(
        Claim(
            f"tuned-beats-epsilon-{world}-{oracle}",
            f"With gamma and epsilon tuned SquareCB has at least 10 % less regret than epsilon-greedy: {title}.",
            "regret",
            d=0.1,
            relative=True,
            unit=("seed",),
            treatment={"policy": "squarecb"},
            control={"policy": "contextual-epsilon"},
            where=_main(world, oracle) | {"part": "tuned"},
        )
        for (world, oracle), title in (_TITLES | _NETWORK).items()
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
    Claim(
        "mlp-beats-greedy",
        "With a small network SquareCB (gamma 2000) has less regret than greedy (a claim of ours).",
        "regret",
        unit=("seed",),
        treatment={"policy": "squarecb-2000"},
        control={"policy": "greedy"},
        where=_main("bent", "mlp"),
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
            published="later generations may do worse as the reward distribution shifts" if oracle != "mlp" else "",
        )
        for (world, oracle), title in (_TITLES | _NETWORK).items()
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
        "regret than epsilon-greedy (0.1), neither of them tuned.",
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
    *(
        Claim(
            f"intervals-cover-{estimator}",
            f"95 % intervals of {title} estimates hold the known value, mean over both worlds: 95 % within 2 points.",
            "coverage",
            rule="tie",
            d=0.02,
            unit=("seed",),
            treatment={"estimator": estimator},
            control=0.95,
            where={"part": "off-policy"},
        )
        for estimator, title in (("ips", "IPS"), ("snips", "SNIPS"), ("dr", "doubly robust"))
    ),
    Claim(
        "open-bandit",
        "On the shop's logs propensities are as stated, IPS of the logging policy is its mean, and the value of "
        "random recommendations from the other log agrees within three standard errors. N = 7: three random logs, and "
        "two estimates from each of the other logs but the women's, whose effective sample size is 2.",
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
        "SquareCB with gamma 50 explores too much: epsilon-greedy (0.1, untuned as well) has less regret.",
        "regret",
        unit=("seed",),
        boundary=True,
        treatment={"policy": "contextual-epsilon"},
        control={"policy": "squarecb-50"},
        where=_main("linear"),
    ),
    Claim(
        "falcon-as-proved",
        "FALCON with the constant of its proof stays close to uniform: epsilon-greedy has at least half less regret.",
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
)
