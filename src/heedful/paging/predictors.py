"""Predictions: true bits, bits that are flipped, bits from reuse distances, and noisy times of next requests.

True bits need the whole trace; they are oracles for experiments and labels for learning. What is predicted from the
past alone is :func:`reuse_distance_bits`, and :mod:`heedful.paging.learned`.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.paging.base import Trace, check_k
from heedful.paging.blind_oracle import lfd
from heedful.paging.structures import compiled

Kind = Literal["discard", "phase"]


class Errors(NamedTuple):
    """Wrong bits.

    Attributes:
        zeros: eta_0, wrong 0-bits.
        ones: eta_1, wrong 1-bits.
    """

    zeros: int
    ones: int


def true_bits(trace: Trace, k: int, kind: Kind) -> NDArray[np.int8]:
    """int8 ``[n]``: what an oracle says about each request's page.

    ``"discard"``: 1 if LFD evicts it before it is asked for again. ``"phase"``: 0 if it is asked for in the next phase.
    Raises ValueError for k below 1 or another kind.
    """
    check_k(k)
    if kind not in ("discard", "phase"):
        raise ValueError(f"kind={kind!r}: must be 'discard' or 'phase'")
    bits = np.zeros(len(trace), dtype=np.int8)
    if kind == "discard":
        _mark_evicted(trace.pages, lfd(trace, k).evicted, np.full(trace.distinct, -1, dtype=np.int64), bits)
    else:
        phase = phases(trace, k)
        following = trace.next_request
        # The first request in a later phase decides; one in the same phase hands its own answer back.
        _mark_phases(phase, following, bits)
    return bits


@compiled
def _mark_evicted(pages, evicted, last_of, bits):  # type: ignore[no-untyped-def]
    for t in range(len(pages)):
        if evicted[t] >= 0:
            bits[last_of[evicted[t]]] = 1
        last_of[pages[t]] = t


@compiled
def _mark_phases(phase, following, bits):  # type: ignore[no-untyped-def]
    n = len(phase)
    for t in range(n - 1, -1, -1):
        then = following[t]
        if then == n or phase[then] > phase[t] + 1:
            bits[t] = 1
        elif phase[then] == phase[t]:
            bits[t] = bits[then]


def phases(trace: Trace, k: int) -> NDArray[np.int64]:
    """int64 ``[n]``: the k-phase of each request, from 0. A new one begins with the (k + 1)-th different page."""
    check_k(k)
    found = np.zeros(len(trace), dtype=np.int64)
    _count_phases(trace.pages, k, np.full(trace.distinct, -1, dtype=np.int64), found)
    return found


@compiled
def _count_phases(pages, k, last_of, found):  # type: ignore[no-untyped-def]
    phase, different = 0, 0
    for t in range(len(pages)):
        if last_of[pages[t]] != phase:
            if different == k:
                phase += 1
                different = 0
            last_of[pages[t]] = phase
            different += 1
        found[t] = phase


def clean_pages(trace: Trace, k: int) -> int:
    """Pages asked for in a phase and not in the one before, over all phases; at most twice the optimal faults."""
    phase = phases(trace, k)
    last = np.full(trace.distinct, -2, dtype=np.int64)
    return int(_count_clean(trace.pages, phase, last))


@compiled
def _count_clean(pages, phase, last_of):  # type: ignore[no-untyped-def]
    found = 0
    for t in range(len(pages)):
        if last_of[pages[t]] < phase[t] - 1:
            found += 1
        last_of[pages[t]] = phase[t]
    return found


def errors(trace: Trace, k: int, kind: Kind, bits: NDArray[np.integer]) -> Errors:
    """How many bits are wrong.

    For phase bits a page counts once per phase, by its last request there. A discard bit of a page that stays to the
    end without being asked for again is right either way.
    """
    truth = true_bits(trace, k, kind)
    counts = np.ones(len(trace), dtype=bool)
    following = trace.next_request
    if kind == "phase":
        phase = phases(trace, k)
        inside = following < len(trace)
        counts[inside] = phase[following[inside]] != phase[inside]
    else:
        counts = (truth == 1) | (following < len(trace))
    given = np.asarray(bits)
    return Errors(int(((given == 0) & (truth == 1) & counts).sum()), int(((given == 1) & (truth == 0) & counts).sum()))


def flipped(bits: NDArray[np.integer], p_zero: float, p_one: float, rng: np.random.Generator) -> NDArray[np.int8]:
    """Bits of which each 0 is flipped with probability ``p_zero`` and each 1 with ``p_one``, independently.

    Raises ValueError for a probability outside [0, 1].
    """
    for name, p in (("p_zero", p_zero), ("p_one", p_one)):
        if not 0 <= p <= 1:
            raise ValueError(f"{name}={p}: must lie in [0, 1]")
    given = np.asarray(bits).astype(np.int8)
    flip = rng.random(len(given)) < np.where(given == 0, p_zero, p_one)
    return np.where(flip, 1 - given, given).astype(np.int8)


def reuse_distance_bits(trace: Trace, k: int, c: float = 1.0) -> NDArray[np.int8]:
    """int8 ``[n]``: 1 if the page's last two requests lay more than ``c k`` requests apart, or if it is new.

    Raises ValueError for k below 1 or c that is not above 0.
    """
    check_k(k)
    if not (math.isfinite(c) and c > 0):
        raise ValueError(f"c={c}: must be above 0")
    gap = np.full(len(trace), len(trace) + 1.0)
    following = trace.next_request
    again = np.flatnonzero(following < len(trace))
    gap[following[again]] = following[again] - again
    return (gap > c * k).astype(np.int8)


def noisy_next(trace: Trace, sigma: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """int64 ``[n]``: predicted times of next requests: the true distance times a lognormal factor.

    Args:
        trace: the requests; a page that is never asked for again counts as asked for at the end, twice as far away as
            the trace is long.
        sigma: standard deviation of the factor's logarithm, at least 0; 0 for true times.
        rng: what draws the factors.

    Raises ValueError for a negative sigma.
    """
    if not sigma >= 0:
        raise ValueError(f"sigma={sigma}: must be at least 0")
    n = len(trace)
    now = np.arange(n)
    following = trace.next_request
    away = np.where(following < n, following - now, 2 * n)
    if sigma == 0:
        return now + away
    return now + np.maximum(1, np.minimum(away * np.exp(sigma * rng.standard_normal(n)), 2**62)).astype(np.int64)
