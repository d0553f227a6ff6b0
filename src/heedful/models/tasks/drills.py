"""The elementary skills that the other tasks are made of: repeat a segment, recall a pair, apply an operator.

- ``repeat``: a random segment of distinct tokens, tiled to the length; everything after its first period is
  scored (``a b c d a* b* c* d* a* ...``).
- ``recall``: ``<bos> (K v) x n <q> K v* K v* ...``: pairs, then queries in random order with repetition.
- ``drill``: ``<bos> V O V'* V O V'* ...``: the operator tables, nothing to remember.
"""

from __future__ import annotations

import numpy as np

from . import vocabulary as vocab
from .item import Draft, Item


def repeat(rng: np.random.Generator, length: int) -> Item:
    """Repeated segment with a period in [4, length / 2), at most 180; needs: its earlier copies."""
    period = int(rng.integers(4, max(5, min(length // 2, 180))))
    segment = (rng.permutation(vocab.SIZE - vocab.FIRST_NAME)[:period] + vocab.FIRST_NAME).tolist()
    draft = Draft("context")
    draft.say_all(segment)
    draft.part("trace")
    for position in range(period, length):
        copies = tuple(range(position % period, position, period))
        draft.answer(segment[position % period], copies, last_use=position - period)
    return draft.item("repeat", period)


def recall(rng: np.random.Generator, length: int) -> Item:
    """Key-value recall: a quarter to a half of the length are pairs, the rest queries."""
    most = min(vocab.NAMES, (length - 4) // 4)
    pairs = int(rng.integers(min(4, most), most + 1))
    names = (rng.permutation(vocab.NAMES)[:pairs] + vocab.FIRST_NAME).tolist()
    values = rng.integers(vocab.FIRST_VALUE, vocab.FIRST_OPERATOR, size=pairs).tolist()
    draft = Draft("context")
    draft.say(vocab.BOS)
    written: list[list[int]] = []
    mentioned: list[int] = []
    for name, value in zip(names, values):
        mentioned.append(draft.say(name))
        written.append([draft.say(value)])
    draft.say(vocab.QUESTION)
    prompt_length = len(draft)
    draft.part("trace")
    for which in rng.integers(pairs, size=(length - prompt_length) // 2).tolist():
        here = draft.say(names[which])
        position = draft.answer(values[which], tuple(written[which]), last_use=mentioned[which])
        written[which].append(position)
        mentioned[which] = here
    return draft.item("recall", prompt_length)


def drill(rng: np.random.Generator, length: int) -> Item:
    """Operator tables: ``V O V'*`` over and over."""
    count = (length - 1) // 3
    values = rng.integers(vocab.FIRST_VALUE, vocab.FIRST_OPERATOR, size=count).tolist()
    operators = rng.integers(vocab.FIRST_OPERATOR, vocab.FIRST_FILLER, size=count).tolist()
    draft = Draft("context")
    draft.say(vocab.BOS)
    draft.part("trace")
    for value, operator in zip(values, operators):
        draft.say(value, operator)
        draft.answer(vocab.apply(operator, value))
    return draft.item("drill", 1)
