"""Schedulers inside the engine of transformers, step by step: who is admitted when, and what is recorded of whom."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from small_engine import NAMES, NO_END, REQUESTS, SMALL
from transformers import ContinuousBatchingConfig, GenerationConfig

from heedful.serving import Aggressive
from heedful.serving.transformers_engine import DEFAULTS, Options, installed


class Stepped:
    """The engine without its thread: one call, one step."""

    def __init__(self, model, manager, live):
        self.model, self.manager, self.live = model, manager, live
        self.processor = manager.batch_processor

    def step(self):
        """Makes a step if there is anything to do."""
        if not self.processor.prepare_next_batch():
            return False
        with torch.no_grad():
            self.processor._generation_step(self.model)
        self.processor.update_batch()
        return True

    def results(self):
        queue = self.manager.output_router.output_queue
        return [queue.get_nowait() for _ in range(queue.qsize())]


@contextmanager
def stepped(model, rule, options=DEFAULTS, config=NO_END, **settings):
    with installed(rule, options) as ours:
        manager = model.init_continuous_batching(
            config, ContinuousBatchingConfig(**{**SMALL, **ours.config, **settings})
        )
        manager.batch_processor = manager._create_batch_processor()
        yield Stepped(model, manager, ours.live)


@pytest.mark.parametrize("name", NAMES)
def test_an_evicted_request_is_admitted_again_before_any_later_arrival(model, work, name):
    prompts, lengths = work
    with stepped(model, name, Options(window=8)) as engine:
        arrived = {engine.manager.add_request(p, max_new_tokens=n): i for i, (p, n) in enumerate(zip(prompts, lengths))}
        before, again = set(), 0
        while engine.step() or engine.live.has_pending_requests():
            queue = [arrived[request] for request in engine.live.waiting_requests_order]
            assert queue == sorted(queue)
            running = {arrived[request] for request in engine.live.active_requests}
            new = running - before
            if new and queue:
                again += bool(min(new) < max(before, default=-1))
                assert max(new) < min(queue)
            before = running
        assert len(engine.results()) == REQUESTS
        if name in ("fifo", "aggressive:watermark=1.0"):
            assert again > 0


def test_cancelled_requests_are_not_recorded(model, work):
    prompts, _ = work
    with stepped(model, "peak-with-mean", Options(window=10, lengths=(100,))) as engine:
        names = [engine.manager.add_request(prompt, max_new_tokens=30) for prompt in prompts[:4]]
        for _ in range(5):
            engine.step()
        engine.manager.cancel_request(names[1])
        while engine.step():
            pass
        assert engine.live.history.values == (100, 30, 30, 30)
        assert (engine.live.stats.cancelled, engine.live.stats.finished) == (1, 3)
        assert engine.live.stats.occupied == 0


def test_an_answer_that_is_called_complete_is_finished_and_recorded_once(model, work):
    prompts, _ = work
    with stepped(model, "peak-with-mean", Options(window=10, lengths=(100,))) as engine:
        names = [engine.manager.add_request(prompt, max_new_tokens=30) for prompt in prompts[:4]]
        for _ in range(5):
            engine.step()
        engine.live.complete(names[1], 4)
        engine.manager.cancel_request(names[1])
        engine.manager.cancel_request(names[2])
        engine.live.complete("nobody", 9)
        engine.step()
        assert engine.live.history.values == (100, 4)
        stats = engine.live.stats
        assert (stats.finished, stats.delivered, stats.cancelled, stats.running) == (1, 4, 1, 2)
        # Of one that ends by itself before the next step, what was said first counts; afterwards, nothing does.
        for _ in range(23):
            engine.step()
        engine.live.complete(names[0], 29)
        while engine.step():
            pass
        engine.live.complete(names[3], 29)
        engine.step()
        assert engine.live.history.values == (100, 4, 29, 30)
        stats = engine.live.stats
        assert (stats.finished, stats.delivered, stats.cancelled, stats.failed) == (3, 63, 1, 0)
        assert (stats.running, stats.waiting, stats.occupied) == (0, 0, 0)
        with pytest.raises(ValueError, match="length=0: must be at least 1"):
            engine.live.complete(names[0], 0)


def test_an_evicted_request_that_is_called_complete_is_recorded_with_its_total_length(model, work):
    prompts, lengths = work
    with stepped(model, "aggressive:watermark=1.0", Options(window=50, lengths=(1,))) as engine:
        for prompt, length in zip(prompts, lengths):
            engine.manager.add_request(prompt, max_new_tokens=length)
        live = engine.live
        while not live.block_new_requests:
            engine.step()
        evicted = next(state for state in live.waiting_requests.values() if state._true_initial_tokens)
        total = len(evicted.initial_tokens) - evicted._true_initial_tokens
        live.complete(evicted.request_id, total)
        live.clear_cancelled_requests()
        assert live.history.values == (1, total) and live.block_new_requests
        running = next(iter(live.active_requests))
        live.complete(running, 7)
        live.clear_cancelled_requests()  # how a step begins
        assert live.history.values[:3] == (1, total, 7)
        assert not live.block_new_requests  # as after any other end
        while engine.step():
            pass
        assert (live.stats.finished, live.stats.cancelled, live.stats.occupied) == (REQUESTS, 0, 0)
        assert len(live.history) == 1 + REQUESTS


def test_what_is_complete_is_recorded_though_the_engine_is_stopped_before_the_next_step(model, work):
    with stepped(model, "past-future", Options(window=10, lengths=(100,))) as engine:
        names = [engine.manager.add_request(prompt, max_new_tokens=50) for prompt in work[0][:2]]
        for _ in range(5):
            engine.step()
        engine.live.complete(names[0], 3)
        engine.processor.fail_all_requests(RuntimeError("stopped"))
        assert engine.live.history.values == (100, 3)
        assert (engine.live.stats.finished, engine.live.stats.failed) == (1, 1)


def test_when_all_that_runs_is_cancelled_the_evicted_ones_go_on(model, work):
    """After an eviction the engine takes nobody until a request has ended; if all are cancelled, none ever would."""
    prompts, lengths = work
    with stepped(model, "aggressive:watermark=1.0") as engine:
        for prompt, length in zip(prompts, lengths):
            engine.manager.add_request(prompt, max_new_tokens=length)
        while not engine.live.block_new_requests:
            engine.step()
        cancelled = list(engine.live.active_requests)
        for name in cancelled:
            engine.manager.cancel_request(name)
        while engine.step():
            pass
        assert not engine.live.has_pending_requests()
        assert engine.live.stats.finished + engine.live.stats.cancelled == REQUESTS
        assert engine.live.stats.cancelled == len(cancelled)


def test_what_would_slip_past_the_scheduler_is_refused(model, work):
    several = GenerationConfig(max_new_tokens=5, eos_token_id=-1, do_sample=True, num_return_sequences=2)
    with stepped(model, "peak-with-cap", config=several) as engine:
        engine.manager.add_request(work[0][0])
        engine.step()
        assert "num_return_sequences: must be 1" in engine.results()[0].error
    with stepped(model, "peak-with-cap") as engine:
        engine.manager.add_request(work[0][0], request_id="a")
        engine.manager.add_request(work[0][1], request_id="a")
        engine.step()
        assert "request_id='a'" in engine.results()[0].error
        assert engine.live.stats.running == 1


def test_it_decides_when_it_is_due(model, work, answers):
    """With an interval of 10 steps: then, and when a request has ended, when nothing runs, when something waits."""
    prompts, lengths = work
    with stepped(model, "peak-with-cap", Options(interval=10)) as engine:
        for prompt, length in zip(prompts, lengths):
            engine.manager.add_request(prompt, max_new_tokens=length)
        steps, since, ended, decided = 0, 0, True, 0
        while engine.live.has_pending_requests() or not steps:
            finished = engine.live.stats.finished
            engine.step()
            steps += 1
            now = engine.live.stats
            if now.decisions > decided:
                assert ended or since >= 10
                since, decided = 0, now.decisions
            since += 1
            ended = now.finished > finished
        assert decided < steps / 3
        got = {result.request_id: result.generated_tokens for result in engine.results()}
        assert [got[f"req_{i}"] for i in range(REQUESTS)] == answers


def test_no_more_requests_run_than_the_engine_can_batch(model, work, answers):
    prompts, lengths = work
    with stepped(model, Aggressive(watermark=1.0), max_requests_per_batch=3) as engine:
        for prompt, length in zip(prompts[:8], lengths):
            engine.manager.add_request(prompt, max_new_tokens=length)
        most = 0
        while engine.step():
            most = max(most, engine.live.stats.running)
        assert most == 3 and len(engine.results()) == 8


def test_the_engines_margin_is_not_laid_over_a_scheduler_of_ours(model):
    """As when its own name is taken over by ours, and it is started with its default settings."""
    for rule, margin in (("peak-with-cap", 0.0), ("fifo", 0.15)):
        with stepped(model, rule, safety_margin=None) as engine:
            assert engine.live.safety_margin == margin


def test_the_same_seed_makes_the_same_decisions(model, work):
    prompts, lengths = work
    runs = []
    for seed in (0, 0, 1):
        options = Options(window=8, lengths=(20, 40, 90), seed=seed)
        with stepped(
            model, "past-future:rho=0.0", options, GenerationConfig(max_new_tokens=9, eos_token_id=127)
        ) as engine:
            for prompt in prompts[:14]:
                engine.manager.add_request(prompt, max_new_tokens=80)
            admitted = []
            while engine.step():
                admitted.append(engine.live.stats.admitted)
            runs.append(admitted)
    assert runs[0] == runs[1] != runs[2]
