"""CAKE's measurements: answers under a budget, layers' preferences, a greedy split, peak memory, decode speed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from heedful.kv.attention import Seen
from heedful.kv.base import Policy
from heedful.kv.cake import CAKE
from heedful.kv.evaluate import play_all
from heedful.kv.experiments import MODEL, _retrieval, _work
from heedful.kv.experiments._cake_claims import RIVALS, SMALL, TUNABLE
from heedful.kv.experiments.cake import ABLATIONS, WINDOW
from heedful.kv.policies import classes, make
from heedful.kv.prefill import Prefill
from heedful.kv.slots import Slots
from heedful.lab import Cell, Context, Row


def _maker(cell: Cell, ctx: Context) -> Callable[[str, int, Any], Policy]:
    """Policies by label: a spec, or a method and ``@tuned``; with this experiment's window, and a shuffle per cell."""

    def make_it(label: str, slots: int, work: Any) -> Policy:
        spec, _, tuned = label.partition("@")
        setting = cell["setting"] if cell["part"] == "tuning" else ctx.tuned[spec]["setting"] if tuned else ""
        options: dict[str, Any] = {}
        if issubclass(classes()[spec.partition(":")[0]], Prefill):
            options["observation_window"] = WINDOW
        if spec.endswith("=shuffled"):
            options["seed"] = 1_000 * cell["seed"] + cell["chunk"]
        return make(f"{spec}:{setting}" if setting else spec, slots, **options)

    return make_it


def _answers(cell: Cell, ctx: Context, contenders: Sequence[tuple[str, float]], make_it: Any = None) -> Iterator[Row]:
    sums = any(label.startswith("h2o") for label, _ in contenders)
    for row in _retrieval.measure(cell, ctx, contenders, WINDOW, sums, make_it or _maker(cell, ctx)):
        yield {name: value for name, value in row.items() if name != "held_peak"}  # of copies of one full cache


def _quality(cell: Cell, ctx: Context) -> Iterator[Row]:
    shares = [slots / ctx.params["length"] for slots in ctx.params["budgets"]]
    small = [share for share in shares if share in SMALL]
    contenders = [("full", 1.0), *((label, share) for share in shares for label in ("cake", *RIVALS))]
    contenders += [(label, share) for share in small for label in ABLATIONS]
    contenders += [(f"{label}@tuned", share) for share in small for label in TUNABLE]
    yield from _answers(cell, ctx, contenders)


def _late(cell: Cell, ctx: Context) -> Iterator[Row]:
    share = 32 / ctx.params["length"]
    yield from _answers(cell, ctx, [("full", 1.0), *((label, share) for label in ("cake", *RIVALS))])


def _tuning(cell: Cell, ctx: Context) -> Iterator[Row]:
    calibration = replace(ctx, params={**ctx.params, "items": ctx.params["calibration_items"]})
    yield from _answers(cell, calibration, [(cell["candidate"], ctx.params["tuned_budget"] / ctx.params["length"])])


def _layers(cell: Cell, ctx: Context) -> Iterator[Row]:
    """P of each layer, and what it gets for it, with 32 entries per layer on average."""
    policy = CAKE(32, observation_window=WINDOW)
    model, found, budgets = _work.model(MODEL, ctx.device), [], []
    for item in _retrieval.items(cell, ctx):
        prompt = torch.from_numpy(item.tokens[None, : item.prompt_length]).to(ctx.device)
        with torch.inference_mode(), policy.on(model) as cache:
            model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
        found.append(cache.state.preference[0].numpy())
        budgets.append(cache.state.budgets[0].numpy() + WINDOW)
    for index, preference in enumerate(found):
        variation = float(preference.std() / preference.mean())
        yield {"item": 100_000 * cell["seed"] + index, "method": "cake", "cv": variation}
    shares = np.mean([preference / preference.sum() for preference in found], axis=0)
    for layer, (share, slots) in enumerate(zip(shares, np.mean(budgets, axis=0))):
        yield {"layer": layer, "preference": float(share), "layer_slots": float(slots)}


@dataclass(frozen=True)
class Given(CAKE):
    """CAKE's choice within layers, with budgets beyond the window that are given, one per layer of the model."""

    budgets: tuple[int, ...] = ()

    def prompted(self, slots: Slots, seen: Seen) -> None:
        if slots.fresh:
            keep = self.observation_window + self.budgets[slots.layer]
            slots.keep_best(self.score(slots, seen), keep, self.observed(slots), "older")


def _given(budgets: Sequence[int]) -> Given:
    mean = round(np.mean(budgets)) + WINDOW
    return Given(max(mean, WINDOW + 1), observation_window=WINDOW, budgets=tuple(budgets))


def greedy_split(ctx: Context) -> list[int]:
    """Budgets beyond the window that calibration items ask for.

    From nothing, ``oracle_step`` entries at a time go to the layer where they raise the share of items answered right
    the most, and of equally good layers to the one where the right answers become most likely.
    """
    names = ("length", "oracle_step", "tuned_budget", "calibration_items", "tuning_tasks", "batch")
    key = {"what": "greedy split", **{name: ctx.params[name] for name in names}}

    def build(folder: Path) -> None:
        (folder / "split.json").write_text(json.dumps(_greedy(ctx)))

    split: list[int] = json.loads((ctx.artifact(key, build) / "split.json").read_text())
    return split


def _greedy(ctx: Context) -> list[int]:
    model, step = _work.model(MODEL, ctx.device), ctx.params["oracle_step"]
    each = max(1, ctx.params["calibration_items"] // 2)
    work = {
        task: _work.items(task, 1, each, ctx.params["length"], "calibration") for task in ctx.params["tuning_tasks"]
    }
    layers = model.config.num_hidden_layers
    split = [0] * layers
    while sum(split) + step <= (ctx.params["tuned_budget"] - WINDOW) * layers:
        options = [[b + step * (layer == more) for layer, b in enumerate(split)] for more in range(layers)]
        right, nats = np.zeros(layers), np.zeros(layers)
        for items in work.values():
            episodes = [_retrieval.episode(item) for item in items]
            played = play_all(
                model, [_given(o) for o in options], episodes, ctx.params["batch"], device=ctx.device, sums=False
            )
            for option, results in enumerate(played):
                scored = [(r.correct[e.scored], r.nats[e.scored]) for r, e in zip(results, episodes)]
                right[option] += sum(bool(correct.all()) for correct, _ in scored)
                nats[option] += sum(float(loss.mean()) for _, loss in scored)
        split = options[min(range(layers), key=lambda o: (-right[o], nats[o]))]
    return split


def _oracle(cell: Cell, ctx: Context) -> Iterator[Row]:
    split = greedy_split(ctx)
    share, plain = ctx.params["tuned_budget"] / ctx.params["length"], _maker(cell, ctx)

    def make_it(label: str, slots: int, work: Any) -> Policy:
        return _given(split) if label == "greedy" else plain(label, slots, work)

    yield from _answers(cell, ctx, [(label, share) for label in ("greedy", "cake:split=uniform", "cake")], make_it)
    if cell["seed"] == 0 and cell["chunk"] == 0:
        for layer, budget in enumerate(split):
            yield {"method": "greedy split", "layer": layer, "layer_slots": float(budget + WINDOW)}


def _memory(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Peaks while a prompt is read: they do not depend on what the weights know."""
    torch.set_num_threads(1)
    torch.manual_seed(cell["seed"])
    layers, heads = 12, 2
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=heads,
        vocab_size=256,
        max_position_embeddings=1 << 16,
    )
    model: Any = LlamaForCausalLM(config).eval()
    model.to(ctx.device)
    budget, window = ctx.params["memory_budget"], 32
    tokens = torch.randint(256, (1, cell["context"]), generator=torch.Generator().manual_seed(cell["seed"]))
    kept: dict[str, list[Any]] = {}
    for label in ("full", "cake:cascade=0", "cake"):
        policy = make(label, budget)
        with torch.inference_mode(), policy.on(model) as cache:
            model(tokens.to(ctx.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
        usage = cache.usage()
        kept[label] = [cache.slots(layer).position.cpu().sort(dim=-1).values for layer in range(layers)]
        row: dict[str, Any] = {
            "method": label,
            "peak_entries": usage.held_peak,
            "peak_bytes": float(usage.held_peak_nbytes),
        }
        if label == "cake":
            bound = (budget - window) * layers + layers + layers * window + cell["context"]
            row["over_bound"] = max(0.0, usage.held_peak - bound)
            row["differing"] = float(sum(map(_differing, kept["cake"], kept["cake:cascade=0"])))
        yield row


def _differing(a: torch.Tensor, b: torch.Tensor) -> int:
    """Positions ``[1, heads, n]`` that only one of the two holds."""
    return sum(len(set(x.tolist()) ^ set(y.tolist())) for x, y in zip(a[0], b[0]))


def _speed(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Decode speed with caches filled with random entries; CAKE's layers hold from a quarter to 1.75 of the mean."""
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
    context, steps, label = cell["context"], ctx.params["speed_steps"], cell["contender"]
    held = context if label == "full" else round(ctx.params["speed_share"] * context)
    slopes = np.linspace(1.75, 0.25, config.num_hidden_layers) if label == "cake" else np.ones(config.num_hidden_layers)
    policy = make(label, held) if label == "full" else make(label, held, observation_window=min(32, held - 1))
    generator = torch.Generator().manual_seed(cell["seed"])
    with torch.inference_mode(), policy.on(model, int(1.75 * held) + 2 * steps) as cache:
        for layer, slope in enumerate(slopes):
            slots = cache.slots(layer)
            slots.append(*torch.randn(2, 1, 4, round(slope * held), 64, generator=generator).to(ctx.device))
            slots.fresh = False
        token = torch.zeros(1, 1, dtype=torch.long, device=ctx.device)
        began = 0.0
        for step in range(2 * steps):
            if step == steps:
                if ctx.device != "cpu":
                    torch.cuda.synchronize()
                began = time.perf_counter()
            position = torch.tensor([[context + step]], device=ctx.device)
            model(token, position_ids=position, past_key_values=cache, use_cache=True)
        if ctx.device != "cpu":
            torch.cuda.synchronize()
        usage = cache.usage()
        yield {
            "tokens_per_s": steps / (time.perf_counter() - began),
            "slots": float(np.mean(usage.slots)),
            "cache_bytes": float(sum(usage.nbytes)),
        }


PARTS = {
    "tuning": _tuning,
    "quality": _quality,
    "late": _late,
    "layers": _layers,
    "oracle": _oracle,
    "memory": _memory,
    "speed": _speed,
}
