"""LookaheadKV's measurements: answers and what is kept, parts trained in short, and the cost of reading a prompt."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from heedful import models
from heedful.kv.attention import Seen
from heedful.kv.base import Policy
from heedful.kv.baselines import Full
from heedful.kv.cache import EvictingCache
from heedful.kv.experiments import MODEL, _work
from heedful.kv.experiments._lookahead_kv_claims import MAIN_SHARE
from heedful.kv.experiments.lookahead_kv import DRAFTER, METHODS, MIXTURE, SPECS, TASKS, TIMED, VARIANTS
from heedful.kv.foresight import Foresight
from heedful.kv.lookahead_kv import FILE, KIND
from heedful.kv.lookahead_training import LookaheadSettings, initial, train_lookahead
from heedful.kv.oracle import Oracle
from heedful.kv.parts import Parts, likeness, load, store
from heedful.kv.policies import make
from heedful.kv.shared_prompt import SharedPrompt
from heedful.kv.snapkv import SnapKV
from heedful.lab import Cell, Context, Row
from heedful.models.tasks import Item

WINDOW = 16
"""The longest observation window that some contender reads."""
TRAINING = LookaheadSettings(answer_tokens=16, rate_tokens=1e-2, rate_lora=4e-3)
"""As for the shipped parts (training/train_lookahead.py)."""


@dataclass(frozen=True)
class Contender:
    """A method at a budget; ``parts`` names trained parts other than the shipped ones."""

    method: str
    spec: str
    share: float
    tuned: bool = False
    parts: str = ""

    def policy(self, length: int, answers: Sequence[Sequence[int]], device: str) -> Policy:
        """For prompts of about that length, with these answers."""
        slots = round(self.share * length)
        if self.method == "full":
            return Full()
        if self.method == "oracle":
            return Oracle(slots, answers=answers)
        options: dict[str, Any] = {"drafter": _work.model(DRAFTER, device)} if self.method == "speckv" else {}
        if self.parts:
            options = {"parts": self.parts}
        return make(self.spec, slots, **options)


def _quality(cell: Cell, ctx: Context) -> Iterator[Row]:
    if "tune" in cell.dict:
        spec = f"{cell['tune']}:{cell['setting']}"
        yield from _answers(cell, ctx, [Contender(cell["tune"], spec, MAIN_SHARE, True)])
        return
    contenders = [
        Contender(method, SPECS.get(method, method), share) for share in ctx.params["shares"] for method in METHODS
    ]
    for method, setting in ctx.tuned.items():
        contenders.append(Contender(method, f"{method}:{setting['setting']}", MAIN_SHARE, True))
    yield from _answers(cell, ctx, [Contender("full", "full", 1.0), *contenders])


def _ablation(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Parts that are trained here, in short, and beside them SnapKV on the same items."""
    parts = str(_trained(cell, ctx) / FILE)
    yield from _answers(
        cell,
        ctx,
        [
            contender
            for share in ctx.params["ablation_shares"]
            for contender in (
                Contender("lookaheadkv", "lookaheadkv", share, parts=parts),
                Contender("snapkv", SPECS["snapkv"], share),
            )
        ],
    )


def _trained(cell: Cell, ctx: Context) -> Path:
    steps, batch, length = (ctx.params[name] for name in ("train_steps", "train_batch", "length"))
    changed = VARIANTS[cell["variant"]]
    settings = replace(TRAINING, steps=steps, batch=batch, seed=cell["trained"], **changed)

    def build(folder: Path) -> None:
        rng = np.random.default_rng([3, cell["trained"]])
        items = [models.tasks.sample(MIXTURE[i % len(MIXTURE)], rng, 1, length)[0] for i in range(steps * batch)]
        train_lookahead(
            _work.model(MODEL, ctx.device),
            [torch.from_numpy(item.tokens[: item.prompt_length]) for item in items],
            folder / FILE,
            settings=settings,
            state=ctx.scratch / "training.pt",
            progress=lambda done, total, loss: ctx.progress(0.9 * done / total),
        )

    return ctx.artifact({"lookahead": asdict(settings), "length": length}, build)


@torch.inference_mode()
def _answers(cell: Cell, ctx: Context, contenders: Sequence[Contender]) -> Iterator[Row]:
    """Answers to a cell's items, fed the true tokens, and what was kept; the full cache is the reference."""
    count, size, length = (ctx.params[name] for name in ("items", "batch", "length"))
    task, options = TASKS[cell["task"]]
    work = _work.items(task, 1_000 * cell["seed"] + cell["chunk"], count, length, cell["split"], **options)
    first = 100_000 * cell["seed"] + ctx.params["items"] * cell["chunk"]
    for start in range(0, len(work), size):
        batch = _Batch(_work.model(MODEL, ctx.device), work[start : start + size], ctx.device)
        for contender in contenders:
            policy = contender.policy(length, batch.answers, ctx.device)
            rows = batch.play(policy, round(contender.share * length), ranks=contender.share == MAIN_SHARE)
            for index, row in enumerate(rows):
                yield {
                    "item": first + start + index,
                    "method": contender.method,
                    "share": contender.share,
                    "tuned": contender.tuned,
                    **row,
                }


class _Batch:
    """Items whose prompts have been read once, for all contenders."""

    def __init__(self, model: Any, work: Sequence[Item], device: str) -> None:
        self.model, self.device = model, device
        self.prompts = [item.tokens[: item.prompt_length] for item in work]
        self.lengths = np.array([len(prompt) for prompt in self.prompts])
        rest = [item.tokens[item.prompt_length :] for item in work]
        self.answers = [answer[:-1].tolist() for answer in rest]  # without the token that ends it
        longest, most = int(self.lengths.max()), max(map(len, self.answers))
        tokens, mask = np.zeros((2, len(work), longest), dtype=np.int64)
        self.fed, self.scored = np.zeros((len(work), most), dtype=np.int64), np.zeros((len(work), most), dtype=bool)
        for row, item in enumerate(work):
            n, m = item.prompt_length, len(self.answers[row])
            tokens[row, longest - n :], mask[row, longest - n :] = self.prompts[row], 1
            self.fed[row, :m], self.scored[row, :m] = self.answers[row], item.scored[n : n + m]
        self.tokens = torch.from_numpy(tokens).to(device)
        real = None if mask.all() else torch.from_numpy(mask).to(device)
        self.shared = SharedPrompt(model, self.tokens, real, window=WINDOW)
        self.full = self._logprobs(self.shared.cache_for(Full()))
        self.truth = self._attention(Oracle(1, answers=self.answers))

    def play(self, policy: Policy, slots: int, ranks: bool) -> Iterator[Row]:
        """One row per item: all metrics, ``spearman`` only if ``ranks`` are wanted."""
        cache = self.shared.cache_for(policy)
        recall = self._recall(cache, slots)
        logprobs = self._logprobs(cache)
        predicted, expected = (x.argmax(dim=-1).cpu().numpy() for x in (logprobs, self.full))
        right, same = predicted == self.fed, predicted == expected
        kl = (self.full.exp() * (self.full - logprobs)).sum(dim=-1).cpu().numpy()
        later = self.scored.copy()
        later[:, 0] = False
        spearman = self._spearman(policy) if ranks else None
        held = float(np.mean(cache.usage().slots))
        for row, scored in enumerate(self.scored):
            yield {
                "accuracy": float(right[row][scored].all()),
                "token_accuracy": float(right[row][scored].mean()),
                "agreement": float(same[row][scored].all()),
                "kl": float(kl[row][later[row]].mean()),
                "recall": float(recall[row]),
                "slots": held,
                "spearman": None if spearman is None else float(spearman[row]),
            }

    def _logprobs(self, cache: EvictingCache) -> Tensor:
        """``[batch, m, vocabulary]``: of the answer's tokens, fed the true ones before them."""
        fed, position = torch.from_numpy(self.fed).to(self.device), torch.from_numpy(self.lengths).to(self.device)
        found = [self.shared.logits]
        for step in range(fed.shape[1] - 1):
            out = self.model(
                fed[:, step : step + 1],
                position_ids=(position + step)[:, None],
                past_key_values=cache,
                use_cache=True,
            )
            found.append(out.logits[:, -1])
        return torch.log_softmax(torch.stack(found, dim=1).float(), dim=-1)

    def _recall(self, cache: EvictingCache, slots: int) -> np.ndarray:
        """Of the ``slots`` entries that the true answer attends to most, the share that a cache holds, per item."""
        shares = []
        for layer, g in self.truth.items():
            best = np.argsort(-g, axis=-1, kind="stable")
            held = np.zeros((*g.shape[:2], g.shape[2] + 1), dtype=bool)
            np.put_along_axis(held, cache.slots(layer).position.cpu().numpy().astype(np.int64), True, axis=-1)
            found = np.take_along_axis(held, best, axis=-1)
            wanted = np.arange(g.shape[2]) < np.minimum(slots, self.lengths)[:, None, None]
            shares.append((found & wanted).sum(axis=-1).mean(axis=1) / np.minimum(slots, self.lengths))
        return np.mean(shares, axis=0)

    def _attention(self, policy: Policy) -> dict[int, np.ndarray]:
        """A policy's scores before pooling, by layer ``[batch, heads, positions]``; -1 beyond an item's prompt."""
        cache, notes = self.shared.cache.heir(policy), self.shared.cache.state
        cache.inputs = self.tokens
        found = {}
        for layer in cache.evicting:
            slots, seen = cache.slots(layer), Seen(rows=notes.rows[layer][:, :, :, -policy.reads.window :])
            if isinstance(policy, SnapKV):
                found[layer] = policy.score(slots, seen)
            else:
                slots.fresh = True
                policy.prompted(slots, seen)
                slots.fresh = False
        if isinstance(policy, Foresight):
            found = {layer: rows.mean(dim=2) for layer, rows in policy.foreseen(cache).items()}
        longest = self.tokens.shape[1]
        by_position = {}
        for layer, score in found.items():
            moved = np.full((*score.shape[:2], longest), -1.0)
            for row, n in enumerate(self.lengths):
                moved[row, :, :n] = score[row, :, longest - n :].double().cpu().numpy()
            by_position[layer] = moved
        return by_position

    def _spearman(self, policy: Policy) -> np.ndarray | None:
        """Rank correlation with the true answer's attention, per item; None for a method without such scores."""
        if isinstance(policy, SnapKV):
            policy, last = replace(policy, kernel=1), policy.observation_window
        elif isinstance(policy, Foresight) and not isinstance(policy, Oracle):
            last = 0
        else:
            return None
        scores = self._attention(policy)
        ends = [n - last for n in self.lengths]
        found = [
            [_correlation(scores[layer][row, :, :end], g[row, :, :end]) for row, end in enumerate(ends)]
            for layer, g in self.truth.items()
        ]
        return np.mean(found, axis=0)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, row by row, mean over the rows."""
    x, y = (rankdata(each, axis=-1) for each in (a, b))
    x, y = (each - each.mean(axis=-1, keepdims=True) for each in (x, y))
    norm = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    return float(np.mean((x * y).sum(axis=-1) / np.maximum(norm, 1e-12)))


def _size(cell: Cell, ctx: Context) -> Iterator[Row]:
    model = _work.model(MODEL, ctx.device)
    parts = load(models.path(MODEL) / FILE, KIND)
    own = sum(x.numel() for x in parts.tensors.values())
    yield {"method": "lookaheadkv", "extra_parameters": own / sum(p.numel() for p in model.parameters())}


def _overhead(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Time to read a prompt and evict 90 % of it, on random weights: time does not depend on what they know."""
    torch.set_num_threads(1)
    torch.manual_seed(cell["seed"])
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=4096,
        max_position_embeddings=1 << 17,
    )
    model: Any = LlamaForCausalLM(config).eval()
    model.to(ctx.device)
    tokens = torch.randint(0, 4096, (1, cell["context"]), device=ctx.device)
    path, settings = ctx.scratch / FILE, LookaheadSettings()
    store(path, Parts(KIND, initial(model, [tokens[0].cpu()], settings), asdict(settings), likeness(model)))
    slots = round(MAIN_SHARE * cell["context"])
    policies = {
        "full": Full(),
        **{
            name: make(SPECS.get(name, name), slots, **({"parts": str(path)} if name == "lookaheadkv" else {}))
            for name in TIMED
        },
    }
    seconds = {name: _prefill(model, policy, tokens, ctx.device) for name, policy in policies.items()}
    for name, took in seconds.items():
        yield {"method": name, "prefill_s": took, "overhead": took / seconds["full"] - 1}


@torch.inference_mode()
def _prefill(model: Any, policy: Policy, tokens: Tensor, device: str) -> float:
    """The shorter of two."""
    best = float("inf")
    for _ in range(2):
        with policy.on(model) as cache:
            began = time.perf_counter()
            model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            if device != "cpu":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - began)
    return best


PARTS = {"quality": _quality, "ablation": _ablation, "size": _size, "overhead": _overhead}
