"""Random numbers inside compiled steps: one independent stream per seed, as plain arrays.

Handing a ``numpy.random.Generator`` to a compiled function costs about 7 microseconds a call, more than a whole
decision may take, and compiled functions take no list of them. So each seed has four 64-bit words, filled by numpy's
``SeedSequence``, and moves by xoshiro256++ (Blackman, Vigna, "Scrambled Linear Pseudorandom Number Generators", ACM
TOMS 47(4), 2021). Arrays of words are saved and loaded like any other state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

_inlined = numba.njit(cache=True, nogil=True, inline="always")
"""For draws that loops make one after the other: handing the words to a call costs more than a draw."""


def streams(seeds: Sequence[int]) -> NDArray[np.uint64]:
    """uint64 ``[len(seeds), 4]``: the words of one stream per seed; equal seeds give equal streams.

    Raises ValueError for seeds that are no whole numbers, or negative, and if there are none.
    """
    return np.stack([np.random.SeedSequence(seed).generate_state(4, np.uint64) for seed in _checked(seeds)])


def generators(seeds: Sequence[int]) -> tuple[np.random.Generator, ...]:
    """numpy's generator of each seed, for draws outside compiled steps. Raises ValueError as :func:`streams`."""
    return tuple(np.random.default_rng(seed) for seed in _checked(seeds))


def _checked(seeds: Sequence[int]) -> list[int]:
    if not isinstance(seeds, Sequence | np.ndarray) or len(seeds) == 0:
        raise ValueError(f"seeds={seeds!r}: must be a list of whole numbers, at least one")
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


_TAIL = 3.6541528853610088
"""Where the tail begins, for 256 blocks."""


def _blocks() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right edges of 256 blocks of equal area under ``exp(-x^2 / 2)``, from the one that has the tail up to the top,
    and the curve's height there; the first edge is that of a block as wide as the tail is heavy."""
    area = _TAIL * math.exp(-0.5 * _TAIL**2) + math.sqrt(0.5 * math.pi) * math.erfc(_TAIL / math.sqrt(2.0))
    edges = [area * math.exp(0.5 * _TAIL**2), _TAIL]
    while len(edges) < 256:
        edges.append(math.sqrt(-2.0 * math.log(area / edges[-1] + math.exp(-0.5 * edges[-1] ** 2))))
    right = np.array([*edges, 0.0])
    return right, np.exp(-0.5 * right**2)


_RIGHT, _HEIGHT = _blocks()


@_inlined
def normal(words, s):  # type: ignore[no-untyped-def]
    """A standard normal (Marsaglia, Tsang, "The Ziggurat Method for Generating Random Variables", JSS 5(8), 2000)."""
    while True:
        bits = word(words, s)
        block = np.int64(bits & np.uint64(255))
        sign = 1.0 - np.float64((bits >> np.uint64(7)) & np.uint64(2))
        x = np.float64(bits >> np.uint64(11)) * (1.0 / 9007199254740992.0) * _RIGHT[block]
        if x < _RIGHT[block + 1]:  # nearly always: the part of a block that lies under the curve as a whole
            return sign * x
        if block == 0:
            while True:
                beyond, drawn = -np.log(1.0 - uniform(words, s)) / _TAIL, -np.log(1.0 - uniform(words, s))
                if 2.0 * drawn > beyond * beyond:
                    return sign * (_TAIL + beyond)
        height = _HEIGHT[block] + uniform(words, s) * (_HEIGHT[block + 1] - _HEIGHT[block])
        if height < np.exp(-0.5 * x * x):
            return sign * x


@_inlined
def _cubed(words, s, d, c):  # type: ignore[no-untyped-def]
    """A gamma variable of shape ``d + 1/3``, with ``c = 1 / sqrt(9 d)``."""
    while True:
        x = normal(words, s)
        v = 1.0 + c * x
        if v <= 0.0:
            continue
        v, square, drawn = v * v * v, x * x, uniform(words, s)
        if drawn > 0.0331 * square * square:  # nearly always, and needs no logarithms
            return d * v
        if np.log(1.0 - drawn) < 0.5 * square + d - d * v + d * np.log(v):
            return d * v


@_inlined
def gamma(words, s, shape):  # type: ignore[no-untyped-def]
    """A gamma variable of scale 1 and a shape of at least 1 (Marsaglia, Tsang, ACM TOMS 26(3), 2000)."""
    d = shape - 1.0 / 3.0
    return _cubed(words, s, d, 1.0 / np.sqrt(9.0 * d))


@_inlined
def beta(words, s, a, b):  # type: ignore[no-untyped-def]
    """A beta variable; both parameters at least 1."""
    d, e = a - 1.0 / 3.0, b - 1.0 / 3.0
    c, f = 1.0 / np.sqrt(9.0 * d), 1.0 / np.sqrt(9.0 * e)
    x, y = _cubed(words, s, d, c), _cubed(words, s, e, f)
    return x / (x + y)
