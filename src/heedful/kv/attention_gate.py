"""Attention-Gate: a small trained attention per layer says, per token and KV head, what is cached at all.

Zeng, Lin, Hou, Zhang, Deng, "In-context KV-Cache Eviction for LLMs via Attention-Gate", arXiv 2410.12876. With X
[n, D] a layer's input after its norm, MHA' a multi-head attention of few and small heads, and tau a threshold,

    G = sigmoid(MHA'(X) W_g + b_g) in (0, 1)^[n, heads] (:mod:`~heedful.kv.gates`),    F = 1[G > tau].

A head caches the tokens with F = 1. The others are seen by no token but themselves, in the prompt too. There is no
budget: how much is kept was learned (:mod:`~heedful.kv.gate_training`), and differs between heads, layers and prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from heedful.kv.attention import Seen, wide
from heedful.kv.base import Policy, Reads
from heedful.kv.cache import EvictingCache
from heedful.kv.gates import KIND, Gates, Memory, Rules, attentions
from heedful.kv.parts import Parts, beside, check, likeness, load
from heedful.kv.slots import Slots

FILE = "gate.safetensors"


@dataclass
class Reading:
    """What one generation needs of the gates: the networks, and what each layer's remembers."""

    gates: Gates | None = None
    memory: dict[int, Memory] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Reading:
        # A memory is never written to, only replaced.
        twin = Reading(self.gates, {layer: Memory(m.keys, m.values, m.real) for layer, m in self.memory.items()})
        memo[id(self)] = twin
        return twin


@dataclass(frozen=True)
class AttentionGate(Policy):
    """Caches what the trained gates let through; how much that is was learned, and differs between heads.

    Args:
        parts: file with the trained gates; empty for ``gate.safetensors`` beside the model.
        tau: scores above it are let through, in (0, 1); None as in training.
        keep_first: first tokens that are always cached and seen; None as in training.
        keep_last: newest tokens that are cached and seen whatever their flag, the token itself included; None as in
            training.
        hides: whether tokens of the prompt do not see what is not cached, as in training.
        decode: ``"keep"``: the gates run once, on the first call, and what comes later is always cached;
            ``"gate"``: later tokens get flags too, for which each layer's gate remembers all tokens.

    Raises ValueError for parameters out of their range; :meth:`attach` for a file that is missing, cut short, or made
    for another model.
    """

    name: ClassVar[str] = "attention-gate"
    fields: ClassVar[Mapping[str, torch.dtype]] = {"flag": torch.bool}

    parts: str = ""
    tau: float | None = None
    keep_first: int | None = None
    keep_last: int | None = None
    hides: bool = True
    decode: Literal["keep", "gate"] = "keep"

    def __post_init__(self) -> None:
        self._ruled(Rules())
        if self.decode not in ("keep", "gate"):
            raise ValueError(f"decode={self.decode!r}: must be 'keep' or 'gate'")

    @property
    def reads(self) -> Reads:
        return Reads(hidden=True)

    @property
    def headroom(self) -> int:
        return 16

    def attach(self, model: Any) -> None:
        path = self._file(next(iter(attentions(model).values())))
        check_fits(_load(path, _stamp(path)), model, str(path))
        _networks(path, _stamp(path), torch.float32, "cpu")

    def begin(self, layers: int) -> Reading:
        return Reading()

    def visible(self, slots: Slots) -> Tensor | None:
        assert slots.hidden is not None
        rules, q = self._ruled(self._gates(slots).rules), slots.hidden.shape[1]
        real = slots.position[:, 0, -q:] >= 0
        slots["flag"][:, :, -q:] = self._flags(slots, real) if slots.fresh or self.decode == "gate" else True
        shown = slots["flag"] | (slots.position < rules.keep_first)
        if not self.hides or q == 1 or bool(shown.all()):
            return None
        if rules.keep_last < 2:
            return shown
        age = slots.position[:, :, -q:, None] - slots.position[:, :, None]
        return shown[:, :, None] | (age < rules.keep_last)

    def prompted(self, slots: Slots, seen: Seen) -> None:
        self._drop(slots)

    def decoded(self, slots: Slots, seen: Seen) -> None:
        slots.born("flag", True)
        if self.decode == "gate":
            real = torch.ones(slots.batch, 1, dtype=torch.bool, device=slots.position.device)
            slots["flag"] = slots["flag"] & (self._flags(slots, real) | ~slots.recent(1))
        if self.decode == "gate" or self._ruled(self._gates(slots).rules).keep_last > 1:
            self._drop(slots)

    def reordered(self, slots: Slots, index: Tensor) -> None:
        reading: Reading = slots.state
        if slots.layer in reading.memory:
            reading.memory[slots.layer] = reading.memory[slots.layer].select(index)

    def _drop(self, slots: Slots) -> None:
        """Drops what the next token must not see."""
        rules = self._ruled(self._gates(slots).rules)
        stays = slots["flag"] | (slots.position < rules.keep_first) | slots.recent(max(0, rules.keep_last - 1))
        if not bool(stays.all()):
            slots.keep(stays)

    @torch.no_grad()
    def _flags(self, slots: Slots, real: Tensor) -> Tensor:
        """bool ``[batch, heads, q]``: F of this call's tokens."""
        gates, reading = self._gates(slots), slots.state
        gate: Any = gates[str(slots.layer)]
        memory = None
        if self.decode == "gate" and gate.heads:
            if not slots.fresh and slots.layer not in reading.memory:
                raise ValueError("decode='gate': this cache was copied from another policy's, whose gates saw nothing")
            memory = reading.memory.setdefault(slots.layer, Memory())
        scores = gate(slots.hidden, real, gates.rules.context == "prefix" or not slots.fresh, memory)
        if memory is not None:
            slots.aside = memory.nbytes
        return scores > self._ruled(gates.rules).tau

    def _gates(self, slots: Slots) -> Gates:
        """The networks, in the precision that they compute with."""
        reading: Reading = slots.state
        if reading.gates is None:
            assert slots.hidden is not None
            path = self._file(slots.module)
            reading.gates = _networks(path, _stamp(path), wide(slots.hidden.dtype), str(slots.hidden.device))
        return reading.gates

    def _ruled(self, rules: Rules) -> Rules:
        """The rules of training, but for what is given."""
        given = {name: getattr(self, name) for name in ("tau", "keep_first", "keep_last")}
        return replace(rules, **{name: value for name, value in given.items() if value is not None})

    def _file(self, module: Any) -> Path:
        """The file with the gates, by any attention module of the model."""
        if self.parts:
            return Path(self.parts)
        found = beside(module, FILE)
        if found is None:
            model = getattr(module.config, "_name_or_path", "") or f"this {module.config.model_type}"
            raise ValueError(f"parts: no {FILE} beside {model}; train it with: heedful kv train gate --model {model}")
        return found


def retention(cache: EvictingCache) -> Tensor:
    """Share of the tokens so far that is stored, ``[layers, batch, KV heads]`` float64, counted from the entries.

    One minus its mean is the eviction rate.
    """
    found = []
    for layer in cache.evicting:
        slots = cache.slots(layer)
        length = slots.length[:, None] if isinstance(slots.length, Tensor) else slots.length
        found.append(slots.counts.double() / length)
    return torch.stack(found)


def check_fits(parts: Parts, model: Any, source: str) -> None:
    """Raises ValueError unless the gates were trained for ``model`` as it is.

    Gates that were trained together with LoRA weights belong to the model that carries these.
    """
    carried = parts.settings.get("carried")
    if carried is None:
        check(parts, model, source)
        return
    mine = torch.tensor(likeness(model)["weights"])
    plain, merged = torch.tensor(parts.model["weights"]), torch.tensor(carried)
    if mine.shape == plain.shape and (mine - plain).abs().sum() < (mine - merged).abs().sum():
        check(parts, model, source)
        raise ValueError(
            f"{source}: these gates were trained together with LoRA weights, which the model must carry: call "
            "heedful.kv.gate_training.carry(model, parts) first"
        )
    check(Parts(parts.kind, {}, {}, {**parts.model, "weights": carried}), model, source)


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is written anew."""
    if not path.is_file():
        return (0, 0)
    about = path.stat()
    return about.st_mtime_ns, about.st_size


@lru_cache(maxsize=16)
def _load(path: Path, stamp: tuple[int, int]) -> Parts:
    return load(path, KIND)


@lru_cache(maxsize=16)
def _networks(path: Path, stamp: tuple[int, int], dtype: torch.dtype, device: str) -> Gates:
    gates = Gates.of(_load(path, stamp), str(path)).to(dtype=dtype, device=device)
    gates.requires_grad_(False)
    return gates
