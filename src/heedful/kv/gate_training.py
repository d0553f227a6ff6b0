"""Training of attention gates: the base frozen, or together with LoRA weights on a task.

Zeng et al., "In-context KV-Cache Eviction for LLMs via Attention-Gate", arXiv 2410.12876. The loss of a forward pass
that sees what the gates let through (:mod:`~heedful.kv.gated_attention`) is

    L + alpha * mean over layers of | mean(G_l) - beta |.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heedful.kv.attention import wide
from heedful.kv.base import check_count
from heedful.kv.gated_attention import Noted, gated
from heedful.kv.gates import Gates, Rules, attentions
from heedful.kv.parts import Parts, check, likeness, store

SAVE_EVERY_S = 60.0
COOL_DOWN = 0.25
"""Last share of the training over which the learning rates fall to zero."""


@dataclass(frozen=True)
class GateSettings:
    """How gates are trained.

    Args:
        context: what a gate sees: ``"prefix"``, the tokens before, as a loss on all tokens requires; ``"prompt"``: all
            tokens before the first one that the loss counts, and only these have gates.
        heads: h', heads of MHA'; 0 for a linear gate without context.
        size: d', of each of them.
        beta: wanted mean of G, in [0, 1]: one minus the wanted eviction rate.
        alpha: weight of the eviction loss, at least 0.
        one_sided: only a mean above beta costs.
        tau: scores above it are let through, in (0, 1).
        keep_first: first tokens that are always seen.
        keep_last: newest tokens that are always seen, the token itself included.
        bias: b_g at the start; +2 lets everything through.
        gate_rate: learning rate of the gates; 0 leaves them as they begin.
        lora: rank of LoRA weights on the q and v projections that are trained too; 0 for none, the base stays frozen.
        lora_rate: learning rate of the LoRA weights.
        steps: of the optimiser, at most.
        minutes: of training at most, resumed parts included; None for no limit. With a limit the result depends on
            the machine's speed.
        batch: sequences per step.
        warm_up: first share of the training over which alpha rises from 0.
        seed: of the gates and of the order of the data.

    Raises ValueError for a setting out of its range.
    """

    context: Literal["prefix", "prompt"] = "prefix"
    heads: int = 4
    size: int = 32
    beta: float = 0.3
    alpha: float = 1.0
    one_sided: bool = False
    tau: float = 0.5
    keep_first: int = 1
    keep_last: int = 0
    bias: float = 2.0
    gate_rate: float = 1e-3
    lora: int = 0
    lora_rate: float = 2e-4
    steps: int = 1000
    minutes: float | None = None
    batch: int = 8
    warm_up: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _ = self.rules
        for name, least in (("heads", 0), ("size", 1), ("lora", 0), ("steps", 1), ("batch", 1), ("seed", 0)):
            check_count(name, getattr(self, name), least)
        for name, low, high in (("beta", 0, 1), ("warm_up", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)}: must be within [{low}, {high}]")
        for name in ("alpha", "gate_rate", "lora_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name}={getattr(self, name)}: must be a number >= 0")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes={self.minutes}: must be a number > 0, or None")

    @property
    def rules(self) -> Rules:
        """What goes with the gates."""
        return Rules(**{name: getattr(self, name) for name in asdict(Rules())})


def eviction_loss(means: Tensor, beta: float, one_sided: bool = False) -> Tensor:
    """Mean over layers of ``|mean(G_l) - beta|``; one-sided: of ``max(0, mean(G_l) - beta)``."""
    return ((means - beta).clamp(min=0) if one_sided else (means - beta).abs()).mean()


# LoRA on the q and v projections


class Lora(nn.Module):
    """Low-rank additions to the q and v projections of a model's gated layers; twice ``up @ down`` is added.

    Args:
        model: the model.
        rank: of the additions.
        seed: of ``down``; ``up`` begins as zero.

    Raises ValueError if the model has no separate q and v projections.
    """

    SCALE = 2.0
    PLACES = ("q_proj", "v_proj")

    def __init__(self, model: Any, rank: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weights = nn.ParameterDict()
        for layer, module in attentions(model).items():
            for name in self.PLACES:
                if not hasattr(module, name):
                    raise ValueError(f"lora={rank}: model family {model.config.model_type!r} has no {name}")
                weight = getattr(module, name).weight
                down = torch.randn(rank, weight.shape[1], generator=generator) / weight.shape[1] ** 0.5
                place = f"{layer}/{name}"
                self.weights[f"{place}/down"] = nn.Parameter(down.to(weight.device, wide(weight.dtype)))
                up = weight.new_zeros(weight.shape[0], rank, dtype=wide(weight.dtype))
                self.weights[f"{place}/up"] = nn.Parameter(up)

    @contextmanager
    def added(self, model: Any) -> Iterator[None]:
        """While this lasts, the model computes with the additions."""

        def add(place: str) -> Any:
            down, up = self.weights[f"{place}/down"], self.weights[f"{place}/up"]

            def hook(_: Any, args: tuple[Any, ...], out: Tensor) -> Tensor:
                return out + (args[0].to(down.dtype) @ down.T @ up.T).mul(self.SCALE).to(out.dtype)

            return hook

        with ExitStack() as stack:
            for layer, module in attentions(model).items():
                for name in self.PLACES:
                    hook = getattr(module, name).register_forward_hook(add(f"{layer}/{name}"))
                    stack.callback(hook.remove)
            yield

    def tensors(self) -> dict[str, Tensor]:
        """What is stored."""
        return {"lora." + place.replace("/", "."): x.detach() for place, x in self.weights.items()}


def carry(model: Any, parts: Parts) -> None:
    """Adds the LoRA weights that gates were trained with to the model's own, in place.

    Args:
        model: the model that they were trained on, as it was.
        parts: the gates, from :func:`~heedful.kv.parts.load`.

    Raises ValueError if there are none, or they were trained on another model.
    """
    if parts.settings.get("carried") is None:
        raise ValueError("parts: these gates were trained without LoRA weights; there is nothing to carry")
    check(parts, model, "parts")
    _merge(model, parts.tensors)


@torch.no_grad()
def _merge(model: Any, tensors: Mapping[str, Tensor]) -> None:
    for layer, module in attentions(model).items():
        for name in Lora.PLACES:
            down, up = (tensors[f"lora.{layer}.{name}.{x}"] for x in ("down", "up"))
            weight = getattr(module, name).weight
            weight += (Lora.SCALE * up @ down).to(weight.device, weight.dtype)


@torch.no_grad()
def _carried(model: Any, tensors: Mapping[str, Tensor]) -> list[float]:
    """What the model is known by when it carries the LoRA weights."""
    weights = [getattr(module, name).weight for module in attentions(model).values() for name in Lora.PLACES]
    before = [weight.clone() for weight in weights]
    try:
        _merge(model, tensors)
        found: list[float] = likeness(model)["weights"]
    finally:
        for weight, own in zip(weights, before):
            weight.copy_(own)
    return found


# the training itself


def train_gate(
    model: Any,
    sequences: Sequence[tuple[Tensor, Tensor]],
    out: Path,
    *,
    settings: GateSettings,
    state: Path,
    progress: Callable[[int, int, float | None], None],
) -> Parts:
    """Trains gates for a model and stores them.

    Args:
        model: a Hugging Face causal language model; its weights stay as they are.
        sequences: token ids ``[T]`` int64, and bool ``[T]``: which of them, predicted from those before, count in the
            loss. A step's loss is the mean over a sequence's tokens that count, then over the batch.
        out: where the gates go; with LoRA weights, these go into the same file (see :func:`carry`).
        settings: how.
        state: where the training saves itself once a minute. If the file is there, the training goes on from it, to
            the result that it would have had without the break; removed at the end.
        progress: told, after every step, the steps done, all steps and the loss. What it has learned so far is saved if
            this raises KeyboardInterrupt.

    Returns:
        what was stored.

    Raises ValueError if the model is not supported, a sequence cannot be trained on, or the state belongs to another
    training.
    """
    _check_sequences(sequences)
    run = _Run(model, sequences, settings)
    if state.is_file():
        run.restore(state)
    frozen = [(weight, weight.requires_grad) for weight in model.parameters()]
    training = model.training
    model.eval().requires_grad_(False)
    try:
        saved = time.monotonic()
        while run.done < 1:
            loss = run.advance()
            try:
                progress(run.step, settings.steps, loss)
            except KeyboardInterrupt:
                run.save(state)
                raise
            if time.monotonic() - saved >= SAVE_EVERY_S:
                run.save(state)
                saved = time.monotonic()
        parts = run.parts()
    finally:
        for weight, needed in frozen:
            weight.requires_grad_(needed)
        model.train(training)
    store(out, parts)
    state.unlink(missing_ok=True)
    return parts


def _check_sequences(sequences: Sequence[tuple[Tensor, Tensor]]) -> None:
    if not sequences:
        raise ValueError("sequences: there are none to train on")
    for index, (tokens, counts) in enumerate(sequences):
        if tokens.ndim != 1 or tokens.shape != counts.shape:
            raise ValueError(f"sequences[{index}]: tokens and mask must be of one length, and of one dimension")
        if not bool(counts[1:].any()):
            raise ValueError(f"sequences[{index}]: no token after the first counts in the loss")


class _Run:
    """A training under way: everything that is saved and resumed."""

    def __init__(self, model: Any, sequences: Sequence[tuple[Tensor, Tensor]], settings: GateSettings) -> None:
        self.model, self.sequences, self.settings = model, sequences, settings
        weight = next(model.parameters())
        self.gates = Gates.new(model, settings.rules, settings.heads, settings.size, settings.bias, settings.seed).to(
            weight.device, wide(weight.dtype)
        )
        self.lora = Lora(model, settings.lora, settings.seed + 1) if settings.lora else None
        self.rates = [settings.gate_rate, settings.lora_rate]
        groups: list[dict[str, Any]] = [{"params": list(module.parameters())} for module in self._trained.values()]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.step, self.seconds = 0, 0.0
        self.recent: dict[str, float] = {}

    @property
    def done(self) -> float:
        """Share of the training that is over."""
        limit = self.settings.minutes
        return max(self.step / self.settings.steps, 0.0 if limit is None else self.seconds / (60 * limit))

    def advance(self) -> float:
        """One step; returns its loss, without the eviction loss."""
        began = time.monotonic()
        settings, done = self.settings, self.done
        chosen = torch.randint(len(self.sequences), (settings.batch,), generator=self.generator).tolist()
        tokens, counts, real = _padded([self.sequences[i] for i in chosen], next(self.model.parameters()).device)
        loss, noted = self.losses(tokens, counts, real)
        means = noted.means(noted.scores)
        alpha = settings.alpha * min(1.0, (done + 1 / settings.steps) / settings.warm_up if settings.warm_up else 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        (loss + alpha * eviction_loss(means, settings.beta, settings.one_sided)).backward()
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=False):
            nn.utils.clip_grad_norm_(group["params"], 1.0)
            group["lr"] = rate * min(1.0, (1 - done) / COOL_DOWN)
        self.optimizer.step()
        flags = noted.means(noted.flags)
        self._note(loss=loss.item(), mean_score=means.mean().item(), mean_flag=flags.mean().item())
        self.step += 1
        self.seconds += time.monotonic() - began
        return loss.item()

    def losses(self, tokens: Tensor, counts: Tensor, real: Tensor) -> tuple[Tensor, Noted]:
        """The loss on the tokens that count, and what the gates said."""
        prompt = counts.cumsum(1) == 0
        rows, columns = counts[:, 1:].nonzero(as_tuple=True)
        needed, place = columns.unique(return_inverse=True)
        with ExitStack() as stack:
            if self.lora is not None:
                stack.enter_context(self.lora.added(self.model))
            noted = stack.enter_context(gated(self.model, self.gates, real, prompt))
            logits = self.model(
                tokens,
                attention_mask=None if bool(real.all()) else real.long(),
                position_ids=(real.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=needed,
            ).logits
        nats = F.cross_entropy(logits[rows, place].float(), tokens[rows, columns + 1], reduction="none")
        return (nats / counts[:, 1:].sum(1)[rows]).sum() / len(tokens), noted

    def _note(self, **values: float) -> None:
        """Running means over about the last 50 steps."""
        for name, value in values.items():
            before = self.recent.get(name, value)
            self.recent[name] = before + max(0.02, 1 / (self.step + 1)) * (value - before)

    def parts(self) -> Parts:
        """What has been learned so far."""
        settings = {**asdict(self.settings), "trained_steps": self.step, **self.recent}
        parts = self.gates.parts(self.model, settings)
        if self.lora is None:
            return parts
        added = self.lora.tensors()
        settings = {**parts.settings, "carried": _carried(self.model, added)}
        return Parts(parts.kind, {**parts.tensors, **added}, settings, parts.model)

    @property
    def _trained(self) -> dict[str, nn.Module]:
        return {"gates": self.gates} | ({} if self.lora is None else {"lora": self.lora})

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What a state must agree with."""
        data = hashlib.sha256()
        for tokens, counts in self.sequences:
            data.update(tokens.cpu().numpy().tobytes() + counts.bool().cpu().numpy().tobytes())
        return {"settings": asdict(self.settings), "model": likeness(self.model), "data": data.hexdigest()}

    def save(self, path: Path) -> None:
        """Writes the state, atomically."""
        state: dict[str, Any] = {name: module.state_dict() for name, module in self._trained.items()}
        state |= {"optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state()}
        state |= {"step": self.step, "seconds": self.seconds, "recent": self.recent, "identity": self._identity}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        torch.save(state, partial)
        partial.replace(path)

    def restore(self, path: Path) -> None:
        """Goes on from a saved state. Raises ValueError, naming it, if it cannot be read or is of another training."""
        try:
            state = torch.load(path, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"state: {path} cannot be read ({reason}); remove it") from error
        for name, value in self._identity.items():
            if state["identity"][name] != value:
                raise ValueError(f"state: {path} is of another training (its {name} differ); remove it or name another")
        for name, module in self._trained.items():
            module.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step, self.seconds, self.recent = state["step"], state["seconds"], state["recent"]


def _padded(chosen: Sequence[tuple[Tensor, Tensor]], device: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, what counts and what is real, each ``[batch, longest]``, padded on the right."""
    tokens = nn.utils.rnn.pad_sequence([tokens for tokens, _ in chosen], batch_first=True)
    counts = nn.utils.rnn.pad_sequence([counts.bool() for _, counts in chosen], batch_first=True)
    lengths = torch.tensor([len(tokens) for tokens, _ in chosen])
    real = torch.arange(tokens.shape[1]) < lengths[:, None]
    return tokens.to(device), counts.to(device), real.to(device)
