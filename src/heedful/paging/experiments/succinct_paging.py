"""Paging with succinct predictions: how far does one predicted bit per request go, and what if the bits are bad?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.lab import Cell, Claim, Experiment, Figure, Metric, Paper, Row, Scale

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

GENERATED = ("zipf", "scan", "working-sets")
WEB = ("web07", "web12")
FILES = {
    "web07": "cache-traces/web07.parquet",
    "web12": "cache-traces/web12.parquet",
    "orm-busy": "cache-traces/orm-busy-1m.parquet",
    "orm-night": "cache-traces/orm-night-1m.parquet",
    "mooncake": "llm-traces/mooncake_conversation.parquet",
}
"""Traces by name: the data files that they are in."""
ONE_BIT = ("flush-when-all-0s", "mark0", "mark-and-predict")
ROBUST = ("mark0+lru", "flush-when-all-0s+lru", "doubling:mark0+lru", "weighted:mark0+lru")
PLAIN = ("lru", "fifo", "clock", "lfu", "random", "fwf", "marker")
WITH_TIMES = ("blind-oracle", "predictive-marker", "lmarker", "weighted:lnonmarker+marker", "trust-and-doubt")
RATES = (0.0, 0.01, 0.03, 0.1, 0.3, 0.5, 1.0)
NOISE = 1.0
"""Standard deviation of the logarithm of the noise on predicted times."""
PREDICTORS = ("learned", "learned-logistic", "reuse-distance")


def instances(params: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Traces and cache sizes; a trace whose file is not here is left out."""
    for trace in GENERATED:
        for k in params["generated_k"]:
            yield trace, k
    for trace, sizes in params["files"].items():
        if _there(trace):
            for k in sizes:
                yield trace, k


def _there(trace: str) -> bool:
    from heedful.lab import data

    return data.find(FILES[trace]) is not None


def cells(params: Mapping[str, Any], tuned: Mapping[str, Any]) -> Iterator[Cell]:
    for trace, k in instances(params):
        yield Cell.of(part="oracle", trace=trace, k=k)
        yield Cell.of(part="rivals", trace=trace, k=k)
        for rate in params["rates"]:
            for side in ("both", "zeros", "ones") if 0 < rate < 1 else ("both",):
                yield Cell.of(part="flips", trace=trace, k=k, rate=rate, side=side)
        for predictor in PREDICTORS:
            yield Cell.of(part="use", trace=trace, k=k, predictor=predictor)


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.paging.experiments import _succinct_paging

    yield from _succinct_paging.PARTS[cell["part"]](cell, ctx)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    from heedful.paging.experiments import _succinct_paging_figures

    return _succinct_paging_figures.figures(rows)


def _files(params: Mapping[str, Any]) -> dict[str, str]:
    from heedful.lab import data

    return {trace: data.declared(FILES[trace]).content for trace in params["files"] if _there(trace)}


_WEB: dict[str, Any] = {"trace": list(WEB)}

experiment = Experiment(
    slug="succinct-paging",
    room="paging",
    title="Paging with Succinct Predictions",
    question="Can a cache use a single, possibly wrong, predicted bit per request to come close to the clairvoyant "
    "optimum, and still be safe when the bits are bad?",
    summary="Evicts pages whose latest predicted bit says that they can go; three algorithms differ in what they do "
    "when no bit does.",
    paper=Paper(
        title="Paging with Succinct Predictions",
        authors="Antoniadis, Boyar, Elias, Favrholdt, Hoeksma, Larsen, Polak, Simon",
        year=2023,
        arxiv="2210.02775",
        venue="ICML 2023",
    ),
    metrics=(
        Metric("faults", "1", "lower", "Requests for a page that was not in the cache."),
        Metric("miss_ratio", "1", "lower", "Faults per request."),
        Metric("ratio", "1", "lower", "Faults per fault of the optimal offline algorithm (LFD)."),
        Metric("gap_closed", "1", "higher", "Share of the faults that LRU has and LFD has not that are avoided."),
        Metric("eta_zeros", "1", "neither", "Wrong 0-bits."),
        Metric("eta_ones", "1", "neither", "Wrong 1-bits."),
        Metric("bound", "1", "neither", "What the theorem allows, with the additive constant k."),
        Metric(
            "violations",
            "1",
            "lower",
            "1 if faults (of a randomised algorithm: their mean and three standard errors) exceed the bound, or differ "
            "where they must be equal.",
        ),
        Metric(
            "surplus",
            "1",
            "higher",
            "Per request of a block of the log: faults avoided against LRU, less a fifth of those that LFD avoids; "
            "above 0 if more than 20 % of the gap are closed.",
        ),
    ),
    dimensions=("method", "seed", "block"),
    scales={
        "smoke": Scale(
            {"seeds": [0, 1], "length": 3000, "generated_k": [20], "files": {}, "rates": [0.0, 0.3], "block": 500},
            limit_s=120,
            leaves_out="Everything but a check that it runs: short generated sequences, two rates.",
        ),
        "small": Scale(
            {
                "seeds": list(range(10)),
                "length": 50_000,
                "generated_k": [100, 1000],
                "files": {"web07": [100, 1000], "web12": [100, 1000], "mooncake": [1000, 10_000]},
                "rates": list(RATES),
                "block": 500,
            },
            limit_s=600,
            leaves_out="The two traces of a million requests; further cache sizes.",
        ),
        "full": Scale(
            {
                "seeds": list(range(20)),
                "length": 1_000_000,
                "generated_k": [100, 300, 1000, 3000],
                "files": {
                    **{trace: [50, 100, 200, 300, 500, 700, 1000, 1500, 2000, 3000] for trace in WEB},
                    **{trace: [100, 1000, 3000, 10_000] for trace in ("orm-busy", "orm-night")},
                    "mooncake": [1000, 3000, 10_000, 30_000],
                },
                "rates": list(RATES),
                "block": 2000,
            },
            limit_s=3600,
            leaves_out="The rest of the two traces of five million requests.",
        ),
    },
    cells=cells,
    measure=measure,
    figures=figures,
    inputs=_files,
    modules=(
        "heedful.paging.experiments._succinct_paging",
        *(
            f"heedful.paging.{name}"
            for name in (
                "algorithms",
                "base",
                "blind_oracle",
                "classical",
                "doubling_switch",
                "flush",
                "follow_cheaper",
                "learned",
                "lmarker",
                "lnonmarker",
                "mark0",
                "mark_and_predict",
                "marker",
                "pairs",
                "predictive_marker",
                "predictors",
                "structures",
                "trust_and_doubt",
                "weighted_follow",
                "work",
            )
        ),
    ),
    claims=(
        Claim(
            "consistent-discard",
            "With true discard bits Flush-When-All-0s and Mark0 fault exactly as often as the optimum.",
            "violations",
            kind="exact",
            treatment={"part": "oracle", "method": ["flush-when-all-0s", "mark0"]},
            published="ALG <= OPT with eta = 0",
        ),
        Claim(
            "consistent-phase",
            "With true phase bits Mark&Predict faults exactly on clean pages, whatever the seed.",
            "violations",
            kind="exact",
            treatment={"part": "oracle", "method": "mark-and-predict"},
            published="at most 2 OPT with eta = 0",
        ),
        *(
            Claim(
                f"bound-{method}",
                f"{title} stays within its theorem's bound at every flip rate.",
                "violations",
                kind="exact",
                treatment={"part": "flips", "method": method},
                published=bound,
            )
            for method, title, bound in (
                ("flush-when-all-0s", "Flush-When-All-0s", "ALG <= OPT + (k-1) eta_0 + eta_1"),
                ("mark0", "Mark0", "E[ALG] <= OPT + 2 H_k eta_0 + eta_1"),
                ("mark-and-predict", "Mark&Predict", "E[ALG] <= 2 OPT + H_k eta_0 + eta_1"),
            )
        ),
        Claim(
            "combination-bound",
            "Mark0 and Flush-When-All-0s in turn with LRU have at most twice LRU's faults, whatever the bits.",
            "violations",
            kind="exact",
            treatment={"part": "flips", "method": ["mark0+lru", "flush-when-all-0s+lru"]},
            published="factor 2 on the better of the two",
        ),
        Claim(
            "mark0-gentler",
            "Wrong 0-bits hurt Mark0 less than Flush-When-All-0s (a third of the true 1-bits made 0).",
            "ratio",
            rule="superior",
            d=0.0,
            unit=("trace", "k", "seed"),
            treatment={"method": "mark0"},
            control={"method": "flush-when-all-0s"},
            where={"part": "flips", "side": "ones", "rate": 0.3},
            published="2 H_k against k - 1 per wrong 0-bit",
        ),
        Claim(
            "mark-and-predict-robust",
            "With all bits wrong Mark&Predict is within 5 % of Marker.",
            "ratio",
            rule="noninferior",
            d=0.05,
            relative=True,
            unit=("trace", "k", "seed"),
            treatment={"method": "mark-and-predict"},
            control={"method": "marker"},
            where={"part": "flips", "rate": 1.0},
            published="O(log k)-robust",
        ),
        *(
            Claim(
                f"learned-{trace}",
                f"With learned bits Mark0 in turn with LRU closes at least 20 % of the LRU-OPT gap on {trace}.",
                "surplus",
                kind="log",
                rule="superior",
                d=0.0,
                unit=("block",),
                treatment={"method": "mark0+lru"},
                control=0.0,
                where={"part": "use", "predictor": "learned", "trace": trace, "k": 1000},
                fixed="one trace, k = 1000, its first half learned from",
            )
            for trace in WEB
        ),
        Claim(
            "beats-times",
            "True bits do better than times of next requests with noise (factor e, log-normal) blindly followed.",
            "ratio",
            rule="superior",
            d=0.0,
            unit=("trace", "k", "seed"),
            treatment={"part": "oracle", "method": "mark0"},
            control={"part": "rivals", "method": "blind-oracle"},
            published="one bit is enough",
        ),
        Claim(
            "bad-bits",
            "With 30 % of the bits flipped LRU is better than Mark0 on the web traces.",
            "ratio",
            rule="superior",
            d=0.0,
            unit=("trace", "k", "seed"),
            boundary=True,
            treatment={"method": "lru"},
            control={"method": "mark0"},
            where={"part": "flips", "rate": 0.3, "side": "both", **_WEB},
        ),
        Claim(
            "few-repeats",
            "Where nearly all faults are first requests (KV blocks, k = 1000) even true bits save less than 5 %.",
            "ratio",
            rule="noninferior",
            d=0.05,
            relative=True,
            unit=("block",),
            boundary=True,
            treatment={"method": "lru"},
            control={"method": "mark0"},
            where={"part": "oracle", "trace": "mooncake", "k": 1000},
            fixed="one trace",
        ),
    ),
    example="""\
from heedful.paging import Mark0, Trace, lfd, true_bits

trace = Trace.of([1, 2, 3, 1, 2, 4, 1, 2, 3])
bits = true_bits(trace, k=2, kind="discard")
print(Mark0().run(trace, k=2, told=bits).faults, lfd(trace, k=2).faults)
""",
)
