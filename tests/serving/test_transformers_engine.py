"""Schedulers inside the continuous batching of transformers: same answers, nobody overtaken, nothing miscounted."""

from __future__ import annotations

import csv
import io
import threading
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_engine import CAPACITY, NAMES, NO_END, REQUESTS, SMALL, tiny
from transformers import MistralConfig
from transformers.generation.continuous_batching import requests, scheduler
from transformers.models.mistral.modeling_mistral import MistralForCausalLM

from heedful.serving import PastFuture, PeakWithCap, fit
from heedful.serving.base import Scheduler
from heedful.serving.transformers_engine import Options, installed, scheduled


def next_logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0]


class Resets:
    """Counts the engine's soft resets."""

    def __init__(self, monkeypatch):
        self.count = 0
        original = requests.RequestState.create_equivalent_initial_request

        resets = self

        def create_equivalent_initial_request(self):
            resets.count += 1
            return original(self)

        monkeypatch.setattr(
            requests.RequestState, "create_equivalent_initial_request", create_equivalent_initial_request
        )


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_identical_under_every_scheduler(model, work, answers, name):
    prompts, lengths = work
    with scheduled(model, name, Options(window=8), NO_END, **SMALL) as engine:
        assert engine.generate(prompts, lengths) == answers
        stats = engine.stats
    assert (stats.finished, stats.delivered) == (REQUESTS, sum(lengths))
    assert stats.prefilled - stats.recomputed == sum(len(prompt) for prompt in prompts)
    assert stats.admitted == REQUESTS + stats.evictions
    assert (stats.running, stats.waiting, stats.occupied, stats.failed, stats.rejected) == (0, 0, 0, 0, 0)
    if name in ("conservative", "peak-with-cap"):
        assert stats.evictions == stats.recomputed == 0
    if name in ("fifo", "aggressive:watermark=1.0"):
        assert stats.evictions > 3 and stats.recomputed > stats.evictions


def test_answers_are_those_of_the_plain_model(model, work, answers):
    """Full forward passes, no cache: every token is the likeliest by far more than float64 can be off."""
    for prompt, answer in list(zip(*(work[0], answers)))[::6]:
        logits = next_logits(model, prompt + answer)[len(prompt) - 1 : -1]
        best = logits.topk(2).values
        assert logits.argmax(-1).tolist() == answer
        assert (best[:, 0] - best[:, 1]).min() > 1e-7


def test_float32_differs_only_where_two_tokens_are_alike(work):
    """First differences, of which there are few, happen only where the two best logits are within 1e-4."""
    model, (prompts, lengths) = tiny(torch.float32), work
    found = {}
    for name in ("aggressive:watermark=1.0", "peak-with-cap"):
        with scheduled(model, name, generation_config=NO_END, **SMALL) as engine:
            found[name] = engine.generate(prompts, lengths)
    first, second = found.values()
    different = 0
    for prompt, one, other in zip(prompts, first, second):
        assert len(one) == len(other)
        place = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), None)
        if place is not None:
            different += 1
            best = next_logits(model, prompt + one[:place])[-1].topk(2).values
            assert best[0] - best[1] < 1e-4
    assert different <= 3


@pytest.mark.parametrize("name", ["fifo", "aggressive:watermark=1.0"])
def test_evictions_are_the_engines_soft_resets_and_lengths_are_total(model, work, name, monkeypatch):
    prompts, lengths = work
    resets = Resets(monkeypatch)
    with scheduled(model, name, Options(window=100, lengths=(1,)), NO_END, **SMALL) as engine:
        engine.generate(prompts, lengths)
        assert engine.stats.evictions == resets.count > 0
        if name != "fifo":
            assert sorted(engine.scheduler.history.values[1:]) == sorted(lengths)


def test_an_answer_that_ends_by_itself_is_recorded_with_its_own_length(model, work, answers):
    prompts, lengths = work
    longest = int(np.argmax(lengths))
    answer = answers[longest]
    end = answer[20]
    expected = answer.index(end) + 1
    with scheduled(model, "past-future", Options(window=10, lengths=(100,)), NO_END, **SMALL) as engine:
        assert engine.generate([prompts[longest]], 120, eos_token_id=end) == [answer[:expected]]
        assert engine.scheduler.history.values == (100, expected)


def test_requests_that_could_never_fit_are_rejected_at_once_and_counted(model, work):
    prompts, _ = work
    with scheduled(model, "past-future", generation_config=NO_END, **SMALL) as engine:
        with pytest.raises(ValueError, match=r"prompts\[1\]: 60 prompt tokens and up to 581 new ones .* 640 tokens"):
            engine.generate([prompts[0], [1] * 60], [10, 581])
        with pytest.raises(ValueError, match="max_new_tokens=0: must be at least 1"):
            engine.generate([prompts[0]], 0)
        with pytest.raises(ValueError, match="the prompt is empty"):
            engine.generate([[]], 5)
        with pytest.raises(ValueError, match="max_new_tokens: 1 entries for 2 prompts"):
            engine.generate(prompts[:2], [5])
        assert engine.stats.rejected == 3 and engine.stats.steps == 0
        too_long = engine.manager.add_request([1] * 60, max_new_tokens=581)
        fits = engine.manager.add_request([1] * 600, max_new_tokens=40)
        results = {result.request_id: result for result in (engine.manager.get_result(), engine.manager.get_result())}
        assert "more than the 640 tokens" in results[too_long].error
        assert len(results[fits].generated_tokens) == 40 and results[fits].error is None
        assert engine.stats.rejected == 4 and engine.stats.finished == 1


def test_unknown_schedulers_and_fields_are_errors(model):
    table = dict(scheduler.SCHEDULER_MAPPING)
    for rule, message in (
        ("past-futur", "did you mean 'past-future'"),
        ("oracle", "needs the true output lengths"),
        ("past-future:rho=2", r"rho=2.0: must lie in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=message), installed(rule):
            pass
    for field, message in (
        ("scheduler_type", "is decided by"),
        ("safety_margin", "is decided by"),
        ("blocks", "no such field"),
    ):
        with pytest.raises(ValueError, match=message), scheduled(model, PeakWithCap(), NO_END, **{field: 1}):
            pass
    assert table == scheduler.SCHEDULER_MAPPING


def test_the_engines_table_is_as_before_afterwards():
    before = dict(scheduler.SCHEDULER_MAPPING)
    with installed(PastFuture(), name="fifo") as ours, installed("fifo") as second:
        assert scheduler.SCHEDULER_MAPPING["fifo"] == ours.make
        assert ours.config == {"scheduler_type": "fifo", "allow_block_sharing": False, "safety_margin": 0.0}
        assert "safety_margin" not in second.config and second.config["scheduler_type"] in scheduler.SCHEDULER_MAPPING
        assert ours.live is None and ours.stats.steps == 0
    assert before == scheduler.SCHEDULER_MAPPING


@pytest.mark.parametrize(
    "options, message",
    [
        ({"window": 0}, "window=0: must be at least 1"),
        ({"longest": -1}, "longest=-1: must be at least 0"),
        ({"interval": 0}, "interval=0: must be at least 1"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
        ({"lengths": (3, 0)}, "lengths: must be at least 1"),
    ],
)
def test_options_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_a_model_with_sliding_attention_is_refused():
    config = MistralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=32,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    with (
        pytest.raises(ValueError, match="only known for full attention"),
        scheduled(model, "peak-with-cap", generation_config=NO_END, **SMALL),
    ):
        pass


@dataclass(frozen=True)
class Broken(Scheduler):
    """Breaks its promise: admits more than there are, or nobody."""

    count: int = 0

    def admit(self, waiting, running, capacity, history=None, rng=None, page=1):
        return self.count


@pytest.mark.parametrize("count", [0, 99])
def test_a_scheduler_that_breaks_its_promise_stops_the_engine(model, work, count):
    with (
        pytest.raises(RuntimeError, match=f"admitted {count} of"),
        scheduled(model, Broken(count), generation_config=NO_END, **SMALL) as engine,
    ):
        engine.generate(work[0][:3], 10)


def test_shared_blocks_change_no_answer(model, work, answers):
    prompts, lengths = work
    with scheduled(model, "past-future", generation_config=NO_END, allow_block_sharing=True, **SMALL) as engine:
        assert engine.generate(prompts[:6] + prompts[:6], lengths[:6] * 2) == answers[:6] * 2
        assert engine.stats.prefilled < 2 * sum(len(prompt) for prompt in prompts[:6])


def test_the_log_has_a_line_per_step_that_a_model_of_step_times_can_be_fitted_to(model, work):
    prompts, lengths = work
    log = io.StringIO()
    with scheduled(model, "aggressive:watermark=1.0", generation_config=NO_END, log=log, **SMALL) as engine:
        engine.generate(prompts, lengths)
    stats = engine.stats
    rows = list(csv.DictReader(io.StringIO(log.getvalue())))
    assert len(rows) == stats.steps
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    assert list(columns) == ["running", "occupied", "prefill_tokens", "seconds"]
    assert columns["prefill_tokens"].sum() == stats.prefilled
    # A request decodes once for each token but the first after a prefill.
    assert columns["running"].sum() == stats.delivered - stats.admitted
    assert (columns["occupied"] <= CAPACITY).all() and (columns["occupied"] >= columns["running"]).all()
    assert fit(*columns.values()).steps == stats.steps


def test_stats_are_read_from_another_thread_while_the_engine_works(model, work):
    prompts, lengths = work
    seen = []
    with scheduled(model, "past-future", generation_config=NO_END, **SMALL) as engine:
        done = threading.Event()

        def watch():
            while not done.wait(0.001):
                seen.append(engine.stats)

        watcher = threading.Thread(target=watch)
        watcher.start()
        engine.generate(prompts[:8], lengths[:8])
        done.set()
        watcher.join()
    assert all(old.steps <= new.steps and old.finished <= new.finished for old, new in pairwise(seen))
    assert max(stats.running for stats in seen) > 1
    assert all(0 <= stats.occupied <= CAPACITY == stats.capacity for stats in seen)
    assert max(stats.predicted_peak for stats in seen) > 0


def test_a_run_is_reproducible_though_the_engine_has_a_thread_of_its_own(model, work):
    prompts, lengths = work
    stats = []
    for queue in (0, 0, 100):
        with scheduled(
            model, "aggressive:watermark=1.0", generation_config=NO_END, max_queue_size=queue, **SMALL
        ) as engine:
            engine.generate(prompts[:12], lengths[:12])
            stats.append(engine.stats)
    assert stats[0] == stats[1] and stats[0].evictions > 0
    assert stats[2].finished == 12
