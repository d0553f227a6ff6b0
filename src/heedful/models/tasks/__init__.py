"""The tasks that the shipped task models were trained on, as generators of work items.

>>> import numpy as np
>>> item = sample("recall", np.random.default_rng(0), count=1, length=24)[0]
>>> item.task, item.tokens.dtype.name, len(item.tokens) <= 24
('recall', 'int64', True)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np

from . import aggregation, drills, ledger, retrieval, tour
from .item import Item, Need
from .vocabulary import decode

__all__ = ["Item", "Need", "decode", "names", "sample"]

_GENERATORS: dict[str, Callable[..., Item]] = {
    "ledger": ledger.ledger,
    "ledger-spoken": ledger.spoken,
    "verify": ledger.verify,
    "tour": tour.tour,
    "niah1": retrieval.niah1,
    "niah2": retrieval.niah2,
    "mk1": retrieval.mk1,
    "mk2": retrieval.mk2,
    "mk3": retrieval.mk3,
    "mv": retrieval.mv,
    "mq": retrieval.mq,
    "vt": retrieval.vt,
    "cwe": aggregation.cwe,
    "fwe": aggregation.fwe,
    "early": retrieval.early,
    "twohop": retrieval.twohop,
    "copy": retrieval.copy,
    "marked": retrieval.marked,
    "recall": drills.recall,
    "repeat": drills.repeat,
    "drill": drills.drill,
}


def names() -> tuple[str, ...]:
    """The names of all tasks."""
    return tuple(_GENERATORS)


def sample(task: str, rng: np.random.Generator, count: int, length: int, **options: object) -> list[Item]:
    """Draw work items.

    Args:
        task: one of :func:`names`.
        rng: the only source of randomness.
        count: number of items, at least 0.
        length: total tokens aimed at, answers included; never exceeded.
        options: the task's own options; see the generators.

    Raises:
        ValueError: unknown task or option, a length that the task cannot fill, or an option out of range.
    """
    if task not in _GENERATORS:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(_GENERATORS)}")
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
    generate = _GENERATORS[task]
    known = list(inspect.signature(generate).parameters)[2:]
    for option in options:
        if option not in known:
            raise ValueError(f"{task} has no option {option!r}; it has: {', '.join(known) or 'none'}")
    return [generate(rng, length, **options) for _ in range(count)]
