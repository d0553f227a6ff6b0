"""Past-Future: how many requests may run together when nobody knows how long each answer will be?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.lab import Cell, Experiment, Figure, Metric, Paper, Row, Scale, Tuning
from heedful.serving.experiments._past_future_claims import CLAIMS, DISTRIBUTIONS, FAMILIES, TRACES

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

SETTINGS = tuple(setting for settings in FAMILIES.values() for setting in settings)
OTHERS = ("oracle", "past-future:rho=0.03,sampling=interpolated", "peak-with-cap", "peak-with-mean")
PATIENCE = (10.0, 30.0, 60.0, 120.0)
"""Limits on the time to the first token, in seconds, that the same runs are judged by."""


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
        "heedful.serving.experiments._past_future_claims",
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
    claims=CLAIMS,
    example="""\
import numpy as np

from heedful.serving import Aggressive, PastFuture, Simulator, distribution_1

requests = distribution_1(500, np.random.default_rng(0))
for scheduler in (PastFuture(rho=0.03), Aggressive(0.99)):
    run = Simulator(capacity=120_000).run(scheduler, requests, clients=50, window=100)
    print(f"{scheduler.name}: {run.seconds:.0f} s, {run.evictions_per_100:.0f} evictions per 100 requests")
""",
)
