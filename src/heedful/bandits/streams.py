"""Random numbers inside compiled steps: one independent stream per seed, as plain arrays.

Handing a ``numpy.random.Generator`` to a compiled function costs about 7 microseconds a call, more than a whole
decision may take, and compiled functions take no list of them. So each seed has four 64-bit words, filled by numpy's
``SeedSequence``, and moves by xoshiro256++ (Blackman, Vigna, "Scrambled Linear Pseudorandom Number Generators", ACM
TOMS 47(4), 2021). Arrays of words are saved and loaded like any other state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray


def streams(seeds: Sequence[int]) -> NDArray[np.uint64]:
    """uint64 ``[len(seeds), 4]``: the words of one stream per seed; equal seeds give equal streams.

    Raises ValueError for seeds that are no whole numbers, or negative, and if there are none.
    """
    return np.stack([np.random.SeedSequence(seed).generate_state(4, np.uint64) for seed in _checked(seeds)])


def generators(seeds: Sequence[int]) -> tuple[np.random.Generator, ...]:
    """numpy's generator of each seed, for draws outside compiled steps. Raises ValueError as :func:`streams`."""
    return tuple(np.random.default_rng(seed) for seed in _checked(seeds))


def _checked(seeds: Sequence[int]) -> list[int]:
    if len(seeds) == 0:
        raise ValueError("seeds: must be at least one")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise ValueError(f"seed={seed!r}: must be a whole number, at least 0")
    return [int(seed) for seed in seeds]


@numba.njit(cache=True, nogil=True)
def word(words, s):  # type: ignore[no-untyped-def]
    """The next 64 bits of stream s."""
    a, b, c, d = words[s, 0], words[s, 1], words[s, 2], words[s, 3]
    total = a + d
    out = ((total << np.uint64(23)) | (total >> np.uint64(41))) + a
    shifted = b << np.uint64(17)
    c ^= a
    d ^= b
    b ^= c
    a ^= d
    c ^= shifted
    words[s, 0], words[s, 1], words[s, 2] = a, b, c
    words[s, 3] = (d << np.uint64(45)) | (d >> np.uint64(19))
    return out


@numba.njit(cache=True, nogil=True)
def uniform(words, s):  # type: ignore[no-untyped-def]
    """A float64 uniform on [0, 1), of 53 bits."""
    return np.float64(word(words, s) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@numba.njit(cache=True, nogil=True)
def normal(words, s):  # type: ignore[no-untyped-def]
    """A standard normal, by the polar method."""
    while True:
        x, y = 2.0 * uniform(words, s) - 1.0, 2.0 * uniform(words, s) - 1.0
        square = x * x + y * y
        if 0.0 < square < 1.0:
            return x * np.sqrt(-2.0 * np.log(square) / square)


@numba.njit(cache=True, nogil=True)
def gamma(words, s, shape):  # type: ignore[no-untyped-def]
    """A gamma variable of scale 1 and a shape of at least 1 (Marsaglia, Tsang, ACM TOMS 26(3), 2000)."""
    d = shape - 1.0 / 3.0
    c = 1.0 / np.sqrt(9.0 * d)
    while True:
        x = normal(words, s)
        v = 1.0 + c * x
        if v <= 0.0:
            continue
        v, drawn, square = v * v * v, 1.0 - uniform(words, s), x * x
        if drawn < 1.0 - 0.0331 * square * square:  # nearly always, and needs no logarithms
            return d * v
        if np.log(drawn) < 0.5 * square + d - d * v + d * np.log(v):
            return d * v


@numba.njit(cache=True, nogil=True)
def beta(words, s, a, b):  # type: ignore[no-untyped-def]
    """A beta variable; both parameters at least 1."""
    x = gamma(words, s, a)
    return x / (x + gamma(words, s, b))
