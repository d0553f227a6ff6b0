"""What a policy does to a model's answers to anybody's prompts: how far they are from the full cache's."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heedful.kv.base import Policy
from heedful.kv.baselines import Full
from heedful.kv.cache import EvictingCache, Usage
from heedful.kv.evaluate import sized_cache
from heedful.kv.shared_prompt import SharedPrompt


@dataclass(frozen=True, eq=False)
class Reference:
    """What the full cache says about a prompt.

    Attributes:
        prompt: int64 ``[P]``.
        tokens: int64 ``[T]``: its greedy continuation.
        logprobs: float32 ``[T, vocabulary]``: natural-log probabilities at each step.
        usage: of the full cache.
        tokens_per_s: of its decoding.
    """

    prompt: Tensor
    tokens: Tensor
    logprobs: Tensor
    usage: Usage
    tokens_per_s: float


@dataclass(frozen=True)
class Faithfulness:
    """How a policy's generation differs from the full cache's.

    Attributes:
        kl: mean over steps of KL(full || policy) in nats, teacher-forced on the full cache's continuation.
        agreement: share of those steps with the same most likely token.
        divergence: first step at which the policy, running free, produces another token; the number of steps if it
            never does.
        tokens: the policy's own greedy continuation.
        usage: slots and bytes of the free run.
        tokens_per_s: of the free run's decoding.
    """

    kl: float
    agreement: float
    divergence: int
    tokens: tuple[int, ...]
    usage: Usage
    tokens_per_s: float


@contextmanager
def reading(
    model: Any, policy: Policy, prompt: Tensor, room: int, parts: Sequence[int] = (), shared: SharedPrompt | None = None
) -> Iterator[tuple[EvictingCache, Tensor]]:
    """A cache that has read a prompt under a policy, and the logits ``[vocabulary]`` of what comes next.

    Args:
        model: a Hugging Face causal language model.
        policy: the policy.
        prompt: int64 ``[P]``, on the model's device.
        room: tokens that the cache will be given in all.
        parts: ends of the parts that the prompt is given in, ascending; at once if empty. A policy that evicts when
            the prompt has been read does so after the first.
        shared: the first part, if it has been read already for several policies.
    """
    ends = list(parts) or [len(prompt)]
    start, logits = (0, torch.empty(0)) if shared is None else (ends.pop(0), shared.logits[0])
    opened = sized_cache(model, policy, room) if shared is None else nullcontext(shared.cache_for(policy))
    with opened as cache:
        for end in ends:
            given = prompt[None, start:end]
            logits = model(given, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            start = end
        yield cache, logits


@torch.inference_mode()
def reference(
    model: Any, prompt: Tensor, max_new_tokens: int, stop: Sequence[int] = (), parts: Sequence[int] = ()
) -> Reference:
    """The full cache's greedy continuation of a prompt, with its distributions.

    Args:
        model: a Hugging Face causal language model.
        prompt: int64 ``[P]``, on the model's device.
        max_new_tokens: at most so many tokens.
        stop: token ids that end the continuation (kept as its last token).
        parts: as for :func:`reading`.
    """
    with reading(model, Full(), prompt, len(prompt) + max_new_tokens, parts) as (cache, logits):
        tokens, logprobs, speed = greedy(model, cache, logits, max_new_tokens, stop)
        return Reference(prompt, tokens, logprobs, cache.usage(), speed)


@torch.inference_mode()
def faithfulness(
    model: Any,
    policy: Policy,
    expected: Reference,
    stop: Sequence[int] = (),
    parts: Sequence[int] = (),
    shared: SharedPrompt | None = None,
) -> Faithfulness:
    """Compares a policy's generation with the full cache's, teacher-forced and running free.

    Args:
        model: the model that made ``expected``.
        policy: the policy.
        expected: from :func:`reference`.
        stop: token ids that end a continuation.
        parts: as for :func:`reading`.
        shared: likewise.
    """
    steps = len(expected.tokens)
    room = len(expected.prompt) + steps
    total, agree = 0.0, 0
    with reading(model, policy, expected.prompt, room, parts, shared) as (cache, logits):
        for step, token in enumerate(expected.tokens):
            logprob = torch.log_softmax(logits.float(), dim=-1)
            full = expected.logprobs[step]
            total += float((full.exp() * (full - logprob)).sum())
            agree += int(logprob.argmax() == token)
            if step < steps - 1:
                logits = model(token.view(1, 1), past_key_values=cache, use_cache=True).logits[0, -1]
    with reading(model, policy, expected.prompt, room, parts, shared) as (cache, logits):
        tokens, _, speed = greedy(model, cache, logits, steps, stop)
        usage = cache.usage()
    shorter = min(len(tokens), steps)
    differs = (tokens[:shorter] != expected.tokens[:shorter]).nonzero()
    divergence = int(differs[0]) if len(differs) else shorter
    return Faithfulness(total / steps, agree / steps, divergence, tuple(tokens.tolist()), usage, speed)


def greedy(
    model: Any, cache: EvictingCache, logits: Tensor, max_new_tokens: int, stop: Sequence[int] = ()
) -> tuple[Tensor, Tensor, float]:
    """The most likely continuation of what a cache has read.

    Args:
        model: the model that the cache is for.
        cache: of one sequence; it grows by all but the last token.
        logits: ``[vocabulary]``, of the first token.
        max_new_tokens: at most so many tokens.
        stop: token ids that end the continuation (kept as its last token).

    Returns:
        its tokens, int64 ``[T]``; their natural-log probabilities, float32 ``[T, vocabulary]``; tokens per second of
        the one-token steps, NaN if there was none.
    """
    tokens: list[Tensor] = []
    logprobs: list[Tensor] = []
    began = time.perf_counter()
    while True:
        logprobs.append(torch.log_softmax(logits.float(), dim=-1))
        tokens.append(logprobs[-1].argmax())
        if int(tokens[-1]) in stop or len(tokens) == max_new_tokens:
            break
        logits = model(tokens[-1].view(1, 1), past_key_values=cache, use_cache=True).logits[0, -1]
    seconds = time.perf_counter() - began
    speed = (len(tokens) - 1) / seconds if len(tokens) > 1 else float("nan")
    return torch.stack(tokens), torch.stack(logprobs), speed
