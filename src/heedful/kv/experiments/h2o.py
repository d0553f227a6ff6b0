"""H2O: are there heavy hitters, does keeping them suffice, and what does it save?"""

from __future__ import annotations

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
ROW_SHARE = 0.01
FIRST_ROW = 64
"""Attention rows before this one are too short for a share of small weights to mean anything."""


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
    parts = {"structure": _structure, "quality": _quality, "retained": _retained, "speed": _speed}
    yield from parts[cell["part"]](cell, ctx)


def _structure(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Sparsity of rows and concentration of columns, trained against randomly initialised."""
    import numpy as np
    import torch
    from scipy.stats import spearmanr

    from heedful.kv.experiments import _work
    from heedful.kv.replay import record
    from heedful.models import text

    length, count = ctx.params["length"], ctx.params["structure_items"]
    rng = np.random.default_rng([7, cell["seed"]])
    if cell["model"] == BYTE:
        tokens = text.stdlib_bytes("held-out", rng, count, length)
    else:
        drawn = _work.items("ledger:zipf", cell["seed"], 2 * count, length)
        shortest = min(len(item.tokens) for item in drawn[:count])
        tokens = np.stack([item.tokens[:shortest] for item in drawn[:count]])
    model = _work.model(cell["model"], ctx.device, 1000 + cell["seed"] if cell["twin"] else None)
    frequency = np.bincount(tokens.ravel(), minlength=512)
    for index in range(count):
        for layer, rows in enumerate(record(model, torch.from_numpy(tokens[index : index + 1]).to(ctx.device))):
            weights = rows[0].flatten(0, 1).cpu()
            n = weights.shape[-1]
            causal = torch.ones(n, n, dtype=torch.bool).tril()
            late = causal.clone()
            late[:FIRST_ROW] = False
            small = weights < ROW_SHARE * weights.amax(dim=-1, keepdim=True)
            received = weights.sum(dim=1) / torch.arange(n, 0, -1)
            total = weights.sum(dim=1).mean(dim=0).numpy()
            yield {
                "item": 1000 * cell["seed"] + index,
                "layer": layer,
                "sparsity": float(small[:, late].float().mean()),
                "gini": float(np.mean([_gini(head.numpy()) for head in received])),
                "gini_without_sinks": float(np.mean([_gini(head.numpy()) for head in received[:, 4:]])),
                "top_share": float(np.mean([_top_share(head.numpy()) for head in weights.sum(dim=1)])),
                "frequency_correlation": float(spearmanr(total, frequency[tokens[index]]).statistic),
            }


def _gini(values: Any) -> float:
    """Gini coefficient of non-negative values: 0 if all are equal, towards 1 if one has everything."""
    import numpy as np

    ordered = np.sort(values)
    n = len(ordered)
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * ordered.sum()))


def _top_share(values: Any) -> float:
    """Share of the total that the largest tenth holds."""
    import numpy as np

    ordered = np.sort(values)[::-1]
    return float(ordered[: max(1, len(ordered) // 10)].sum() / ordered.sum())


def _quality(cell: Cell, ctx: Context) -> Iterator[Row]:
    import numpy as np

    from heedful.kv.evaluate import Episode, play
    from heedful.kv.experiments import _work
    from heedful.models import text

    length, task = ctx.params["length"], cell["task"]
    slots = round(cell["share"] * length)
    if task == TEXT:
        rng = np.random.default_rng([11, cell["seed"]])
        chunks = text.stdlib_bytes("held-out", rng, ctx.params["chunks"], length)
        start = 16
        scored = np.arange(length) >= start
        episodes, work = [Episode(chunk, scored, (start,)) for chunk in chunks], []
        model = _work.model(BYTE, ctx.device)
    else:
        work = _work.items(task, cell["seed"], ctx.params["items"], length)
        episodes, model = [_work.episode(item) for item in work], _work.model(TASK, ctx.device)
    played = play(
        model, _work.policy_for(cell["method"], slots, work), episodes, batch=ctx.params["batch"], device=ctx.device
    )
    for index, result in enumerate(played):
        scored = episodes[index].scored
        right = result.correct[scored]
        row: dict[str, Any] = {
            "item": 1000 * cell["seed"] + index,
            "slots": float(np.mean(result.usage.slots)),
            "peak_slots": float(np.mean(result.usage.peak_slots)),
        }
        if task == TEXT:
            row["bits_per_byte"] = float(result.nats[scored].mean() / np.log(2))
        elif task.startswith(("ledger", "verify")):
            row["accuracy"] = float(right.mean())
        else:
            row["accuracy"] = float(right.all())
        yield row


def _retained(cell: Cell, ctx: Context) -> Iterator[Row]:
    """The attention mass that the online rule retains, against the best set of that size known in hindsight."""
    import numpy as np
    import torch

    from heedful.kv.experiments import _work
    from heedful.kv.policies import make
    from heedful.kv.replay import record, simulate

    slots = round(cell["share"] * ctx.params["length"])
    for index, item in enumerate(
        _work.items(cell["task"], cell["seed"], ctx.params["structure_items"], ctx.params["length"])
    ):
        rows = record(_work.model(TASK, ctx.device), torch.from_numpy(item.tokens[None]).to(ctx.device))
        alive = simulate(make("h2o", slots), rows, item.prompt_length)[0]
        ratios = []
        for layer, recorded in enumerate(rows):
            mass = recorded[0].sum(dim=1)[:, item.prompt_length :]
            online = (mass * alive[layer][:, item.prompt_length :]).sum(dim=(1, 2))
            fixed = mass.sum(dim=1).topk(slots).values.sum(dim=1)
            ratios.append(float((online / fixed).mean()))
        yield {"item": 1000 * cell["seed"] + index, "retained_ratio": float(np.mean(ratios))}


def _speed(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Decode speed with caches filled with random entries: speed does not depend on what the weights know."""
    import time

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from heedful.kv.experiments import _work
    from heedful.kv.policies import make

    torch.set_num_threads(1)
    torch.manual_seed(cell["seed"])
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=4096,
        max_position_embeddings=1 << 17,
    )
    model: Any = LlamaForCausalLM(config).eval()
    model.to(ctx.device)
    context, steps = cell["context"], ctx.params["speed_steps"]
    held = context if cell["method"] == "full" else round(cell["share"] * context)
    with torch.inference_mode(), make(cell["method"], held).on(model) as cache:
        batch = cell["batch"]
        _work.fill(cache, held, config, batch, cell["seed"], ctx.device)
        token = torch.zeros(batch, 1, dtype=torch.long, device=ctx.device)
        for step in range(2 * steps):
            if step == steps:
                if ctx.device != "cpu":
                    torch.cuda.synchronize()
                began = time.perf_counter()
            model(
                token,
                position_ids=torch.tensor([[context + step]], device=ctx.device),
                past_key_values=cache,
                use_cache=True,
            )
        if ctx.device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        yield {
            "tokens_per_s": batch * steps / seconds,
            "slots": sum(cache.usage().slots) / len(cache.evicting),
            "cache_bytes": float(sum(cache.usage().nbytes)),
        }


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    import altair as alt
    import polars as pl

    found = []
    quality = rows.filter(pl.col("part") == "quality")
    for task, metric, title in (
        (TEXT, "bits_per_byte", "Bits per byte of held-out source text"),
        (None, "accuracy", "Accuracy"),
    ):
        chosen = quality.filter(pl.col("task") == task if task else pl.col("task") != TEXT)
        if not len(chosen):
            continue
        table = (
            chosen.group_by("task", "method", "share")
            .agg(
                pl.col(metric).mean(), pl.col(metric).std().alias("sd"), pl.len().alias("items"), pl.col("slots").mean()
            )
            .sort("task", "method", "share")
        )
        chart = (
            alt.Chart(table)
            .mark_line(point=True)
            .encode(
                x=alt.X(
                    "share:Q",
                    scale=alt.Scale(type="log"),
                    axis=alt.Axis(format="%"),
                    title="budget, share of the sequence",
                ),
                y=alt.Y(f"{metric}:Q", scale=alt.Scale(zero=False), title=metric.replace("_", " ")),
                color=alt.Color("method:N"),
                column=alt.Column("task:N", title=None),
                tooltip=["task", "method", "share", metric, "sd", "items", "slots"],
            )
            .properties(width=260, height=220)
        )
        found.append(Figure(title, chart, table, "One line per policy; the full cache is the point at 100 %."))
    structure = rows.filter(pl.col("part") == "structure")
    if len(structure):
        table = (
            structure.group_by("model", "twin", "layer")
            .agg(pl.col("sparsity", "gini", "gini_without_sinks", "top_share", "frequency_correlation").mean())
            .sort("model", "twin", "layer")
            .with_columns(weights=pl.when(pl.col("twin")).then(pl.lit("random")).otherwise(pl.lit("trained")))
        )
        chart = (
            alt.Chart(table)
            .mark_line(point=True)
            .encode(
                x=alt.X("layer:O"),
                y=alt.Y("gini:Q", scale=alt.Scale(domain=[0, 1])),
                color="weights:N",
                column=alt.Column("model:N", title=None),
                tooltip=["model", "weights", "layer", "sparsity", "gini", "top_share"],
            )
            .properties(width=240, height=200)
        )
        found.append(
            Figure(
                "Concentration of received attention, by layer",
                chart,
                table,
                "Gini coefficient of the attention that entries received per query that could see them; the random "
                "twin shows what softmax alone does.",
            )
        )
    speed = rows.filter(pl.col("part") == "speed")
    if len(speed):
        table = (
            speed.with_columns(method=pl.format("{}, batch {}", "method", "batch"))
            .group_by("method", "context")
            .agg(pl.col("tokens_per_s", "slots", "cache_bytes").mean())
            .sort("method", "context")
        )
        chart = (
            alt.Chart(table)
            .mark_line(point=True)
            .encode(
                x=alt.X("context:Q", scale=alt.Scale(type="log", base=2)),
                y="tokens_per_s:Q",
                color="method:N",
                tooltip=["method", "context", "tokens_per_s", "slots", "cache_bytes"],
            )
            .properties(width=420, height=220)
        )
        found.append(
            Figure(
                "Decode speed, one thread",
                chart,
                table,
                "Tokens of all sequences of the batch; the larger batch uses the bytes of one full cache.",
            )
        )
    return found


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
            "Spearman correlation between the attention a token received and how often its kind occurs.",
        ),
        Metric("bits_per_byte", "bits/byte", "lower", "Mean -log2 p of the next byte of held-out text."),
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
                    "ledger:oneshot": [0.2],
                },
                "contexts": [512, 2048, 8192],
                "speed_share": 0.2,
                "speed_steps": 12,
            },
            limit_s=600,
            leaves_out="OPT, LLaMA and GPT-NeoX models, HELM and lm-eval tasks; throughput at equal memory with larger "
            "batches, and on a GPU; contexts beyond 8192.",
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
                    for task in ("text", "ledger:zipf", "verify", "niah1", "ledger:oneshot")
                },
                "contexts": [512, 2048, 8192, 32768],
                "speed_share": 0.2,
                "speed_steps": 32,
            },
            limit_s=3600,
            leaves_out="OPT, LLaMA and GPT-NeoX models, HELM and lm-eval tasks.",
        ),
    },
    cells=cells,
    measure=measure,
    figures=figures,
    inputs=lambda params: _digests(),
    modules=(
        *RUNTIME,
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
            fixed="one checkpoint",
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
            fixed="one checkpoint",
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
            fixed="one checkpoint",
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
            fixed="one checkpoint",
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
            "The online rule retains at least (1 - 1/e) of the attention mass of the best fixed set.",
            "retained_ratio",
            rule="superior",
            control=0.632,
            unit=("item",),
            treatment={"part": "retained"},
            fixed="one checkpoint",
            published="(1 - a)(1 - 1/e) of the optimum, less b, under assumptions",
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


def _digests() -> dict[str, str]:
    from heedful import models

    return {name: models.digest(name) for name in (BYTE, TASK)}
