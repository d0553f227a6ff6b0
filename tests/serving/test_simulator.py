"""The simulator against a plain loop, one token after the other; and what holds whatever the scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.serving import (
    Aggressive,
    Batch,
    Conservative,
    History,
    Oracle,
    PastFuture,
    PeakWithCap,
    PeakWithMean,
    Simulator,
    StepTime,
    Workload,
    distribution_1,
    distribution_3,
    shifted,
)

SCHEDULERS = (
    Aggressive(0.99),
    Aggressive(0.8),
    Conservative(),
    Conservative(1.5),
    Oracle(),
    PastFuture(rho=0.0),
    PastFuture(rho=0.05, sampling="interpolated"),
    PeakWithCap(),
    PeakWithMean(),
)


@dataclass
class Request:
    arrival: int
    prompt: int
    output: int
    cap: int
    generated: int = 0
    to_prefill: int = 0
    first: int = -1
    last: int = -1
    gap: int = 0
    end: int = -1
    admitted: int = -1
    evictions: int = 0
    rejected: bool = False

    @property
    def held(self):
        return self.prompt + self.generated


@dataclass
class Plain:
    """The engine as its description says, a step at a time."""

    simulator: Simulator
    requests: list
    clients: int = 0
    now: int = 0
    steps: int = 0
    slots: int = 0
    most: int = 0
    waiting: list = field(default_factory=list)
    running: list = field(default_factory=list)
    sent: int = 0
    done: int = 0
    order: list = field(default_factory=list)

    def arrive(self):
        while self.sent < len(self.requests):
            request = self.requests[self.sent]
            if self.clients:
                if self.sent - self.done >= self.clients:
                    return
                request.arrival = self.now
            elif request.arrival > self.now:
                return
            self.sent += 1
            if self.blocks(request.prompt + request.cap) > self.simulator.capacity:
                request.rejected = True
                self.done += 1
            else:
                self.waiting.append(request)

    def blocks(self, tokens):
        page = self.simulator.page
        return -(-tokens // page) * page

    def occupied(self, more=0):
        return sum(self.blocks(r.held + (more if r.to_prefill == 0 else 0)) for r in self.running)

    def could_take(self):
        free = self.simulator.capacity - self.occupied()
        tokens, found = 0, []
        for request in self.waiting[: max(self.simulator.max_running - len(self.running), 0)]:
            tokens += request.held
            free -= self.blocks(request.held)
            if free < 0 or (found and tokens > self.simulator.prefill_tokens):
                break
            found.append(request)
        return found

    def run(self, scheduler, window, seed):
        step, per_request, per_token, prefill, per_prompt = (int(x) for x in self.simulator.time.picoseconds)
        longest = max(request.cap for request in self.requests)
        history = History(window, longest) if scheduler.needs_history else None
        rng = np.random.default_rng(seed)
        since, ended = 0, False
        while True:
            self.arrive()
            if not self.running and not self.waiting:
                if self.sent == len(self.requests):
                    return self
                self.now = self.requests[self.sent].arrival
                continue
            if self.waiting and (ended or since >= self.simulator.interval or not self.running):
                count = scheduler.admit(
                    batch(self.could_take()), batch(self.running), self.simulator.capacity, history, rng,
                    self.simulator.page,
                )  # fmt: skip
                since, ended = 0, False
                joining, self.waiting = self.waiting[:count], self.waiting[count:]
                for request in joining:
                    request.admitted = self.now
                    if self.simulator.chunk:
                        request.to_prefill = request.held
                self.running += joining
                if joining and not self.simulator.chunk:
                    self.now += prefill + per_prompt * sum(request.held for request in joining)
                continue
            while self.occupied(1) > self.simulator.capacity:
                victim = self.running.pop()
                victim.evictions += 1
                victim.to_prefill = 0
                self.waiting.insert(0, victim)
            decoding = [r for r in self.running if r.to_prefill == 0]
            if decoding:
                self.now += step + per_request * len(decoding) + per_token * sum(r.held for r in decoding)
            left = self.simulator.chunk
            for request in self.running:
                part = min(left, request.to_prefill)
                left -= part
                request.to_prefill -= part
                self.now += part * per_prompt
            for request in decoding:
                request.generated += 1
                if request.first < 0:
                    request.first = self.now
                else:
                    request.gap = max(request.gap, self.now - request.last)
                request.last = self.now
                if request.generated == request.output:
                    request.end = self.now
                    self.done += 1
                    self.order.append(self.requests.index(request))
                    ended = True
                    if history is not None:
                        history.record(request.output)
            now_held = self.occupied()
            self.slots += now_held
            self.running = [r for r in self.running if r.end < 0]
            self.most = max(self.most, now_held)
            self.steps += 1
            since += 1


def batch(requests):
    return Batch.of(
        [r.prompt for r in requests],
        [r.generated for r in requests],
        [r.cap for r in requests],
        output=[r.output for r in requests],
    )


def made(rng, n, open_loop):
    prompt, output = rng.integers(1, 40, n), rng.integers(1, 30, n)
    cap = output + rng.integers(0, 30, n)
    arrival = np.sort(rng.integers(0, 40 * n, n)) / 1000 if open_loop else None
    return Workload(prompt, output, cap, arrival)


@given(
    st.integers(0, 10**6),
    st.sampled_from(SCHEDULERS),
    st.booleans(),
    st.sampled_from([1, 4, 16]),
    st.sampled_from([0, 7]),
)
def test_equals_a_plain_loop_token_by_token(seed, scheduler, open_loop, page, chunk):
    rng = np.random.default_rng(seed)
    workload = made(rng, int(rng.integers(1, 25)), open_loop)
    simulator = Simulator(
        capacity=int(rng.integers(4, 15)) * 16,
        page=page,
        interval=int(rng.integers(1, 6)),
        max_running=int(rng.integers(1, 12)),
        prefill_tokens=int(rng.integers(1, 80)),
        chunk=chunk,
        time=StepTime(step=3e-3, per_request=1e-3, per_token=7e-6, prefill=2e-3, per_prompt_token=1e-4),
    )
    clients = 0 if open_loop else int(rng.integers(1, 10))
    run = simulator.run(scheduler, workload, clients, window=8, seed=seed)
    arrival = np.zeros(len(workload)) if workload.arrival is None else np.rint(workload.arrival * 1e12)
    requests = [
        Request(int(a), int(p), int(o), int(m))
        for a, p, o, m in zip(arrival, workload.prompt, workload.output, workload.cap)
    ]
    plain = Plain(simulator, requests, clients).run(scheduler, 8, seed)

    def seconds(name):
        return [getattr(r, name) / 1e12 if getattr(r, name) >= 0 else np.nan for r in requests]

    for name, theirs in (("admitted", "admitted"), ("first_token", "first"), ("max_gap", "gap"), ("end", "end")):
        np.testing.assert_array_equal(getattr(run, name), seconds(theirs), err_msg=name)
    assert run.evictions.tolist() == [r.evictions for r in requests]
    assert run.rejected.tolist() == [r.rejected for r in requests]
    assert run.order.tolist() == plain.order
    assert (run.seconds, run.steps, run.most_held) == (plain.now / 1e12, plain.steps, plain.most)
    assert run.utilisation == pytest.approx(plain.slots / max(plain.steps, 1) / simulator.capacity, abs=1e-12)


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=str)
def test_every_request_gets_all_of_its_tokens_and_none_overtakes(scheduler):
    workload = distribution_3(300, np.random.default_rng(1))
    run = Simulator(40_000).run(scheduler, workload, clients=60, window=50)
    assert sorted(run.order) == list(range(300)) and not run.rejected.any()
    assert run.most_held <= 40_000
    first = np.where(run.evictions == 0, run.admitted, np.inf)
    kept = first[np.isfinite(first)]
    assert (np.diff(kept) >= 0).all()
    assert (run.end >= run.first_token).all() and (run.first_token >= run.arrival).all()


def test_a_run_is_reproducible_from_its_seed():
    workload = distribution_3(200, np.random.default_rng(1))
    one, same, other = (Simulator(40_000).run(PastFuture(), workload, clients=50, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.end, same.end)
    assert not np.array_equal(one.end, other.end)


@pytest.mark.parametrize("workload", [distribution_1, distribution_3, shifted], ids=lambda w: w.__name__)
@pytest.mark.parametrize("page", [1, 16])
def test_the_oracle_never_evicts_and_never_outgrows_the_capacity(workload, page):
    run = Simulator(60_000, page=page).run(Oracle(), workload(300, np.random.default_rng(2)), clients=100)
    assert run.evictions.sum() == 0 and run.most_held <= 60_000 and run.future_peak < 1


def test_conservative_without_overcommitment_never_evicts():
    run = Simulator(60_000).run(Conservative(), distribution_3(300, np.random.default_rng(2)), clients=100)
    assert run.evictions.sum() == 0


def test_with_equal_lengths_past_future_becomes_the_oracle():
    rng = np.random.default_rng(3)
    n, window = 400, 20
    lengths = np.full(n, 200)
    workload = Workload(rng.integers(10, 400, n), lengths, np.full(n, 800))
    simulator = Simulator(8_000)
    warm = simulator.run(PastFuture(rho=0.0), workload, clients=30, window=window)
    # The window has turned over long before the end of the first run: what follows is the oracle's own decision.
    history = History(window, lengths=[200] * window)
    for _ in range(50):
        m = int(rng.integers(1, 9))
        generated = rng.integers(0, 200, 12)
        running = Batch.of(rng.integers(10, 400, 12), generated, [800] * 12, output=[200] * 12)
        waiting = Batch.of(rng.integers(10, 400, m), cap=[800] * m, output=[200] * m)
        assert PastFuture(rho=0.0).admit(waiting, running, 8_000, history, rng) == Oracle().admit(
            waiting, running, 8_000
        )
    assert warm.evictions[2 * window :].sum() == 0


def test_something_runs_whatever_the_scheduler_says():
    workload = Workload(np.array([90]), np.array([5]), np.array([10]), np.array([0.0]))
    run = Simulator(100).run(PastFuture(rho=0.9), workload)
    assert run.order.tolist() == [0]


def test_what_could_never_fit_is_rejected_at_once_and_counted():
    workload = Workload(np.array([95, 10]), np.array([5, 5]), np.array([6, 6]), np.zeros(2))
    run = Simulator(100).run(Conservative(), workload)
    assert run.rejected.tolist() == [True, False] and run.order.tolist() == [1]
    assert np.isnan(run.end[0])
    # 95 tokens and one more are six blocks of 16.
    exact = Workload(np.array([95]), np.array([1]), np.array([1]), np.zeros(1))
    assert not Simulator(96, page=16).run(Conservative(), exact).rejected[0]


def test_a_longer_prompt_than_a_prefill_may_have_is_computed_all_the_same():
    workload = Workload(np.array([500, 10]), np.array([5, 5]), np.array([6, 6]), np.zeros(2))
    run = Simulator(1000, prefill_tokens=100).run(Aggressive(), workload)
    assert run.order.tolist() == [0, 1]


def test_evictions_are_paid_for():
    workload = distribution_1(200, np.random.default_rng(1))
    run = Simulator(40_000).run(Aggressive(0.99), workload, clients=50)
    assert run.evictions.sum() > 0
    assert run.prefilled == workload.prompt.sum() + run.recomputed
    assert run.recomputed > run.evictions.sum() * workload.prompt.min()


def test_an_aggressive_scheduler_gains_when_evictions_are_free():
    """The trap that the time model avoids: without recomputation it would look best."""
    workload = distribution_1(400, np.random.default_rng(1))
    free = Simulator(60_000, time=StepTime(per_prompt_token=0.0))
    paid = Simulator(60_000)

    def gain(simulator):
        ours, theirs = (
            simulator.run(s, workload, clients=100).seconds for s in (PastFuture(rho=0.03), Aggressive(0.99))
        )
        return ours / theirs

    assert gain(free) > 1 and gain(paid) < gain(free) - 0.02


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("capacity=0", lambda: Simulator(0)),
        ("page=0", lambda: Simulator(10, page=0)),
        ("chunk=-1", lambda: Simulator(10, chunk=-1)),
        ("rho=1", lambda: PastFuture(rho=1.0)),
        ("draws=-1", lambda: PastFuture(draws=-1)),
        ("sampling='mean'", lambda: PastFuture(sampling="mean")),
        ("watermark=0", lambda: Aggressive(0)),
        ("overcommit=0", lambda: Conservative(0)),
        ("window=0", lambda: History(0)),
        ("length=0", lambda: History(5).record(0)),
        ("step and per_request", lambda: StepTime(step=0, per_request=0)),
        ("per_token=-1", lambda: StepTime(per_token=-1)),
        ("output: request 1 has 0", lambda: Workload(np.array([1, 1]), np.array([1, 0]), np.array([1, 1]))),
        ("above its cap 4", lambda: Workload(np.array([1]), np.array([5]), np.array([4]))),
        ("must be whole numbers in .*, is float64", lambda: Workload([1.5, 2], [1, 1], [3, 3])),
        ("cap: 1 entries for 2 requests", lambda: Workload([1, 2], [1, 1], [3])),
        ("prompt: must be a list of numbers", lambda: Workload([1, [2]], [1, 1], [3, 3])),
        ("prompt: must be a list of numbers", lambda: Workload(5, [1, 1], [3, 3])),
        ("arrival: must be a list of numbers", lambda: Workload([1], [1], [3], 3.0)),
        ("prompt: must be whole numbers in ", lambda: Workload([2**70], [1], [3])),
        ("output: must be a list of numbers", lambda: Workload([1, 2], [[1, 1], [1, 1]], [3, 3])),
        ("arrival: must be seconds", lambda: Workload([1, 2], [1, 1], [3, 3], ["a", "b"])),
        ("arrival: must ascend", lambda: Workload(*(np.ones(2, int),) * 3, np.array([1.0, 0.5]))),
        ("no arrival times", lambda: Simulator(10).run(Conservative(), Workload(*(np.ones(1, int),) * 3))),
        ("needs a history", lambda: PastFuture().admit(Batch.of([1]), Batch.of([]), 10)),
        ("true output length", lambda: Oracle().admit(Batch.of([1]), Batch.of([]), 10)),
        ("cap: request 0", lambda: Batch.of([1], [5], [5])),
        ("generated: 2 entries for 1", lambda: Batch.of([1], [5, 6])),
    ],
)
def test_bad_input_is_named(words, make):
    with pytest.raises(ValueError, match=words):
        make()
