"""What a scheduler needs around it inside of an engine: the history, the randomness, and when it is its turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from heedful.serving.base import Batch, Scheduler
from heedful.serving.history import History
from heedful.serving.peak import peak


@dataclass(frozen=True)
class Options:
    """How a scheduler is used inside an engine.

    Args:
        window: W, how many earlier output lengths are remembered, at least 1.
        longest: the longest output that a request may have, at least 1, with which half of the window is filled at
            first; 0 for the capacity.
        interval: steps between two decisions, at least 1; the scheduler is also asked when a request has ended, when
            nothing runs, and when something waits again.
        seed: of the scheduler's random choices.
        lengths: output lengths to start with instead, oldest first, as :attr:`History.values` gave them.
    """

    window: int = 1000
    longest: int = 0
    interval: int = 1
    seed: int = 0
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("longest", 0), ("interval", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {least}")
        if self.lengths and min(self.lengths) < 1:
            raise ValueError(f"lengths: must be at least 1, one is {min(self.lengths)}")


class Admission:
    """A scheduler at work in one engine.

    Args:
        scheduler: what decides.
        options: how it is used.
        capacity: tokens that the KV cache holds.
        page: tokens per block.

    Attributes:
        history: total output lengths of the requests that were answered.

    Raises ValueError for a scheduler that needs to know output lengths.
    """

    def __init__(self, scheduler: Scheduler, options: Options, capacity: int, page: int) -> None:
        if scheduler.knows_lengths:
            raise ValueError(f"scheduler {scheduler.name!r}: needs the true output lengths, which no engine knows")
        self.scheduler, self.options = scheduler, options
        self.capacity, self.page = capacity, page
        self.history = History(options.window, options.longest or capacity, options.lengths or None)
        # Compiled parts are loaded now and not while the first request waits.
        one = batch([(1, 0, 1, False)])
        self.predicted_peak(one)
        scheduler.admit(one, one, capacity, self.history, np.random.default_rng(0), page)
        self._rng = np.random.default_rng(options.seed)
        self._since = 0
        self._wanted = True

    def stepped(self) -> None:
        """The engine has made a step."""
        self._since += 1

    def ended(self) -> None:
        """A request has ended, in whatever way, or nothing waits: the next decision should not be put off."""
        self._wanted = True

    def due(self, running: int) -> bool:
        """Whether it is time to decide, with so many requests running."""
        return self._wanted or self._since >= self.options.interval or not running

    def admit(self, waiting: Batch, running: Batch) -> int:
        """How many of the waiting requests join, of which there is at least one.

        Raises ValueError if the scheduler breaks its promise: a number that is out of range, or nobody although
        nothing runs.
        """
        admitted = self.scheduler.admit(waiting, running, self.capacity, self.history, self._rng, self.page)
        if not 0 <= admitted <= waiting.size or (admitted == 0 and not running.size):
            raise ValueError(
                f"{self.scheduler}: admitted {admitted} of {waiting.size} waiting requests beside {running.size}"
            )
        self._since, self._wanted = 0, False
        return admitted

    def predicted_peak(self, running: Batch) -> int:
        """The most slots that these will come to hold, if each becomes as long as the mean of the longer answers.

        These are the earlier answers that are longer than what it has generated; its cap, if there is none.
        """
        lengths = self.history.ordered
        above = np.searchsorted(lengths, running.generated, side="right")
        sums = np.append(np.cumsum(lengths[::-1])[::-1], 0)
        mean = np.ceil(sums[above] / np.maximum(len(lengths) - above, 1)).astype(np.int64)
        unknown = running.exact | (above == len(lengths))
        length = np.where(unknown, running.cap, np.clip(mean, running.generated + 1, running.cap))
        return int(peak(running.held, length - running.generated, self.page))


def joined(running: Batch, waiting: Batch, count: int) -> Batch:
    """The running requests and the first ``count`` of the waiting ones."""
    columns: list[Any] = [np.concatenate((old, new[:count])) for old, new in zip(running, waiting)]
    return Batch(*columns)


def batch(rows: list[tuple[int, int, int, bool]]) -> Batch:
    """Requests given as (prompt, generated, cap, exact), whose output lengths nobody knows.

    A request that has generated its cap, and will end when the engine notices, counts as one token short of it.
    """
    columns = np.ascontiguousarray(np.array(rows, np.int64).reshape(-1, 4).T)
    prompt, generated, cap, exact = columns
    return Batch(prompt, np.minimum(generated, cap - 1), cap, exact.astype(bool), np.zeros(len(rows), np.int64))
