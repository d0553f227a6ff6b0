"""Paging algorithms against plain ones, exhaustive search, their theorems, and themselves one request at a time."""

from __future__ import annotations

import random
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.paging import (
    FIFO,
    FWF,
    LFU,
    LRU,
    BlindOracle,
    DoublingSwitch,
    FlushWhenAll0s,
    FollowCheaper,
    LMarker,
    LNonMarker,
    Mark0,
    MarkAndPredict,
    Marker,
    PredictiveMarker,
    Trace,
    TrustAndDoubt,
    WeightedFollow,
    errors,
    flipped,
    lfd,
    noisy_next,
    true_bits,
)
from heedful.paging.algorithms import make, names
from heedful.paging.predictors import clean_pages, phases

ALL = (
    *(make(name) for name in names()),
    FollowCheaper(Mark0(), LRU()),
    FollowCheaper(FlushWhenAll0s(), Marker()),
    DoublingSwitch(FlushWhenAll0s(), LRU()),
    WeightedFollow(MarkAndPredict(), FIFO()),
    WeightedFollow(BlindOracle(), Marker()),
)
MARKING = (Marker(), PredictiveMarker(), LMarker(), MarkAndPredict())

sequences = st.lists(st.integers(0, 9), max_size=60)
sizes = st.integers(1, 8)


def told_to(algorithm: Any, trace: Trace, k: int, seed: int) -> Any:
    """Arbitrary predictions of the kind that the algorithm is told."""
    rng = np.random.default_rng(seed)
    if algorithm.told == "none":
        return None
    if algorithm.told == "next":
        return noisy_next(trace, 1.0, rng)
    return rng.integers(0, 2, len(trace))


def label(algorithm: Any) -> str:
    return repr(algorithm).replace("()", "")


# plain references


def plain_faults(pages: list[int], k: int, victim: Any) -> int:
    """Faults of a cache whose ``victim(cache, t)`` says what goes; ``cache`` maps pages to their histories."""
    cache: dict[int, list[int]] = {}
    faults = 0
    for t, page in enumerate(pages):
        if page not in cache:
            faults += 1
            if len(cache) == k:
                del cache[victim(cache, t)]
            cache[page] = [t]
        cache[page].append(t)
    return faults


def next_after(pages: list[int], page: int, t: int) -> int:
    return next((i for i in range(t, len(pages)) if pages[i] == page), len(pages))


@given(sequences, sizes)
def test_lru_fifo_lfu_and_lfd_equal_plain_ones(pages: list[int], k: int) -> None:
    trace = Trace.of(pages)
    seen: dict[int, int] = {}
    numbered = [seen.setdefault(page, len(seen)) for page in pages]
    assert LRU().run(trace, k).faults == plain_faults(numbered, k, lambda c, t: min(c, key=lambda p: c[p][-1]))
    assert FIFO().run(trace, k).faults == plain_faults(numbered, k, lambda c, t: min(c, key=lambda p: c[p][0]))
    assert LFU().run(trace, k).faults == plain_faults(
        numbered, k, lambda c, t: min(c, key=lambda p: (len(c[p]), c[p][-1]))
    )
    assert lfd(trace, k).faults == plain_faults(
        numbered, k, lambda c, t: max(c, key=lambda p: (next_after(numbered, p, t), -p))
    )


def exhaustive(pages: tuple[int, ...], k: int) -> int:
    @lru_cache(None)
    def best(t: int, held: frozenset[int]) -> int:
        if t == len(pages):
            return 0
        page = pages[t]
        if page in held:
            return best(t + 1, held)
        if len(held) < k:
            return 1 + best(t + 1, held | {page})
        return 1 + min(best(t + 1, held - {out} | {page}) for out in held)

    return best(0, frozenset())


@given(st.lists(st.integers(0, 5), max_size=9), st.integers(1, 3))
def test_lfd_is_optimal(pages: list[int], k: int) -> None:
    assert lfd(Trace.of(pages), k).faults == exhaustive(tuple(pages), k)


# what holds for all


@pytest.mark.parametrize("algorithm", ALL, ids=label)
@settings(max_examples=40)
@given(pages=sequences, k=sizes, seed=st.integers(0, 3))
def test_a_cache_makes_the_decisions_of_a_run_and_never_beats_lfd(
    algorithm: Any, pages: list[int], k: int, seed: int
) -> None:
    trace = Trace.of(pages)
    told = told_to(algorithm, trace, k, seed)
    run = algorithm.run(trace, k, told, seed)
    assert run.faults >= lfd(trace, k).faults
    assert np.array_equal(run.evicted, algorithm.run(trace, k, told, seed).evicted)
    cache = algorithm.cache(k, seed)
    for t, page in enumerate(trace.pages.tolist()):
        before, there = set(cache.pages), page in cache
        out = cache.request(page, 0 if told is None else int(told[t]))
        did = int(run.evicted[t])
        assert there == (did == -2)
        assert out == (did if did >= 0 else out if did == -3 else None)
        gone = set() if out is None else {out, *cache.flushed}
        assert set(cache.pages) == (before | {page}) - gone and gone <= before
        assert page in cache and len(cache) <= k


@pytest.mark.parametrize("algorithm", ALL, ids=label)
def test_a_cache_grows_with_the_pages_it_meets(algorithm: Any) -> None:
    trace = Trace.of(np.random.default_rng(1).integers(0, 400, 2500))
    told = told_to(algorithm, trace, 40, 1)
    cache, faults = algorithm.cache(40, seed=5), 0
    for t, page in enumerate(trace.pages.tolist()):
        faults += f"page {page}" not in cache
        cache.request(f"page {page}", 0 if told is None else int(told[t]))
    assert faults == algorithm.run(trace, 40, told, seed=5).faults


@pytest.mark.parametrize("algorithm", ALL, ids=label)
@settings(max_examples=25)
@given(pages=sequences, k=sizes)
def test_relabelling_the_pages_changes_nothing(algorithm: Any, pages: list[int], k: int) -> None:
    names_ = list(range(100, 110))
    random.Random(3).shuffle(names_)
    one, two = Trace.of(pages), Trace.of([names_[page] for page in pages])
    told = told_to(algorithm, one, k, 0)
    assert np.array_equal(algorithm.run(one, k, told, 2).evicted, algorithm.run(two, k, told, 2).evicted)


@pytest.mark.parametrize("algorithm", ALL, ids=label)
@given(pages=sequences)
def test_one_place_faults_at_every_change_and_room_for_all_faults_once_per_page(
    algorithm: Any, pages: list[int]
) -> None:
    trace = Trace.of(pages)
    changes = sum(a != b for a, b in pairwise(pages)) + bool(pages)
    told = told_to(algorithm, trace, 1, 0)
    assert algorithm.run(trace, 1, told).faults == changes
    assert algorithm.run(trace, max(1, trace.distinct), told).faults == trace.distinct
    assert algorithm.run(trace, 1000, told).faults == trace.distinct


@pytest.mark.parametrize("algorithm", MARKING, ids=label)
@given(pages=sequences, k=st.integers(2, 6), seed=st.integers(0, 3))
def test_no_marked_page_is_evicted(algorithm: Any, pages: list[int], k: int, seed: int) -> None:
    trace = Trace.of(pages)
    run = algorithm.run(trace, k, told_to(algorithm, trace, k, seed), seed)
    marked: set[int] = set()
    for page, did in zip(trace.pages.tolist(), run.evicted.tolist()):
        if page not in marked and len(marked) == k:
            marked = set()
        assert did not in marked
        marked.add(page)


# theorems


@given(sequences, sizes, st.integers(0, 5))
def test_true_discard_bits_give_exactly_the_optimal_faults(pages: list[int], k: int, seed: int) -> None:
    trace = Trace.of(pages)
    bits, best = true_bits(trace, k, "discard"), lfd(trace, k).faults
    assert FlushWhenAll0s().run(trace, k, bits).faults == best
    assert Mark0().run(trace, k, bits, seed).faults == best


@given(sequences, sizes, st.integers(0, 5))
def test_true_phase_bits_give_exactly_the_clean_pages_whatever_the_seed(pages: list[int], k: int, seed: int) -> None:
    trace = Trace.of(pages)
    clean = clean_pages(trace, k)
    assert MarkAndPredict().run(trace, k, true_bits(trace, k, "phase"), seed).faults == clean
    assert clean <= 2 * lfd(trace, k).faults


def harmonic(k: int) -> float:
    return float((1 / np.arange(1, k + 1)).sum())


def shapes(rng: np.random.Generator, k: int, n: int) -> np.ndarray:
    """A sequence of one of four shapes: uniform, cyclic over k + 1 pages, Zipf, working sets that wander."""
    shape = int(rng.integers(4))
    if shape == 0:
        return rng.integers(0, k + int(rng.integers(1, 6)), n)
    if shape == 1:
        return np.arange(n) % (k + 1)
    if shape == 2:
        return rng.zipf(1.4, n) % (4 * k)
    return rng.integers(0, k, n) + np.arange(n) // max(1, 2 * k)


def test_bounds_hold_on_a_thousand_random_instances() -> None:
    """Additive slack k; the randomised algorithms by their mean over 10 seeds and three standard errors."""
    rng = np.random.default_rng(0)
    for instance in range(1000):
        k = int(rng.integers(2, 9))
        trace = Trace.of(shapes(rng, k, int(rng.integers(20, 120))))
        p_zero, p_one = rng.choice([0.0, 0.02, 0.1, 0.3, 0.5, 1.0], 2)
        best = lfd(trace, k).faults
        bits = flipped(true_bits(trace, k, "discard"), p_zero, p_one, rng)
        wrong = errors(trace, k, "discard", bits)
        assert FlushWhenAll0s().run(trace, k, bits).faults <= best + (k - 1) * wrong.zeros + wrong.ones + k
        mean, error = spread(Mark0(), trace, k, bits)
        assert mean - 3 * error <= best + 2 * harmonic(k) * wrong.zeros + wrong.ones + k, instance
        bits = flipped(true_bits(trace, k, "phase"), p_zero, p_one, rng)
        wrong = errors(trace, k, "phase", bits)
        mean, error = spread(MarkAndPredict(), trace, k, bits)
        assert mean - 3 * error <= 2 * best + harmonic(k) * wrong.zeros + wrong.ones + k, instance
        mean, error = spread(Marker(), trace, k, None)
        assert mean - 3 * error <= 2 * harmonic(k) * best + k, instance


def spread(algorithm: Any, trace: Trace, k: int, told: Any) -> tuple[float, float]:
    faults = [algorithm.run(trace, k, told, seed).faults for seed in range(10)]
    return float(np.mean(faults)), float(np.std(faults, ddof=1) / np.sqrt(len(faults)))


@settings(max_examples=300)
@given(pages=st.lists(st.integers(0, 9), max_size=150), k=sizes, seed=st.integers(0, 9))
def test_combiners_keep_their_factors(pages: list[int], k: int, seed: int) -> None:
    trace = Trace.of(pages)
    bits = np.random.default_rng(seed).integers(0, 2, len(trace))
    for first in (FlushWhenAll0s(), Mark0()):
        better = min(first.run(trace, k, bits, seed).faults, LRU().run(trace, k).faults)
        assert FollowCheaper(first, LRU()).run(trace, k, bits, seed).faults <= 2 * better + 2 * k
        assert DoublingSwitch(first, LRU()).run(trace, k, bits, seed).faults <= 3 * better + 3 * k


def test_weighted_follow_nears_the_better_of_the_two() -> None:
    rng = np.random.default_rng(0)
    trace, k = Trace.of(np.arange(20_000) % 21), 20  # LRU faults at every request
    good, bad = true_bits(trace, k, "discard"), 1 - true_bits(trace, k, "discard")
    best = Mark0().run(trace, k, good).faults
    assert LRU().run(trace, k).faults == 20_000
    assert WeightedFollow(Mark0(), LRU()).run(trace, k, good).faults < best + 400  # what learning costs at beta = 0.99
    zipf = Trace.of(rng.zipf(1.2, 20_000) % 200)
    lru = LRU().run(zipf, k).faults
    bad = 1 - true_bits(zipf, k, "discard")
    assert Mark0().run(zipf, k, bad).faults > 1.3 * lru
    assert WeightedFollow(Mark0(), LRU()).run(zipf, k, bad).faults < 1.1 * lru


def test_true_times_help_and_the_robust_ones_do_not_follow_wrong_ones() -> None:
    rng = np.random.default_rng(1)
    trace, k = Trace.of(np.concatenate([rng.zipf(1.2, 6000) % 300, np.arange(6000) % 61])), 60
    best, marker = lfd(trace, k).faults, Marker().run(trace, k).faults
    right, wrong = noisy_next(trace, 0, rng), -noisy_next(trace, 0, rng)
    for algorithm in (PredictiveMarker(), LMarker(), LNonMarker(), TrustAndDoubt()):
        assert algorithm.run(trace, k, right).faults < 0.8 * marker
    for robust in (PredictiveMarker(), LMarker(), TrustAndDoubt(), WeightedFollow(LNonMarker(), Marker())):
        assert robust.run(trace, k, wrong).faults < 1.6 * marker
    assert BlindOracle().run(trace, k, right).faults == best
    assert BlindOracle().run(trace, k, wrong).faults > 1.6 * marker


def test_flush_when_full_flushes() -> None:
    trace = Trace.of([0, 1, 2, 0, 1, 2])
    assert FWF().run(trace, 2).evicted.tolist() == [-1, -1, -3, -1, -3, -1]


# predictions


@given(sequences, sizes)
def test_phase_bits_and_phases_equal_plain_ones(pages: list[int], k: int) -> None:
    phase, seen, found = 0, set(), []
    for page in pages:
        if page not in seen and len(seen) == k:
            phase, seen = phase + 1, set()
        seen.add(page)
        found.append(phase)
    trace = Trace.of(pages)
    assert phases(trace, k).tolist() == found
    in_phase = {(p, page) for p, page in zip(found, pages)}
    expected = [0 if (p + 1, page) in in_phase else 1 for p, page in zip(found, pages)]
    assert true_bits(trace, k, "phase").tolist() == expected
    assert errors(trace, k, "phase", true_bits(trace, k, "phase")) == (0, 0)


def test_phase_errors_count_once_per_page_and_phase() -> None:
    trace = Trace.of([0, 0, 1, 0, 2, 3])
    truth = true_bits(trace, 2, "phase")
    assert truth.tolist() == [1, 1, 1, 1, 1, 1]
    assert errors(trace, 2, "phase", 1 - truth) == (4, 0)


@given(sequences, sizes)
def test_true_bits_have_no_errors_and_flipped_ones_count(pages: list[int], k: int) -> None:
    trace = Trace.of(pages)
    bits = true_bits(trace, k, "discard")
    assert errors(trace, k, "discard", bits) == (0, 0)
    wrong = errors(trace, k, "discard", 1 - bits)
    assert wrong.zeros == int(bits.sum())
    again = trace.next_request < len(trace)
    assert wrong.ones == int(((bits == 0) & again).sum())


def test_flips_have_their_rates() -> None:
    bits = np.repeat([0, 1], 20_000)
    flip = flipped(bits, 0.1, 0.4, np.random.default_rng(0)) != bits
    assert abs(flip[:20_000].mean() - 0.1) < 0.01 and abs(flip[20_000:].mean() - 0.4) < 0.015


# bad input


@pytest.mark.parametrize("algorithm", ALL, ids=label)
def test_bad_input_is_named(algorithm: Any) -> None:
    trace = Trace.of([1, 2, 3, 1])
    told = told_to(algorithm, trace, 2, 0)
    for k in (0, -1):
        with pytest.raises(ValueError, match=f"k={k}: must be at least 1"):
            algorithm.run(trace, k, told)
        with pytest.raises(ValueError, match=f"k={k}: must be at least 1"):
            algorithm.cache(k)
    with pytest.raises(ValueError, match=r"k=2\.5: must be a whole number"):
        algorithm.run(trace, 2.5, told)
    if algorithm.told == "none":
        with pytest.raises(ValueError, match="is told nothing"):
            algorithm.run(trace, 2, [0, 0, 0, 0])
        return
    with pytest.raises(ValueError, match=r"needs one (discard|phase|next) prediction per request"):
        algorithm.run(trace, 2)
    with pytest.raises(ValueError, match=r"has shape \(3,\) for 4 requests"):
        algorithm.run(trace, 2, told[:3])
    if algorithm.told != "next":
        with pytest.raises(ValueError, match="bits: must be 0 or 1, is 2 at request 3"):
            algorithm.run(trace, 2, [0, 1, 0, 2])


def test_more_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="must be integers"):
        Trace.of([1.5, 2.0])
    with pytest.raises(ValueError, match="one-dimensional"):
        Trace.of([[1], [2]])
    with pytest.raises(ValueError, match="told different things"):
        FollowCheaper(Mark0(), BlindOracle())
    with pytest.raises(ValueError, match=r"p_one=1\.2: must lie in \[0, 1\]"):
        flipped(np.zeros(3), 0.0, 1.2, np.random.default_rng(0))
    with pytest.raises(ValueError, match="sigma=-1"):
        noisy_next(Trace.of([1]), -1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="bit=2: must be 0 or 1"):
        Mark0().cache(2).request(1, 2)
    for spec, message in (
        ("lruu", "did you mean 'lru'"),
        ("mark0+nope", "unknown algorithm 'nope' in 'mark0\\+nope'"),
        ("best:mark0+lru", "unknown rule 'best'"),
        ("a+b+c", "of two algorithms"),
        ("doubling:lru", "of two algorithms"),
    ):
        with pytest.raises(ValueError, match=message):
            make(spec)


def test_an_empty_trace_has_no_faults() -> None:
    for algorithm in ALL:
        assert algorithm.run(Trace.of([]), 3, None if algorithm.told == "none" else []).faults == 0
