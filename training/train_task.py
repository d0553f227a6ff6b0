"""Train a task model: a curriculum of stages, each with the rule that ends it (see training/README.md).

Runs until the budget of minutes is spent; over its last part the learning rate falls to zero. Interrupt it
at will: the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from heedful import models
from heedful.models import tasks
from heedful.models.tasks import Item, ledger
from heedful.models.tasks import vocabulary as vocab

WORK = Path(__file__).parent / "work"
WARM_UP, COOL_DOWN = 100, 0.25
"""Steps of linear warm-up, and the last share of the budget in which the learning rate falls to zero."""
MEMORY = 0.02
"""Weight of a new sequence in the running accuracy per task that mixes the data and ends stages."""

LEAST = {"marked": 128, "vt": 128, "tour": 64, "cwe": 128, "fwe": 128}
"""Shortest length at which a task is drawn."""


@dataclass(frozen=True)
class Stage:
    """One part of the curriculum.

    Attributes:
        name: what the log calls it.
        layers: of the model; a smaller one is grown at the start of the stage.
        lengths: sequence lengths and their weights; each batch draws one, and then 80 to 100 % of it.
        mixture: tasks and their weights, which are lowered as a task is mastered.
        gates: running accuracies that, all reached, end the stage.
        most_steps: what else ends the stage.
        tokens: per step.
        anneal: steps over which the restated values of silent ledgers are dropped, from all to none.
        rate: peak learning rate.
        muon: update the layers' matrices with Muon instead of AdamW.
    """

    name: str
    layers: int
    lengths: Mapping[int, float]
    mixture: Mapping[str, float]
    gates: Mapping[str, float]
    most_steps: int
    tokens: int
    anneal: int = 0
    rate: float = 2e-3
    muon: bool = False


@dataclass(frozen=True)
class Preset:
    """A model to train: its shape, its curriculum, and where its card states accuracies."""

    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    curriculum: tuple[Stage, ...]
    quoted: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    begins_as: str = ""
    """A shipped model whose weights are the start; empty for random ones."""


SKILLS = {"repeat": 0.4, "recall": 0.5, "drill": 0.1}
SIMPLE = {
    "repeat": 0.1, "recall": 0.15, "drill": 0.1, "ledger-spoken": 0.25, "niah1": 0.05, "mk1": 0.1,
    "mk2": 0.05, "mq": 0.08, "twohop": 0.08, "copy": 0.08,
}  # fmt: skip
WIDE = {
    "repeat": 0.04, "recall": 0.08, "drill": 0.05, "ledger-spoken": 0.2, "niah1": 0.04, "niah2": 0.04,
    "mk1": 0.06, "mk2": 0.06, "mk3": 0.06, "mv": 0.06, "mq": 0.06, "vt": 0.08, "twohop": 0.06, "copy": 0.05,
    "marked": 0.06, "early": 0.08,
}  # fmt: skip
SILENT = WIDE | {"ledger-spoken": 0.04, "ledger": 0.25, "verify": 0.12, "tour": 0.12}
LONG = SILENT | {"mq": 0.14, "early": 0.12, "mv": 0.08, "cwe": 0.02, "fwe": 0.02}
HARD = SILENT | {"mq": 0.14, "early": 0.14, "mv": 0.1, "copy": 0.08}
SHORT = WIDE | {"ledger": 0.25, "verify": 0.12, "mq": 0.16, "early": 0.16, "mv": 0.12, "copy": 0.1}
LAST = SHORT | {"early": 0.32, "mv": 0.16, "copy": 0.14}
AGAIN = LAST | {"copy": 0.3, "mv": 0.24, "mk2": 0.12, "marked": 0.12}
ALL = tuple(task for task in tasks.names() if task not in ("repeat", "drill"))

PRESETS = {
    "task-1": Preset(
        hidden=128, heads=8, kv_heads=4, intermediate=384,
        curriculum=(
            Stage("copy", 4, {64: 1}, SKILLS, {"recall": 0.9, "repeat": 0.9}, 8000, 2048),
            Stage("simple", 4, {64: 0.4, 128: 0.6}, SIMPLE,
                  {"recall": 0.95, "ledger-spoken": 0.9, "mk1": 0.9}, 1200, 2048),
            Stage("wide", 4, {128: 0.4, 256: 0.6}, WIDE,
                  {"ledger-spoken": 0.97, "mk1": 0.95, "early": 0.9, "vt": 0.9}, 1000, 3072),
            Stage("silent", 6, {128: 0.3, 256: 0.7}, SILENT,
                  {"ledger": 0.95, "verify": 0.95, "mk1": 0.95}, 1500, 3072, anneal=600),
            Stage("long", 6, {128: 0.35, 256: 0.4, 512: 0.25}, LONG,
                  {"ledger": 0.98, "verify": 0.98, "mk1": 0.98, "vt": 0.97, "early": 0.97}, 400, 4096),
            Stage("hard", 6, {128: 0.35, 256: 0.4, 512: 0.25}, HARD,
                  {task: 0.97 for task in HARD if task != "repeat"}, 350, 4096, rate=1.5e-3, muon=True),
            Stage("short", 6, {64: 0.25, 128: 0.4, 256: 0.2, 512: 0.15}, SHORT,
                  {task: 0.97 for task in SHORT if task != "repeat"}, 700, 4096, rate=1.5e-3, muon=True),
            Stage("longest", 6, {128: 0.15, 256: 0.25, 512: 0.4, 1024: 0.2}, SHORT,
                  {task: 0.97 for task in SHORT if task != "repeat"}, 430, 4096, rate=1.5e-3, muon=True),
            Stage("last", 6, {128: 0.25, 256: 0.3, 512: 0.3, 1024: 0.15}, LAST, {"none": 1.0}, 100_000, 4096,
                  rate=1.5e-3, muon=True),
        ),
        quoted={task: (128, 256, 512, 1024) for task in ALL},
    ),
    "task-2": Preset(
        hidden=128, heads=8, kv_heads=4, intermediate=384, begins_as="task-1",
        curriculum=(
            Stage("short", 6, {64: 0.3, 128: 0.4, 256: 0.3}, AGAIN,
                  {"early": 0.97, "copy": 0.97, "mv": 0.95}, 1500, 4096, rate=1.5e-3, muon=True),
            Stage("long", 6, {64: 0.1, 128: 0.25, 256: 0.35, 512: 0.3}, AGAIN, {"none": 1.0}, 100_000, 4096,
                  rate=1.5e-3, muon=True),
        ),
        quoted={task: (128, 256, 512, 1024) for task in ALL},
    ),
    "task-mini-1": Preset(
        hidden=64, heads=4, kv_heads=2, intermediate=192,
        curriculum=(
            Stage("copy", 3, {64: 1}, SKILLS, {"recall": 0.95, "repeat": 0.95, "drill": 0.95}, 8000, 2048),
            Stage("simple", 3, {64: 0.4, 128: 0.6}, SIMPLE, {"none": 1.0}, 100_000, 2048),
        ),
        quoted={task: (64, 128) for task in SIMPLE},
    ),
}  # fmt: skip


def new_model(preset: Preset, layers: int, seed: int) -> LlamaForCausalLM:
    """A freshly initialised model of the preset's shape."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab.EMBEDDING_ROWS, hidden_size=preset.hidden, intermediate_size=preset.intermediate,
        num_hidden_layers=layers, num_attention_heads=preset.heads, num_key_value_heads=preset.kv_heads,
        head_dim=16, max_position_embeddings=2048, rope_theta=10000.0, tie_word_embeddings=False,
        attn_implementation="sdpa", pad_token_id=vocab.PAD, bos_token_id=vocab.BOS, eos_token_id=vocab.EOS,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def grown(preset: Preset, model: LlamaForCausalLM, layers: int) -> LlamaForCausalLM:
    """The same function with more layers: the new ones' output projections are zero."""
    bigger = new_model(preset, layers, seed=17)
    bigger.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for layer in bigger.model.layers[model.config.num_hidden_layers :]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return bigger


def optimizers(model: LlamaForCausalLM, muon: bool) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the layers' matrices and AdamW for the rest."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2] if muon else []
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    adamw = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    if not muon:
        return [adamw]
    return [torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"), adamw]


def draw(task: str, rng: np.random.Generator, length: int, spoken: float) -> Item:
    """One training item; training varies what experiments fix.

    Silent ledgers restate a value with probability ``spoken``.
    """
    options: dict[str, object] = {}
    if task in ("ledger", "ledger-spoken", "verify"):
        process = str(rng.choice(ledger.PROCESSES, p=(0.45, 0.25, 0.1, 0.1, 0.1)))
        options["process"] = "zipf" if (task, process) == ("verify", "oneshot") else process
        if task != "ledger-spoken":
            options["restate"] = spoken
    elif task == "early":
        long = length >= 100 and rng.random() < 0.6
        options["tail"] = (40, min(80, length - 45)) if long else (0, 20)
    elif task not in ("repeat", "recall", "drill", "tour", "cwe", "fwe") and length >= 128:
        options["questions"] = int(rng.integers(1, 4))
    return tasks.sample(task, rng, 1, length, **options)[0]


def batch(
    stage: Stage, stage_step: int, rng: np.random.Generator, accuracy: Mapping[str, float]
) -> tuple[list[Item], int]:
    """The items of one step, and the stage's length that they were drawn for."""
    weights = np.array(list(stage.lengths.values()), dtype=float)
    most = int(rng.choice(list(stage.lengths), p=weights / weights.sum()))
    length = int(rng.integers(int(0.8 * most), most + 1)) if most > 64 else most
    able = {task: weight for task, weight in stage.mixture.items() if length >= LEAST.get(task, 0)}
    weights = np.array([weight * (1.2 - accuracy.get(task, 0.0)) for task, weight in able.items()])
    chosen = rng.choice(list(able), size=max(1, stage.tokens // length), p=weights / weights.sum())
    spoken = max(0.0, 0.99 * (1 - stage_step / stage.anneal)) if stage.anneal else 0.0
    return [draw(str(task), rng, length, spoken) for task in chosen], most


def padded(items: list[Item]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens (int64), scored and trained positions (bool), all [batch, longest].

    Trained are the scored tokens and all of an answer: the keys that it repeats, and ``<eos>``.
    """
    shape = len(items), max(len(item.tokens) for item in items)
    tokens = np.full(shape, vocab.PAD, dtype=np.int64)
    scored = np.zeros(shape, dtype=bool)
    trained = np.zeros(shape, dtype=bool)
    for row, item in enumerate(items):
        tokens[row, : len(item.tokens)] = item.tokens
        scored[row, : len(item.tokens)] = item.scored
        trained[row, : len(item.tokens)] = item.scored
        for part, start, end in item.spans:
            trained[row, start:end] |= part == "answer"
    return torch.from_numpy(tokens), torch.from_numpy(scored), torch.from_numpy(trained)


def learn(model: LlamaForCausalLM, opts: list[torch.optim.Optimizer], items: list[Item]) -> tuple[float, list[float]]:
    """One step; returns the loss and every item's accuracy before it.

    The loss is the mean over an item's trained tokens, then over items.
    """
    tokens, scored, trained = padded(items)
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
    rows, columns = torch.nonzero(trained[:, 1:], as_tuple=True)
    logits = model.lm_head(hidden[rows, columns])
    truth = tokens[rows, columns + 1]
    nll = torch.nn.functional.cross_entropy(logits, truth, reduction="none")
    loss = (nll / trained[:, 1:].sum(1)[rows]).sum() / len(items)
    model.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for opt in opts:
        opt.step()
    right = ((logits.argmax(-1) == truth) & scored[rows, columns + 1]).float()
    shares = torch.zeros(len(items)).index_add_(0, rows, right) / scored[:, 1:].sum(1)
    return loss.item(), shares.tolist()


class Run:
    """A training run: everything that is saved and resumed."""

    def __init__(self, name: str, seed: int) -> None:
        self.preset = PRESETS[name]
        self.path = WORK / f"{name}.pt"
        self.seed, self.step, self.seen, self.seconds = seed, 0, 0, 0.0
        self.stage, self.stage_step = self.preset.curriculum[0].name, 0
        self.accuracy: dict[str, float] = {}
        self.rng = np.random.default_rng(seed)
        self.model = new_model(self.preset, self.preset.curriculum[0].layers, seed)
        if self.path.exists():
            state = torch.load(self.path, weights_only=False)
            self.model = new_model(self.preset, state["layers"], seed)
            self.model.load_state_dict(state["model"])
            for key in ("seed", "step", "seen", "seconds", "stage", "stage_step", "accuracy"):
                setattr(self, key, state[key])
            self.rng.bit_generator.state = state["rng"]
            self.opts = optimizers(self.model, muon=len(state["optimizers"]) == 2)
            for opt, saved in zip(self.opts, state["optimizers"]):
                opt.load_state_dict(saved)
        else:
            if self.preset.begins_as:
                self.model.load_state_dict(models.load(self.preset.begins_as)[0].state_dict())
            self.opts = optimizers(self.model, self.preset.curriculum[0].muon)

    def save(self) -> None:
        state = {
            key: getattr(self, key) for key in ("seed", "step", "seen", "seconds", "stage", "stage_step", "accuracy")
        }
        state |= {
            "layers": self.model.config.num_hidden_layers,
            "model": self.model.state_dict(),
            "optimizers": [opt.state_dict() for opt in self.opts],
            "rng": self.rng.bit_generator.state,
        }
        torch.save(state, self.path.with_suffix(".tmp"))
        self.path.with_suffix(".tmp").replace(self.path)

    def current(self) -> Stage:
        """The stage in force, entered (and the model grown) if the last one's rule has ended it."""
        names = [stage.name for stage in self.preset.curriculum]
        stage = self.preset.curriculum[names.index(self.stage)]
        reached = all(self.accuracy.get(task, 0.0) >= gate for task, gate in stage.gates.items())
        if (self.stage_step >= stage.most_steps or reached) and stage.name != names[-1]:
            stage = self.preset.curriculum[names.index(self.stage) + 1]
            self.stage, self.stage_step = stage.name, 0
        larger = stage.layers > self.model.config.num_hidden_layers
        if larger:
            self.model = grown(self.preset, self.model, stage.layers)
        if larger or stage.muon != (len(self.opts) == 2):
            self.opts = optimizers(self.model, stage.muon)
        return stage

    def advance(self, minutes: float) -> tuple[str, int, float, dict[str, list[float]]]:
        """One step; returns stage, length, loss and accuracies per task."""
        began = time.monotonic()
        stage = self.current()
        items, length = batch(stage, self.stage_step, self.rng, self.accuracy)
        left = 1 - self.seconds / (60 * minutes)
        rate = stage.rate * min(1.0, (self.step + 1) / WARM_UP, max(0.01, left / COOL_DOWN))
        for opt in self.opts:
            opt.param_groups[0]["lr"] = rate
        loss, shares = learn(self.model, self.opts, items)
        by_task: dict[str, list[float]] = {}
        for item, share in zip(items, shares):
            by_task.setdefault(item.task, []).append(share)
            before = self.accuracy.get(item.task, 0.0)
            self.accuracy[item.task] = before + MEMORY * (share - before)
        self.step += 1
        self.stage_step += 1
        self.seen += sum(len(item.tokens) for item in items)
        self.seconds += time.monotonic() - began
        return stage.name, length, loss, by_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", choices=PRESETS, default="task-1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=90, help="training time in all, resumed parts included")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    WORK.mkdir(exist_ok=True)
    run = Run(args.name, args.seed)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    saved = time.monotonic()
    losses: list[float] = []
    shares: dict[str, list[float]] = {}
    with (WORK / f"{args.name}.jsonl").open("a") as log:
        while run.seconds < 60 * args.minutes and not stopping:
            stage, length, loss, by_task = run.advance(args.minutes)
            losses.append(loss)
            for task, values in by_task.items():
                shares.setdefault(f"{task}@{length}", []).extend(values)
            if run.step % 100 == 0:
                line = {
                    "step": run.step,
                    "stage": stage,
                    "tokens": run.seen,
                    "seconds": round(run.seconds, 1),
                }
                line |= {"loss": round(float(np.mean(losses)), 4)}
                line |= {key: round(float(np.mean(values)), 3) for key, values in sorted(shares.items())}
                print(json.dumps(line), file=log, flush=True)
                losses, shares = [], {}
            if time.monotonic() - saved > 120:
                run.save()
                saved = time.monotonic()
    run.save()


if __name__ == "__main__":
    main()
