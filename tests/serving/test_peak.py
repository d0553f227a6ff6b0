"""The predicted peak, and the lengths that it is made from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from heedful.serving import Batch, History, PastFuture, PeakWithCap, future_peak
from heedful.serving.peak import CAP, INTERPOLATED, MEAN, SIMPLE, length

REQUESTS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), min_size=1, max_size=12)
PAGES = st.sampled_from([1, 2, 3, 16, 40])


def brute_force(requests, page=1):
    """The most that is held at any step, one step after the other."""
    return max(
        sum(-(-(h + t) // page) * page for h, r in requests if r >= t) for t in range(max(r for _, r in requests) + 1)
    )


@given(REQUESTS, PAGES)
def test_peak_equals_a_simulation_step_by_step(requests, page):
    held, remaining = zip(*requests)
    assert future_peak(held, remaining, page) == brute_force(requests, page)


def test_worked_example():
    assert future_peak([5, 4, 5, 3, 4], [4, 3, 3, 2, 2]) == 31
    heads = [future_peak([5, 4, 5, 3, 4][:n], [4, 3, 3, 2, 2][:n]) for n in range(1, 6)]
    assert heads == [9, 15, 23, 25, 31]


@given(REQUESTS, st.randoms())
def test_peak_does_not_depend_on_the_order(requests, random):
    shuffled = random.sample(requests, len(requests))
    assert future_peak(*zip(*requests)) == future_peak(*zip(*shuffled))


@given(REQUESTS, st.integers(0, 11), st.integers(1, 9), PAGES)
def test_peak_grows_with_every_part(requests, place, more, page):
    before = future_peak(*zip(*requests), page)
    place %= len(requests)
    h, r = requests[place]
    for changed in ((h + more, r), (h, r + more)):
        larger = [*requests[:place], changed, *requests[place + 1 :]]
        assert future_peak(*zip(*larger), page) >= before
    assert future_peak(*zip(*requests, (h, r)), page) >= before


def test_one_request_peaks_at_its_end():
    assert future_peak([7], [5]) == 12
    assert future_peak([], []) == 0


@pytest.mark.parametrize(
    ("held", "remaining", "page", "words"),
    [([1], [1, 2], 1, "one length"), ([-1], [1], 1, r"\[0, 2\*\*31\)"), ([1], [1], 0, "page=0")],
)
def test_bad_input_of_a_peak_is_named(held, remaining, page, words):
    with pytest.raises(ValueError, match=words):
        future_peak(held, remaining, page)


def draw(rule, d, cap, ordered, rng, mean=0.0, exact=False):
    array = np.array(ordered, np.int64)
    return length(rule, d, cap, exact, 0, array, np.searchsorted(array, d, side="right"), mean, rng.random())


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=8),
    st.integers(0, 60),
    st.integers(1, 40),
    st.sampled_from([SIMPLE, INTERPOLATED, MEAN, CAP]),
    st.integers(0, 5),
)
def test_drawn_lengths_lie_above_what_is_there_and_within_the_cap(lengths, d, room, rule, seed):
    drawn = draw(rule, d, d + room, sorted(lengths), np.random.default_rng(seed), float(np.mean(lengths)))
    assert d < drawn <= d + room


def test_drawn_lengths_follow_history_above_what_is_there():
    rng = np.random.default_rng(0)
    history = sorted([10, 20, 20, 30, 30, 30, 40])
    drawn = [draw(SIMPLE, 15, 100, history, rng) for _ in range(6000)]
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [20, 30, 40]
    assert chisquare(counts, [2000, 3000, 1000]).pvalue > 1e-3


def test_interpolated_lengths_fill_the_gaps_and_grow_with_what_is_there():
    rng = np.random.default_rng(0)
    drawn = np.array([[draw(INTERPOLATED, d, 100, [20, 60], rng) for _ in range(4000)] for d in (0, 30, 70)])
    assert len(np.unique(drawn[0])) > 80
    # Thirds of [0, 20], [20, 60] and [60, 100]; halves of [30, 60] and [60, 100]; [70, 100].
    assert drawn.mean(axis=1) == pytest.approx([(10 + 40 + 80) / 3, (45 + 80) / 2, 85], abs=1.5)


def test_a_request_longer_than_all_of_history_is_taken_to_reach_its_cap():
    assert draw(SIMPLE, 50, 90, [10, 20], np.random.default_rng(0)) == 90


def test_a_request_that_ignores_the_end_of_sequence_reaches_its_cap():
    assert draw(SIMPLE, 5, 90, [10, 20], np.random.default_rng(0), exact=True) == 90
    assert draw(MEAN, 5, 90, [10, 20], np.random.default_rng(0), mean=12.0, exact=True) == 90


def test_the_mean_rule_takes_the_mean_or_a_tenth_more_than_is_there():
    rng = np.random.default_rng(0)
    assert draw(MEAN, 5, 90, [10, 21], rng, mean=15.5) == 16
    assert draw(MEAN, 40, 90, [10, 21], rng, mean=15.5) == 44


def plain_admit(waiting, running, limit, draws, history, rng, page):
    """The paper's rule word for word: for each draw of all lengths, one candidate after the other."""
    counts = []
    for _ in range(draws):
        lengths = []
        for batch in (running, waiting):
            for d, cap in zip(batch.generated, batch.cap):
                above, u = [x for x in sorted(history) if x > d], rng.random()
                total = above[int(u * len(above))] if above else cap
                lengths.append(max(d + 1, min(total, cap)) - d)
        held = [*running.held, *waiting.held]
        n = running.size
        count = 0
        while count < waiting.size:
            requests = list(zip(held[: n + count + 1], lengths[: n + count + 1]))
            if not brute_force(requests, page) < limit:
                break
            count += 1
        counts.append(count)
    return min(counts)


@given(st.integers(0, 10**6), PAGES, st.integers(1, 4))
def test_decisions_equal_the_rule_word_for_word(seed, page, draws):
    rng = np.random.default_rng(seed)
    history = History(window=20, lengths=rng.integers(1, 40, 20))

    def batch(n):
        generated = rng.integers(0, 30, n)
        return Batch.of(rng.integers(1, 50, n), generated, generated + rng.integers(1, 30, n))

    running, waiting = batch(int(rng.integers(1, 7))), batch(int(rng.integers(1, 6)))
    capacity = int(rng.integers(50, 700))
    found = PastFuture(rho=0.1, draws=draws).admit(
        waiting, running, capacity, history, np.random.default_rng(seed), page
    )
    assert found == plain_admit(
        waiting, running, (1 - 0.1) * capacity, draws, history.values, np.random.default_rng(seed), page
    )


def test_a_peak_equal_to_the_limit_is_refused():
    waiting, running = Batch.of([10], cap=[10]), Batch.of([10], [5], [10])
    # At the end of the running one, 15 + 5 slots and 10 + 5; the new one alone at its end: 20.
    assert future_peak([15, 10], [5, 10]) == 35
    assert PeakWithCap().admit(waiting, running, 35) == 0
    assert PeakWithCap().admit(waiting, running, 36) == 1


@pytest.mark.parametrize("rule", [PastFuture(rho=0.0), PeakWithCap()])
def test_a_decision_does_not_depend_on_how_columns_lie_in_memory(rule):
    table = np.array([[100, 50, 900], [200, 10, 800], [40, 1, 500], [300, 30, 400]])
    strided = Batch(*table.T, np.zeros(4, bool), np.zeros(4, np.int64))
    dense = Batch(*map(np.copy, strided))
    frozen = Batch(*map(np.copy, strided))
    for column in frozen:
        column.flags.writeable = False
    history = History(10, lengths=[400, 500, 600])
    batches = ((strided, dense), (dense, frozen), (dense, dense))
    decisions = [rule.admit(*pair, 3000, history, np.random.default_rng(0), page=16) for pair in batches]
    assert decisions == [decisions[-1]] * 3 and 0 < decisions[-1] < 4
