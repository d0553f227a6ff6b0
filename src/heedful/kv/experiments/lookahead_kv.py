"""LookaheadKV: can a few trained tokens behind the prompt tell what the answer will need, without writing it?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.kv.experiments import MODEL, PREFILL_RUNTIME
from heedful.kv.experiments._lookahead_kv_claims import CLAIMS, FAR, LEFT_OUT, NEAR, WHOLE
from heedful.lab import Cell, Experiment, Figure, Metric, Paper, Row, Scale, Tuning

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

DRAFTER = "task-mini-1"
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "early": ("early", {"needles": 3}),
    "crowded": ("early", {}),
    "twohop": ("twohop", {}),
    "copy": ("copy", {}),
    "niah1": ("niah1", {}),
    "mk1": ("mk1", {}),
    "marked": ("marked", {}),
}
"""By our name: the generator and its options. The model knows ``early`` among three needles; among one per 24 tokens
(``crowded``) it does not, so that there a policy is held against the full cache's own predictions."""
MIXTURE = ("early", "twohop", "copy", "niah1", "mk1", "mq", "vt")
"""What parts are trained on here, as the shipped ones (training/train_lookahead.py)."""
METHODS = (
    "oracle",
    "lookaheadkv",
    "laq",
    "speckv",
    "snapkv",
    "pyramidkv",
    "tova",
    "h2o",
    "streaming-llm",
    "random",
)
SPECS = {"snapkv": "snapkv:observation_window=8", "pyramidkv": "pyramidkv:observation_window=8"}
"""Where a method's own default does not fit budgets of a dozen entries: the window that its authors use."""

VARIANTS: dict[str, dict[str, Any]] = {
    WHOLE: {},
    "tokens=16": {"tokens": 16},
    "tokens=8": {"tokens": 8},
    "tokens=4": {"tokens": 4},
    "without LoRA": {"rank": 0},
    "without tokens": {"rows": "prompt"},
}
"""Parts that are trained here, for equally many steps."""
TIMED = ("lookaheadkv", "laq", "snapkv")


def grids(params: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    windows = [f"kernel={k},observation_window={w}" for k, w in ((5, 8), (1, 8), (7, 16), (1, 16))]
    drafts = ["kernel=7", "kernel=3", "kernel=1", "kernel=7,draft=16"]
    settings = {
        "lookaheadkv": ["kernel=7", "kernel=3", "kernel=1", "kernel=7,keep_last=8"],
        "laq": drafts,
        "speckv": drafts,
        "snapkv": windows,
        "pyramidkv": windows,
        "h2o": [f"recent={n}" for n in (13, 2, 6, 20)],
        "streaming-llm": [f"sinks={n}" for n in (4, 1, 8, 16)],
    }
    return {method: [{"setting": text} for text in texts[: params["settings"]]] for method, texts in settings.items()}


def tuning_cells(params: Mapping[str, Any], method: str, setting: Mapping[str, Any]) -> Iterator[Cell]:
    for task in params["tuned_tasks"]:
        yield Cell.of(
            part="quality", split="calibration", task=task, seed=0, chunk=0, tune=method, setting=setting["setting"]
        )


def cells(params: Mapping[str, Any], tuned: Mapping[str, Mapping[str, Any]]) -> Iterator[Cell]:
    for task in params["ablation_tasks"]:
        for variant, trainings in params["trainings"].items():
            for trained in range(trainings):
                yield Cell.of(
                    part="ablation", split="test", task=task, seed=0, chunk=0, variant=variant, trained=trained
                )
    for task in params["tasks"]:
        for seed in params["seeds"]:
            for chunk in range(params["chunks"]):
                yield Cell.of(part="quality", split="test", task=task, seed=seed, chunk=chunk)
    yield Cell.of(part="size", seed=0)
    for context in params["contexts"]:
        for seed in range(params["timings"]):
            yield Cell.of(exclusive=True, part="overhead", context=context, seed=seed)


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.kv.experiments import _lookahead_kv

    yield from _lookahead_kv.PARTS[cell["part"]](cell, ctx)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    from heedful.kv.experiments import _lookahead_kv_figures

    return _lookahead_kv_figures.figures(rows)


def _digests(params: Mapping[str, Any]) -> dict[str, str]:
    from heedful import models
    from heedful.kv.lookahead_kv import FILE

    parts = models.path(MODEL) / FILE
    found = {name: models.digest(name) for name in (MODEL, DRAFTER)}
    return found | {FILE: hashlib.sha256(parts.read_bytes()).hexdigest()} if parts.is_file() else found


experiment = Experiment(
    slug="lookahead-kv",
    room="kv",
    title="LookaheadKV",
    question="Can a few trained soft tokens behind the prompt tell which prompt entries the coming answer will need, "
    "as well as a generated draft would and at almost no cost?",
    summary="Keeps the prompt entries that trained lookahead tokens, with a LoRA on their rows alone, attend to.",
    paper=Paper(
        title="LookaheadKV: Fast and Accurate KV Cache Eviction by Glimpsing into the Future without Generation",
        authors="Ahn, Seong, Kedia, Kim, Jang, Lee, Jeon",
        year=2026,
        arxiv="2603.10899",
        venue="ICLR 2026",
    ),
    metrics=(
        Metric(
            "accuracy",
            "1",
            "higher",
            "Share of items whose whole answer is predicted right, fed the true tokens so far.",
        ),
        Metric("token_accuracy", "1", "higher", "Share of an item's scored tokens that are predicted right."),
        Metric(
            "agreement",
            "1",
            "higher",
            "Share of items at whose scored tokens all predictions are the full cache's, right or wrong.",
        ),
        Metric(
            "kl",
            "nats",
            "lower",
            "KL divergence of the next token's distribution from the full cache's, mean over the answer's tokens after "
            "the first, which is predicted before anything is evicted.",
        ),
        Metric(
            "recall",
            "1",
            "higher",
            "Share of the entries that the true answer attends to most (as many as the budget) that are kept, mean "
            "over layers and KV heads.",
        ),
        Metric(
            "spearman",
            "1",
            "higher",
            "Rank correlation, before pooling, of the scores with the true answer's attention over the prompt, mean "
            "over layers and KV heads.",
        ),
        Metric("slots", "1", "neither", "Entries per layer and KV head at the end, mean."),
        Metric("extra_parameters", "1", "lower", "Parameters of the trained parts over the model's."),
        Metric(
            "overhead", "1", "lower", "Time to read a prompt and evict over the time to read it, less one.", timing=True
        ),
        Metric("prefill_s", "s", "lower", "Time to read a prompt and evict, one thread.", timing=True),
    ),
    dimensions=("item", "method", "share", "tuned"),
    scales={
        "smoke": Scale(
            {
                "seeds": [0],
                "chunks": 1,
                "items": 2,
                "batch": 2,
                "length": 256,
                "tasks": ["twohop"],
                "shares": [0.1],
                "tuned_tasks": ["twohop"],
                "settings": 1,
                "ablation_tasks": ["twohop"],
                "ablation_shares": [0.1],
                "trainings": {WHOLE: 1},
                "train_steps": 1,
                "train_batch": 2,
                "contexts": [256],
                "timings": 1,
            },
            limit_s=120,
            repeats=1,
            leaves_out="Everything but a check that it runs.",
        ),
        "small": Scale(
            {
                "seeds": [0, 1, 2],
                "chunks": 2,
                "items": 32,
                "batch": 32,
                "length": 256,
                "tasks": [*FAR, *NEAR, LEFT_OUT],
                "shares": [0.05, 0.1, 0.2, 0.5, 1.0],
                "tuned_tasks": ["crowded", "twohop", "copy"],
                "settings": 4,
                "ablation_tasks": ["crowded", "twohop", "copy"],
                "ablation_shares": [0.05, 0.1, 0.2],
                "trainings": {variant: 3 if variant == WHOLE else 1 for variant in VARIANTS},
                "train_steps": 80,
                "train_batch": 16,
                "contexts": [512, 2048],
                "timings": 5,
            },
            limit_s=600,
            repeats=3,
            leaves_out="Llama and Qwen models and their benchmarks (MT-Bench, LongBench, RULER); prompts beyond 256 "
            "tokens (overhead: 2048); 192 items a task; one training of each ablation, and three short ones of the "
            "whole method; plain text; sampled answers; ranks other than 8.",
        ),
        "full": Scale(
            {
                "seeds": list(range(10)),
                "chunks": 2,
                "items": 50,
                "batch": 50,
                "length": 256,
                "tasks": [*FAR, *NEAR, LEFT_OUT],
                "shares": [0.05, 0.1, 0.2, 0.5, 1.0],
                "tuned_tasks": ["crowded", "twohop", "copy"],
                "settings": 4,
                "ablation_tasks": ["crowded", "twohop", "copy"],
                "ablation_shares": [0.05, 0.1, 0.2],
                "trainings": {variant: 5 for variant in VARIANTS},
                "train_steps": 600,
                "train_batch": 32,
                "contexts": [512, 2048, 8192, 32768],
                "timings": 10,
            },
            limit_s=7200,
            leaves_out="Llama and Qwen models and their benchmarks; prompts beyond 256 tokens but for overhead; plain "
            "text; sampled answers; ranks other than 8.",
        ),
    },
    cells=cells,
    measure=measure,
    figures=figures,
    tuning=Tuning(grids, tuning_cells, "agreement"),
    inputs=_digests,
    on_device=True,
    modules=(
        *PREFILL_RUNTIME,
        "heedful.kv.experiments._lookahead_kv",
        "heedful.kv.experiments._lookahead_kv_claims",
        "heedful.kv.foresight",
        "heedful.kv.h2o",
        "heedful.kv.laq",
        "heedful.kv.layer_budgets",
        "heedful.kv.lookahead_kv",
        "heedful.kv.lookahead_training",
        "heedful.kv.oracle",
        "heedful.kv.pyramidkv",
        "heedful.kv.snapkv",
        "heedful.kv.spec_kv",
        "heedful.kv.streaming_llm",
        "heedful.kv.tova",
    ),
    claims=CLAIMS,
    example=f"""\
from heedful import models
from heedful.kv import LookaheadKV, Share

model, tokenizer = models.load("{MODEL}")
policy = LookaheadKV(budget=Share(0.25))
cache = policy.cache_for(model)
prompt = "<bos> F3 F9 ; K7 V2 V5 ; F1 F4 F2 F2 ; K1 V9 V3 ; F8 F3 <q> K7 <a>"
inputs = tokenizer(prompt, return_tensors="pt")
model.generate(**inputs, past_key_values=cache, max_new_tokens=4, do_sample=False)
print(cache.usage().slots)
""",
)
