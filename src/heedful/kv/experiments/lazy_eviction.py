"""LazyEviction: does waiting for an entry's usual silence keep what a long chain of thought comes back to?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.kv.experiments import RUNTIME
from heedful.kv.experiments._lazy_eviction_claims import CLAIMS, MAIN
from heedful.lab import Cell, Experiment, Figure, Metric, Paper, Row, Scale, Tuning

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

MODEL = "task-1"
RIVALS = ("streaming-llm", "local", "random", "tova", "tova+window", "h2o", "h2o+window", "raas", "raas+window")
OURS = ("lazy-eviction", "lazy-eviction:variant=reference,birth=reference", "lazy-eviction@peak")
ABLATIONS = (
    "lazy-eviction:birth=reference",
    "lazy-eviction:variant=h1",
    "lazy-eviction:variant=h2",
    "lazy-eviction:variant=lag",
    "lazy-eviction:group=mean",
)
TUNABLE = ("streaming-llm", "tova", "h2o", "raas", "lazy-eviction")
"""Methods with something to tune; each gets six settings."""


def grids(params: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    slots = round(params["tuned_share"] * params["length"])
    quarter = slots // 4
    settings = {
        "streaming-llm": [f"sinks={n}" for n in (1, 2, 4, 8, 16, 24)],
        "tova": [f"window={n}" for n in (1, 2, 4, 8, 16, 32)],
        "h2o": [f"recent={part * quarter},window={n}" for part in (1, 2, 3) for n in (1, 16)],
        "raas": [f"alpha={a},window={n}" for a in (0.002, 0.02, 0.2) for n in (1, 16)],
        "lazy-eviction": [f"alpha={a},window={n}" for a in (0.002, 0.02, 0.2) for n in (8, 24)],
    }
    return {method: [{"setting": text} for text in texts] for method, texts in settings.items()}


def tuning_cells(params: Mapping[str, Any], method: str, setting: Mapping[str, Any]) -> Iterator[Cell]:
    yield Cell.of(
        part="live",
        split="calibration",
        task=MAIN,
        method=method,
        setting=setting["setting"],
        tuned=False,
        share=params["tuned_share"],
        seed=0,
    )


def cells(params: Mapping[str, Any], tuned: Mapping[str, Mapping[str, Any]]) -> Iterator[Cell]:
    for seed in params["seeds"]:
        for task, shares in params["tasks"].items():
            yield Cell.of(
                part="live", split="test", task=task, method="full", setting="", tuned=False, share=1.0, seed=seed
            )
            yield Cell.of(part="recurrence", split="test", task=task, seed=seed)
            for share in shares:
                methods = ("clairvoyant", *RIVALS, *OURS, *(ABLATIONS if task == MAIN else ()))
                for method in methods:
                    for part in ("live", "replay"):
                        yield Cell.of(
                            part=part,
                            split="test",
                            task=task,
                            method=method,
                            setting="",
                            tuned=False,
                            share=share,
                            seed=seed,
                        )
        for method in TUNABLE:
            yield Cell.of(
                part="live",
                split="test",
                task=MAIN,
                method=method,
                setting="",
                tuned=True,
                share=params["tuned_share"],
                seed=seed,
            )


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.kv.experiments import _lazy_eviction

    yield from _lazy_eviction.PARTS[cell["part"]](cell, ctx)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    from heedful.kv.experiments import _lazy_eviction_figures

    return _lazy_eviction_figures.figures(rows)


def _digests(params: Mapping[str, Any]) -> dict[str, str]:
    from heedful import models

    return {MODEL: models.digest(MODEL)}


experiment = Experiment(
    slug="lazy-eviction",
    room="kv",
    title="LazyEviction",
    question="During a long chain of thought, which cached tokens may be dropped when many of them look dead for "
    "dozens of steps and then matter again?",
    summary="Every W steps drops the entries that have been silent for longer than they usually are.",
    paper=Paper(
        title="LazyEviction: Lagged KV Eviction with Attention Pattern Observation for Efficient Long Reasoning",
        authors="Zhang, Zhang, Ma, Zhang, Guo",
        year=2025,
        arxiv="2506.15969",
        venue="ACL 2026",
    ),
    metrics=(
        Metric("accuracy", "1", "higher", "Share of an item's scored tokens that the model predicts right."),
        Metric(
            "far_accuracy",
            "1",
            "higher",
            "The same among tokens whose operand was last mentioned more than `far` tokens ago.",
        ),
        Metric(
            "hit_rate",
            "1",
            "higher",
            "Share of (layer, head, need) combinations, far ones, that a policy still held in replay.",
        ),
        Metric("belady_hit_rate", "1", "higher", "A bound on the share that any policy of that size can reach."),
        Metric("recurring", "1", "neither", "Share of entries whose maximum recurrence interval exceeds 1."),
        Metric(
            "beyond_window",
            "1",
            "neither",
            "Share of the entries that some prediction needs whose maximum recurrence interval exceeds W.",
        ),
        Metric(
            "interval_p80",
            "1",
            "neither",
            "80th percentile of the maximum recurrence interval, in steps, of entries that recur.",
        ),
        Metric("alpha", "1", "neither", "The calibrated activation threshold."),
        Metric(
            "window",
            "1",
            "neither",
            "The calibrated W, in steps: the 80th percentile of the intervals, at most half of the smallest budget.",
        ),
        Metric("slots", "1", "neither", "Entries per layer and KV head at the end, mean."),
        Metric("peak_slots", "1", "neither", "The most there ever were."),
    ),
    dimensions=("item",),
    scales={
        "smoke": Scale(
            {
                "seeds": [0],
                "length": 192,
                "items": 2,
                "replay_items": 2,
                "calibration_items": 1,
                "batch": 4,
                "far": 33,
                "tasks": {MAIN: [0.35]},
                "tuned_share": 0.35,
            },
            limit_s=120,
            leaves_out="Everything but a check that it runs.",
        ),
        "small": Scale(
            {
                "seeds": [0, 1, 2],
                "length": 384,
                "items": 24,
                "replay_items": 4,
                "calibration_items": 4,
                "batch": 24,
                "far": 40,
                "tuned_share": 0.35,
                "tasks": {
                    MAIN: [0.2, 0.35, 0.5],
                    "verify": [0.35],
                    "ledger:uniform": [0.35],
                    "ledger:recent": [0.35],
                    "ledger:oneshot": [0.35],
                },
            },
            limit_s=600,
            leaves_out="Reasoning models of billions of parameters and their benchmarks; throughput and peak memory at "
            "2k to 16k generated tokens on a GPU; sequences beyond 384 tokens; 72 traces a cell instead of 600; "
            "windows and thresholds other than the calibrated ones, but in tuning; the tour and stack tasks; decisions "
            "per query head; the model's own predictions fed back; R-KV.",
        ),
        "full": Scale(
            {
                "seeds": list(range(10)),
                "length": 512,
                "items": 50,
                "replay_items": 10,
                "calibration_items": 10,
                "batch": 50,
                "far": 56,
                "tuned_share": 0.35,
                "tasks": {
                    task: [0.2, 0.35, 0.5]
                    for task in (MAIN, "verify", "ledger:uniform", "ledger:recent", "ledger:oneshot", "ledger:stack")
                },
            },
            limit_s=3600,
            leaves_out="Reasoning models of billions of parameters and their benchmarks; throughput on a GPU; the "
            "tour task; decisions per query head; the model's own predictions fed back; R-KV.",
        ),
    },
    cells=cells,
    measure=measure,
    figures=figures,
    tuning=Tuning(grids, tuning_cells, "far_accuracy"),
    inputs=_digests,
    on_device=True,
    modules=(
        *RUNTIME,
        "heedful.kv.experiments._lazy_eviction",
        "heedful.kv.experiments._lazy_eviction_claims",
        "heedful.kv.h2o",
        "heedful.kv.streaming_llm",
        "heedful.kv.tova",
        "heedful.kv.lazy_eviction",
        "heedful.kv.raas",
        "heedful.models.tasks",
    ),
    claims=CLAIMS,
    example="""\
from heedful import models
from heedful.kv import LazyEviction

model, tokenizer = models.load("task-1")
policy = LazyEviction(budget=96, window=16, alpha=0.01)
cache = policy.cache_for(model)
inputs = tokenizer("<bos> K3 V1 K7 V2 <cot> K3", return_tensors="pt")
model.generate(**inputs, past_key_values=cache, max_new_tokens=24, do_sample=False)
print(cache.usage().slots)
""",
)
