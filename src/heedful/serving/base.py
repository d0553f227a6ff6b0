"""The room's one protocol: a scheduler says how many requests from the head of the queue may join those that run.

A request holds one slot of the KV cache per token: its prompt, and what it has generated so far. It frees them all
when it ends, and nobody knows when that is; if the running requests outgrow the capacity, some are evicted and
computed again later. A scheduler is an immutable description, and its decision a pure function of what waits, what
runs, how long earlier answers were, and the capacity; the simulator and the engines' adapters ask the same one.

Order is first come, first served throughout: a scheduler only says how many of the head are admitted, so nothing
overtakes a blocked head.

Convention on slots: a request with a prompt of p tokens and o tokens of output holds p + d slots once it has generated
d tokens, its last token included, so it peaks at p + o.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.serving.history import History
from heedful.serving.peak import pages

Tokens = NDArray[np.int64]


class Batch(NamedTuple):
    """Requests in order of arrival, one place each in every array.

    Attributes:
        prompt: int64 ``[n]``: tokens of the prompt.
        generated: int64 ``[n]``: tokens generated so far, across evictions.
        cap: int64 ``[n]``: the most tokens that it may generate (``max_new_tokens``), above ``generated``.
        exact: bool ``[n]``: whether it surely generates ``cap`` tokens (end-of-sequence ignored).
        output: int64 ``[n]``: tokens that it will generate in the end; zeros wherever nobody knows, which is
            everywhere outside of a simulation. Only the oracle reads it.
    """

    prompt: Tokens
    generated: Tokens
    cap: Tokens
    exact: NDArray[np.bool_]
    output: Tokens

    @classmethod
    def of(
        cls,
        prompt: Iterable[int],
        generated: Iterable[int] | None = None,
        cap: Iterable[int] | None = None,
        exact: Iterable[bool] | None = None,
        output: Iterable[int] | None = None,
    ) -> Batch:
        """A batch from any iterables. By default nothing is generated yet, and caps are 2048 tokens more than that.

        Raises ValueError for lengths that differ, negative lengths, and a cap that leaves nothing to generate.
        """
        p = np.fromiter(prompt, np.int64)
        d = np.zeros_like(p) if generated is None else np.fromiter(generated, np.int64)
        m = d + 2048 if cap is None else np.fromiter(cap, np.int64)
        sure = np.zeros(len(p), bool) if exact is None else np.fromiter(exact, bool)
        o = np.zeros_like(p) if output is None else np.fromiter(output, np.int64)
        for name, array in (("generated", d), ("cap", m), ("exact", sure), ("output", o)):
            if len(array) != len(p):
                raise ValueError(f"{name}: {len(array)} entries for {len(p)} requests")
        if len(p) and (p.min() < 0 or d.min() < 0):
            raise ValueError("prompt and generated: lengths must be at least 0")
        if (wrong := np.flatnonzero(m <= d)).size:
            first = int(wrong[0])
            raise ValueError(f"cap: request {first} may generate {m[first]} tokens and has generated {d[first]}")
        return cls(p, d, m, sure, o)

    @property
    def size(self) -> int:
        """Number of requests."""
        return len(self.prompt)

    @property
    def held(self) -> Tokens:
        """int64 ``[n]``: slots that each holds, or takes when it is computed again."""
        return self.prompt + self.generated


EMPTY = Batch.of(())
"""No requests."""


@dataclass(frozen=True)
class Scheduler:
    """An admission rule: an immutable description, usable for any number of engines at once."""

    name: ClassVar[str]
    """Its name on the command line; classes without one are not listed."""
    needs_history: ClassVar[bool] = False
    """Whether it looks at earlier output lengths."""
    knows_lengths: ClassVar[bool] = False
    """Whether it needs to be told true output lengths, which only a simulation can."""

    def admit(
        self,
        waiting: Batch,
        running: Batch,
        capacity: int,
        history: History | None = None,
        rng: np.random.Generator | None = None,
        page: int = 1,
    ) -> int:
        """How many requests from the head of the queue join the running ones now.

        What an engine can take at once (requests that run together, tokens of one prefill) is for the engine to
        limit: it passes only as much of the queue as it could take.

        Args:
            waiting: the head of the queue, in order. Evicted requests come first, with what they have generated.
            running: what runs, in any order.
            capacity: slots of the KV cache, in tokens.
            history: output lengths of finished requests; only if ``needs_history``.
            rng: of random choices; only if ``needs_history``.
            page: tokens per block of the cache; requests hold whole blocks.

        Returns:
            a number between 0 and ``waiting.size``. At least 1 if nothing runs and the head fits alone, whatever
            the rule says, for otherwise nothing would ever run again.

        Raises ValueError for a capacity or page below 1, and for a history or generator that is needed and missing.
        """
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: must be at least 1")
        if page < 1:
            raise ValueError(f"page={page}: must be at least 1")
        if not waiting.size:
            return 0
        if self.needs_history and (history is None or rng is None):
            raise ValueError(f"{self.name}: needs a history and a random generator")
        admitted = self._admit(waiting, running, capacity, history, rng, page)
        if admitted == 0 and not running.size:
            head = int(waiting.prompt[0] + waiting.generated[0])
            return int(pages(head + 1, page) <= capacity)
        return admitted

    def _admit(
        self,
        waiting: Batch,
        running: Batch,
        capacity: int,
        history: History | None,
        rng: np.random.Generator | None,
        page: int,
    ) -> int:
        """The rule itself; ``waiting`` is not empty, and ``history`` and ``rng`` are there if needed."""
        raise NotImplementedError
