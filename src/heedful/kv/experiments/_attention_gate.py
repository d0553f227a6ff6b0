"""Attention-Gate's measurements: gates trained in short, answers at the size that they chose, text, and costs."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from heedful.kv.attention_gate import FILE, AttentionGate, retention
from heedful.kv.base import Policy, Share
from heedful.kv.baselines import Full
from heedful.kv.cache import EvictingCache
from heedful.kv.evaluate import Episode, Played, play, play_all
from heedful.kv.experiments import MODEL, _work
from heedful.kv.experiments.attention_gate import BYTE, GATES, MIXTURE, ONCE, TEXT
from heedful.kv.gate_training import GateSettings, train_gate
from heedful.kv.gates import Gates, Rules
from heedful.kv.parts import load, store
from heedful.kv.policies import make
from heedful.kv.random_rates import HiddenRates, RandomRates
from heedful.lab import Cell, Context, Row
from heedful.models import tasks, text
from heedful.models.tasks import Item

Sequences = list[tuple[Tensor, Tensor]]


# gates that are trained here


def trained(cell: Cell, ctx: Context) -> Path:
    """The file of the gates of a cell (``gate``, ``beta``, ``gate_seed``), trained by whichever cell asks first."""
    steps, batch, length = (ctx.params[name] for name in ("steps", "batch", "length"))
    shape: Mapping[str, Any] = GATES[cell["gate"]]
    settings = GateSettings(
        beta=cell["beta"], seed=cell["gate_seed"], steps=steps, batch=batch, alpha=2.0, gate_rate=1e-2, **shape
    )
    name = BYTE if cell["gate"] == TEXT else MODEL

    def build(folder: Path) -> None:
        rng = np.random.default_rng([29, cell["gate_seed"]])
        train_gate(
            _work.model(name, ctx.device),
            _text_sequences(rng, steps * batch, length) if name == BYTE else _sequences(rng, steps * batch, length),
            folder / FILE,
            settings=settings,
            state=ctx.scratch / "training.pt",
            progress=lambda done, total, loss: ctx.progress(0.9 * done / total),
        )

    key = {"model": name, "settings": asdict(settings), "length": length}
    return ctx.artifact(key, build) / FILE


def _sequences(rng: np.random.Generator, count: int, length: int) -> Sequences:
    """Training data: the loss is on determined tokens; marks and unmarked sentences of any number."""
    names, found = list(MIXTURE), []
    for task in rng.choice(names, size=count, p=list(MIXTURE.values())):
        item = _item(str(task), rng, int(rng.uniform(0.7, 1.0) * length), int(rng.integers(1, 4)))
        found.append((torch.from_numpy(item.tokens), torch.from_numpy(item.scored)))
    return found


def _text_sequences(rng: np.random.Generator, count: int, length: int) -> Sequences:
    """Training data: the loss is on every byte."""
    chunks = torch.from_numpy(text.stdlib_bytes("train", rng, count, length))
    return [(chunk, torch.arange(length) > 0) for chunk in chunks]


def _training(cell: Cell, ctx: Context) -> Iterator[Row]:
    settings = load(trained(cell, ctx), "gate").settings
    yield {name: settings[name] for name in ("loss", "mean_score", "mean_flag")}


# items


def _item(task: str, rng: np.random.Generator, length: int, questions: int = 1) -> Item:
    """An item; of ``marked``, twelve sentences, one to eight of which are marked; no very short prompts."""
    options: dict[str, Any] = {}
    if task == "marked":
        marks = int(rng.integers(1, 9))
        options = {"marks": marks, "decoys": 12 - marks}
    if task in ("marked", "niah2"):
        options["questions"] = questions if length >= 128 else 1
    while True:
        item = tasks.sample(task, rng, 1, length, **options)[0]
        if task not in ("recall", "repeat") or item.prompt_length >= length // 4:
            return item


def _items(task: str, seed: int, count: int, length: int, split: str = "test") -> list[Item]:
    rng = np.random.default_rng([31, _work.SPLITS[split], seed, zlib.crc32(task.encode()), length])
    return [_item(task, rng, length) for _ in range(count)]


def _episode(item: Item) -> Episode:
    """The prompt at once; of a drill, which has none, its first two thirds."""
    if item.task != "drill":
        return _work.episode(item)
    prompt = 2 * len(item.tokens) // 3
    return Episode(item.tokens, item.scored & (np.arange(len(item.tokens)) >= prompt), (prompt,))


def marks(item: Item) -> int:
    """How many sentences are marked."""
    return int((item.tokens == tasks.vocabulary.MARK).sum())


# gates at work


@dataclass(frozen=True)
class Counted(AttentionGate):
    """Notes what is stored when the prompt has been read: per batch, ``[items, layers, heads]``."""

    found: list[Tensor] = field(default_factory=list)

    def passed(self, cache: EvictingCache) -> None:
        self.found.append(retention(cache).transpose(0, 1))


def played(
    model: Any, path: Path, episodes: Sequence[Episode], ctx: Context, **options: Any
) -> tuple[list[Played], np.ndarray]:
    """Results under the gates in that file, and what share of the prompts was stored, ``[items, layers, heads]``."""
    kept: dict[int, np.ndarray] = {}
    noted: list[tuple[Sequence[int], Counted]] = []

    def choose(indices: Sequence[int]) -> Policy:
        noted.append((indices, Counted(parts=str(path), **options)))
        return noted[-1][1]

    results = play(model, choose, episodes, batch=ctx.params["items"], device=ctx.device)
    for indices, policy in noted:
        kept.update(zip(indices, policy.found[0].cpu().numpy(), strict=True))
    return results, np.stack([kept[i] for i in range(len(episodes))])


def _rows(
    items: Sequence[int], episodes: Sequence[Episode], results: Sequence[Played], **columns: Any
) -> Iterator[dict[str, Any]]:
    """Per episode: right in full, share of right tokens, bits, and slots at the end."""
    for item, episode, result in zip(items, episodes, results, strict=True):
        right, nats = result.correct[episode.scored], result.nats[episode.scored]
        yield {
            "item": item,
            "accuracy": float(right.all()),
            "token_accuracy": float(right.mean()),
            "bits": float(nats.mean() / np.log(2)),
            "slots": float(np.mean(result.usage.slots)),
            "tuned": False,
            **columns,
        }


def rival(method: str, kept: float, episodes: Sequence[Episode], share: float | None = None) -> Policy:
    """A training-free policy that cuts prompts to that share and keeps what comes later, as the gates do.

    Args:
        method: its name.
        kept: share of each prompt that is kept, per layer and head.
        episodes: what it is for.
        share: of the entries kept, H2O's newest or StreamingLLM's first; None for the method's default.
    """
    options: dict[str, Any] = {"window": ONCE}
    if method == "streaming-llm":
        fewest = math.floor(kept * min(episode.parts[0] for episode in episodes))
        options["sinks"] = max(0, min(4 if share is None else max(1, round(share * fewest)), fewest - 1))
    elif share is not None:
        options["recent"] = Share(share * kept)
    return make(method, Share(kept), **options)


def _beside(
    kept: np.ndarray, rules: Rules, seed: int, episodes: Sequence[Episode], ctx: Context
) -> dict[tuple[str, bool], Policy]:
    """What the gates are compared with, at the sizes that they chose: by name, and whether it is tuned."""
    rates, mean = tuple(tuple(layer) for layer in kept.mean(axis=0).tolist()), float(kept.mean())
    always: dict[str, Any] = {"keep_first": rules.keep_first, "keep_last": max(0, rules.keep_last - 1), "seed": seed}
    found: dict[tuple[str, bool], Policy] = {("full", False): Full()}
    for method in ("h2o", "streaming-llm", "local"):
        found[method, False] = rival(method, mean, episodes)
    found["random", False] = RandomRates(tuple((mean,) * len(layer) for layer in rates), **always)
    found["random-rates", False] = RandomRates(rates, **always)
    for method, setting in ctx.tuned.items():
        found[method, True] = rival(method, mean, episodes, float(str(setting["share"])))
    return found


def _quality(cell: Cell, ctx: Context) -> Iterator[Row]:
    """All contenders on the same items; of the variants of a gate only the gate itself, and the full cache."""
    path, model = trained(cell, ctx), _work.model(MODEL, ctx.device)
    work = _items(cell["task"], cell["seed"], ctx.params["items"], ctx.params["length"])
    episodes = [_episode(item) for item in work]
    numbers = [10_000 * cell["seed"] + index for index in range(len(work))]
    results, kept = played(model, path, episodes, ctx)
    for index, row in enumerate(_rows(numbers, episodes, results, method="attention-gate")):
        share = kept[index]
        yield row | {
            "evicted": 1 - float(share.mean()),
            "evicted_if_padded": 1 - float(share.max(axis=1).mean()),
            "spread": float(share.std()),
            "marks": float(marks(work[index])),
        }
    rules = Gates.of(load(path, "gate")).rules
    beside = _beside(kept, rules, cell["seed"], episodes, ctx)
    if not cell["main"]:
        beside = {("full", False): beside["full", False]}
    shared = play_all(
        model, list(beside.values()), episodes, batch=ctx.params["items"], device=ctx.device, sums=cell["main"]
    )
    for (method, tuned), found in zip(beside, shared, strict=True):
        yield from _rows(numbers, episodes, found, method=method, tuned=tuned)
    if cell["main"]:
        shown, _ = played(model, path, episodes, ctx, hides=False)
        yield from _rows(numbers, episodes, shown, method="attention-gate, prompt sees all")
        rates = beside["random-rates", False]
        assert isinstance(rates, RandomRates)
        near = HiddenRates(rates.rates, rules.keep_first, rules.keep_last, cell["seed"])
        hidden = play(model, near, episodes, batch=ctx.params["items"], device=ctx.device)
        yield from _rows(numbers, episodes, hidden, method="random-rates, hidden")


def _tuning(cell: Cell, ctx: Context) -> Iterator[Row]:
    """A rival's setting on calibration items, at the share that the gates are trained towards."""
    length, model = ctx.params["length"], _work.model(MODEL, ctx.device)
    work = _items(cell["task"], cell["seed"], ctx.params["items"], length, "calibration")
    episodes = [_episode(item) for item in work]
    policy = rival(cell["candidate"], ctx.params["tuned_share"], episodes, cell["share"])
    results = play(model, policy, episodes, batch=ctx.params["items"], device=ctx.device)
    for row in _rows(range(len(work)), episodes, results, method=cell["candidate"], tuned=True):
        yield {name: row[name] for name in ("item", "method", "tuned", "accuracy", "token_accuracy", "slots")}


def _marks(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Does more stay of a prompt with more marks? All have twelve sentences and the same length."""
    work = _items("marked", 1_000 + cell["seed"], 2 * ctx.params["items"], ctx.params["length"])
    _, kept = played(_work.model(MODEL, ctx.device), trained(cell, ctx), [_episode(item) for item in work], ctx)
    found = spearmanr([marks(item) for item in work], kept.mean(axis=(1, 2))).statistic
    yield {"marks_correlation": float(found)}


def _text(cell: Cell, ctx: Context) -> Iterator[Row]:
    """The byte-level model and gates trained on its kind of text: the last third of held-out chunks."""
    path, model = trained(cell, ctx), _work.model(BYTE, ctx.device)
    length, rng = ctx.params["length"], np.random.default_rng([37, cell["seed"]])
    chunks = text.stdlib_bytes("held-out", rng, ctx.params["items"], length)
    prompt = 2 * length // 3
    episodes = [Episode(chunk, np.arange(length) >= prompt, (prompt,)) for chunk in chunks]
    numbers = [10_000 * cell["seed"] + index for index in range(len(chunks))]
    results, kept = played(model, path, episodes, ctx)
    found = {"attention-gate": results}
    beside = _beside(kept, Gates.of(load(path, "gate")).rules, cell["seed"], episodes, ctx)
    names = [(method, tuned) for method, tuned in beside if not tuned]
    shared = play_all(model, [beside[name] for name in names], episodes, batch=ctx.params["items"], device=ctx.device)
    found |= {method: results for (method, _), results in zip(names, shared, strict=True)}
    for method, results in found.items():
        for index, row in enumerate(_rows(numbers, episodes, results, method=method)):
            row = {name: value for name, value in row.items() if "accuracy" not in name}
            yield row | ({"evicted": 1 - float(kept[index].mean())} if method == "attention-gate" else {})


# cost


def _cost(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Multiplications and weights that gates add to reading a prompt, per layer, counted."""
    width, heads, stored, size, inner, gate_heads, gate_size, n = (
        cell[name] for name in ("width", "heads", "stored", "head", "inner", "gate_heads", "gate_size", "context")
    )
    weights = width * (2 * heads + 2 * stored) * size + 3 * width * inner
    own = gate_heads * gate_size
    gate = 3 * width * own + own * stored
    # Scores and values: every token with half of the others, for the model and for gates that see the prefix.
    yield {
        "extra_multiplications": (gate + n * own) / (weights + n * heads * size),
        "extra_weights": gate / weights,
    }


_GEOMETRY = LlamaConfig(
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    vocab_size=4096,
    max_position_embeddings=1 << 17,
)


def _speed(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Reading a prompt, and decoding on a cache of which 30 % are left, with random weights and gates."""
    torch.set_num_threads(1)
    torch.manual_seed(cell["seed"])
    model: Any = LlamaForCausalLM(_GEOMETRY).eval().to(ctx.device)
    policy: Policy = Full()
    if cell["who"] == "attention-gate":
        path = ctx.scratch / FILE
        # Random scores lie within a few hundredths of 0.5 - 0.02; about a third of them is let through.
        store(path, Gates.new(model, bias=-0.08, seed=cell["seed"]).parts(model))
        policy = AttentionGate(parts=str(path))
    with torch.inference_mode():
        measured = _read if cell["what"] == "prefill" else _decode
        yield {"method": cell["who"], **measured(model, policy, cell, ctx)}


def _read(model: Any, policy: Policy, cell: Cell, ctx: Context) -> dict[str, float]:
    ids = torch.randint(4096, (1, cell["context"]), device=ctx.device)
    with policy.on(model) as cache:
        began = _now(ctx)
        model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        seconds = _now(ctx) - began
        return {"prefill_s": seconds, "evicted": 1 - float(retention(cache).mean())}


def _decode(model: Any, policy: Policy, cell: Cell, ctx: Context) -> dict[str, float]:
    steps, context = ctx.params["speed_steps"], cell["context"]
    token = torch.zeros(1, 1, dtype=torch.long, device=ctx.device)
    with policy.on(model, context + 2 * steps if policy.name == "full" else None) as cache:
        _work.fill(cache, context, _GEOMETRY, 1, cell["seed"], ctx.device)
        if policy.name != "full":
            generator = torch.Generator().manual_seed(cell["seed"])
            for layer in cache.evicting:
                # Heads from nearly nothing to more than half, 30 % on average.
                rates = torch.linspace(0.02, 0.58, 4).roll(layer)[:, None]
                cache.slots(layer).keep((torch.rand(4, context, generator=generator) < rates)[None].to(ctx.device))
        for step in range(2 * steps):
            if step == steps:
                began = _now(ctx)
            model(
                token,
                position_ids=torch.tensor([[context + step]], device=ctx.device),
                past_key_values=cache,
                use_cache=True,
            )
        seconds = _now(ctx) - began
        usage = cache.usage()
        return {
            "tokens_per_s": steps / seconds,
            "slots": float(np.mean(usage.slots)),
            "cache_bytes": float(sum(usage.nbytes)),
        }


def _now(ctx: Context) -> float:
    if ctx.device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def _finetune(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.kv.experiments._attention_gate_tuned import finetune

    yield from finetune(cell, ctx)


PARTS = {
    "training": _training,
    "finetune": _finetune,
    "quality": _quality,
    "tuning": _tuning,
    "marks": _marks,
    "text": _text,
    "cost": _cost,
    "speed": _speed,
}
