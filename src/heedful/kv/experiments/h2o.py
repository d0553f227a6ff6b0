"""H2O: are there heavy hitters, does keeping them suffice, and what does it save?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.kv.experiments import RUNTIME
from heedful.lab import Cell, Claim, Experiment, Figure, Metric, Paper, Row, Scale

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

BYTE, TASK = "byte-1", "task-1"
TEXT = "text"
MAIN = "ledger:zipf"
METHODS = ("h2o", "h2o:recent=0", "h2o+window", "streaming-llm", "tova", "local", "random")


def cells(params: Mapping[str, Any], tuned: Mapping[str, Any]) -> Iterator[Cell]:
    for seed in params["seeds"]:
        for name in (BYTE, TASK):
            for twin in (False, True):
                yield Cell.of(part="structure", model=name, twin=twin, seed=seed)
        for task, shares in params["tasks"].items():
            yield Cell.of(part="quality", task=task, method="full", share=1.0, seed=seed)
            for share in shares:
                for method in METHODS:
                    yield Cell.of(part="quality", task=task, method=method, share=share, seed=seed)
        yield Cell.of(part="retained", task=MAIN, share=params["speed_share"], seed=seed)
        for context in params["contexts"]:
            for method, batch in (("full", 1), ("h2o", 1), ("h2o", round(1 / params["speed_share"]))):
                yield Cell.of(
                    exclusive=True,
                    part="speed",
                    method=method,
                    context=context,
                    batch=batch,
                    share=params["speed_share"],
                    seed=seed,
                )


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.kv.experiments import _h2o

    yield from _h2o.PARTS[cell["part"]](cell, ctx)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    from heedful.kv.experiments import _h2o_figures

    return _h2o_figures.figures(rows)


def _digests(params: Mapping[str, Any]) -> dict[str, str]:
    from heedful import models

    held_out = hashlib.sha256()
    for path in models.text.stdlib_files("held-out"):
        held_out.update(path.read_bytes())
    return {name: models.digest(name) for name in (BYTE, TASK)} | {"held-out text": held_out.hexdigest()}


_AT_20: dict[str, Any] = {"part": "quality", "share": [0.2]}

experiment = Experiment(
    slug="h2o",
    room="kv",
    title="H2O",
    question="Can a cache of fixed size, holding the tokens with the largest accumulated attention plus the most "
    "recent ones, replace the full KV cache in generation?",
    summary="Keeps, per layer and KV head, the entries with the largest accumulated attention and the newest ones.",
    paper=Paper(
        title="H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models",
        authors="Zhang, Sheng, Zhou, Chen, Zheng, Cai, Song, Tian, Re, Barrett, Wang, Chen",
        year=2023,
        arxiv="2306.14048",
        venue="NeurIPS 2023",
    ),
    metrics=(
        Metric(
            "sparsity",
            "1",
            "neither",
            "Share of attention weights below 1 % of their row's maximum, rows from the 64th on.",
        ),
        Metric(
            "gini",
            "1",
            "neither",
            "Gini coefficient of the attention an entry received per query that could see it, mean over heads.",
        ),
        Metric(
            "gini_without_sinks",
            "1",
            "neither",
            "The same without the first four entries, which attract attention by construction.",
        ),
        Metric(
            "top_share",
            "1",
            "neither",
            "Share of all received attention that the tenth of the entries with the most received.",
        ),
        Metric(
            "frequency_correlation",
            "1",
            "neither",
            "Spearman correlation between the attention a token received and how often its kind occurs in the sample.",
        ),
        Metric(
            "bits_per_byte",
            "bits/byte",
            "lower",
            "Mean -log2 p of the next byte of held-out text, from the 17th on; the first bytes still fit the budget.",
        ),
        Metric(
            "accuracy",
            "1",
            "higher",
            "Share of scored tokens predicted right (ledger, verify), or of items answered right in full (retrieval).",
        ),
        Metric("slots", "1", "neither", "Entries per layer and KV head at the end."),
        Metric("peak_slots", "1", "neither", "The most there ever were."),
        Metric("cache_bytes", "bytes", "lower", "Bytes allocated for the cache."),
        Metric(
            "retained_ratio",
            "1",
            "higher",
            "Attention mass that H2O still holds when asked for it, over that of the best fixed set of the same size.",
        ),
        Metric(
            "tokens_per_s",
            "tokens/s",
            "higher",
            "Decoded tokens per second over all sequences of the batch, one thread.",
            timing=True,
        ),
    ),
    dimensions=("item", "layer"),
    scales={
        "smoke": Scale(
            {
                "seeds": [0, 1],
                "length": 128,
                "structure_items": 1,
                "chunks": 2,
                "items": 2,
                "batch": 4,
                "tasks": {"text": [0.2]},
                "contexts": [512],
                "speed_share": 0.2,
                "speed_steps": 2,
            },
            limit_s=120,
            leaves_out="Everything but a check that it runs: two chunks of text, one budget.",
        ),
        "small": Scale(
            {
                "seeds": [0, 1, 2],
                "length": 384,
                "structure_items": 4,
                "chunks": 24,
                "items": 32,
                "batch": 32,
                "tasks": {
                    "text": [0.05, 0.1, 0.2, 0.4, 1.0],
                    "ledger:zipf": [0.1, 0.2, 0.4],
                    "verify": [0.2],
                    "niah1": [0.2],
                    "niah1@agnostic": [0.2],
                    "ledger:oneshot": [0.2],
                },
                "contexts": [512, 2048, 8192],
                "speed_share": 0.2,
                "speed_steps": 12,
            },
            limit_s=600,
            repeats=3,
            leaves_out="OPT, LLaMA and GPT-NeoX models, HELM and lm-eval tasks; throughput on a GPU and contexts "
            "beyond 8192; 72 chunks of text instead of 200; budgets other than 20 % for verify, needles and oneshot, "
            "and 5 and 100 % for the ledger; LRU and the non-causal global-statistics oracle as rivals.",
        ),
        "full": Scale(
            {
                "seeds": list(range(10)),
                "length": 512,
                "structure_items": 8,
                "chunks": 64,
                "items": 100,
                "batch": 50,
                "tasks": {
                    task: [0.05, 0.1, 0.2, 0.4, 1.0]
                    for task in ("text", "ledger:zipf", "verify", "niah1", "niah1@agnostic", "ledger:oneshot")
                },
                "contexts": [512, 2048, 8192, 32768],
                "speed_share": 0.2,
                "speed_steps": 32,
            },
            limit_s=3600,
            leaves_out="OPT, LLaMA and GPT-NeoX models, HELM and lm-eval tasks; LRU and the non-causal global-"
            "statistics oracle as rivals.",
        ),
    },
    cells=cells,
    measure=measure,
    figures=figures,
    inputs=_digests,
    modules=(
        *RUNTIME,
        "heedful.kv.experiments._h2o",
        "heedful.kv.h2o",
        "heedful.kv.streaming_llm",
        "heedful.kv.tova",
        "heedful.models.tasks",
        "heedful.models.text",
    ),
    claims=(
        Claim(
            "sparse",
            "In a trained model nearly all attention weights are below 1 % of their row's maximum.",
            "sparsity",
            rule="superior",
            control=0.95,
            unit=("item",),
            fixed="one checkpoint",
            treatment={"part": "structure", "model": BYTE, "twin": False},
            published="over 95 % in almost all layers of OPT",
        ),
        Claim(
            "sparse-by-training",
            "Training makes attention sparse; softmax alone does not.",
            "sparsity",
            rule="superior",
            d=0.2,
            unit=("item",),
            fixed="one checkpoint",
            treatment={"twin": False},
            control={"twin": True},
            where={"part": "structure", "model": BYTE},
        ),
        Claim(
            "heavy-hitters",
            "Training concentrates received attention on few entries, sinks left out.",
            "gini_without_sinks",
            rule="superior",
            d=0.1,
            unit=("item",),
            fixed="one checkpoint",
            treatment={"twin": False},
            control={"twin": True},
            where={"part": "structure", "model": BYTE},
            published="accumulated attention follows a power law",
        ),
        Claim(
            "near-full",
            "At a 20 % budget H2O costs less than 5 % in bits per byte.",
            "bits_per_byte",
            rule="noninferior",
            d=0.05,
            relative=True,
            unit=("item",),
            fixed="one checkpoint, 79 held-out files",
            treatment={"method": "h2o", "share": 0.2},
            control={"method": "full"},
            where={"part": "quality", "task": TEXT},
            published="within noise of the full cache at 20 %, 8 tasks",
        ),
        Claim(
            "beats-local",
            "At a 20 % budget H2O predicts text better than the newest entries alone.",
            "bits_per_byte",
            rule="superior",
            d=0.01,
            relative=True,
            unit=("item",),
            fixed="one checkpoint, 79 held-out files",
            treatment={"method": "h2o"},
            control={"method": "local"},
            where={**_AT_20, "task": TEXT},
            published="Local collapses, near chance on COPA and PIQA",
        ),
        Claim(
            "beats-streaming",
            "At a 20 % budget H2O predicts text better than sinks and the newest entries.",
            "bits_per_byte",
            rule="superior",
            d=0.0,
            relative=True,
            unit=("item",),
            fixed="one checkpoint, 79 held-out files",
            treatment={"method": "h2o"},
            control={"method": "streaming-llm"},
            where={**_AT_20, "task": TEXT},
        ),
        Claim(
            "recent-part",
            "Half recent entries are better than heavy hitters alone.",
            "bits_per_byte",
            rule="superior",
            d=0.0,
            relative=True,
            unit=("item",),
            fixed="one checkpoint, 79 held-out files",
            treatment={"method": "h2o"},
            control={"method": "h2o:recent=0"},
            where={**_AT_20, "task": TEXT},
        ),
        Claim(
            "ledger-beats-local",
            "At a 20 % budget H2O answers more of a long ledger than the newest entries alone.",
            "accuracy",
            rule="superior",
            d=0.05,
            unit=("item",),
            fixed="one checkpoint",
            treatment={"method": "h2o"},
            control={"method": "local"},
            where={**_AT_20, "task": "ledger:zipf"},
        ),
        Claim(
            "faster",
            "At 8192 tokens of context a 20 % budget decodes at least half as fast again.",
            "tokens_per_s",
            rule="superior",
            d=0.5,
            relative=True,
            unit=("seed",),
            fixed="one geometry, one thread",
            treatment={"method": "h2o", "batch": 1},
            control={"method": "full", "batch": 1},
            where={"part": "speed", "context": 8192},
            published="up to 1.9x lower latency at equal batch",
        ),
        Claim(
            "throughput",
            "At 8192 tokens of context and equal cache memory, a 20 % budget decodes at least twice as many tokens.",
            "tokens_per_s",
            rule="superior",
            d=1.0,
            relative=True,
            unit=("seed",),
            fixed="one geometry, one thread",
            treatment={"method": "h2o", "batch": 5},
            control={"method": "full", "batch": 1},
            where={"part": "speed", "context": 8192},
            published="up to 29x other systems, 3x FlexGen",
        ),
        Claim(
            "retained",
            "The online rule retains at least (1 - 1/e) of the attention mass of the best fixed set (our threshold).",
            "retained_ratio",
            rule="superior",
            control=0.632,
            unit=("item",),
            treatment={"part": "retained"},
            fixed="one checkpoint",
            published="(1 - a)(1 - 1/e) of the optimum, less b, under assumptions",
        ),
        *(
            Claim(
                f"knows-{task}",
                f"With the full cache the model answers at least 95 % of {task}, so that losses are the policy's.",
                "accuracy",
                rule="noninferior",
                control=0.95,
                unit=("item",),
                fixed="one checkpoint",
                treatment={"method": "full"},
                where={"part": "quality", "task": task},
            )
            for task in ("ledger:zipf", "verify", "niah1", "niah1@agnostic", "ledger:oneshot")
        ),
        Claim(
            "late-question",
            "Where the question about a needle comes after eviction, accumulated mass says nothing: a tie with "
            "StreamingLLM.",
            "accuracy",
            rule="tie",
            d=0.1,
            unit=("item",),
            boundary=True,
            fixed="one checkpoint",
            treatment={"method": "h2o"},
            control={"method": "streaming-llm"},
            where={**_AT_20, "task": "niah1@agnostic"},
        ),
        Claim(
            "oneshot",
            "Where each entry is needed once and late, accumulated mass says nothing: a tie with StreamingLLM.",
            "accuracy",
            rule="tie",
            d=0.1,
            unit=("item",),
            boundary=True,
            fixed="one checkpoint",
            treatment={"method": "h2o"},
            control={"method": "streaming-llm"},
            where={**_AT_20, "task": "ledger:oneshot"},
        ),
        Claim(
            "whole-budget",
            "With a budget of the whole sequence nothing changes.",
            "bits_per_byte",
            rule="tie",
            d=1e-6,
            unit=("item",),
            boundary=True,
            treatment={"method": "h2o", "share": 1.0},
            control={"method": "full"},
            where={"part": "quality", "task": TEXT},
        ),
        Claim(
            "short-context",
            "At 512 tokens of context there is little to save: speeds within 25 %.",
            "tokens_per_s",
            rule="tie",
            d=0.25,
            relative=True,
            unit=("seed",),
            boundary=True,
            fixed="one geometry, one thread",
            treatment={"method": "h2o", "batch": 1},
            control={"method": "full", "batch": 1},
            where={"part": "speed", "context": 512},
        ),
    ),
    example="""\
from heedful import models
from heedful.kv import H2O

model, tokenizer = models.load("byte-1")
policy = H2O(budget=128)
cache = policy.cache_for(model)
inputs = tokenizer("def add(a, b):", return_tensors="pt")
model.generate(**inputs, past_key_values=cache, max_new_tokens=32, do_sample=False)
print(cache.usage().slots)
""",
)
