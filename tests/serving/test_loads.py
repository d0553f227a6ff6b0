"""Service within limits, and the load that is sustained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from heedful.serving import Aggressive, Conservative, Oracle, PastFuture, Simulator, StepTime, Workload, distribution_3
from heedful.serving.loads import area, saturation, smallest_capacity, sustained, under
from heedful.serving.service import Limits, service, settled


def workload(n=4, gap=1.0):
    return Workload(np.full(n, 10), np.full(n, 5), np.full(n, 5), np.arange(n) * gap)


TIME = StepTime(step=0.1, per_request=0.0, per_token=0.0, prefill=0.5, per_prompt_token=0.0)


def test_times_and_goodput_by_hand():
    """Alone in the engine, a request waits half a second for its prefill, then gets a token every tenth."""
    run = Simulator(100, time=TIME).run(Aggressive(), workload(gap=2.0))
    assert (run.first_token - run.arrival).tolist() == pytest.approx([0.6] * 4)
    assert run.max_gap.tolist() == pytest.approx([0.1] * 4)
    assert run.seconds == pytest.approx(7.0)
    found = service(run, Limits(ttft=1, mtpot=0.2))
    assert (found.requests, found.met, found.rejected) == (4, 1.0, 0)
    assert found.goodput == found.throughput == pytest.approx(20 / 7.0)
    late = service(run, Limits(ttft=0.5, mtpot=0.2))
    assert (late.met, late.goodput, late.sustained) == (0.0, 0.0, False)
    assert late.throughput == pytest.approx(20 / 7.0)


def test_only_what_ends_in_the_window_counts():
    run = Simulator(100, time=TIME).run(Aggressive(), workload(gap=2.0))
    found = service(run, Limits(1, 0.2), (1.5, 5.5))
    assert found.requests == 2 and found.goodput == pytest.approx(10 / 4.0)


def test_a_prefill_for_which_others_wait_is_a_gap():
    run = Simulator(100, interval=1, time=TIME).run(Aggressive(), workload(2, gap=0.65))
    assert run.max_gap[0] == pytest.approx(0.6)
    chunks = Simulator(100, interval=1, chunk=5, time=replace(TIME, prefill=0.0)).run(Aggressive(), workload(2, 0.15))
    assert chunks.max_gap[0] == pytest.approx(0.1)


def test_rejected_requests_miss_the_limits():
    mixed = Workload(np.array([10, 99, 10]), np.full(3, 5), np.full(3, 5), np.arange(3.0))
    found = service(Simulator(100, time=TIME).run(Aggressive(), mixed), Limits(5, 5))
    assert found.met == pytest.approx(2 / 3) and found.rejected == 1


def test_the_settled_window_leaves_out_start_and_end():
    run = Simulator(100, time=TIME).run(Aggressive(), workload(6, gap=2.0))
    start, stop = settled(run, 2)
    assert start == pytest.approx(run.end[2]) and stop == 10.0
    assert settled(run, 100) == (0.0, run.seconds)


def test_area_is_a_mean_over_loads():
    assert area([1, 2, 4], [10.0, 20.0, 0.0]) == pytest.approx((15 + 20) / 3)
    assert area([3], [7.0]) == 7.0


def test_more_clients_are_sustained_by_the_oracle_than_by_reserving_for_the_longest():
    requests, simulator = distribution_3(400, np.random.default_rng(0)), Simulator(60_000)
    full = saturation(simulator, requests, Limits())
    assert full == pytest.approx(60_000 / 4440, rel=0.05)
    loads = [round(full * share) for share in (0.4, 0.6, 0.8)]
    best = {
        scheduler.name: sustained([under(simulator, scheduler, requests, n, Limits(), 50) for n in loads]) or 0
        for scheduler in (Oracle(), Conservative())
    }
    assert best["oracle"] > best["conservative"]


def test_an_open_loop_saturates_where_the_oracle_stops():
    requests = distribution_3(300, np.random.default_rng(0))
    log = replace(requests, arrival=np.arange(300) * 1.0)
    simulator = Simulator(60_000)
    speed = saturation(simulator, log, Limits())
    assert under(simulator, Oracle(), log, speed, Limits()).settled.sustained
    assert not under(simulator, Oracle(), log, speed * 1.06, Limits()).settled.sustained


def test_the_smallest_capacity_is_enough_and_a_little_less_is_not():
    requests = distribution_3(300, np.random.default_rng(0))
    simulator = Simulator(60_000)

    def enough(capacity):
        return under(replace(simulator, capacity=capacity), PastFuture(), requests, 8, Limits(), 50).settled.sustained

    found = smallest_capacity(simulator, PastFuture(), requests, 8, Limits(), 50)
    assert enough(found) and not enough(found - 600)
    assert smallest_capacity(simulator, PastFuture(), requests, 300, Limits(ttft=1e-6), 50) is None


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("ttft=0", lambda: Limits(ttft=0)),
        ("share=2", lambda: Limits(share=2)),
        ("speed=0", lambda: workload().faster(0)),
        ("no arrival times to change", lambda: workload().closed().faster(2)),
        ("must end after", lambda: service(Simulator(100).run(Aggressive(), workload()), Limits(), (2, 1))),
        ("nothing arrived", lambda: service(Simulator(100).run(Aggressive(), workload()), Limits(), (50, 60))),
    ],
)
def test_bad_input_is_named(words, make):
    with pytest.raises(ValueError, match=words):
        make()
