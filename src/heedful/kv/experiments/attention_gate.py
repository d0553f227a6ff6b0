"""Attention-Gate: can a light module learn which tokens need no place in the cache?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.kv.experiments import MODEL, PREFILL_RUNTIME
from heedful.kv.experiments._attention_gate_claims import CLAIMS, MAIN_BETA
from heedful.lab import Cell, Experiment, Figure, Metric, Paper, Row, Scale, Tuning

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

BYTE, TEXT = "byte-1", "text"
TASKS = ("marked", "niah2", "recall", "repeat", "drill")
VARIANT_TASKS = ("marked", "niah2", "repeat")
MIXTURE = {"marked": 0.6, "niah2": 0.2, "recall": 0.2}
"""What gates are trained on, by weight; ``repeat`` and ``drill`` are not among it."""
GATES: Mapping[str, Mapping[str, int]] = {
    "attention": {"heads": 2, "size": 16, "keep_last": 8},
    "linear": {"heads": 0, "keep_last": 8},
    "no-recent": {"heads": 2, "size": 16, "keep_last": 0},
    TEXT: {"heads": 2, "size": 16, "keep_last": 8},
}
"""Gates by what distinguishes them: MHA' or none, the newest tokens always seen or not; ``text`` is byte-1's."""
ONCE = 1024
"""Steps between two decisions of rivals, more than any answer has: they cut the prompt and keep what comes later."""
TUNABLE = ("h2o", "streaming-llm")
METHODS = ("full", "attention-gate", "h2o", "streaming-llm", "local", "random", "random-rates")


def grids(params: Mapping[str, Any]) -> dict[str, list[dict[str, float]]]:
    """H2O's share of newest entries; StreamingLLM's of first ones."""
    return {method: [{"share": share} for share in params["tuned_settings"]] for method in TUNABLE}


def tuning_cells(params: Mapping[str, Any], method: str, setting: Mapping[str, Any]) -> Iterator[Cell]:
    yield Cell.of(part="tuning", task="marked", candidate=method, share=setting["share"], seed=0)


def cells(params: Mapping[str, Any], tuned: Mapping[str, Any]) -> Iterator[Cell]:
    gates = [tuple(gate) for gate in params["gates"]]
    for gate, beta, seed in gates:  # first, so that trainings run side by side and nothing waits for one
        yield Cell.of(part="training", gate=gate, beta=beta, gate_seed=seed)
    for seed in params["tuned_seeds"]:
        for method in ("lora", "gates+lora"):
            yield Cell.of(part="finetune", task="majority", who=method, seed=seed)
    for gate, beta, gate_seed in gates:
        one: dict[str, Any] = {"gate": gate, "beta": beta, "gate_seed": gate_seed}
        main = gate == "attention" and gate_seed == 0
        for seed in params["seeds"]:
            if gate == TEXT:
                yield Cell.of(part="text", task=TEXT, seed=seed, **one)
                continue
            for task in params["tasks"]:
                if main or task in VARIANT_TASKS:
                    yield Cell.of(part="quality", task=task, seed=seed, main=main, **one)
        for seed in params["mark_seeds"] if main else ():
            yield Cell.of(part="marks", seed=seed, **one)
    for name, (width, heads, stored, head, inner, gate_heads, gate_size) in params["geometries"].items():
        yield Cell.of(
            part="cost", geometry=name, width=width, heads=heads, stored=stored, head=head, inner=inner,
            gate_heads=gate_heads, gate_size=gate_size, context=params["length"] if name == MODEL else 4096,
        )  # fmt: skip
    for seed in params["speed_seeds"]:
        for what, contexts in (("prefill", params["prefill_contexts"]), ("decode", params["decode_contexts"])):
            for context in contexts:
                for method in ("full", "attention-gate"):
                    yield Cell.of(exclusive=True, part="speed", what=what, who=method, context=context, seed=seed)


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.kv.experiments import _attention_gate

    yield from _attention_gate.PARTS[cell["part"]](cell, ctx)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    from heedful.kv.experiments import _attention_gate_figures

    return _attention_gate_figures.figures(rows)


def _digests(params: Mapping[str, Any]) -> dict[str, str]:
    from heedful import models

    read = hashlib.sha256()
    for split in ("train", "held-out"):
        for path in models.text.stdlib_files(split):
            read.update(path.read_bytes())
    return {name: models.digest(name) for name in (BYTE, MODEL)} | {"text": read.hexdigest()}


_GEOMETRIES = {MODEL: [128, 8, 4, 16, 384, 2, 16], "7B": [4096, 32, 32, 128, 11008, 4, 128]}

experiment = Experiment(
    slug="attention-gate",
    room="kv",
    title="Attention-Gate",
    question="Can a model learn, with one light module per layer, which tokens' keys and values need not be kept, so "
    "that the cache shrinks with the content of the prompt instead of by a fixed rule or by past attention?",
    summary="A small trained attention per layer says, per token and KV head, what is cached at all.",
    paper=Paper(
        title="In-context KV-Cache Eviction for LLMs via Attention-Gate",
        authors="Zeng, Lin, Hou, Zhang, Deng",
        year=2024,
        arxiv="2410.12876",
    ),
    metrics=(
        Metric("accuracy", "1", "higher", "Share of items whose whole scored answer is right."),
        Metric("token_accuracy", "1", "higher", "Share of an item's scored tokens that are predicted right."),
        Metric("bits", "bits/token", "lower", "Mean -log2 p of an item's scored tokens; of text, per byte."),
        Metric(
            "evicted",
            "1",
            "neither",
            "Share of the prompt's entries that are not stored when it has been read, mean over layers and KV heads, "
            "counted from what is stored.",
        ),
        Metric("evicted_if_padded", "1", "neither", "The same if every head took as much as its layer's fullest."),
        Metric("spread", "1", "neither", "Standard deviation of the stored share over layers and heads, in one item."),
        Metric("marks", "1", "neither", "Marked sentences in the prompt, of twelve."),
        Metric(
            "marks_correlation",
            "1",
            "neither",
            "Spearman correlation, over prompts, between marked sentences and the share that is stored.",
        ),
        Metric("slots", "1", "neither", "Entries per layer and KV head when the answer is complete."),
        Metric("loss", "nats", "lower", "Loss on the tokens that count at the end of training, running mean."),
        Metric("mean_score", "1", "neither", "Mean of G then."),
        Metric("mean_flag", "1", "neither", "Mean of F then: what is let through in training."),
        Metric("extra_multiplications", "1", "lower", "Multiplications of the gates over those of the layers."),
        Metric("extra_weights", "1", "lower", "Weights of the gates over those of the layers."),
        Metric("cache_bytes", "bytes", "lower", "Bytes allocated for the cache."),
        Metric("prefill_s", "s", "lower", "Seconds to read a prompt, one thread.", timing=True),
        Metric("tokens_per_s", "tokens/s", "higher", "Decoded tokens per second, one thread.", timing=True),
    ),
    dimensions=("item", "method", "tuned"),
    scales={
        "smoke": Scale(
            {
                "gates": [["attention", MAIN_BETA, 0]],
                "steps": 2,
                "batch": 2,
                "length": 128,
                "seeds": [0],
                "mark_seeds": [0],
                "items": 2,
                "tasks": ["marked", "drill"],
                "tuned_settings": [0.5],
                "tuned_share": 0.3,
                "tuned_seeds": [0],
                "tuned_steps": 2,
                "tuned_beta": 0.3,
                "tuned_length": 64,
                "samples": 4,
                "tuned_items": 4,
                "geometries": _GEOMETRIES,
                "speed_seeds": [0],
                "speed_steps": 2,
                "prefill_contexts": [128],
                "decode_contexts": [256],
            },
            limit_s=120,
            repeats=1,
            leaves_out="Everything but a check that it runs.",
        ),
        "small": Scale(
            {
                "gates": [
                    ["attention", 0.3, 0],
                    [TEXT, 0.3, 0],
                    ["attention", 0.1, 0],
                    ["attention", 0.5, 0],
                    ["attention", 0.3, 1],
                    ["linear", 0.3, 0],
                    ["no-recent", 0.3, 0],
                ],
                "steps": 160,
                "batch": 8,
                "length": 192,
                "seeds": [0, 1, 2],
                "mark_seeds": [0, 1, 2, 3, 4],
                "items": 32,
                "tasks": list(TASKS),
                "tuned_settings": [0.0625, 0.125, 0.25, 0.375, 0.5, 0.75],
                "tuned_share": 0.3,
                "tuned_seeds": [0, 1, 2, 3, 4],
                "tuned_steps": 120,
                "tuned_beta": 0.3,
                "tuned_length": 96,
                "samples": 300,
                "tuned_items": 400,
                "geometries": _GEOMETRIES,
                "speed_seeds": [0, 1, 2],
                "speed_steps": 12,
                "prefill_contexts": [1024],
                "decode_contexts": [512, 2048, 8192],
            },
            limit_s=900,
            repeats=3,
            leaves_out="Language models of billions of parameters, RTE and common-sense tasks; prompts beyond 192 "
            "tokens; beta = 0.2 and 0.8; more than two gate seeds (two at beta = 0.3, one elsewhere); gates on "
            "generated tokens; a fine-tuning task about order; LoRA without gates for more than 120 steps; 96 items a "
            "task instead of 600.",
        ),
        "full": Scale(
            {
                "gates": [
                    *(["attention", beta, seed] for beta in (0.1, 0.2, 0.3, 0.5, 0.8) for seed in range(3)),
                    *([gate, MAIN_BETA, seed] for gate in ("linear", "no-recent", TEXT) for seed in range(3)),
                ],
                "steps": 1000,
                "batch": 8,
                "length": 384,
                "seeds": list(range(10)),
                "mark_seeds": list(range(10)),
                "items": 60,
                "tasks": list(TASKS),
                "tuned_settings": [0.0625, 0.125, 0.25, 0.375, 0.5, 0.75],
                "tuned_share": 0.3,
                "tuned_seeds": list(range(10)),
                "tuned_steps": 400,
                "tuned_beta": 0.3,
                "tuned_length": 192,
                "samples": 1000,
                "tuned_items": 1000,
                "geometries": _GEOMETRIES,
                "speed_seeds": list(range(5)),
                "speed_steps": 32,
                "prefill_contexts": [1024, 4096],
                "decode_contexts": [512, 2048, 8192, 32768],
            },
            limit_s=7200,
            leaves_out="Language models of billions of parameters, RTE and common-sense tasks; a model trained from "
            "scratch at 4k tokens; gates on generated tokens; a fine-tuning task about order.",
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
        "heedful.kv.attention_gate",
        "heedful.kv.experiments._attention_gate",
        "heedful.kv.experiments._attention_gate_claims",
        "heedful.kv.experiments._attention_gate_tuned",
        "heedful.kv.gate_training",
        "heedful.kv.gated_attention",
        "heedful.kv.gates",
        "heedful.kv.h2o",
        "heedful.kv.random_rates",
        "heedful.kv.streaming_llm",
        "heedful.models.text",
    ),
    claims=CLAIMS,
    example="""\
import torch
from pathlib import Path
from tempfile import mkdtemp

from heedful import models
from heedful.kv import AttentionGate
from heedful.kv.attention_gate import retention
from heedful.kv.gate_training import GateSettings, train_gate

model, tokenizer = models.load("task-mini-1")
prompt = "<bos> K3 V1 K7 V2 F5 F9 F2 F8 K1 V5 <q> K7"
tokens = tokenizer(prompt, return_tensors="pt").input_ids[0]
gate = Path(mkdtemp()) / "gate.safetensors"
train_gate(
    model,
    [(tokens, torch.arange(len(tokens)) > 0)],
    gate,
    settings=GateSettings(steps=5, batch=1, keep_last=4),
    state=gate.with_suffix(".state"),
    progress=lambda step, steps, loss: None,
)
cache = AttentionGate(parts=str(gate)).cache_for(model)
model.generate(tokens[None], past_key_values=cache, max_new_tokens=1, do_sample=False)
print(retention(cache).mean())
""",
)
