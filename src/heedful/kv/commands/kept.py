"""Which tokens of one prompt each policy keeps, per layer and head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heedful.kv.base import Policy
from heedful.kv.cache import EvictingCache
from heedful.kv.commands.embedded import Work
from heedful.kv.commands.options import Contender
from heedful.kv.commands.playing import informed, shares
from heedful.kv.experiments import _retrieval
from heedful.kv.shared_prompt import SharedPrompt
from heedful.models.tasks import Item, decode


@dataclass(frozen=True, eq=False)
class Seen:
    """A prompt that policies decide about.

    Attributes:
        tokens: the text of each token.
        needed: positions that the answer is made of, ascending; empty if that is not known.
    """

    tokens: tuple[str, ...]
    needed: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Kept:
    """What a policy keeps.

    Attributes:
        contender: the policy and its budget.
        layers: bool ``[heads, positions]`` by the layer's index in the model: what is stored.
    """

    contender: Contender
    layers: Mapping[int, np.ndarray]

    @property
    def counts(self) -> dict[int, list[int]]:
        """Entries stored, by layer and head."""
        return {layer: held.sum(axis=1).tolist() for layer, held in self.layers.items()}

    @property
    def mean(self) -> float:
        """Entries stored, averaged over layers and heads."""
        return float(np.mean([held.sum(axis=1).mean() for held in self.layers.values()]))

    def share_of(self, positions: Sequence[int]) -> float:
        """Share of (layer, head, position) combinations that are stored; NaN without positions."""
        if not positions:
            return float("nan")
        return float(np.mean([held[:, list(positions)].mean() for held in self.layers.values()]))


def of_item(model: Any, work: Work, item: Item, field: Sequence[Contender]) -> tuple[Seen, list[Kept]]:
    """What each contender keeps of an embedded item, when it decides about it."""
    episode = _retrieval.episode(item, work.protocol)
    prompt = episode.tokens[: episode.parts[0]]
    asked = [t for t in item.needs if episode.scored[t]]
    needed = {place for t in asked for places in item.needs[t] for place in places if place < len(prompt)}

    def inform(policy: Policy) -> Policy:
        told = informed(policy, [item], [episode])
        return told if isinstance(told, Policy) else told([0])

    seen = Seen(tuple(decode(prompt).split()), tuple(sorted(needed)))
    return seen, keep(model, torch.from_numpy(prompt), field, inform)


@torch.inference_mode()
def keep(
    model: Any,
    tokens: Tensor,
    field: Sequence[Contender],
    inform: Callable[[Policy], Policy] = lambda policy: policy,
) -> list[Kept]:
    """What each contender keeps of a prompt when it has been read.

    Args:
        model: a Hugging Face causal language model, in evaluation mode.
        tokens: int64 ``[P]``: the prompt.
        field: the contenders.
        inform: tells policies that know the future about it.
    """
    prompt = tokens[None].to(model.device)
    policies = [inform(contender.policy) for contender in field]
    reads = [policy.reads for policy in policies if _together(policy)]
    before = model.config._attn_implementation
    try:
        shared = SharedPrompt(model, prompt, window=max(r.window for r in reads), sums=False) if reads else None
        found = []
        for contender, policy in zip(field, policies):
            if shared is not None and _together(policy):
                cache = shared.cache_for(policy)
            else:
                cache = policy.cache_for(model)
                model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
            found.append(Kept(contender, _held(cache, len(tokens))))
    finally:
        model.set_attn_implementation(before)
    return found


def _together(policy: Policy) -> bool:
    return shares(policy) and policy.reads.prompt != "sums"


def _held(cache: EvictingCache, length: int) -> dict[int, np.ndarray]:
    """By layer, bool ``[heads, length]``."""
    found = {}
    for layer in cache.evicting:
        position = cache.slots(layer).position[0].cpu().numpy()
        held = np.zeros((len(position), length), dtype=bool)
        head, column = np.nonzero(position >= 0)
        held[head, position[head, column]] = True
        found[layer] = held
    return found
