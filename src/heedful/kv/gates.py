"""Gates: one small attention per layer, which scores every token for every KV head.

Zeng, Lin, Hou, Zhang, Deng, "In-context KV-Cache Eviction for LLMs via Attention-Gate", arXiv 2410.12876. With X
[n, D] a layer's input after its norm, and MHA' a multi-head attention of few and small heads,

    G = sigmoid(MHA'(X) W_g + b_g) in (0, 1)^[n, heads].

Here are the networks, how they are made, and how they become parts that are stored;
:class:`~heedful.kv.attention_gate.AttentionGate` decides by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from heedful.kv.attention import causal
from heedful.kv.base import check_count
from heedful.kv.cache import layer_kinds
from heedful.kv.parts import Parts, likeness

KIND = "gate"


@dataclass(frozen=True)
class Rules:
    """What gates see, and what is let through whatever they say.

    Args:
        context: ``"prefix"``: a gate sees the tokens before; ``"prompt"``: it sees the whole prompt.
        tau: scores above it are let through, in (0, 1).
        keep_first: first tokens that are always cached and seen.
        keep_last: newest tokens that are cached and seen whatever their flag, the token itself included.

    Raises ValueError for a value out of its range.
    """

    context: Literal["prefix", "prompt"] = "prefix"
    tau: float = 0.5
    keep_first: int = 1
    keep_last: int = 0

    def __post_init__(self) -> None:
        if self.context not in ("prefix", "prompt"):
            raise ValueError(f"context={self.context!r}: must be 'prefix' or 'prompt'")
        if not 0 < self.tau < 1:
            raise ValueError(f"tau={self.tau}: must be within (0, 1)")
        check_count("keep_first", self.keep_first, least=0)
        check_count("keep_last", self.keep_last, least=0)


@dataclass
class Memory:
    """What one layer's gate remembers of the tokens so far.

    Attributes:
        keys: ``[batch, h', n, d']``, or None before the first token.
        values: likewise.
        real: bool ``[batch, n]``: which tokens are not padding.
    """

    keys: Tensor | None = None
    values: Tensor | None = None
    real: Tensor | None = None

    def extend(self, keys: Tensor, values: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Appends new tokens; returns all of them."""
        if self.keys is not None and self.values is not None and self.real is not None:
            keys, values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
            real = torch.cat([self.real, real], dim=1)
        self.keys, self.values, self.real = keys, values, real
        return keys, values, real

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return sum(x.nbytes for x in (self.keys, self.values, self.real) if x is not None)

    def select(self, index: Tensor) -> Memory:
        """The memory of batch items ``index``."""
        return Memory(*(None if x is None else x.index_select(0, index) for x in (self.keys, self.values, self.real)))


class Gate(nn.Module):
    """One layer's gate.

    Args:
        width: D, of the layer's input.
        stored: KV heads.
        heads: h', heads of MHA'; 0 for a linear gate, G = sigmoid(X W_g + b_g), which sees no context.
        size: d', of each of them.
    """

    query: Tensor
    key: Tensor
    value: Tensor

    def __init__(self, width: int, stored: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * size if heads else width
        for name in ("query", "key", "value") if heads else ():
            setattr(self, name, nn.Parameter(torch.empty(inner, width)))
        self.score = nn.Parameter(torch.empty(stored, inner))
        self.bias = nn.Parameter(torch.empty(stored))

    def forward(
        self, hidden: Tensor, real: Tensor, causal_context: bool = True, memory: Memory | None = None
    ) -> Tensor:
        """G of new tokens.

        Args:
            hidden: ``[batch, q, D]``; computed with in float32 or wider.
            real: bool ``[batch, q]``: the tokens that may be looked at.
            causal_context: whether a token sees what is before it, or all of the call.
            memory: of the tokens before these; it is extended.

        Returns:
            ``[batch, stored, q]``, in (0, 1).
        """
        x = hidden.to(self.score.dtype)
        if self.heads:
            x = self._attend(x, real, causal_context, memory)
        return torch.sigmoid(x @ self.score.T + self.bias).transpose(1, 2)

    def _attend(self, x: Tensor, real: Tensor, causal_context: bool, memory: Memory | None) -> Tensor:
        """MHA': ``[batch, q, D]`` to ``[batch, q, h' d']``; without positions."""
        query, key, value = (
            (x @ weight.T).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for weight in (self.query, self.key, self.value)
        )
        if memory is not None:
            key, value, real = memory.extend(key, value, real)
        q, n = query.shape[2], key.shape[2]
        if bool(real.all()) and (q == n or not causal_context or q == 1):
            out = scaled_dot_product_attention(query, key, value, is_causal=causal_context and q == n)
        else:
            mask = real[:, None, None, :].expand(-1, 1, q, n)
            mask = mask & causal(q, n, x.device) if causal_context else mask
            mask = mask | torch.eye(q, n, dtype=torch.bool, device=x.device).roll(n - q, dims=1)
            out = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)


class Gates(nn.ModuleDict):
    """A model's gates, by the number of the layer.

    Attributes:
        rules: what goes with them.
    """

    def __init__(self, gates: Mapping[str, Gate], rules: Rules) -> None:
        super().__init__(gates)
        self.rules = rules

    @classmethod
    def new(
        cls,
        model: Any,
        rules: Rules = Rules(),
        heads: int = 4,
        size: int = 32,
        bias: float = 2.0,
        seed: int = 0,
    ) -> Gates:
        """Untrained gates for a model: Xavier's initialisation, all scores near ``sigmoid(bias)``.

        Args:
            model: a Hugging Face causal language model.
            rules: what goes with them.
            heads: h', heads of MHA'; 0 for linear gates.
            size: d', of each of them.
            bias: b_g.
            seed: of the weights.

        Raises ValueError for a model that is not supported, or a parameter out of its range.
        """
        check_count("heads", heads, least=0)
        check_count("size", size)
        width, stored = _shape(model)
        gates = cls({str(layer): Gate(width, stored, heads, size) for layer in attentions(model)}, rules)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in gates.named_parameters():
                if name.endswith("bias"):
                    weight.fill_(bias)
                else:
                    nn.init.xavier_uniform_(weight, generator=generator)
        return gates

    @classmethod
    def of(cls, parts: Parts, source: str = "parts") -> Gates:
        """The gates that trained parts hold. Raises ValueError, naming ``source``, if some are missing."""
        settings, shape = parts.settings, parts.model["shape"]
        stored = shape["num_key_value_heads"] or shape["num_attention_heads"]
        tensors = {name: x for name, x in parts.tensors.items() if not name.startswith("lora.")}
        layers = sorted({name.partition(".")[0] for name in tensors}, key=int)
        try:
            rules = Rules(**{name: settings[name] for name in asdict(Rules())})
            size = settings["heads"], settings["size"]
            gates = cls({layer: Gate(shape["hidden_size"], stored, *size) for layer in layers}, rules)
            gates.load_state_dict(tensors)
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"{source}: the gates are damaged ({str(error).splitlines()[-1].strip()})") from error
        return gates

    def parts(self, model: Any, settings: Mapping[str, Any] | None = None) -> Parts:
        """These gates as parts of that model, to be stored."""
        first: Gate = next(iter(self.values()))  # type: ignore[assignment]
        size = first.score.shape[1] // first.heads if first.heads else 1
        mine = {**asdict(self.rules), "heads": first.heads, "size": size}
        tensors = {name: x.detach() for name, x in self.state_dict().items()}
        return Parts(KIND, tensors, {**(settings or {}), **mine}, likeness(model))


def attentions(model: Any) -> dict[int, nn.Module]:
    """The attention modules that have a gate, by layer: those that attend to everything.

    Raises ValueError for a model that is not supported, in one line that says why.
    """
    kinds = layer_kinds(model)
    found = {}
    for module in model.modules():
        layer = getattr(module, "layer_idx", None)
        if layer is not None and hasattr(module, "o_proj") and kinds[layer] == "full_attention":
            found[layer] = module
    return dict(sorted(found.items()))


def _shape(model: Any) -> tuple[int, int]:
    """Width of the residual stream, and KV heads."""
    config = model.config.get_text_config(decoder=True)
    return config.hidden_size, getattr(config, "num_key_value_heads", None) or config.num_attention_heads
