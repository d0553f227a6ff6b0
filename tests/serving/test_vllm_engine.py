"""The adapter for vLLM, against a small stand-in for vLLM's scheduler, which has the fields and habits of version 0.33.

The stand-in: requests that run get a token each, and blocks as they grow; if there are none, the newest is preempted,
freed, and put at the front of the queue, and then nobody joins in that step; else the queue is gone through in order
while tokens are left and fewer than ``max_num_active_reqs`` requests are active, until one does not fit as a whole.
"""

from __future__ import annotations

import enum
import importlib
import pickle
import sys
import types
from collections import deque
from types import SimpleNamespace as Bag

import numpy as np
import pytest

from heedful.serving import Aggressive, Batch, History, PastFuture, PeakWithCap, vllm_engine

BLOCKS, BLOCK = 41, 16
CAPACITY = (BLOCKS - 1) * BLOCK
LIMIT = 8
RULES = {
    "past-future:rho=0.03": PastFuture(0.03), "aggressive:watermark=1.0": Aggressive(1.0),
    "peak-with-cap": PeakWithCap(),
}  # fmt: skip


class Status(enum.IntEnum):
    WAITING = enum.auto()
    WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR = enum.auto()
    WAITING_FOR_STREAMING_REQ = enum.auto()
    RUNNING = enum.auto()
    PREEMPTED = enum.auto()
    FINISHED_STOPPED = enum.auto()
    FINISHED_LENGTH_CAPPED = enum.auto()
    FINISHED_ABORTED = enum.auto()


class Request:
    def __init__(self, request_id, prompt, output, cap, ignore_eos=False):
        self.request_id, self.num_prompt_tokens, self.max_tokens = request_id, prompt, cap
        self.output, self.ready = output, False
        self.num_output_tokens = self.num_output_placeholders = self.num_computed_tokens = self.num_preemptions = 0
        self.status = Status.WAITING
        self.sampling_params = Bag(ignore_eos=ignore_eos, stop=[], stop_token_ids=[])

    @property
    def num_tokens(self):
        return self.num_prompt_tokens + self.num_output_tokens


class Blocks:
    """Blocks by request; one is never handed out."""

    def __init__(self):
        self.block_pool = self
        self.num_gpu_blocks = BLOCKS
        self.held = {}

    def free_blocks(self):
        return BLOCKS - 1 - sum(self.held.values())

    def allocate(self, request, tokens):
        new = -(-tokens // BLOCK) - self.held.get(request.request_id, 0)
        if new > self.free_blocks():
            return False
        self.held[request.request_id] = self.held.get(request.request_id, 0) + max(new, 0)
        return True


class Scheduler:
    def __init__(
        self, vllm_config, kv_cache_config, structured_output_manager, block_size, hash_block_size=None,
        include_finished_set=False, log_stats=False,
    ):  # fmt: skip
        self.kv_cache_config, self.block_size = kv_cache_config, block_size
        self.max_num_active_reqs, self.max_num_scheduled_tokens, self.max_model_len = LIMIT, 256, 400
        self.kv_cache_manager = Blocks()
        self.running, self.waiting, self.kv_holding_waiting = [], deque(), deque()
        self.num_waiting_for_streaming_input = 0
        self.finished, self.order, self.preemptions = [], [], 0
        self.watch = lambda: None

    def schedule(self, throttle_prefills=False):
        self.watch()
        budget, preempted, scheduled = self.max_num_scheduled_tokens, False, []
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            new = min(request.num_tokens - request.num_computed_tokens, budget)
            while not (fits := self.kv_cache_manager.allocate(request, request.num_computed_tokens + new)):
                last = self.running.pop()
                self._preempt_request(last)
                preempted = True
                if last is request:
                    break
            if not fits:
                break
            scheduled.append((request, new))
            budget -= new
            index += 1
        skipped = []
        while self.waiting and budget > 0 and not preempted:
            if len(self.running) + self.num_waiting_for_streaming_input >= self.max_num_active_reqs:
                break
            request = self.waiting[0]
            if request.status == Status.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR and request.ready:
                request.status = Status.WAITING
            if request.status.name.startswith("WAITING_FOR"):
                skipped.append(self.waiting.popleft())
                continue
            if not self.kv_cache_manager.allocate(request, request.num_tokens):
                break
            self.waiting.popleft()
            request.status = Status.RUNNING
            self.running.append(request)
            self.order.append(request.request_id)
            new = min(request.num_tokens, budget)
            scheduled.append((request, new))
            budget -= new
        self.waiting.extendleft(reversed(skipped))
        for request, new in scheduled:
            request.num_computed_tokens += new
        return scheduled

    def _preempt_request(self, request):
        self.kv_cache_manager.held.pop(request.request_id)
        request.status, request.num_computed_tokens = Status.PREEMPTED, 0
        request.num_preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(request)

    def _free_request(self, request, delay_free_blocks=False):
        self.kv_cache_manager.held.pop(request.request_id, None)
        self.finished.append(request)
        return None, None

    def update(self, scheduled):
        """Every request whose tokens are all computed gets a new one."""
        for request, _ in scheduled:
            if request in self.running and request.num_computed_tokens == request.num_tokens:
                request.num_output_tokens += 1
                if request.num_output_tokens >= request.output:
                    capped = request.num_output_tokens == request.max_tokens
                    request.status = Status.FINISHED_LENGTH_CAPPED if capped else Status.FINISHED_STOPPED
                    self.running.remove(request)
                    self._free_request(request)


class AsyncScheduler(Scheduler):
    pass


@pytest.fixture
def vllm(monkeypatch):
    """The stand-in, installed as version 0.33.1."""
    for name, cls in (("scheduler", Scheduler), ("async_scheduler", AsyncScheduler)):
        module = types.ModuleType(f"vllm.v1.core.sched.{name}")
        setattr(module, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(vllm_engine, "version", lambda name: "0.33.1")
    vllm_engine._scheduler_class.cache_clear()
    yield monkeypatch
    vllm_engine._scheduler_class.cache_clear()


def make(options=None, cls="AdmissionScheduler", groups=1, policy="fcfs", asynchronous=None):
    """The scheduler as vLLM makes it: by name, with keywords."""
    scheduler_config = Bag(
        async_scheduling=cls.startswith("Async") if asynchronous is None else asynchronous, policy=policy
    )
    config = Bag(scheduler_config=scheduler_config, additional_config={} if options is None else {"heedful": options})
    return getattr(importlib.import_module("heedful.serving.vllm_engine"), cls)(
        vllm_config=config, kv_cache_config=Bag(kv_cache_groups=[None] * groups), structured_output_manager=None,
        include_finished_set=False, log_stats=False, block_size=BLOCK, hash_block_size=BLOCK,
    )  # fmt: skip


def requests(count=40, ignore_eos=False):
    rng = np.random.default_rng(0)
    prompts, outputs = rng.integers(8, 61, count), rng.integers(5, 121, count)
    return [
        Request(i, int(p), int(o), int(o) if ignore_eos else 120, ignore_eos)
        for i, (p, o) in enumerate(zip(prompts, outputs))
    ]


def play(engine, arriving):
    """Serves all requests, of which one arrives with each step."""
    todo = deque(arriving)
    while todo or engine.waiting or engine.running:
        if todo:
            engine.waiting.append(todo.popleft())
        engine.update(engine.schedule())


def seen(requests):
    return Batch.of(
        [r.num_prompt_tokens for r in requests],
        [r.num_output_tokens for r in requests],
        [r.max_tokens for r in requests],
        [r.sampling_params.ignore_eos for r in requests],
    )


@pytest.mark.parametrize("ignore_eos", [False, True])
@pytest.mark.parametrize("spec", RULES)
def test_those_join_whom_the_pure_function_admits(vllm, spec, ignore_eos):
    engine = make({"scheduler": spec, "window": 20, "longest": 120, "seed": 3})
    history, rng, recorded, decisions = History(20, 120), np.random.default_rng(3), 0, []

    def watch():
        nonlocal recorded
        for request in engine.finished[recorded:]:
            history.record(request.output)
        recorded = len(engine.finished)
        head = list(engine.waiting)[: LIMIT - len(engine.running)]
        expected = 0
        if head:
            expected = RULES[spec].admit(seen(head), seen(engine.running), CAPACITY, history, rng, BLOCK)
        assert engine.max_num_active_reqs - len(engine.running) == expected
        decisions.append(expected)

    engine.watch = watch
    play(engine, requests(ignore_eos=ignore_eos))
    assert len(engine.finished) == 40 and engine.max_num_active_reqs == LIMIT
    assert sum(decisions) > 0 and 0 in decisions
    if spec == "peak-with-cap":
        assert engine.preemptions == 0
    if spec == "aggressive:watermark=1.0":
        assert engine.preemptions > 0
    if engine.preemptions == 0:
        assert engine.order == sorted(engine.order)
        assert sum(decisions) == 40


def test_total_lengths_of_true_completions_are_recorded_once(vllm):
    engine = make({"scheduler": "aggressive:watermark=1.0", "window": 100, "lengths": [1]})
    work = requests()
    aborted = Request("gone", 20, 50, 120)
    play(engine, [*work, aborted][:-1])
    aborted.status, aborted.num_output_tokens = Status.FINISHED_ABORTED, 7
    engine._free_request(aborted)
    assert engine.preemptions > 0
    assert sorted(engine.admission.history.values) == sorted([1, *(request.output for request in work)])


def test_requests_that_wait_for_something_else_are_passed_over_until_they_are_ready(vllm):
    engine = make({"scheduler": "peak-with-cap"})
    grammar, client, first, second = (Request(name, 20, 5, 10) for name in "gcfs")
    grammar.status = Status.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
    client.status = Status.WAITING_FOR_STREAMING_REQ
    engine.waiting.extend([grammar, client, first, second])
    engine.update(engine.schedule())
    assert engine.running == [first, second] and list(engine.waiting) == [grammar, client]
    while engine.running:
        engine.update(engine.schedule())
    engine.update(engine.schedule())
    assert engine.running == []
    grammar.ready = True
    engine.schedule()
    assert engine.running == [grammar] and list(engine.waiting) == [client]


def test_it_decides_only_when_it_is_due(vllm):
    engine = make({"scheduler": "aggressive:watermark=0.3", "interval": 10})
    asked = []
    original = engine.admission.admit
    engine.admission.admit = lambda waiting, running: asked.append(steps) or original(waiting, running)
    for request in requests(12):
        request.output = 100
        engine.waiting.append(request)
    for steps in range(40):  # noqa: B007
        engine.update(engine.schedule())
    assert asked == [0, 10, 20, 30]


def test_tokens_on_their_way_count_and_the_cap_ends_with_the_context(vllm):
    engine = make(cls="AsyncAdmissionScheduler")
    assert isinstance(engine, AsyncScheduler)
    request = Request(0, 300, 50, 500)
    request.num_output_tokens, request.num_output_placeholders = 5, 2
    assert engine._row(request) == (300, 7, 100, False)
    request.sampling_params = Bag(ignore_eos=True, stop=[], stop_token_ids=[])
    assert engine._row(request)[3] is True
    request.sampling_params = Bag(ignore_eos=True, stop=["\n"], stop_token_ids=[])
    assert engine._row(request)[3] is False


def test_a_prompt_as_large_as_the_cache_is_left_to_vllm(vllm):
    engine = make({"scheduler": "peak-with-cap"})
    engine.waiting.append(Request(0, CAPACITY, 1, 1))
    engine.schedule()
    assert len(engine.running) == 1


def test_its_own_limits_come_first_and_return_even_if_a_step_fails(vllm):
    engine = make({"scheduler": "aggressive:watermark=1.0"})
    engine.max_num_active_reqs, engine.num_waiting_for_streaming_input = 4, 1
    engine.waiting.extend(Request(i, 8, 5, 10) for i in range(9))
    engine.schedule()
    assert len(engine.running) == 3 and engine.max_num_active_reqs == 4

    def fail():
        raise KeyError("step")

    engine.watch = fail
    with pytest.raises(KeyError):
        engine.schedule(throttle_prefills=True)
    assert engine.max_num_active_reqs == 4


def test_the_classes_can_be_sent_to_the_engines_process_by_name(vllm):
    for name in ("AdmissionScheduler", "AsyncAdmissionScheduler"):
        cls = getattr(vllm_engine, name)
        assert pickle.loads(pickle.dumps(cls)) is cls
    with pytest.raises(AttributeError, match="no attribute 'PastFutur'"):
        vllm_engine.PastFutur  # noqa: B018


@pytest.mark.parametrize(
    "options, message",
    [
        ({"scheduler": "past-futur"}, "did you mean 'past-future'"),
        ({"scheduler": "oracle"}, "needs the true output lengths"),
        ({"window": 0}, "window=0: must be at least 1"),
        ({"rho": 0.05}, 'additional_config, "heedful": .*rho'),
    ],
)
def test_bad_options_are_errors(vllm, options, message):
    with pytest.raises(ValueError, match=message):
        make(options)


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"groups": 2}, "has 2 groups of layers"),
        ({"policy": "priority"}, "policy 'priority': must be 'fcfs'"),
        ({"asynchronous": True}, "is on: use heedful.serving.vllm_engine.AsyncAdmissionScheduler"),
        ({"asynchronous": False, "cls": "AsyncAdmissionScheduler"}, "is off: use .*vllm_engine.AdmissionScheduler"),
    ],
)
def test_what_it_cannot_be_used_for_is_refused(vllm, keywords, message):
    with pytest.raises(ValueError, match=message):
        make(**keywords)


def test_without_vllm_there_is_one_clear_line():
    vllm_engine._scheduler_class.cache_clear()
    if "vllm" in sys.modules or importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed")
    with pytest.raises(ImportError, match=r"^AdmissionScheduler: needs vLLM 0\.33\.x in this environment") as error:
        vllm_engine.AdmissionScheduler  # noqa: B018
    assert "\n" not in str(error.value)


def test_another_version_is_refused_unless_it_is_asked_for(vllm):
    vllm.setattr(vllm_engine, "version", lambda name: "0.34.0")
    with pytest.raises(RuntimeError, match=r'vLLM 0\.34\.0 has not been tested, 0\.33\.x has; .*"any_version": true'):
        make()
    assert make({"any_version": True}).admission.scheduler == PastFuture()
    vllm.setattr(vllm_engine, "version", lambda name: "0.33.0+cu129")
    assert make().admission.options.window == 1000


def test_a_scheduler_without_the_lever_is_refused(vllm):
    original = Scheduler.__init__

    def older(self, *args, **keywords):
        original(self, *args, **keywords)
        del self.max_num_active_reqs

    vllm.setattr(Scheduler, "__init__", older)
    with pytest.raises(RuntimeError, match=r"has no max_num_active_reqs; that of version 0\.33 has"):
        make()
