"""Learned bits: features are of the past alone, and learning beats guessing."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.paging import LRU, LearnedBits, Mark0, Trace, errors, lfd, true_bits
from heedful.paging.learned import features


def looping(n: int, seed: int) -> Trace:
    """Popular pages, and others that are asked for once or in slow loops."""
    rng = np.random.default_rng(seed)
    popular = rng.zipf(1.5, n) % 40
    return Trace.of(np.where(rng.random(n) < 0.5, popular, 100 + np.arange(n) % 300))


def test_features_of_a_request_do_not_depend_on_what_comes_later() -> None:
    trace = looping(600, 0)
    whole, part = features(trace, 20), features(trace.part(0, 400), 20)
    differs = np.abs(np.expm1(whole[:400]) - np.expm1(part)) > 0.5
    first = np.expm1(part)[:, :2].round() == 400  # a gap that there was not counts as the number of requests
    assert not differs[:, 2:].any() and not differs[:, :2][~first].any()


def test_features_equal_plain_ones() -> None:
    trace = Trace.of([5, 6, 5, 5, 7, 6])
    expected = [
        [6, 6, 1, 0, 1], [6, 6, 1, 0, 2], [2, 6, 2, 2, 2], [1, 2, 3, 3, 2], [6, 6, 1, 0, 1], [4, 6, 2, 4, 2],
    ]  # fmt: skip
    assert np.expm1(features(trace, 2)).round().tolist() == expected


@pytest.mark.parametrize("model", ["boosting", "logistic"])
def test_learned_bits_make_fewer_errors_than_constant_ones_and_close_a_gap(model: str) -> None:
    trace, k = looping(12_000, 1), 50
    first, second = trace.part(0, 6000), trace.part(6000, 12_000)
    fitted = LearnedBits("discard", model).fit(first, k)  # type: ignore[arg-type]
    bits = fitted.predict(second, k)
    wrong = sum(errors(second, k, "discard", bits))
    for constant in (0, 1):
        assert wrong < 0.5 * sum(errors(second, k, "discard", np.full(6000, constant)))
    best, lru = lfd(second, k).faults, LRU().run(second, k).faults
    assert lru - Mark0().run(second, k, bits).faults > 0.3 * (lru - best) > 0
    again = LearnedBits("discard", model).fit(first, k).predict(second, k)  # type: ignore[arg-type]
    assert np.array_equal(bits, again)


def test_a_trace_with_one_kind_of_bit_gives_that_bit() -> None:
    trace = Trace.of(np.arange(50) % 5)
    assert LearnedBits("discard").fit(trace, 10).predict(trace, 10).tolist() == [0] * 50
    assert set(true_bits(trace, 10, "discard").tolist()) == {0}


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="kind='x'"):
        LearnedBits("x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="model='x'"):
        LearnedBits("phase", "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to learn from"):
        LearnedBits().fit(Trace.of([]), 3)
