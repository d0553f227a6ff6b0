"""Filler text: words from a Zipf-bigram process, with sentences dropped in at uniform depths."""

from __future__ import annotations

import numpy as np

from . import vocabulary as vocab
from .item import Draft

_SLOTS = 256


def _successors() -> list[list[int]]:
    """For every word, ``_SLOTS`` equally likely successors: its own ordering of a Zipf(1) law over words."""
    rng = np.random.default_rng(7_919)
    weights = 1.0 / np.arange(1, vocab.FILLERS + 1)
    ranks = np.searchsorted(np.cumsum(weights) / weights.sum(), (np.arange(_SLOTS) + 0.5) / _SLOTS)
    popularity = np.log(weights)
    rows = []
    for _ in range(vocab.FILLERS):
        order = np.argsort(-(popularity + rng.gumbel(size=vocab.FILLERS)))
        rows.append((order[ranks] + vocab.FIRST_FILLER).tolist())
    return rows


_SUCCESSORS = _successors()


def words(rng: np.random.Generator, count: int, value_share: float = 0.0) -> list[int]:
    """``count`` filler words; each is replaced by a random value with probability ``value_share``."""
    out: list[int] = []
    word = int(rng.integers(vocab.FIRST_FILLER, vocab.SIZE))
    for slot in rng.integers(_SLOTS, size=count).tolist():
        word = _SUCCESSORS[word - vocab.FIRST_FILLER][slot]
        out.append(word)
    if value_share > 0:
        for at in np.flatnonzero(rng.random(count) < value_share).tolist():
            out[at] = int(rng.integers(vocab.FIRST_VALUE, vocab.FIRST_OPERATOR))
    return out


def scatter(
    draft: Draft, rng: np.random.Generator, sentences: list[list[int]], room: int, value_share: float = 0.0
) -> list[int]:
    """Write ``room`` tokens of filler with the sentences at uniform depths, in random order.

    Returns:
        For every sentence the position of its first token.

    Raises:
        ValueError: the sentences do not fit.
    """
    free = room - sum(map(len, sentences))
    if free < 0:
        raise ValueError(f"{room} tokens of context cannot hold {len(sentences)} sentences")
    text = words(rng, free, value_share)
    cuts = np.sort(rng.integers(free + 1, size=len(sentences))).tolist()
    starts = [0] * len(sentences)
    done = 0
    for cut, which in zip(cuts, rng.permutation(len(sentences)).tolist()):
        draft.say_all(text[done:cut])
        done = cut
        starts[which] = len(draft)
        draft.say_all(sentences[which])
    draft.say_all(text[done:])
    return starts
