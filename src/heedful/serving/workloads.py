"""What is to be served: requests with prompt and output lengths, caps, and arrival times; and where to get some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Workload:
    """Requests in order of arrival.

    Attributes:
        prompt: int64 ``[n]``: prompt tokens, at least 1. Lists of whole numbers will do.
        output: int64 ``[n]``: tokens that each really generates, at least 1.
        cap: int64 ``[n]``: the most tokens that it may generate, at least ``output``.
        arrival: float64 ``[n]``: seconds since the start, ascending; None for requests that are sent by clients, each
            of which waits for its answer before it sends the next (closed loop).
        name: what it is called.

    Raises ValueError, naming the field, for numbers that are not whole or out of range, and arrays of other lengths.
    """

    prompt: NDArray[np.int64]
    output: NDArray[np.int64]
    cap: NDArray[np.int64]
    arrival: NDArray[np.float64] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        n = len(_list_of("prompt", self.prompt))
        for field in ("prompt", "output", "cap"):
            array = _list_of(field, getattr(self, field))
            if len(array) != n:
                raise ValueError(f"{field}: {len(array)} entries for {n} requests")
            if n and array.dtype.kind not in "iu":
                raise ValueError(f"{field}: must be whole numbers in [1, 2**31), is {array.dtype}")
            if (wrong := np.flatnonzero((array < 1) | (array >= 2**31))).size:
                first = int(wrong[0])
                raise ValueError(f"{field}: request {first} has {array[first]}, must lie in [1, 2**31)")
            object.__setattr__(self, field, array.astype(np.int64, copy=False))
        if (wrong := np.flatnonzero(self.output > self.cap)).size:
            first = int(wrong[0])
            raise ValueError(
                f"cap: request {first} generates {self.output[first]} tokens, above its cap {self.cap[first]}"
            )
        if self.arrival is not None:
            times = _list_of("arrival", self.arrival)
            if len(times) != n:
                raise ValueError(f"arrival: {len(times)} entries for {n} requests")
            if times.dtype.kind not in "iuf":
                raise ValueError(f"arrival: must be seconds, is {times.dtype}")
            if n and not (np.isfinite(times).all() and times[0] >= 0 and (np.diff(times) >= 0).all()):
                raise ValueError("arrival: must ascend from 0 or more")
            object.__setattr__(self, "arrival", times.astype(np.float64, copy=False))

    def __len__(self) -> int:
        return len(self.prompt)

    def faster(self, speed: float) -> Workload:
        """The same requests arriving ``speed`` times as fast. Raises ValueError in a closed loop, or for speed <= 0."""
        if self.arrival is None:
            raise ValueError("a closed loop has no arrival times to change")
        if not 0 < speed < float("inf"):
            raise ValueError(f"speed={speed}: must be above 0")
        return Workload(self.prompt, self.output, self.cap, self.arrival / speed, self.name)

    def closed(self) -> Workload:
        """The same requests without arrival times, for clients that wait for their answers."""
        return Workload(self.prompt, self.output, self.cap, None, self.name)

    def part(self, start: int, stop: int) -> Workload:
        """The requests ``[start, stop)``, the first of them arriving at 0."""
        arrival = None if self.arrival is None else self.arrival[start:stop] - self.arrival[start]
        return Workload(self.prompt[start:stop], self.output[start:stop], self.cap[start:stop], arrival, self.name)


def _list_of(field: str, values: object) -> NDArray[Any]:
    """An array of one axis. Raises ValueError, naming the field, for anything else."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.empty((0, 0))
    if array.ndim != 1:
        raise ValueError(f"{field}: must be a list of numbers, one for each request")
    return array


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least n.

    >>> next_power_of_two(1000), next_power_of_two(1024)
    (1024, 1024)
    """
    return 1 << max(n - 1, 0).bit_length()


def uniform(
    requests: int, prompt: tuple[int, int], output: tuple[int, int], rng: np.random.Generator, name: str = ""
) -> Workload:
    """Lengths drawn uniformly from ranges, both ends included; every cap is the longest output."""
    p, o = (rng.integers(low, high + 1, requests) for low, high in (prompt, output))
    return Workload(p, o, np.full(requests, output[1], np.int64), None, name)


def distribution_1(requests: int, rng: np.random.Generator) -> Workload:
    """Decode-heavy: prompts of 32 to 4096 tokens, outputs of 2048 to 4096 (the paper, section 5)."""
    return uniform(requests, (32, 4096), (2048, 4096), rng, "distribution-1")


def distribution_2(requests: int, rng: np.random.Generator) -> Workload:
    """Balanced: prompts and outputs of 3000 to 5000 tokens (the paper, section 5)."""
    return uniform(requests, (3000, 5000), (3000, 5000), rng, "distribution-2")


def distribution_3(requests: int, rng: np.random.Generator) -> Workload:
    """Prefill-heavy: prompts of 2048 to 4096 tokens, outputs of 32 to 4096 (the paper, section 5)."""
    return uniform(requests, (2048, 4096), (32, 4096), rng, "distribution-3")


def shifted(requests: int, rng: np.random.Generator) -> Workload:
    """Distribution 3 for the first half, then distribution 1: history is misleading until it has turned over."""
    first, second = distribution_3(requests // 2, rng), distribution_1(requests - requests // 2, rng)
    return Workload(
        np.concatenate([first.prompt, second.prompt]),
        np.concatenate([first.output, second.output]),
        np.concatenate([first.cap, second.cap]),
        None,
        "shifted",
    )


GENERATORS: dict[str, Callable[[int, np.random.Generator], Workload]] = {
    "distribution-1": distribution_1,
    "distribution-2": distribution_2,
    "distribution-3": distribution_3,
    "shifted": shifted,
}
"""Generated workloads by name: ``(requests, rng) -> workload``, a closed loop."""
