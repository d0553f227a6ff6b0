"""Past-Future: how many requests may run together when nobody knows how long each answer will be?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.lab import Cell, Claim, Experiment, Figure, Metric, Paper, Row, Scale, Tuning

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

DISTRIBUTIONS = ("distribution-1", "distribution-2", "distribution-3")
OURS = "past-future:rho=0.03"
FAMILIES = {
    "past-future": tuple(f"past-future:rho={rho}" for rho in (0.03, 0.05, 0.1)),
    "aggressive": tuple(f"aggressive:watermark={w}" for w in (0.99, 0.95, 0.9)),
    "conservative": tuple(f"conservative:overcommit={v}" for v in (1.0, 1.25, 1.5)),
}
"""Scheduler -> its settings in the paper's study."""
SETTINGS = tuple(setting for settings in FAMILIES.values() for setting in settings)
OTHERS = ("oracle", "past-future:rho=0.03,sampling=interpolated", "peak-with-cap", "peak-with-mean")
TRACES = {
    "azure2023_conv": ("llm-traces/azure2023_conv.parquet", 16_000),
    "azure2023_code": ("llm-traces/azure2023_code.parquet", 32_000),
}
"""Real logs: the file within the data folder, and the slots of the cache that they are served with."""
PATIENCE = (10.0, 30.0, 60.0, 120.0)
"""Limits on the time to the first token, in seconds, that the same runs are judged by."""
ENGINE = ("fifo", "past-future:rho=0.05", "peak-with-cap")


def _there(trace: str) -> bool:
    from heedful.lab import data

    return data.find(TRACES[trace][0]) is not None


def cells(params: Mapping[str, Any], tuned: Mapping[str, Mapping[str, Any]]) -> Iterator[Cell]:
    for seed in params["packing_seeds"]:
        for workload in (*DISTRIBUTIONS, "shifted"):
            yield Cell.of(part="packing", workload=workload, seed=seed)
    for seed in params["seeds"]:
        for workload in DISTRIBUTIONS:
            yield Cell.of(part="service", workload=workload, seed=seed)
    for trace in params["traces"]:
        if _there(trace):
            yield Cell.of(part="windows", workload=trace)
            for cap in (1, 2):
                for factor in params["factors"]:
                    yield Cell.of(part="log", workload=trace, cap_factor=cap, factor=factor)
    for seed in params["engine_seeds"]:
        for lengths in ("hidden", "caps"):
            yield Cell.of(part="engine", lengths=lengths, seed=seed)
    for seed in params["timed_seeds"]:
        yield Cell.of(exclusive=True, part="engine-time", lengths="hidden", seed=seed)


def grids(params: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    return {family: [{"setting": setting} for setting in settings] for family, settings in FAMILIES.items()}


def tuning_cells(params: Mapping[str, Any], method: str, setting: Mapping[str, Any]) -> Iterator[Cell]:
    for workload in DISTRIBUTIONS:
        for seed in params["calibration_seeds"]:
            yield Cell.of(part="tuning", workload=workload, candidate=setting["setting"], seed=seed)


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.serving.experiments import _past_future

    yield from _past_future.PARTS[cell["part"]](cell, ctx)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    from heedful.serving.experiments import _past_future_figures

    return _past_future_figures.figures(rows)


def _files(params: Mapping[str, Any]) -> dict[str, str]:
    from heedful.lab import data

    return {trace: data.declared(TRACES[trace][0]).content for trace in params["traces"] if _there(trace)}


def _over_seeds(text: str, part: str, workload: Any, **more: Any) -> dict[str, Any]:
    return {"text": text, "unit": ("seed",), "where": {"part": part, "workload": workload}, **more}


_ALL = list(DISTRIBUTIONS)
_SLA = {"published": "goodput 2 to 3 times that of the others under heavy load", "fixed": "one step-time model"}

experiment = Experiment(
    slug="past-future",
    room="serving",
    title="Past-Future Scheduler",
    question="How many requests may run together so that the KV cache neither sits half empty nor overflows, when "
    "nobody knows how long each answer will be?",
    summary="Draws the lengths of answers from those of the requests that finished last, and admits a request if the "
    "peak of memory that follows stays below the capacity.",
    paper=Paper(
        title="Past-Future Scheduler for LLM Serving under SLA Guarantees",
        authors="Gong, Bai, Wu, Fan, Wang, Li, Yang, Liu",
        year=2025,
        arxiv="2507.10150",
        venue="ASPLOS 2025",
    ),
    metrics=(
        Metric("steps", "1", "lower", "Decode steps until all requests are served."),
        Metric("seconds", "s", "lower", "Simulated seconds until all requests are served, recomputation included."),
        Metric("utilisation", "1", "neither", "Share of the cache's slots that is held, mean over decode steps."),
        Metric(
            "future_peak",
            "1",
            "neither",
            "The peak that running requests will come to by their true lengths, as a share of the capacity; mean over "
            "steps.",
        ),
        Metric("evictions", "1", "lower", "Evictions per 100 finished requests."),
        Metric(
            "transient", "1", "lower", "Evictions per 100 of the 1000 requests that follow the shift to long outputs."
        ),
        Metric("violations", "1", "lower", "1 if the oracle evicted, or held more than the capacity."),
        Metric(
            "goodput",
            "tokens/s",
            "higher",
            "Output tokens per second of requests that met both limits, after the cold start and before the last "
            "arrival.",
        ),
        Metric("goodput_whole", "tokens/s", "higher", "The same over the whole run."),
        Metric(
            "met", "1", "higher", "Share of requests that met both limits (first token in 10 s, no gap over 1.5 s)."
        ),
        Metric("ttft", "s", "lower", "Time to the first token, 99th percentile."),
        Metric("mtpot", "s", "lower", "Longest gap between tokens of a request, 99th percentile."),
        Metric("sustained", "1", "higher", "The most clients at which 99 % of requests meet both limits."),
        Metric(
            "goodput_area",
            "tokens/s",
            "higher",
            "Mean goodput over loads, up to the one where the oracle's falls below 10 % of its peak.",
        ),
        Metric("goodput_share", "1", "higher", "goodput_area as a share of the oracle's."),
        Metric("area_whole", "1", "higher", "The same share, of goodput_whole."),
        Metric(
            "patient_share",
            "1",
            "higher",
            "goodput_share where the first token may take as long as `patience` seconds.",
        ),
        Metric("good_share", "1", "higher", "Share of a block's output tokens that belong to requests within limits."),
        Metric("rejected", "1", "lower", "Requests that could never have fitted."),
        Metric("similarity", "1", "higher", "Cosine of the output-length histograms of adjacent windows of 1000."),
        Metric("engine_evictions", "1", "lower", "Requests that the engine evicted (soft resets)."),
        Metric("recomputed", "1", "lower", "Tokens that the engine computed again after evictions."),
        Metric("engine_steps", "1", "lower", "Batches that the engine ran."),
        Metric("differing", "1", "lower", "1 if an answer differs from that under the engine's own rule."),
        Metric("margin", "1", "neither", "Least difference between the two best logits, over all tokens."),
        Metric("wall", "s", "lower", "Seconds that the engine took for all requests.", timing=True),
    ),
    dimensions=("method", "load", "block", "patience"),
    scales={
        "smoke": Scale(
            {
                "packing_seeds": [0],
                "seeds": [0],
                "calibration_seeds": [1000],
                "requests": 60,
                "capacity": 30_000,
                "window": 20,
                "loads": [0.8, 1.1],
                "traces": [],
                "factors": [],
                "engine_seeds": [],
                "timed_seeds": [],
            },
            limit_s=120,
            leaves_out="Everything but a check that it runs: 60 requests, two loads, no logs, no engine.",
        ),
        "small": Scale(
            {
                "packing_seeds": list(range(5)),
                "seeds": list(range(10)),
                "calibration_seeds": [1000],
                "requests": 3000,
                "capacity": 120_000,
                "window": 1000,
                "loads": [0.7, 0.8, 0.9, 0.95, 1.0, 1.1, 1.2],
                "traces": list(TRACES),
                "factors": [0.9, 1.0, 1.1],
                "engine_seeds": list(range(5)),
                "timed_seeds": list(range(5)),
            },
            limit_s=900,
            repeats=1,
            leaves_out="Five more seeds of packing, finer steps of load, the Mooncake logs, and an engine on a GPU.",
        ),
        "full": Scale(
            {
                "packing_seeds": list(range(20)),
                "seeds": list(range(20)),
                "calibration_seeds": [1000, 1001, 1002],
                "requests": 10_000,
                "capacity": 120_000,
                "window": 1000,
                "loads": [round(0.6 + 0.03 * step, 2) for step in range(24)],
                "traces": list(TRACES),
                "factors": [0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2],
                "engine_seeds": list(range(20)),
                "timed_seeds": list(range(5)),
            },
            limit_s=7200,
            leaves_out="An engine on a GPU.",
        ),
    },
    cells=cells,
    measure=measure,
    figures=figures,
    inputs=_files,
    tuning=Tuning(grids, tuning_cells, "goodput_share"),
    modules=(
        "heedful.serving.experiments._past_future",
        "heedful.serving.experiments._engine",
        *(
            f"heedful.serving.{name}"
            for name in (
                "_steps",
                "_transformers_scheduler",
                "admission",
                "base",
                "baselines",
                "history",
                "loads",
                "logs",
                "past_future",
                "peak",
                "schedulers",
                "service",
                "simulator",
                "step_time",
                "transformers_engine",
                "workloads",
            )
        ),
    ),
    claims=(
        Claim(
            "oracle-is-safe",
            "With true lengths the peak is never wrong: the oracle neither evicts nor outgrows the cache.",
            "violations",
            kind="exact",
            treatment={"part": "packing", "method": "oracle"},
        ),
        Claim(
            id="packs-as-the-oracle",
            metric="steps",
            rule="noninferior",
            d=0.10,
            relative=True,
            treatment={"method": OURS},
            control={"method": "oracle"},
            published="within a few per cent of the theoretical optimum",
            **_over_seeds("Past-Future serves a queue within 10 % of the oracle's decode steps.", "packing", _ALL),
        ),
        Claim(
            id="few-evictions",
            metric="evictions",
            treatment={"method": OURS},
            control=10.0,
            published="few",
            **_over_seeds("In doing so Past-Future evicts fewer than 10 times per 100 requests.", "packing", _ALL),
        ),
        Claim(
            id="aggressive-evicts",
            metric="evictions",
            d=20.0,
            treatment={"method": OURS},
            control={"method": "aggressive:watermark=0.99"},
            published="tens of evictions per 100 requests",
            **_over_seeds(
                "On decode-heavy work a watermark of 0.99 evicts at least 20 times more per 100 requests.",
                "packing",
                "distribution-1",
            ),
        ),
        Claim(
            id="conservative-idles",
            metric="steps",
            d=0.2,
            relative=True,
            treatment={"method": OURS},
            control={"method": "conservative:overcommit=1.0"},
            published="about 1.5 times the steps, at 55 to 75 % utilisation",
            **_over_seeds(
                "Past-Future needs at least 20 % fewer steps than reserving for the longest output.", "packing", _ALL
            ),
        ),
        Claim(
            id="watermark-close-when-stationary",
            metric="steps",
            rule="tie",
            d=0.05,
            relative=True,
            boundary=True,
            treatment={"method": OURS},
            control={"method": "aggressive:watermark=0.9"},
            **_over_seeds(
                "On stationary work (distributions 1 and 2) a watermark of 0.90 packs as well, to 5 % of the steps.",
                "packing",
                ["distribution-1", "distribution-2"],
            ),
        ),
        Claim(
            id="shift-misleads",
            metric="transient",
            rule="noninferior",
            d=1.0,
            boundary=True,
            treatment={"method": "aggressive:watermark=0.9"},
            control={"method": OURS},
            **_over_seeds(
                "When outputs become long, the old window misleads: until it has turned over, a watermark of 0.90 does "
                "not evict more than Past-Future.",
                "packing",
                "shifted",
            ),
        ),
        *(
            Claim(
                id=f"beats-conservative-{overcommit}",
                metric="goodput_share",
                d=0.05,
                treatment={"method": OURS},
                control={"method": f"conservative:overcommit={overcommit}"},
                **_over_seeds(
                    f"One Past-Future setting has more goodput over loads and workloads than conservative admission at "
                    f"{float(overcommit):.2f} of the capacity, by 5 points of the oracle's.",
                    "service",
                    _ALL,
                    **_SLA,
                ),
            )
            for overcommit in ("1.0", "1.25", "1.5")
        ),
        Claim(
            id="half-more-than-the-worst",
            metric="goodput_area",
            d=0.5,
            relative=True,
            treatment={"method": OURS},
            control={"method": "conservative:overcommit=1.0"},
            **_over_seeds(
                "On distributions 1 and 2 Past-Future has at least 1.5 times the goodput of the worst rival.",
                "service",
                ["distribution-1", "distribution-2"],
                **_SLA,
            ),
        ),
        *(
            Claim(
                id=f"against-aggressive-{watermark}",
                metric="goodput_share",
                d=0.0,
                treatment={"method": OURS},
                control={"method": f"aggressive:watermark={watermark}"},
                **_over_seeds(
                    f"It has more goodput over loads and workloads than a watermark of {float(watermark):.2f}.",
                    "service",
                    _ALL,
                    **_SLA,
                ),
            )
            for watermark in ("0.99", "0.95", "0.9")
        ),
        *(
            Claim(
                id=f"tuned-against-{rival}",
                metric="goodput_share",
                d=d,
                treatment={"method": "past-future, tuned"},
                control={"method": f"{rival}, tuned"},
                **_over_seeds(
                    f"Each in its best setting over all workloads, Past-Future has more goodput than {rival} admission"
                    f"{', by 5 points' if d else ''}.",
                    "service",
                    _ALL,
                    fixed="one step-time model; settings chosen on one other seed",
                ),
            )
            for rival, d in (("aggressive", 0.0), ("conservative", 0.05))
        ),
        *(
            Claim(
                id=f"patient-{rival.replace(':', '-').replace('=', '-')}",
                metric="patient_share",
                d=0.0,
                treatment={"method": OURS},
                control={"method": rival},
                text=f"Where users wait a minute for the first token, so that evictions count and not queues, it has "
                f"more goodput over loads and workloads than {rival} (added after a first run).",
                unit=("seed",),
                where={"part": "service", "workload": _ALL, "patience": 60.0},
                fixed="one step-time model",
            )
            for rival in (*FAMILIES["aggressive"], "conservative:overcommit=1.5")
        ),
        Claim(
            id="against-the-mean",
            metric="goodput_share",
            d=0.0,
            treatment={"method": OURS},
            control={"method": "peak-with-mean"},
            **_over_seeds(
                "Drawing lengths has more goodput than taking the mean of history for each.",
                "service",
                _ALL,
                fixed="one step-time model",
            ),
        ),
        *(
            Claim(
                id=f"real-log-{trace.rpartition('_')[2]}",
                text=f"On a real log of prompts that are long beside answers ({trace}), a watermark of 0.95 serves as "
                "much within limits, to a point.",
                metric="good_share",
                kind="log",
                rule="noninferior",
                d=0.01,
                unit=("factor", "block"),
                boundary=True,
                treatment={"method": "aggressive:watermark=0.95"},
                control={"method": OURS},
                where={"part": "log", "workload": trace, "cap_factor": 1},
                fixed="one hour of one service, one step-time model",
            )
            for trace in TRACES
        ),
        *(
            Claim(
                id=f"windows-alike-{trace.rpartition('_')[2]}",
                text=f"Output lengths of adjacent windows of 1000 requests are alike (cosine above 0.9) on {trace}.",
                metric="similarity",
                kind="log",
                unit=("block",),
                treatment={"part": "windows", "workload": trace},
                control=0.9,
                published="stated for chat, code and service traces",
                fixed="one hour of one service",
            )
            for trace in TRACES
        ),
        Claim(
            "engine-evicts-less",
            "Inside transformers' continuous batching, with lengths that nobody foresees, Past-Future evicts less than "
            "the engine's own rule.",
            "engine_evictions",
            d=1.0,
            unit=("seed",),
            treatment={"method": ENGINE[1]},
            control={"method": "fifo"},
            where={"part": "engine", "lengths": "hidden"},
            fixed="one small model, on a CPU",
        ),
        Claim(
            "engine-no-slower",
            "And it serves all requests in no more time, to 5 %.",
            "wall",
            rule="noninferior",
            d=0.05,
            relative=True,
            unit=("seed",),
            treatment={"method": ENGINE[1]},
            control={"method": "fifo"},
            where={"part": "engine-time", "lengths": "hidden"},
            fixed="one small model, on a CPU",
        ),
        Claim(
            "engine-caps-suffice",
            "Where every answer is as long as its cap, a peak predicted from the caps never evicts.",
            "engine_evictions",
            kind="exact",
            treatment={"part": "engine", "lengths": "caps", "method": "peak-with-cap"},
        ),
        Claim(
            "engine-same-answers",
            "The answers are the same under every scheduler (greedy, float64).",
            "differing",
            kind="exact",
            treatment={"part": "engine"},
        ),
    ),
    example="""\
import numpy as np

from heedful.serving import Aggressive, PastFuture, Simulator, distribution_1

requests = distribution_1(500, np.random.default_rng(0))
for scheduler in (PastFuture(rho=0.03), Aggressive(0.99)):
    run = Simulator(capacity=120_000).run(scheduler, requests, clients=50, window=100)
    print(f"{scheduler.name}: {run.seconds:.0f} s, {run.evictions_per_100:.0f} evictions per 100 requests")
""",
)
