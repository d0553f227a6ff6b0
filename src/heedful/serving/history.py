"""How long earlier answers were: the output lengths of the last requests that finished."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class History:
    """The output lengths of the last ``window`` finished requests.

    Nothing has finished at first, so half of the window is filled with the longest possible output: admission is
    careful until real lengths have pushed these out. Of an evicted request the total length counts, once, when it
    ends; requests that were cancelled or failed are not recorded.

    Args:
        window: W, lengths that are kept, at least 1 (the paper: 1000; its code also 200 and 40).
        longest: the longest output that a request may have, at least 1: what half of the window starts with.
        lengths: lengths to start with instead, oldest first, as :attr:`values` gave them.

    >>> history = History(window=4, longest=100)
    >>> history.values
    (100, 100)
    >>> for length in (7, 5, 6):
    ...     history.record(length)
    >>> history.values, history.ordered.tolist()
    ((100, 7, 5, 6), [5, 6, 7, 100])
    """

    def __init__(self, window: int = 1000, longest: int = 2048, lengths: Iterable[int] | None = None) -> None:
        if window < 1:
            raise ValueError(f"window={window}: must be at least 1")
        if longest < 1:
            raise ValueError(f"longest={longest}: must be at least 1")
        self.window, self.longest = window, longest
        start = [longest] * max(window // 2, 1) if lengths is None else [int(length) for length in lengths]
        if not start or min(start) < 1:
            raise ValueError("lengths: must be one or more integers of at least 1")
        self._values = deque(start[-window:], maxlen=window)
        self._room = np.empty(window, np.int64)
        self._count = len(self._values)
        self._room[: self._count] = np.sort(np.array(self._values, np.int64))
        self._sum = int(sum(self._values))

    def record(self, length: int) -> None:
        """Adds the total output length of a request that finished. Raises ValueError below 1."""
        if length < 1:
            raise ValueError(f"length={length}: must be at least 1")
        ordered = self._room
        if self._count == self.window:
            oldest = self._values[0]
            place = int(np.searchsorted(ordered[: self._count], oldest))
            ordered[place : self._count - 1] = ordered[place + 1 : self._count]
            self._count -= 1
            self._sum -= oldest
        place = int(np.searchsorted(ordered[: self._count], length))
        ordered[place + 1 : self._count + 1] = ordered[place : self._count]
        ordered[place] = length
        self._count += 1
        self._sum += length
        self._values.append(length)

    @property
    def values(self) -> tuple[int, ...]:
        """The lengths, oldest first."""
        return tuple(self._values)

    @property
    def ordered(self) -> NDArray[np.int64]:
        """int64 ``[n]``, 1 <= n <= window: the lengths in ascending order. A view: valid until the next record."""
        return self._room[: self._count]

    @property
    def mean(self) -> float:
        """The mean length."""
        return self._sum / self._count

    def __len__(self) -> int:
        return self._count
