"""One work item of a task, and the draft that generators write it with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Need = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Item:
    """A token sequence with what is scored in it and what each scored token is made of.

    Attributes:
        task: name of the task.
        tokens: int64 [T]; prompt, trace and answers, in order.
        scored: bool [T]; token t is determined by the tokens before it and is scored.
        prompt_length: tokens before the first generated or fed one (for retrieval tasks up to and including
            the first ``<a>``).
        needs: for every scored position the positions that must still be readable to get it right. Each need
            is a tuple of alternatives (copies of the same information), of which one suffices. Tokens of the
            line or answer in progress are not listed: they are the newest ones.
        last_use: int32 [T]; for scored t the position of the operand's most recent earlier mention (its
            definition or a use); -1 elsewhere.
        spans: (name, start, end) of the parts ("context", "question", "answer", "trace", ...), in order,
            covering all tokens.
    """

    task: str
    tokens: NDArray[np.int64]
    scored: NDArray[np.bool_]
    prompt_length: int
    needs: Mapping[int, tuple[Need, ...]]
    last_use: NDArray[np.int32]
    spans: tuple[tuple[str, int, int], ...]


class Draft:
    """An item being written, token by token; ``len(draft)`` is the position of the next token."""

    def __init__(self, part: str) -> None:
        self.tokens: list[int] = []
        self._needs: dict[int, tuple[Need, ...]] = {}
        self._last_use: dict[int, int] = {}
        self._parts: list[tuple[str, int]] = [(part, 0)]

    def __len__(self) -> int:
        return len(self.tokens)

    def part(self, name: str) -> Self:
        """Begin the part ``name`` at the next token."""
        self._parts.append((name, len(self.tokens)))
        return self

    def say(self, *tokens: int) -> int:
        """Append tokens that are given, not determined; returns the position of the last one."""
        self.tokens.extend(tokens)
        return len(self.tokens) - 1

    def say_all(self, tokens: Iterable[int]) -> None:
        """Append many given tokens."""
        self.tokens.extend(tokens)

    def answer(self, token: int, *needs: Need, last_use: int = -1) -> int:
        """Append a scored token made of ``needs``; returns its position."""
        position = len(self.tokens)
        self.tokens.append(token)
        self._needs[position] = needs
        self._last_use[position] = last_use
        return position

    def item(self, task: str, prompt_length: int) -> Item:
        """The finished item."""
        length = len(self.tokens)
        scored = np.zeros(length, dtype=bool)
        last_use = np.full(length, -1, dtype=np.int32)
        positions = list(self._needs)
        scored[positions] = True
        last_use[positions] = list(self._last_use.values())
        ends = [start for _, start in self._parts[1:]] + [length]
        return Item(
            task=task,
            tokens=np.asarray(self.tokens, dtype=np.int64),
            scored=scored,
            prompt_length=prompt_length,
            needs=self._needs,
            last_use=last_use,
            spans=tuple((name, start, end) for (name, start), end in zip(self._parts, ends)),
        )
