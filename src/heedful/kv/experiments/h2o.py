"""H2O: are there heavy hitters, does keeping them suffice, and what does it save?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.kv.experiments import RUNTIME
from heedful.kv.experiments._h2o_claims import BYTE, CLAIMS
from heedful.lab import Cell, Experiment, Figure, Metric, Paper, Row, Scale

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

TASK = "task-1"
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
    on_device=True,
    modules=(
        *RUNTIME,
        "heedful.kv.experiments._h2o",
        "heedful.kv.experiments._h2o_claims",
        "heedful.kv.h2o",
        "heedful.kv.streaming_llm",
        "heedful.kv.tova",
        "heedful.models.tasks",
        "heedful.models.text",
    ),
    claims=CLAIMS,
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
