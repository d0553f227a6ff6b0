"""Attention-Gate's second half: gates and LoRA weights together, against LoRA weights alone, on few samples."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from heedful.kv.attention_gate import FILE
from heedful.kv.evaluate import Episode
from heedful.kv.experiments import MODEL, _work
from heedful.kv.experiments._attention_gate import played
from heedful.kv.gate_training import GateSettings, carry, train_gate
from heedful.kv.parts import load
from heedful.lab import Cell, Context, Row
from heedful.models.tasks import Item, filler
from heedful.models.tasks import vocabulary as vocab
from heedful.models.tasks.item import Draft

ALONE = {"heads": 0, "bias": 30.0, "gate_rate": 0.0, "alpha": 0.0}
"""Gates that let everything through and never learn: what is left is LoRA."""
TOGETHER = {"heads": 2, "size": 16, "keep_last": 4, "gate_rate": 3e-3, "warm_up": 0.3}


def majority(rng: np.random.Generator, length: int) -> Item:
    """Which of two values is tagged more often? ``<bos> .. <m> V0 .. V1 .. <m> V1 .. <q> <a> V*``.

    5 to 13 tagged values, an odd number, the majority by one or more; six values without a tag, which do not count.
    """
    tagged = int(rng.integers(5, 14)) | 1
    winner, most = int(rng.integers(2)), int(rng.integers(tagged // 2 + 1, tagged + 1))
    values = [winner] * most + [1 - winner] * (tagged - most)
    sentences = [[vocab.MARK, vocab.FIRST_VALUE + value] for value in values]
    sentences += [[vocab.FIRST_VALUE + int(value)] for value in rng.integers(2, size=6)]
    draft = Draft("context")
    draft.say(vocab.BOS)
    starts = filler.scatter(draft, rng, sentences, length - 4)
    draft.part("question").say(vocab.QUESTION, vocab.ANSWER)
    prompt = len(draft)
    needs = [(start + 1,) for start in starts[:tagged]]
    draft.part("answer").answer(vocab.FIRST_VALUE + winner, *needs)
    return draft.item("majority", prompt)


def finetune(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Trains on a few samples drawn by the seed, and answers fresh ones."""
    params, seed = ctx.params, cell["seed"]
    options = ALONE if cell["who"] == "lora" else {**TOGETHER, "beta": params["tuned_beta"]}
    settings = GateSettings(
        context="prompt", lora=8, lora_rate=2e-3, steps=params["tuned_steps"], batch=16, seed=seed, **options
    )
    rng = np.random.default_rng([41, seed])
    samples = [majority(rng, params["tuned_length"]) for _ in range(params["samples"])]
    fresh = [majority(rng, params["tuned_length"]) for _ in range(params["tuned_items"])]

    def build(folder: Path) -> None:
        train_gate(
            _work.model(MODEL, ctx.device),
            [(torch.from_numpy(item.tokens), torch.from_numpy(item.scored)) for item in samples],
            folder / FILE,
            settings=settings,
            state=ctx.scratch / "training.pt",
            progress=lambda done, total, loss: ctx.progress(0.9 * done / total),
        )

    key = {"model": MODEL, "settings": asdict(settings), "samples": len(samples), "length": params["tuned_length"]}
    path = ctx.artifact(key, build) / FILE
    parts = load(path, "gate")
    model = copy.deepcopy(_work.model(MODEL, ctx.device))
    carry(model, parts)
    episodes = [Episode(item.tokens, item.scored, (item.prompt_length,)) for item in fresh]
    results, kept = played(model, path, episodes, ctx)
    for index, (result, episode) in enumerate(zip(results, episodes)):
        right = bool(result.correct[episode.scored].all())
        yield {"method": cell["who"], "item": index, "accuracy": float(right), "evicted": 1 - float(kept[index].mean())}
