"""Tasks whose answer is spread over the whole context: which words are frequent.

- ``cwe``: three words occur three times as often as the others; list them in order of first appearance.
- ``fwe``: word counts fall off geometrically; list the three most frequent, the most frequent first.

Both are ``<bos> words <q> <a> w* w* w* <eos>``.
"""

from __future__ import annotations

import numpy as np

from . import vocabulary as vocab
from .item import Draft, Item
from .retrieval import PROTOCOLS

ASKED = 3


def _write(task: str, rng: np.random.Generator, counts: list[int], order: str, protocol: str) -> Item:
    if protocol not in PROTOCOLS or protocol == "reask":
        raise ValueError(f"{task} has no protocol {protocol!r}; known: aware, agnostic")
    words = (rng.permutation(vocab.FILLERS)[: len(counts)] + vocab.FIRST_FILLER).tolist()
    text = rng.permutation(np.repeat(words, counts)).tolist()
    places: dict[int, list[int]] = {}
    for position, word in enumerate(text, start=1):
        places.setdefault(word, []).append(position)
    common = words[:ASKED]
    if order == "appearance":
        common = sorted(common, key=lambda word: places[word][0])
    draft = Draft("context")
    draft.say(vocab.BOS)
    draft.say_all(text)
    draft.part("question")
    draft.say(vocab.QUESTION, vocab.ANSWER)
    prompt_length = len(draft)
    draft.part("answer")
    for word in common:
        draft.answer(word, *((place,) for place in places[word]))
    draft.say(vocab.EOS)
    return draft.item(task, prompt_length)


def _room(task: str, length: int) -> int:
    if length < 40:
        raise ValueError(f"length {length} is too short for {task}")
    return length - ASKED - 4


def cwe(rng: np.random.Generator, length: int, protocol: str = "aware", others: int = 20) -> Item:
    """Common words: ``others`` (at most 93) words occur k times, three occur 3 k times."""
    if not 1 <= others <= vocab.FILLERS - ASKED:
        raise ValueError(f"others must be in [1, {vocab.FILLERS - ASKED}], got {others}")
    times = _room("cwe", length) // (3 * ASKED + others)
    if times < 1:
        raise ValueError(f"length {length} is too short for cwe with {others} other words")
    return _write("cwe", rng, [3 * times] * ASKED + [times] * others, "appearance", protocol)


def fwe(rng: np.random.Generator, length: int, protocol: str = "aware") -> Item:
    """Frequent words: the n-th most frequent word has about a third of what the more frequent ones left."""
    left = _room("fwe", length)
    counts: list[int] = []
    while left > 0 and len(counts) < vocab.FILLERS:
        take = max(1, left // 3)
        if counts and len(counts) <= ASKED:
            take = min(take, counts[-1] - 1)
        if take < 1:
            break
        counts.append(take)
        left -= take
    return _write("fwe", rng, counts, "frequency", protocol)
