"""Dynamical Linear Bandits: which constant action is best when effects pass through a hidden linear system?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.lab import Cell, Claim, Experiment, Figure, Metric, Paper, Row, Scale, Tuning

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

SYNTHETIC = ("synthetic-0.001", "synthetic-0.01", "synthetic-0.1")
SETTINGS = (*SYNTHETIC, "real")
TUNED_ON = ("synthetic-0.01", "real")
RADII = (1.0, 0.1, 0.01)
"""Factors of the optimistic methods' radius; 1 is the theory's."""
OPTIMISTIC = ("dynlin-ucb", "oful", "d-linucb", "ucb1")
EVERYWHERE = ("batched-exp3", "uniform", "round-robin", "clairvoyant")
RATIOS = (0.25, 0.5, 1.0, 1.5, 2.0)
"""The spectral radius that the learner believes in, over the true one; at most 0.95."""


def cells(params: Mapping[str, Any], tuned: Mapping[str, Any]) -> Iterator[Cell]:
    for setting in SETTINGS:
        wide = setting in TUNED_ON
        for method in OPTIMISTIC:
            for radius in RADII if wide else RADII[:1]:
                chosen = radius == tuned[method]["radius"]
                yield Cell.of(part="rivals", setting=setting, method=method, radius=radius, tuned=chosen)
        others = (*EVERYWHERE, *(("exp3", "ar2", "d-linucb-slow") if wide else ()))
        for method in (*others, "expert") if setting == "real" else others:
            yield Cell.of(part="rivals", setting=setting, method=method, radius=1.0)
    for setting in TUNED_ON:
        for ratio in RATIOS:
            yield Cell.of(part="belief", setting=setting, method="dynlin-ucb", ratio=ratio)
    for setting in ("no-output", "no-memory"):
        for method in ("dynlin-ucb", "oful-tight"):
            yield Cell.of(part="still", setting=setting, method=method)
    for setting in TUNED_ON:
        for method in ("dynlin-ucb", "dynlin-ucb-0.99", "oful"):
            yield Cell.of(part="short", setting=setting, method=method)
    for group in range(params["groups"]):
        yield Cell.of(part="random", group=group)


def _candidates(params: Mapping[str, Any], method: str, setting: Mapping[str, Any]) -> Iterator[Cell]:
    for where in TUNED_ON:
        yield Cell.of(part="tuning", setting=where, method=method, radius=setting["radius"])


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.bandits.experiments import _dynlin_ucb

    yield from _dynlin_ucb.PARTS[cell["part"]](cell, ctx)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    from heedful.bandits.experiments import _dynlin_ucb_figures

    return _dynlin_ucb_figures.figures(rows)


def _beats(name: str, text: str, setting: str | list[str], control: str, published: str = "", **more: Any) -> Claim:
    """DynLin-UCB's regret is lower than a rival's by more than 1 % of uniform's, radius 1."""
    where = {"part": "rivals", "setting": setting, "radius": 1.0}
    return Claim(
        name, text, "share", rule="superior", d=0.01, unit=("seed",), treatment={"method": "dynlin-ucb"},
        control={"method": control}, where=where, published=published, **more,
    )  # fmt: skip


_LOWEST = "lowest regret of all"
_REAL: dict[str, Any] = {"part": "rivals", "setting": "real", "radius": 1.0}
_ONE = "one system"

experiment = Experiment(
    slug="dynlin-ucb",
    room="bandits",
    title="Dynamical Linear Bandits",
    question="When an action's effect reaches the reward through a hidden linear system, which fixed action is best in "
    "the long run, and how is it learned without ever seeing the state?",
    summary="Holds each action until what was done before has faded, and learns from the last reward alone.",
    paper=Paper(
        title="Dynamical Linear Bandits",
        authors="Mussi, Metelli, Restelli",
        year=2023,
        arxiv="2211.08997",
        venue="ICML 2023",
    ),
    metrics=(
        Metric("regret", "1", "lower", "Steady regret at the end: the sum of J(u*) - J(u) over the actions played."),
        Metric("share", "1", "lower", "Regret over that of a uniformly random action in every round."),
        Metric("slope", "1", "lower", "log10 of regret at the end over regret at a tenth of the rounds; 1 is linear."),
        Metric("plain", "1", "lower", "T J(u*) less the expected rewards, over uniform's steady regret."),
        Metric("so_far", "1", "lower", "Regret up to a round, over uniform's at the end."),
        Metric("myopic_gap", "1", "neither", "J(u*) - J(myopic action), over J(u*) - the mean of J."),
        Metric("rival_share", "1", "lower", "Lin-UCB's regret over uniform's, on random systems."),
        Metric("win", "1", "higher", "1 if DynLin-UCB's regret is lower than that of Lin-UCB."),
    ),
    dimensions=("seed", "round", "system"),
    scales={
        "smoke": Scale(
            {"seeds": [0, 1], "rounds": 5000, "short": 1000, "groups": 1, "systems": 2, "random_rounds": 2000},
            limit_s=120,
            leaves_out="Everything but a check that it runs: 5000 rounds, two seeds.",
        ),
        "small": Scale(
            {
                "seeds": list(range(10)),
                "rounds": 1_000_000,
                "short": 10_000,
                "groups": 5,
                "systems": 20,
                "random_rounds": 100_000,
            },
            limit_s=600,
            leaves_out="4096 random systems of 8 dimensions with 256 actions for a million rounds each: here 100 of 4 "
            "dimensions with 16 actions for 100 000. AR2, plain EXP3 and the slower discount at one noise level.",
        ),
        "full": Scale(
            {
                "seeds": list(range(20)),
                "rounds": 1_000_000,
                "short": 10_000,
                "groups": 50,
                "systems": 20,
                "random_rounds": 1_000_000,
            },
            limit_s=3600,
            leaves_out="Random systems of 8 dimensions with 256 actions.",
        ),
    },
    cells=cells,
    measure=measure,
    figures=figures,
    tuning=Tuning(
        grids=lambda params: {method: [{"radius": radius} for radius in RADII] for method in OPTIMISTIC},
        cells=_candidates,
        metric="share",
    ),
    modules=(
        "heedful.bandits.experiments._dynlin_ucb",
        "heedful.bandits.experiments._dynlin_ucb_rounds",
        *(
            f"heedful.bandits.{name}"
            for name in (
                "ar2",
                "arms",
                "base",
                "checks",
                "batched_exp3",
                "blocks",
                "dlinucb",
                "dynamical",
                "dynlin_ucb",
                "exp3",
                "kernels",
                "oful",
                "posteriors",
                "ridge",
                "streams",
                "ucb1",
                "vectors",
            )
        ),
    ),
    claims=(
        *(
            _beats(
                f"{setting}-oful",
                f"On {setting} DynLin-UCB has less regret than Lin-UCB.",
                setting,
                "oful",
                _LOWEST,
                fixed=_ONE,
            )
            for setting in SETTINGS
        ),
        *(
            _beats(
                f"{setting}-d-linucb",
                f"On {setting} DynLin-UCB has less regret than D-LinUCB (gamma = 1 - 1e-6).",
                setting,
                "d-linucb",
                _LOWEST,
                fixed=_ONE,
            )
            for setting in ("synthetic-0.01", "real")
        ),
        _beats(
            "real-slow",
            "On real data DynLin-UCB has less regret than D-LinUCB that forgets slowly (1 - 1e-9).",
            "real",
            "d-linucb-slow",
            _LOWEST,
            fixed=_ONE,
        ),
        *(
            _beats(
                f"{setting}-batched",
                f"On {setting} DynLin-UCB has less regret than batched EXP3.",
                setting,
                "batched-exp3",
                _LOWEST,
                fixed=_ONE,
            )
            for setting in SETTINGS
        ),
        *(
            _beats(
                f"{setting}-ucb1",
                f"On {setting} DynLin-UCB has less regret than UCB1.",
                setting,
                "ucb1",
                _LOWEST,
                fixed=_ONE,
            )
            for setting in SETTINGS
        ),
        _beats(
            "real-expert",
            "On real data DynLin-UCB has less regret than the human expert's split.",
            "real",
            "expert",
            "expert linear",
            fixed=_ONE,
        ),
        *(
            Claim(
                f"real-sublinear-{method}",
                f"On real data {title}'s regret is clearly sublinear: slope below 0.8.",
                "slope",
                rule="superior",
                unit=("seed",),
                treatment={"method": method},
                control=0.8,
                where=_REAL,
                published="clearly sublinear",
                fixed=_ONE,
            )
            for method, title in (("dynlin-ucb", "DynLin-UCB"), ("batched-exp3", "batched EXP3"))
        ),
        *(
            Claim(
                f"real-linear-{method}",
                f"On real data {title}'s regret is linear: slope within 0.1 of 1.",
                "slope",
                rule="tie",
                d=0.1,
                unit=("seed",),
                treatment={"method": method},
                control=1.0,
                where=_REAL,
                published="linear",
                fixed=_ONE,
            )
            for method, title in (("oful", "Lin-UCB"), ("d-linucb", "D-LinUCB"))
        ),
        *(
            Claim(
                f"overestimated-{setting}",
                f"With rho overestimated (1.5 and 2 times) regret stays sublinear on {setting}: slope below 0.8.",
                "slope",
                rule="superior",
                unit=("seed",),
                treatment={"part": "belief", "ratio": [1.5, 2.0]},
                control=0.8,
                where={"setting": setting},
                published="sublinear",
                fixed=_ONE,
            )
            for setting in TUNED_ON
        ),
        *(
            Claim(
                f"tuned-{setting}-{rival}",
                f"With the radius tuned for each, DynLin-UCB has less regret than {title} on {setting}.",
                "share",
                rule="superior",
                d=0.01,
                unit=("seed",),
                treatment={"method": "dynlin-ucb"},
                control={"method": rival},
                where={"part": "rivals", "setting": setting, "tuned": True},
                fixed=_ONE,
            )
            for setting in TUNED_ON
            for rival, title in (("oful", "Lin-UCB"), ("d-linucb", "D-LinUCB"), ("ucb1", "UCB1"))
        ),
        Claim(
            "random-systems",
            "On most random stable systems DynLin-UCB has less regret than Lin-UCB.",
            "win",
            rule="superior",
            d=0.5,
            unit=("system",),
            treatment={"part": "random"},
            control=0.0,
            fixed="4 dimensions, 16 actions",
        ),
        Claim(
            "no-output",
            "Where the state is not in the reward, Lin-UCB with its tight radius has less regret.",
            "share",
            rule="superior",
            d=0.01,
            unit=("seed",),
            boundary=True,
            treatment={"method": "oful-tight"},
            control={"method": "dynlin-ucb"},
            where={"part": "still", "setting": "no-output"},
            fixed=_ONE,
        ),
        Claim(
            "no-memory",
            "Where the state forgets at once (A = 0), Lin-UCB with its tight radius has less regret.",
            "share",
            rule="superior",
            d=0.01,
            unit=("seed",),
            boundary=True,
            treatment={"method": "oful-tight"},
            control={"method": "dynlin-ucb"},
            where={"part": "still", "setting": "no-memory"},
            fixed=_ONE,
        ),
        Claim(
            "short-random",
            "In 10 000 rounds, and believing in rho = 0.99, it is within 0.1 of a random action.",
            "share",
            rule="tie",
            d=0.1,
            unit=("seed",),
            boundary=True,
            treatment={"method": "dynlin-ucb-0.99"},
            control=1.0,
            where={"part": "short", "setting": "synthetic-0.01"},
            fixed=_ONE,
        ),
        Claim(
            "short-oful",
            "In 10 000 rounds, and believing in rho = 0.99, it has more regret than Lin-UCB.",
            "share",
            rule="superior",
            d=0.01,
            unit=("seed",),
            boundary=True,
            treatment={"method": "oful"},
            control={"method": "dynlin-ucb-0.99"},
            where={"part": "short", "setting": "synthetic-0.01"},
            fixed=_ONE,
        ),
    ),
    example="""\
from heedful.bandits import DynLinUCB, LinearSystem, Reward

# The second action pays 0.6 at once; the first pays later, and more.
system = LinearSystem(a=[[0.5]], b=[[0.4, 0.0]], omega=[1.0], theta=[0.0, 0.6])
learner = DynLinUCB.knowing(system, horizon=1000, scale=0.3).start(actions=[[1.0, 0.0], [0.0, 1.0]])
state, played = 0.0, [0, 0]
for _ in range(1000):
    choice = learner.decide()
    learner.update(Reward(choice.token, state + 0.6 * (choice.action == 1)))
    state = 0.5 * state + 0.4 * (choice.action == 0)
    played[choice.action] += 1
print(f"what each action is worth in the long run: {system.markov}; how often each was played: {played}")
""",
)
