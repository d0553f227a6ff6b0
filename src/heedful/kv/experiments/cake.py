"""CAKE: how much of one cache should each layer get, and can prefill get there without ever holding all of it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.kv.experiments import MODEL, PREFILL_RUNTIME
from heedful.kv.experiments._cake_claims import CLAIMS, KNOWN, LATE, LENGTH
from heedful.lab import Cell, Experiment, Figure, Metric, Paper, Row, Scale, Tuning

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

WINDOW = 16
ABLATIONS = (
    "cake:gamma=0",
    "cake:split=uniform",
    "cake:split=dispersion",
    "cake:split=shift",
    "cake:split=shuffled",
    "cake:rounding=reference",
)


def grids(params: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    settings = {
        "cake": [f"tau1={a},tau2={b}" for a in (0.4, 1.0, 2.0) for b in (0.4, 1.0, 2.0)],
        "snapkv": [
            *(f"kernel={n}" for n in (1, 3, 5, 7, 9)),
            *(f"kernel={n},pooling=max" for n in (3, 5, 7, 9)),
        ],
        "pyramidkv": [f"beta={b},kernel={n}" for b in (2, 5, 20) for n in (1, 5, 9)],
        "h2o": [
            *(f"recent={n}" for n in (2, 4, 8, 12, 16)),
            *(f"recent={n},statistic=mean" for n in (4, 8, 12, 16)),
        ],
    }
    return {method: [{"setting": text} for text in texts[: params["settings"]]] for method, texts in settings.items()}


def tuning_cells(params: Mapping[str, Any], method: str, setting: Mapping[str, Any]) -> Iterator[Cell]:
    for task in params["tuning_tasks"]:
        yield Cell.of(
            part="tuning",
            split="calibration",
            task=task,
            candidate=method,
            setting=setting["setting"],
            seed=0,
            chunk=0,
        )


def cells(params: Mapping[str, Any], tuned: Mapping[str, Mapping[str, Any]]) -> Iterator[Cell]:
    for seed in params["seeds"]:
        for chunk in range(params["chunks"]):
            for task in params["tasks"]:
                yield Cell.of(part="quality", task=task, seed=seed, chunk=chunk)
            yield Cell.of(part="late", task=LATE, seed=seed, chunk=chunk)
            for task in params["tuning_tasks"]:
                yield Cell.of(part="oracle", task=task, seed=seed, chunk=chunk)
        for task in params["tasks"]:
            yield Cell.of(part="layers", task=task, seed=seed, chunk=0)
        for context in params["prompts"]:
            yield Cell.of(part="memory", context=context, seed=seed)
        for context in params["contexts"]:
            for contender in ("full", "snapkv", "cake"):
                yield Cell.of(exclusive=True, part="speed", contender=contender, context=context, seed=seed)


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.kv.experiments import _cake

    yield from _cake.PARTS[cell["part"]](cell, ctx)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    from heedful.kv.experiments import _cake_figures

    return _cake_figures.figures(rows)


def _digests(params: Mapping[str, Any]) -> dict[str, str]:
    from heedful import models

    return {MODEL: models.digest(MODEL)}


experiment = Experiment(
    slug="cake",
    room="kv",
    title="CAKE",
    question="Given one cache budget for all layers, how much should each layer get, and how can prefill reach that "
    "split without ever holding the full cache?",
    summary="Shares one pool of entries over the layers by how spread and how shifting their attention is.",
    paper=Paper(
        title="CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences",
        authors="Qin, Cao, Lin, Hu, Fan, Cheng, Lin, Li",
        year=2025,
        arxiv="2503.12491",
        venue="ICLR 2025",
    ),
    metrics=(
        Metric("accuracy", "1", "higher", "Share of items whose whole answer the model predicts right."),
        Metric("token_accuracy", "1", "higher", "Share of an item's scored tokens predicted right."),
        Metric("slots", "1", "neither", "Entries per layer and KV head at the end, mean over layers."),
        Metric("cv", "1", "neither", "Coefficient of variation of the preference P over the layers of one prompt."),
        Metric("preference", "1", "neither", "A layer's share of the sum of P, mean over items."),
        Metric("layer_slots", "1", "neither", "A layer's entries per KV head at 32 slots, window included, mean."),
        Metric(
            "peak_entries",
            "1",
            "lower",
            "The most entries per KV head that all layers together held at one time while the prompt was read.",
        ),
        Metric("peak_bytes", "bytes", "lower", "The most bytes that all layers together had allocated at one time."),
        Metric(
            "over_bound",
            "1",
            "lower",
            "Entries by which the cascade's peak exceeds pool + layers + windows + one whole layer; 0 if it does not.",
        ),
        Metric(
            "differing",
            "1",
            "lower",
            "Entries that the cascade and one decision at the end do not both keep, over all layers and heads.",
        ),
        Metric("tokens_per_s", "tokens/s", "higher", "Decoded tokens per second, one thread.", timing=True),
        Metric("cache_bytes", "bytes", "lower", "Bytes allocated for the cache while decoding."),
    ),
    dimensions=("item", "layer", "method", "share"),
    scales={
        "smoke": Scale(
            {
                "seeds": [0],
                "length": LENGTH,
                "chunks": 1,
                "items": 2,
                "batch": 2,
                "tasks": ["niah1", "vt"],
                "budgets": [24],
                "tuned_budget": 24,
                "settings": 2,
                "tuning_tasks": ["niah1"],
                "calibration_items": 1,
                "oracle_step": 24,
                "prompts": [256],
                "memory_budget": 64,
                "contexts": [512],
                "speed_share": 0.0625,
                "speed_steps": 2,
            },
            limit_s=120,
            repeats=1,
            leaves_out="Everything but a check that it runs: two tasks, one budget, two items.",
        ),
        "small": Scale(
            {
                "seeds": [0, 1, 2],
                "length": LENGTH,
                "chunks": 1,
                "items": 32,
                "batch": 16,
                "tasks": [*KNOWN, "mv", "mk2"],
                "budgets": [20, 24, 32, 48, 64, 128],
                "tuned_budget": 24,
                "settings": 9,
                "tuning_tasks": ["mk3", "mq", "vt", "marked"],
                "calibration_items": 24,
                "oracle_step": 8,
                "prompts": [512, 1024, 2048, 4096, 8192],
                "memory_budget": 256,
                "contexts": [8192],
                "speed_share": 0.032,
                "speed_steps": 12,
            },
            limit_s=600,
            repeats=3,
            leaves_out="Language models of billions of parameters, LongBench and NeedleBench; contexts beyond 512 "
            "tokens for quality and beyond 8192 for memory and speed; decode latency on a GPU with FlashAttention; cwe "
            "and fwe, which the model does not know; a model that only its early layers matter to; combination with "
            "a quantised cache; 96 items a task instead of 600; tau beyond 0.4, 1 and 2.",
        ),
        "full": Scale(
            {
                "seeds": list(range(10)),
                "length": LENGTH,
                "chunks": 2,
                "items": 50,
                "batch": 25,
                "tasks": [*KNOWN, "mv", "mk2"],
                "budgets": [20, 24, 32, 48, 64, 128],
                "tuned_budget": 24,
                "settings": 9,
                "tuning_tasks": list(KNOWN),
                "calibration_items": 64,
                "oracle_step": 8,
                "prompts": [512, 1024, 2048, 4096, 8192, 16384],
                "memory_budget": 256,
                "contexts": [8192, 32768, 65536],
                "speed_share": 0.032,
                "speed_steps": 32,
            },
            limit_s=3600,
            leaves_out="Language models of billions of parameters, LongBench and NeedleBench; contexts beyond 512 "
            "tokens for quality; cwe and fwe; combination with a quantised cache.",
        ),
    },
    cells=cells,
    measure=measure,
    figures=figures,
    tuning=Tuning(grids, tuning_cells, "accuracy"),
    inputs=_digests,
    on_device=True,
    modules=(
        *PREFILL_RUNTIME,
        "heedful.kv.cake",
        "heedful.kv.experiments._cake",
        "heedful.kv.experiments._cake_claims",
        "heedful.kv.h2o",
        "heedful.kv.layer_budgets",
        "heedful.kv.pyramidkv",
        "heedful.kv.snapkv",
        "heedful.kv.streaming_llm",
        "heedful.kv.tova",
    ),
    claims=CLAIMS,
    example=f"""\
from heedful import models
from heedful.kv import CAKE

model, tokenizer = models.load("{MODEL}")
policy = CAKE(budget=12, observation_window=4)
cache = policy.cache_for(model)
inputs = tokenizer("<bos> F1 F2 F3 ; K3 V1 V9 ; F4 F5 F6 F7 ; K7 V2 V5 ; F8 F9 <q> K3 <a>", return_tensors="pt")
model.generate(**inputs, past_key_values=cache, max_new_tokens=2, do_sample=False)
print(cache.usage().slots)
""",
)
