"""What a policy does to a model's answers on episodes, whose answers are known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heedful.kv.base import Policy
from heedful.kv.baselines import Full
from heedful.kv.cache import Usage
from heedful.kv.shared_prompt import SharedPrompt


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
    choose = (lambda _: policy) if isinstance(policy, Policy) else policy

    def turn(indices: Sequence[int]) -> list[list[Played]]:
        work = _Batch([episodes[i] for i in indices], free, device)
        with sized_cache(model, choose(indices), work.room) as cache:
            logits = torch.empty(0)
            for part in range(work.parts):
                logits = work.read(model, cache, part)
            return [work.decode(model, cache, logits)]

    return _by_length(episodes, batch, turn)[0]


@torch.inference_mode()
def play_all(
    model: Any,
    policies: Sequence[Policy | Callable[[Sequence[int]], Policy]],
    episodes: Sequence[Episode],
    batch: int = 16,
    free: bool = False,
    device: str = "cpu",
    window: int = 32,
    sums: bool = True,
) -> list[list[Played]]:
    """:func:`play` for several policies, which share one pass over the first part of every episode.

    The results are those of :func:`play`; the time is that of one prompt for all policies, and of each policy's own
    decoding.

    Args:
        model: a Hugging Face causal language model, in evaluation mode.
        policies: the policies, or functions from the indices of a batch's episodes to a policy.
        episodes: what to run.
        batch: sequences at a time.
        free: feed back the model's own predictions at scored positions instead of the true tokens.
        device: where the model is.
        window: the most attention rows that a policy reads, see :class:`~heedful.kv.shared_prompt.SharedPrompt`.
        sums: whether some policy reads column sums.

    Returns:
        per policy, one :class:`Played` per episode, in order.
    """

    def turn(indices: Sequence[int]) -> list[list[Played]]:
        work = _Batch([episodes[i] for i in indices], free, device)
        tokens, mask, _ = work.part(0)
        before = model.config._attn_implementation
        try:
            shared = SharedPrompt(model, tokens, mask, window, sums)
            rest = work.state()
            results = []
            for policy in policies:
                work.restore(rest)
                cache = shared.cache_for(policy if isinstance(policy, Policy) else policy(indices))
                logits = shared.logits
                for part in range(1, work.parts):
                    logits = work.read(model, cache, part)
                results.append(work.decode(model, cache, logits))
        finally:
            model.set_attn_implementation(before)
        return results

    return _by_length(episodes, batch, turn)


def _by_length(
    episodes: Sequence[Episode], batch: int, turn: Callable[[Sequence[int]], list[list[Played]]]
) -> list[list[Played]]:
    """Batches of episodes of like length, through ``turn``; its results in the order of the episodes."""
    order = sorted(range(len(episodes)), key=lambda i: len(episodes[i].tokens))
    found: list[dict[int, Played]] = []
    for start in range(0, len(order), batch):
        indices = order[start : start + batch]
        for number, results in enumerate(turn(indices)):
            if number == len(found):
                found.append({})
            found[number].update(zip(indices, results, strict=True))
    return [[results[i] for i in range(len(episodes))] for results in found]


class _Batch:
    """Episodes that go through a model side by side."""

    def __init__(self, episodes: Sequence[Episode], free: bool, device: str) -> None:
        size, longest = len(episodes), max(len(e.tokens) for e in episodes)
        self.episodes, self.free, self.device = episodes, free, device
        self.tokens = np.zeros((size, longest), dtype=np.int64)
        self.scored = np.zeros((size, longest), dtype=bool)
        for i, episode in enumerate(episodes):
            self.tokens[i, : len(episode.tokens)] = episode.tokens
            self.scored[i, : len(episode.tokens)] = episode.scored
        self.lengths = np.array([len(e.tokens) for e in episodes])
        self.ends = np.zeros(size, dtype=np.int64)
        self.mask = np.zeros((size, 0), dtype=np.int64)
        self.correct = np.zeros((size, longest), dtype=bool)
        self.nats = np.full((size, longest), np.nan, dtype=np.float32)

    @property
    def parts(self) -> int:
        """Parts that are given several tokens at a time."""
        return len(self.episodes[0].parts)

    @property
    def room(self) -> int:
        """Columns that a cache needs for all of it, padding included."""
        bounds = np.array([(0, *e.parts, len(e.tokens)) for e in self.episodes])
        return int(np.diff(bounds).max(axis=0).sum())

    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """How far it has been read; :meth:`restore` goes back there, and forgets what was decoded."""
        return self.ends, self.mask

    def restore(self, state: tuple[np.ndarray, np.ndarray]) -> None:
        self.ends, self.mask = state
        self.correct, self.nats = np.zeros_like(self.correct), np.full_like(self.nats, np.nan)

    def part(self, part: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Tokens, attention mask over all so far (None without padding) and positions of one part."""
        stops = np.array([e.parts[part] for e in self.episodes])
        width = int((stops - self.ends).max())
        column = np.arange(width)[None] + stops[:, None] - width
        real = column >= self.ends[:, None]
        self.mask = np.concatenate([self.mask, real], axis=1)
        self.ends = stops
        positions = np.maximum(column, 0)
        taken = np.where(real, self.tokens[np.arange(len(stops))[:, None], positions], 0)
        mask = None if self.mask.all() else self._there(self.mask)
        return self._there(taken), mask, self._there(positions)

    def read(self, model: Any, cache: Any, part: int) -> Tensor:
        """Gives one part to the model; logits of the token after it."""
        tokens, mask, positions = self.part(part)
        out = model(
            tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1]

    def decode(self, model: Any, cache: Any, logits: Tensor) -> list[Played]:
        """Gives what is left token by token, and scores it."""
        began = time.perf_counter()
        size, steps = len(self.episodes), int((self.lengths - self.ends).max())
        for _ in range(steps - 1):
            feed = self._judge(logits)
            logits = model(
                self._there(feed)[:, None],
                position_ids=self._there(self.ends)[:, None],
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
            self.ends = self.ends + 1
        self._judge(logits)
        seconds = time.perf_counter() - began
        usage = cache.usage()
        return [
            Played(self.correct[i, :length], self.nats[i, :length], usage, seconds, (steps - 1) * size)
            for i, length in enumerate(self.lengths)
        ]

    def _judge(self, logits: Tensor) -> np.ndarray:
        """Scores predictions of the tokens that come next; returns the tokens to feed."""
        rows, at = np.arange(len(self.ends)), np.minimum(self.ends, self.tokens.shape[1] - 1)
        truth = self.tokens[rows, at]
        logprob = torch.log_softmax(logits.float(), dim=-1)
        best = logprob.argmax(dim=-1).cpu().numpy()
        here = self.scored[rows, at]
        self.correct[rows[here], at[here]] = (best == truth)[here]
        taken = logprob.gather(-1, torch.from_numpy(truth).to(logprob.device)[:, None])[:, 0]
        self.nats[rows[here], at[here]] = -taken.cpu().numpy()[here]
        return np.where(here, best, truth) if self.free else truth

    def _there(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x).to(self.device)


def sized_cache(model: Any, policy: Policy, tokens: int) -> Any:
    """``policy.on(model)``; the full cache gets room for exactly so many tokens, so that it is not charged for more."""
    return policy.on(model, tokens if isinstance(policy, Full) else None)
