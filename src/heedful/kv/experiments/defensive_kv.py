"""DefensiveKV: does judging entries by their worst case avoid the failures that averages hide?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.kv.experiments import MODEL, PREFILL_RUNTIME
from heedful.kv.experiments._defensive_kv_claims import (
    ALONE,
    ALONE_MEAN,
    CLAIMS,
    LAYER,
    LAYER_ALONE,
    LAYER_ALONE_MEAN,
    MEAN,
    OURS,
    REPEAT,
    TASKS,
)
from heedful.lab import Cell, Experiment, Figure, Metric, Paper, Row, Scale

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

BYTE = "byte-1"
ALL = tuple(f"{task}{protocol}" for protocol in ("", "@reask", "@agnostic") for task in TASKS)
FRAGILE_TASK = "mq@reask"

RIVALS = ("snapkv", "adakv", "criticalkv", "ada-criticalkv", "cake", "streaming-llm", "random")
ABLATIONS = (
    f"{OURS}:{MEAN}",
    f"{OURS}:value_term=0",
    f"{OURS}:window_mass=reference",
    ALONE,
    ALONE_MEAN,
    f"{ALONE},floor=0",
    f"{ALONE},aggregation=mean",
    f"{ALONE},aggregation=quantile",
    f"{ALONE},aggregation=top3",
    f"{LAYER}:{MEAN}",
    LAYER_ALONE,
    LAYER_ALONE_MEAN,
)
WARMTHS = tuple(f"{ALONE},temperature={t}" for t in (0.5, 2, 4))
FRAGILE = ("snapkv", OURS, f"{OURS}:{MEAN}", ALONE, ALONE_MEAN, LAYER, LAYER_ALONE)


def contenders(protocol: str, params: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Policies and shares that the items of a cell are answered under, the full cache first."""
    found = [("full", 1.0)]
    if protocol == "repeat":
        return found + [(method, share) for share in params["warmth_shares"] for method in (ALONE, ALONE_MEAN)]
    found += [(method, share) for share in params["shares"] for method in (*RIVALS, OURS, LAYER)]
    if protocol == "reask":
        found += [(method, share) for share in params["ablation_shares"] for method in ABLATIONS]
        found += [(method, share) for share in params["warmth_shares"] for method in (*WARMTHS, ALONE, ALONE_MEAN)]
    return list(dict.fromkeys(found))


def cells(params: Mapping[str, Any], tuned: Mapping[str, Any]) -> Iterator[Cell]:
    for seed in params["seeds"]:
        for task in params["tasks"]:
            for chunk in range(params["chunks"]):
                yield Cell.of(part="quality", task=task, chunk=chunk, seed=seed)
        yield Cell.of(part="fragility", model="task", task=FRAGILE_TASK, seed=seed)
        yield Cell.of(part="fragility", model="byte", task="text", seed=seed)
        yield Cell.of(part="peak", task=FRAGILE_TASK, seed=seed)


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.kv.experiments import _defensive_kv

    yield from _defensive_kv.PARTS[cell["part"]](cell, ctx)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    from heedful.kv.experiments import _defensive_kv_figures

    return _defensive_kv_figures.figures(rows)


def _digests(params: Mapping[str, Any]) -> dict[str, str]:
    from heedful import models

    held_out = hashlib.sha256()
    for path in models.text.stdlib_files("held-out"):
        held_out.update(path.read_bytes())
    return {name: models.digest(name) for name in (MODEL, BYTE)} | {"held-out text": held_out.hexdigest()}


experiment = Experiment(
    slug="defensive-kv",
    room="kv",
    title="DefensiveKV",
    question="When importance scores from past queries are averaged into one number per entry, rare but decisive "
    "moments vanish; can a worst-case aggregation at no extra cost avoid the failures?",
    summary="Judges a prompt's entries by the most that any query of the window made of them; heads share a budget.",
    paper=Paper(
        title="Taming the Fragility of KV Cache Eviction in LLM Inference",
        authors="Feng, Guo, Lv, Zhou, Xie",
        year=2025,
        arxiv="2510.13334",
        venue="ICLR 2026",
    ),
    metrics=(
        Metric("accuracy", "1", "higher", "Share of items whose whole scored answer is right."),
        Metric("token_accuracy", "1", "higher", "Share of an item's scored tokens that the model predicts right."),
        Metric("lost", "1", "lower", "Share of items that the full cache answers and the method does not."),
        Metric(
            "retained_mean",
            "1",
            "higher",
            "Share of the attention paid to the prompt that falls on kept entries, mean over decode steps, layers and "
            "query heads.",
        ),
        Metric("retained_p01", "1", "higher", "The same, its 1st percentile within an item."),
        Metric("retained_min", "1", "higher", "The same, its minimum within an item: the worst moment of any head."),
        Metric(
            "retained_worst_step",
            "1",
            "higher",
            "The minimum within an item of each step's mean over layers and query heads: the worst step.",
        ),
        Metric(
            "first_stage",
            "1",
            "neither",
            "Share of the budget beyond the window that the first stage hands out, before the worst case has a say.",
        ),
        Metric("slots", "1", "neither", "Entries per layer and KV head at the end, mean."),
        Metric(
            "held_peak",
            "1",
            "lower",
            "The most entries held at one time while the prompt is read, over all layers, per layer and KV head.",
        ),
        Metric(
            "over_bound",
            "1",
            "lower",
            "1 if more was ever held than the budget of all layers and one layer's prompt without its window.",
        ),
    ),
    dimensions=("item", "method", "share"),
    scales={
        "smoke": Scale(
            {
                "seeds": [0],
                "length": 128,
                "window": 8,
                "items": 2,
                "chunks": 1,
                "batch": 2,
                "tasks": ["mk3", "mk3@reask", "niah1@agnostic", REPEAT],
                "shares": [0.2],
                "ablation_shares": [0.2],
                "warmth_shares": [0.2],
                "fragile_items": 1,
                "fragile_shares": [0.2],
                "fragile_steps": 8,
            },
            limit_s=120,
            leaves_out="Everything but a check that it runs.",
        ),
        "small": Scale(
            {
                "seeds": [0, 1, 2],
                "length": 512,
                "window": 16,
                "items": 36,
                "chunks": 1,
                "batch": 36,
                "tasks": [*ALL, REPEAT],
                "shares": [0.05, 0.1, 0.2, 0.4],
                "ablation_shares": [0.1, 0.2],
                "warmth_shares": [0.05, 0.1],
                "fragile_items": 8,
                "fragile_shares": [0.1, 0.2, 0.4],
                "fragile_steps": 64,
            },
            limit_s=600,
            leaves_out="Llama, Mistral and Qwen models and the 18 LongBench and RULER data sets; contexts beyond 512; "
            "108 items a task and protocol instead of 600; mk2 and cwe, which the model does not know; ablations and "
            "temperatures outside reask; prefill time and bytes, which benchmarks/ measures.",
        ),
        "full": Scale(
            {
                "seeds": list(range(10)),
                "length": 512,
                "window": 16,
                "items": 60,
                "chunks": 1,
                "batch": 60,
                "tasks": [*ALL, REPEAT],
                "shares": [0.05, 0.1, 0.2, 0.4],
                "ablation_shares": [0.05, 0.1, 0.2, 0.4],
                "warmth_shares": [0.05, 0.1, 0.2],
                "fragile_items": 20,
                "fragile_shares": [0.1, 0.2, 0.4],
                "fragile_steps": 128,
            },
            limit_s=3600,
            leaves_out="Llama, Mistral and Qwen models and the 18 LongBench and RULER data sets; contexts beyond 512; "
            "mk2 and cwe; ablations and temperatures outside reask; prefill time and bytes (benchmarks/ has them).",
        ),
    },
    cells=cells,
    measure=measure,
    figures=figures,
    inputs=_digests,
    on_device=True,
    modules=(
        *PREFILL_RUNTIME,
        "heedful.kv.adakv",
        "heedful.kv.cake",
        "heedful.kv.criticalkv",
        "heedful.kv.defensive_kv",
        "heedful.kv.experiments._defensive_kv",
        "heedful.kv.experiments._defensive_kv_claims",
        "heedful.kv.layer_budgets",
        "heedful.kv.snapkv",
        "heedful.kv.streaming_llm",
        "heedful.kv.value_norms",
        "heedful.models.text",
    ),
    claims=CLAIMS,
    example="""\
from heedful import models
from heedful.kv import LayerDefensiveKV, Share

model, tokenizer = models.load("task-2")
policy = LayerDefensiveKV(budget=Share(0.4), observation_window=4)
cache = policy.cache_for(model)
prompt = "<bos> " + "F1 F2 F3 F4 " * 8 + "; K7 V1 V2 ; " + "F5 F6 " * 8 + "<q> K7 <a>"
inputs = tokenizer(prompt, return_tensors="pt")
model.generate(**inputs, past_key_values=cache, max_new_tokens=2, do_sample=False)
print(cache.usage().slots)
""",
)
