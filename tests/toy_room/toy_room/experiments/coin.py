"""Does calling the likelier side of a biased coin win more often than calling at random?"""

from heedful.lab import Cell, Claim, Experiment, Figure, Metric, Paper, Scale

SCORE = Metric("score", "1", "higher", "share of calls that were right")


def cells(params, tuned):
    for bias in (0.5, 0.8):
        for method in ("majority", "random"):
            for seed in range(params["seeds"]):
                yield Cell.of(method=method, bias=bias, seed=seed)


def measure(cell, ctx):
    import random

    world, caller = random.Random(cell["seed"]), random.Random(1000 + cell["seed"])
    right = 0
    for _ in range(400):
        heads = world.random() < cell["bias"]
        right += heads == (True if cell["method"] == "majority" else caller.random() < 0.5)
    yield {"score": right / 400}


def figures(rows):
    import altair as alt
    import polars as pl

    table = rows.group_by("method", "bias").agg(pl.col("score").mean()).sort("method", "bias")
    chart = alt.Chart(table).mark_bar().encode(x="method", y="score", column="bias:N", tooltip=["score"])
    return [Figure("Calls that were right", chart, table, "The bars differ only when the coin is biased.")]


experiment = Experiment(
    slug="coin",
    room="toy",
    title="The biased coin",
    question="Does calling the likelier side win <more often> than calling at random?",
    summary="Always calls the side that is more likely.",
    paper=Paper("On Coins & Dice", "A. Gambler", 1654, venue="Letters"),
    metrics=(SCORE,),
    scales={
        "smoke": Scale({"seeds": 4}, limit_s=30, leaves_out="most of the seeds"),
        "small": Scale({"seeds": 12}, limit_s=30),
    },
    cells=cells,
    measure=measure,
    claims=(
        Claim("biased", "Wins more often on a biased coin", "score", d=0.1, unit=("seed",),
              treatment={"method": "majority"}, control={"method": "random"}, where={"bias": 0.8},
              published="0.30", fixed="one bias"),
        Claim("fair", "Does not win on a fair coin", "score", rule="tie", d=0.1, unit=("seed",),
              treatment={"method": "majority"}, control={"method": "random"}, where={"bias": 0.5},
              boundary=True),
        Claim("dice", "Wins with dice", "score", reason="there are no dice"),
    ),
    figures=figures,
    modules=("toy_room",),
    example="from toy_room.experiments.coin import experiment",
)  # fmt: skip
