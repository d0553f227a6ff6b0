"""Training of LookaheadKV's parts: lookahead embeddings and a LoRA on their rows, for one frozen model, once.

Ahn et al., "LookaheadKV", ICLR 2026, arXiv 2603.10899. For a prompt X let Y be the model's own greedy answer, and g
the mean attention row of Y's tokens over X, per layer and query head. With s the lookahead tokens' mean row
(:mod:`heedful.kv.lookahead_kv`) and both normalised over the prompt, the loss is ListNet's top-one ranking loss

    (1 / (L H)) sum over layers and heads of KL(g || s).

A step reads a batch of prompts once, under a full cache without gradients; the answer, g and s all come from that.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from heedful.kv.base import check_count
from heedful.kv.baselines import Full
from heedful.kv.cache import EvictingCache
from heedful.kv.foresight import attention_of, before_end, embedded, greedy
from heedful.kv.lookahead_kv import KIND, linear_layers, lookahead_attention
from heedful.kv.parts import Parts, likeness, store

Progress = Callable[[int, int, float | None], None]
"""Called as ``progress(done, total, loss)``: steps, or seconds if the budget is one of time; the loss of the last
step, None before the first."""

SAVE_EVERY_S = 30.0
"""Seconds between two saves of the state; it is also saved when training is interrupted."""

HELD_BYTES = 1 << 30
"""Bytes of ground truth that are held for batches that come again; that of other batches is worked out again."""


@dataclass(frozen=True)
class LookaheadSettings:
    """How parts are made and trained. Defaults are the paper's, or, where it does not say, ours.

    Args:
        tokens: lookahead tokens, m.
        rows: ``"tokens"``: trained embeddings run behind the prompt; ``"prompt"``: the prompt's last ``tokens`` tokens
            run there once more, and only the LoRA is trained (an ablation).
        rank: of the LoRA; 0 for none (an ablation).
        alpha: the LoRA's scale is ``alpha / rank``.
        batch: prompts per step, of like length.
        steps: of the optimiser; None with ``minutes`` None: each prompt once.
        minutes: instead of ``steps``: train for so long, over all calls. The result then depends on the machine.
        answer_tokens: tokens of the model's own answer, at most.
        rate_tokens: peak learning rate of the embeddings.
        rate_lora: peak learning rate of the LoRA.
        warm_up: share of the budget in which the rate rises; after that it falls as a cosine.
        clip: largest norm of the gradient.
        seed: of the initial values and of the order of the batches.

    Raises ValueError for a parameter out of its range.
    """

    tokens: int = 32
    rows: Literal["tokens", "prompt"] = "tokens"
    rank: int = 8
    alpha: float = 32.0
    batch: int = 32
    steps: int | None = None
    minutes: float | None = None
    answer_tokens: int = 512
    rate_tokens: float = 1e-3
    rate_lora: float = 2e-4
    warm_up: float = 0.03
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("tokens", "batch", "answer_tokens"):
            check_count(name, getattr(self, name))
        check_count("rank", self.rank, least=0)
        check_count("seed", self.seed, least=0)
        if self.steps is not None:
            check_count("steps", self.steps)
        if self.rows not in ("tokens", "prompt"):
            raise ValueError(f"rows={self.rows!r}: must be 'tokens' or 'prompt'")
        if self.rows == "prompt" and self.rank == 0:
            raise ValueError("rank=0: with rows='prompt' there would be nothing to train")
        if self.steps is not None and self.minutes is not None:
            raise ValueError("minutes: give steps or minutes, not both")
        for name in ("alpha", "rate_tokens", "rate_lora", "clip", "minutes"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value}: must be a number above 0")
        if not 0 <= self.warm_up < 1:
            raise ValueError(f"warm_up={self.warm_up}: must lie in [0, 1)")


def train_lookahead(
    model: Any,
    prompts: Sequence[Tensor],
    out: Path,
    *,
    settings: LookaheadSettings,
    state: Path,
    progress: Progress = lambda done, total, loss: None,
) -> Parts:
    """Trains parts for a model and writes them to a file.

    Interrupt it at will: the same call goes on where it was, to the same bits if the budget is one of steps.

    Args:
        model: a Hugging Face causal language model that the room supports; it is left as it was.
        prompts: token ids, int64 ``[n_i]``, each at least one token; the answers are the model's own. A batch is
            padded on the left, or holds prompts of the same length where some layers do not attend to everything.
        out: where the parts are written, as :class:`~heedful.kv.lookahead_kv.LookaheadKV` reads them.
        settings: what to train, and for how long.
        state: where training is saved; it stays, so that a call after the end has nothing to do.
        progress: told after every step.

    Returns:
        the parts, as stored.

    Raises ValueError if there are no prompts or one of them is unfit, if the model is not supported, or if ``state``
    belongs to another training.
    """
    _check_prompts(prompts, settings)
    with _frozen(model):
        training = _Training(model, prompts, settings, state)
        training.run(progress)
    parts = Parts(KIND, training.tensors(), {**asdict(settings), "loss": training.loss}, likeness(model))
    store(out, parts)
    return parts


def lookahead_loss(foreseen: Mapping[int, Tensor], truth: Mapping[int, Tensor]) -> Tensor:
    """KL(g || s) in nats, both normalised over the prompt; mean over layers, query heads and prompts.

    Args:
        foreseen: s by layer, ``[batch, heads, group, n]``, at least 0; 0 for padding.
        truth: g likewise, in any precision.
    """
    total = []
    for layer, s in foreseen.items():
        g = truth[layer].to(s.dtype)
        g = g / g.sum(dim=-1, keepdim=True)
        # As a difference of logarithms: a head may give the prompt next to nothing, whose inverse overflows.
        least = torch.finfo(s.dtype).tiny
        log_s = s.clamp(min=least).log() - s.sum(dim=-1, keepdim=True).clamp(min=least).log()
        total.append((torch.xlogy(g, g) - g * log_s).sum(dim=-1).mean())
    return torch.stack(total).mean()


def initial(model: Any, prompts: Sequence[Tensor], settings: LookaheadSettings) -> dict[str, Tensor]:
    """Untrained parts: embeddings near the mean of the prompts', A ~ N(0, 1/width), B = 0; at least float32.

    Raises ValueError if the model's decoder has no linear layers to adapt.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    weight = model.get_input_embeddings().weight.detach()
    dtype = torch.promote_types(weight.dtype, torch.float32)
    found = {}
    if settings.rows == "tokens":
        used = torch.cat([prompt.unique() for prompt in prompts]).unique().to(weight.device)
        mean = weight[used].to(dtype).mean(dim=0)
        noise = torch.randn(settings.tokens, weight.shape[1], generator=generator, dtype=dtype)
        found["embeddings"] = mean + 0.02 * noise.to(mean.device)
    layers = linear_layers(model) if settings.rank else {}
    if settings.rank and not layers:
        raise ValueError(f"model family {model.config.model_type!r}: no linear layers that a LoRA could adapt")
    for name, module in layers.items():
        a = torch.randn(settings.rank, module.in_features, generator=generator, dtype=dtype)
        found[f"{name}.a"] = (a * module.in_features**-0.5).to(module.weight.device)
        found[f"{name}.b"] = torch.zeros(module.out_features, settings.rank, dtype=dtype, device=module.weight.device)
    return found


class _Training:
    """Parts, optimiser and how far they are."""

    def __init__(self, model: Any, prompts: Sequence[Tensor], settings: LookaheadSettings, state: Path) -> None:
        self.model, self.prompts, self.settings, self.path = model, prompts, settings, state
        self.parts = {name: x.requires_grad_() for name, x in initial(model, prompts, settings).items()}
        lora = [x for name, x in self.parts.items() if name != "embeddings"]
        groups = [{"params": lora, "peak": settings.rate_lora}] if lora else []
        if "embeddings" in self.parts:
            groups.append({"params": [self.parts["embeddings"]], "peak": settings.rate_tokens})
        self.optimiser = torch.optim.AdamW(groups, lr=0.0)
        self.batches = _batches(model, prompts, settings)
        self.steps = settings.steps or len(self.batches)
        self.step, self.seconds, self.loss = 0, 0.0, float("nan")
        self._truth: dict[int, dict[int, Tensor]] = {}
        self._held = 0
        self._resume()

    @property
    def fraction(self) -> float:
        """How much of the budget is spent, in [0, 1]."""
        minutes = self.settings.minutes
        return self.step / self.steps if minutes is None else min(1.0, self.seconds / (60 * minutes))

    def tensors(self) -> dict[str, Tensor]:
        """The parts, detached."""
        return {name: x.detach() for name, x in self.parts.items()}

    def run(self, progress: Progress) -> None:
        """Goes on to the end of the budget, saving as it goes."""
        minutes = self.settings.minutes
        total = self.steps if minutes is None else round(60 * minutes)
        saved = before = time.monotonic()
        try:
            progress(self.step if minutes is None else round(self.seconds), total, None)
            while self.fraction < 1:
                self._update(self._batch(self.step))
                now = time.monotonic()
                self.seconds, before = self.seconds + now - before, now
                if now - saved > SAVE_EVERY_S:
                    self._save()
                    saved = now
                progress(self.step if minutes is None else round(self.seconds), total, self.loss)
        finally:
            self._save()

    def _batch(self, step: int) -> int:
        """Which batch a step trains on: all of them in one order, then in another."""
        turn, place = divmod(step, len(self.batches))
        generator = torch.Generator().manual_seed(1_000_003 * self.settings.seed + turn)
        return int(torch.randperm(len(self.batches), generator=generator)[place])

    def _update(self, batch: int) -> None:
        settings = self.settings
        with Full().on(self.model) as cache:
            truth = self._read(cache, batch)
            foreseen = lookahead_attention(cache, self.parts, asdict(settings))
            loss = lookahead_loss(foreseen, truth)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self.parts.values()), settings.clip)
        share = self.fraction
        rising = share + 1 / self.steps if settings.minutes is None else share
        warm = min(1.0, rising / settings.warm_up) if settings.warm_up else 1.0
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * warm * 0.5 * (1 + math.cos(math.pi * share))
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        self.loss = loss.item()

    @torch.no_grad()
    def _read(self, cache: EvictingCache, batch: int) -> dict[int, Tensor]:
        """Fills the cache with a batch of prompts; g by layer, which is worked out once per batch."""
        tokens, mask = _padded([self.prompts[i] for i in self.batches[batch]], self.model.device)
        out = self.model(
            tokens,
            attention_mask=None if bool(mask.all()) else mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache.inputs = tokens
        if batch in self._truth:
            return self._truth[batch]
        answers = greedy(self.model, cache.heir(Full()), out.logits[:, -1], self.settings.answer_tokens)
        counted = before_end(self.model, answers)
        found = attention_of(cache, embedded(self.model, answers), counted)
        truth = {layer: (g / g.sum(dim=-1, keepdim=True)).half() for layer, g in found.items()}
        again = self.settings.minutes is not None or self.steps > len(self.batches)
        if again and self._held < HELD_BYTES:
            self._truth[batch] = truth
            self._held += sum(g.nbytes for g in truth.values())
        return truth

    def _resume(self) -> None:
        if not self.path.exists():
            return
        try:
            kept = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"state={self.path}: cannot be read; remove it to begin again") from error
        if kept.get("of") != self._identity():
            raise ValueError(
                f"state={self.path}: belongs to other settings, other prompts or another model; name another file, or "
                "remove it to begin again"
            )
        with torch.no_grad():
            for name, x in self.parts.items():
                x.copy_(kept["parts"][name])
        self.optimiser.load_state_dict(kept["optimiser"])
        self.step, self.seconds, self.loss = kept["step"], kept["seconds"], kept["loss"]

    def _save(self) -> None:
        kept = {
            "of": self._identity(),
            "parts": self.tensors(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "loss": self.loss,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + f".{os.getpid()}.tmp")
        torch.save(kept, partial)
        partial.replace(self.path)

    def _identity(self) -> str:
        known = hashlib.sha256(json.dumps([asdict(self.settings), likeness(self.model)]).encode())
        for prompt in self.prompts:
            known.update(prompt.cpu().numpy().tobytes() + b"|")
        return known.hexdigest()


def _check_prompts(prompts: Sequence[Tensor], settings: LookaheadSettings) -> None:
    if not prompts:
        raise ValueError("prompts: there are none")
    for index, prompt in enumerate(prompts):
        if prompt.ndim != 1 or prompt.dtype != torch.int64:
            raise ValueError(f"prompts[{index}]: must be int64 [n], got {prompt.dtype} {list(prompt.shape)}")
        if len(prompt) == 0:
            raise ValueError(f"prompts[{index}]: is empty")
        if settings.rows == "prompt" and len(prompt) < settings.tokens:
            raise ValueError(f"prompts[{index}]: has {len(prompt)} tokens, fewer than tokens={settings.tokens}")


def _batches(model: Any, prompts: Sequence[Tensor], settings: LookaheadSettings) -> list[list[int]]:
    """Indices of prompts of like length; of the same length for a model that cannot probe a padded batch."""
    mixed = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(settings.seed)).tolist()
    by_length = sorted(mixed, key=lambda i: len(prompts[i]))
    with Full().on(model) as cache:
        padding = len(cache.evicting) == len(cache.layers)
    groups = [by_length] if padding else [list(same) for _, same in groupby(by_length, lambda i: len(prompts[i]))]
    return [group[i : i + settings.batch] for group in groups for i in range(0, len(group), settings.batch)]


def _padded(prompts: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask ``[batch, longest]``, padded on the left."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return tokens.to(device), mask.to(device)


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Within, the model is in evaluation mode and none of its parameters takes part in gradients."""
    training, wanted = model.training, [parameter.requires_grad for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter, wants in zip(model.parameters(), wanted):
            parameter.requires_grad_(wants)
