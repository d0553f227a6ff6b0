"""Family A: a long trace whose entries are written once and needed again much later.

The prompt is ``<bos> (K v) x premises <cot>``. Each step of the trace is a *definition* ``K_i O K_new v*``
(30 %, while fresh names last) or a *use* ``K_i O v*``, where v is what operator O makes of the value of K_i.
A name's raw value is written where the name is defined and nowhere else, so it is needed again whenever the
name is an operand. O is drawn among the operators not yet used with that operand while any remain, so that an
earlier answer cannot simply be copied; where one can, it is listed as an alternative in ``needs``.

- ``ledger``: as above. ``ledger-spoken``: each line first says the operand's value, ``K_i v_i* O K_new v*``.
- ``verify``: a ledger, then ``<fin>`` and old lines, chosen at random, derived again: ``K_i O v*``.

Operands come from one of :data:`PROCESSES`. The trace's length is free: use lines consume no names.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import vocabulary as vocab
from .item import Draft, Item

DEFINITIONS = 0.3
"""Share of definition lines while fresh names last."""

PROCESSES = ("zipf", "uniform", "stack", "recent", "oneshot")
"""How operands are drawn.

``zipf``: 40 % by recency of mention (geometric, mean rank 3), 60 % by a lognormal(1.5) popularity;
``uniform``: memoryless; ``stack``: the top of a stack of sub-goals that is pushed by definitions and popped
by uses, so that gaps are sub-tree sizes; ``recent``: one of the last three names defined; ``oneshot``: each
name exactly once (the prompt and the names are then sized to the length).
"""


class _Book:
    """The ledger's state: who is known, where each value stands, which answers can be copied."""

    def __init__(self, draft: Draft, rng: np.random.Generator, names: list[int], values: list[int]) -> None:
        self.draft, self.rng = draft, rng
        self.fresh = names[len(values) :][::-1]
        self.known: list[int] = []
        self.value: dict[int, int] = {}
        self.written: dict[int, list[int]] = {}
        self.mention: dict[int, int] = {}
        self.answers: dict[tuple[int, int], list[int]] = {}
        self.unused: dict[int, list[int]] = {}
        for name, value in zip(names, values):
            self.mention[name] = draft.say(name)
            self._define(name, value, draft.say(value))

    def _define(self, name: int, value: int, position: int) -> None:
        self.known.append(name)
        self.value[name] = value
        self.written[name] = [position]
        order = self.rng.permutation(vocab.OPERATORS) + vocab.FIRST_OPERATOR
        self.unused[name] = order.tolist()

    def _operator(self, name: int) -> int:
        left = self.unused[name]
        return left.pop() if left else int(self.rng.integers(vocab.FIRST_OPERATOR, vocab.FIRST_FILLER))

    def line(self, name: int, define: bool, spoken: bool, operator: int | None = None) -> int | None:
        """Write one line about ``name``; returns the name it defined, if any."""
        draft, value, last_use = self.draft, self.value[name], self.mention[name]
        operator = self._operator(name) if operator is None else operator
        self.mention[name] = draft.say(name)
        if spoken:
            here = draft.answer(value, tuple(self.written[name]), last_use=last_use)
            self.written[name].append(here)
        new = None
        draft.say(operator)
        if define:
            new = self.fresh.pop()
            self.mention[new] = draft.say(new)
        copies = self.answers.setdefault((name, operator), [])
        result = vocab.apply(operator, value)
        if spoken:
            position = draft.answer(result, last_use=last_use)
        else:
            position = draft.answer(result, (*self.written[name], *copies), last_use=last_use)
        copies.append(position)
        if new is not None:
            self._define(new, result, position)
        return new


def _zipf(book: _Book, rng: np.random.Generator) -> Callable[[], int]:
    popularity = dict(zip(book.known + book.fresh, np.exp(1.5 * rng.standard_normal(vocab.NAMES)).tolist()))
    recent = list(book.known)

    def draw() -> int:
        for name in book.known[len(recent) :]:
            recent.append(name)
        if rng.random() < 0.4:
            name = recent[-min(int(rng.geometric(1 / 3)), len(recent))]
        else:
            edges = np.cumsum([popularity[k] for k in book.known])
            name = book.known[int(np.searchsorted(edges, rng.random() * edges[-1]))]
        recent.remove(name)
        recent.append(name)
        return name

    return draw


def _stack(book: _Book, rng: np.random.Generator) -> tuple[Callable[[], int], Callable[[int | None], None]]:
    goals = [book.known[i] for i in rng.permutation(len(book.known))]

    def draw() -> int:
        if not goals:
            goals.extend(book.known[i] for i in rng.permutation(len(book.known))[:4])
        return goals[-1]

    def after(new: int | None) -> None:
        if new is not None:
            goals.append(new)
        elif not book.fresh and rng.random() < DEFINITIONS:
            goals.append(book.known[int(rng.integers(len(book.known)))])
        elif rng.random() < DEFINITIONS / (1 - DEFINITIONS):
            goals.pop()

    return draw, after


def _trace(book: _Book, rng: np.random.Generator, process: str, restate: float, end: int) -> None:
    """Write lines until the next one would pass ``end``."""
    after: Callable[[int | None], None] = lambda new: None  # noqa: E731
    if process == "zipf":
        draw = _zipf(book, rng)
    elif process == "uniform":
        draw = lambda: book.known[int(rng.integers(len(book.known)))]  # noqa: E731
    elif process == "recent":
        draw = lambda: book.known[-1 - int(rng.integers(min(3, len(book.known))))]  # noqa: E731
    else:
        draw, after = _stack(book, rng)
    while True:
        define = bool(book.fresh) and rng.random() < DEFINITIONS
        spoken = restate > 0 and rng.random() < restate
        if len(book.draft) + 3 + define + spoken > end:
            return
        after(book.line(draw(), define, spoken))


def _oneshot(draft: Draft, rng: np.random.Generator, length: int, restate: float) -> int:
    extra = 1 if restate else 0
    total = min(vocab.NAMES, (length - 10) // (4 + extra))
    premises = min(8, total) if total < vocab.NAMES else min(vocab.NAMES, max(8, length - 2 - (4 + extra) * total))
    names, values = _names(rng, premises)
    draft.say(vocab.BOS)
    book = _Book(draft, rng, names[:total], values)
    draft.say(vocab.COT)
    draft.part("trace")
    prompt_length = len(draft)
    unused = list(book.known)
    definitions, uses = total - premises, premises
    while definitions + uses:
        define = rng.random() * (definitions + uses) < definitions or (definitions > 0 and len(unused) == 1)
        name = unused.pop(int(rng.integers(len(unused))))
        new = book.line(name, define, restate > 0 and rng.random() < restate)
        if new is None:
            uses -= 1
        else:
            definitions -= 1
            unused.append(new)
    return prompt_length


def _names(rng: np.random.Generator, premises: int) -> tuple[list[int], list[int]]:
    names = (rng.permutation(vocab.NAMES) + vocab.FIRST_NAME).tolist()
    return names, rng.integers(vocab.FIRST_VALUE, vocab.FIRST_OPERATOR, size=premises).tolist()


def _check(process: str, premises: int, restate: float, length: int) -> None:
    if process not in PROCESSES:
        raise ValueError(f"unknown operand process {process!r}; known: {', '.join(PROCESSES)}")
    if not 1 <= premises <= vocab.NAMES:
        raise ValueError(f"premises must be in [1, {vocab.NAMES}], got {premises}")
    if not 0.0 <= restate <= 1.0:
        raise ValueError(f"restate must be in [0, 1], got {restate}")
    if length < 2 * premises + 2 + 5:
        raise ValueError(f"length {length} leaves no room for a line after {premises} premises")


def _begin(draft: Draft, rng: np.random.Generator, premises: int) -> _Book:
    names, values = _names(rng, premises)
    draft.say(vocab.BOS)
    book = _Book(draft, rng, names, values)
    draft.say(vocab.COT)
    draft.part("trace")
    return book


def ledger(
    rng: np.random.Generator, length: int, process: str = "zipf", premises: int = 8, restate: float = 0.0
) -> Item:
    """A ledger; each line says its operand's value first with probability ``restate``."""
    _check(process, premises, restate, length)
    task = "ledger-spoken" if restate == 1.0 else "ledger"
    draft = Draft("context")
    if process == "oneshot":
        prompt_length = _oneshot(draft, rng, length, restate)
    else:
        book = _begin(draft, rng, premises)
        prompt_length = len(draft)
        _trace(book, rng, process, restate, length)
    return draft.item(task, prompt_length)


def spoken(rng: np.random.Generator, length: int, process: str = "zipf", premises: int = 8) -> Item:
    """A ledger in which every line says its operand's value first."""
    return ledger(rng, length, process, premises, restate=1.0)


def verify(
    rng: np.random.Generator,
    length: int,
    process: str = "zipf",
    premises: int = 8,
    restate: float = 0.0,
    share: float = 0.25,
) -> Item:
    """A ledger whose last ``share`` of tokens re-derives old lines in random order."""
    _check(process, premises, restate, length)
    if process == "oneshot":
        raise ValueError("verify has no operand process 'oneshot': its check uses names again")
    if not 0.0 < share < 1.0:
        raise ValueError(f"share must be in (0, 1), got {share}")
    draft = Draft("context")
    book = _begin(draft, rng, premises)
    prompt_length = len(draft)
    _trace(book, rng, process, restate, max(prompt_length + 5, int(length * (1 - share)) - 1))
    lines = list(book.answers)
    draft.part("check")
    draft.say(vocab.FIN)
    order: list[int] = []
    while len(draft) + 3 <= length:
        order = order or rng.permutation(len(lines)).tolist()
        name, operator = lines[order.pop()]
        book.line(name, define=False, spoken=False, operator=operator)
    return draft.item("verify", prompt_length)
