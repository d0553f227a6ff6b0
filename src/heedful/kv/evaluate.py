"""What a policy does to a model's answers: on episodes with known answers, and on anybody's prompts without them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heedful.kv.base import Policy
from heedful.kv.baselines import Full
from heedful.kv.cache import Usage


@dataclass(frozen=True, eq=False)
class Episode:
    """A token sequence of which some tokens are to be predicted.

    Attributes:
        tokens: int64 ``[T]``.
        scored: bool ``[T]``: the tokens that what comes before them determines.
        parts: ends of the parts that are given to the model several tokens at a time, ascending; ``(prompt,)``, or
            ``(context, context + question)`` where the policy must decide before it sees the question. What follows
            is given one token at a time.
    """

    tokens: np.ndarray
    scored: np.ndarray
    parts: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Played:
    """How an episode went.

    Attributes:
        correct: bool ``[T]``: the model's most likely token was the true one; False where nothing is scored.
        nats: float32 ``[T]``: -ln p of the true token; NaN where nothing is scored.
        usage: slots and bytes of the batch that the episode was in.
        seconds: of the one-token steps of that batch.
        steps: one-token steps of that batch, times its sequences.
    """

    correct: np.ndarray
    nats: np.ndarray
    usage: Usage
    seconds: float
    steps: int


@torch.inference_mode()
def play(
    model: Any,
    policy: Policy | Callable[[Sequence[int]], Policy],
    episodes: Sequence[Episode],
    batch: int = 16,
    free: bool = False,
    device: str = "cpu",
) -> list[Played]:
    """Runs episodes through a model under a policy.

    Args:
        model: a Hugging Face causal language model, in evaluation mode.
        policy: the policy, or a function from the indices of a batch's episodes to its policy.
        episodes: what to run; every part is at least one token long.
        batch: sequences at a time. Results do not depend on it.
        free: feed back the model's own predictions at scored positions instead of the true tokens.
        device: where the model is.

    Returns:
        one :class:`Played` per episode, in order.
    """
    played: list[Played | None] = [None] * len(episodes)
    by_length = sorted(range(len(episodes)), key=lambda i: len(episodes[i].tokens))
    for start in range(0, len(by_length), batch):
        indices = by_length[start : start + batch]
        chosen = policy if isinstance(policy, Policy) else policy(indices)
        for index, result in zip(indices, _play_batch(model, chosen, [episodes[i] for i in indices], free, device)):
            played[index] = result
    return [result for result in played if result is not None]


def _play_batch(model: Any, policy: Policy, episodes: Sequence[Episode], free: bool, device: str) -> Iterable[Played]:
    size, longest = len(episodes), max(len(e.tokens) for e in episodes)
    tokens = np.zeros((size, longest), dtype=np.int64)
    scored = np.zeros((size, longest), dtype=bool)
    for i, episode in enumerate(episodes):
        tokens[i, : len(episode.tokens)] = episode.tokens
        scored[i, : len(episode.tokens)] = episode.scored
    correct = np.zeros((size, longest), dtype=bool)
    nats = np.full((size, longest), np.nan, dtype=np.float32)
    rows = np.arange(size)

    def judge(logits: Tensor, at: np.ndarray) -> np.ndarray:
        """Scores predictions of the tokens at positions ``at``; returns the tokens to feed next."""
        at = np.minimum(at, longest - 1)
        truth = tokens[rows, at]
        logprob = torch.log_softmax(logits.float(), dim=-1)
        best = logprob.argmax(dim=-1).cpu().numpy()
        here = scored[rows, at]
        correct[rows[here], at[here]] = (best == truth)[here]
        taken = logprob.gather(-1, torch.from_numpy(truth).to(logprob.device)[:, None])[:, 0]
        nats[rows[here], at[here]] = -taken.cpu().numpy()[here]
        return np.where(here, best, truth) if free else truth

    bounds = np.array([(0, *e.parts, len(e.tokens)) for e in episodes])
    with _cache(model, policy, int(np.diff(bounds).max(axis=0).sum())) as cache:
        ends = np.zeros(size, dtype=np.int64)
        mask = np.zeros((size, 0), dtype=np.int64)
        logits = torch.empty(0)
        for part in range(len(episodes[0].parts)):
            stops = np.array([e.parts[part] for e in episodes])
            width = int((stops - ends).max())
            column = np.arange(width)[None] + stops[:, None] - width
            real = column >= ends[:, None]
            mask = np.concatenate([mask, real], axis=1)
            positions = np.maximum(column, 0)
            logits = model(
                torch.from_numpy(np.where(real, tokens[rows[:, None], positions], 0)).to(device),
                attention_mask=None if mask.all() else torch.from_numpy(mask).to(device),
                position_ids=torch.from_numpy(positions).to(device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            ends = stops
        began = time.perf_counter()
        lengths = np.array([len(e.tokens) for e in episodes])
        steps = int((lengths - ends).max())
        for _ in range(steps - 1):
            feed = judge(logits, ends)
            logits = model(
                torch.from_numpy(feed).to(device)[:, None],
                position_ids=torch.from_numpy(ends).to(device)[:, None],
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
            ends = ends + 1
        judge(logits, ends)
        seconds = time.perf_counter() - began
        usage = cache.usage()
    for i, length in enumerate(lengths):
        yield Played(correct[i, :length], nats[i, :length], usage, seconds, (steps - 1) * size)


def _cache(model: Any, policy: Policy, tokens: int) -> Any:
    """``policy.on(model)``; the full cache gets room for exactly so many tokens, so that it is not charged for more."""
    return policy.on(model, tokens if isinstance(policy, Full) else None)


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


@torch.inference_mode()
def reference(model: Any, prompt: Tensor, max_new_tokens: int, stop: Sequence[int] = ()) -> Reference:
    """The full cache's greedy continuation of a prompt, with its distributions.

    Args:
        model: a Hugging Face causal language model.
        prompt: int64 ``[P]``, on the model's device.
        max_new_tokens: at most so many tokens.
        stop: token ids that end the continuation (kept as its last token).
    """
    tokens, logprobs, usage, speed = _greedy(model, Full(), prompt, max_new_tokens, stop)
    return Reference(prompt, tokens, logprobs, usage, speed)


@torch.inference_mode()
def faithfulness(model: Any, policy: Policy, expected: Reference, stop: Sequence[int] = ()) -> Faithfulness:
    """Compares a policy's generation with the full cache's, teacher-forced and running free.

    Args:
        model: the model that made ``expected``.
        policy: the policy.
        expected: from :func:`reference`.
        stop: token ids that end a continuation.
    """
    steps = len(expected.tokens)
    total, agree = 0.0, 0
    with _cache(model, policy, len(expected.prompt) + steps) as cache:
        feed = expected.prompt[None]
        for step in range(steps):
            logits = model(feed, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            logprob = torch.log_softmax(logits.float(), dim=-1)
            full = expected.logprobs[step]
            total += float((full.exp() * (full - logprob)).sum())
            agree += int(logprob.argmax() == expected.tokens[step])
            feed = expected.tokens[step].view(1, 1)
    tokens, _, usage, speed = _greedy(model, policy, expected.prompt, steps, stop)
    shared = min(len(tokens), steps)
    differs = (tokens[:shared] != expected.tokens[:shared]).nonzero()
    divergence = int(differs[0]) if len(differs) else shared
    return Faithfulness(total / steps, agree / steps, divergence, tuple(tokens.tolist()), usage, speed)


def _greedy(
    model: Any, policy: Policy, prompt: Tensor, max_new_tokens: int, stop: Sequence[int]
) -> tuple[Tensor, Tensor, Usage, float]:
    tokens: list[Tensor] = []
    logprobs: list[Tensor] = []
    with _cache(model, policy, len(prompt) + max_new_tokens) as cache:
        feed = prompt[None]
        began = 0.0
        for step in range(max_new_tokens):
            logits = model(feed, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            if step == 0:
                began = time.perf_counter()
            logprobs.append(torch.log_softmax(logits.float(), dim=-1))
            tokens.append(logprobs[-1].argmax())
            if int(tokens[-1]) in stop:
                break
            feed = tokens[-1].view(1, 1)
        seconds = time.perf_counter() - began
        speed = (len(tokens) - 1) / seconds if len(tokens) > 1 else float("nan")
        return torch.stack(tokens), torch.stack(logprobs), cache.usage(), speed
