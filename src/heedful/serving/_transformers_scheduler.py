"""What transformers' continuous batching is given as its scheduler: it offers the engine what ours admits.

See :mod:`heedful.serving.transformers_engine`, which hands it to the engine.
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TextIO

from heedful.serving._transformers_interface import TESTED
from heedful.serving.admission import Admission, Options, batch, joined
from heedful.serving.base import Batch, Scheduler
from heedful.serving.history import History
from heedful.serving.peak import pages

try:
    from transformers import ContinuousBatchingConfig
    from transformers.generation.continuous_batching.cache_allocators import SLIDING_ATTENTION
    from transformers.generation.continuous_batching.requests import RequestState, RequestStatus
    from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING, FIFOScheduler
except ImportError as error:
    raise ImportError(f"continuous batching needs another transformers, version {TESTED} works: {error}") from error

if TYPE_CHECKING:
    from transformers.generation.continuous_batching import PagedAttentionCache

__all__ = ["LOG_HEADER", "SCHEDULER_MAPPING", "ContinuousBatchingConfig", "EngineScheduler", "Stats"]

LOG_HEADER = "running,occupied,prefill_tokens,seconds"


@dataclass(frozen=True)
class Stats:
    """What an engine has done so far, and what it is doing.

    Attributes:
        capacity: tokens that the KV cache can hold.
        running: requests that run.
        waiting: requests that wait.
        occupied: tokens in blocks that are taken, after the last step was planned.
        predicted_peak: the most tokens that the running requests will come to hold, at the last decision, in whole
            blocks; each is taken to become as long as the mean of the earlier answers that are longer than it is.
        steps: forward passes.
        decisions: how often the scheduler was asked.
        admitted: admissions, those after an eviction included.
        finished: requests that were answered, those that :meth:`EngineScheduler.complete` ended included.
        delivered: output tokens of these.
        rejected: requests that could never have fitted.
        cancelled: requests that were taken back.
        failed: requests that ended in an error.
        evictions: how often a running request was evicted.
        prefilled: prompt tokens that were computed, ``recomputed`` included.
        recomputed: of these, tokens of requests that had been evicted.
    """

    capacity: int = 0
    running: int = 0
    waiting: int = 0
    occupied: int = 0
    predicted_peak: int = 0
    steps: int = 0
    decisions: int = 0
    admitted: int = 0
    finished: int = 0
    delivered: int = 0
    rejected: int = 0
    cancelled: int = 0
    failed: int = 0
    evictions: int = 0
    prefilled: int = 0
    recomputed: int = 0


class EngineScheduler(FIFOScheduler):
    """The engine's scheduler, which offers it what ours admits. The engine makes it, in :func:`installed`.

    All but :attr:`stats`, :meth:`check` and :meth:`complete` belongs to the engine's thread. ``scheduler`` is None for
    the engine's own rule.
    """

    def __init__(
        self,
        cache: PagedAttentionCache,
        safety_margin: float | None,
        max_requests_per_batch: int,
        scheduler: Scheduler | None,
        options: Options,
        log: TextIO | None,
    ) -> None:
        allocators = list(cache.cache_allocators)
        if len(allocators) != 1 or SLIDING_ATTENTION in allocators:
            raise ValueError(
                f"the model has attention of the kinds {', '.join(allocators)}; what a request holds is only known "
                "for full attention"
            )
        self.page: int = cache.cache_allocators[allocators[0]].tokens_per_page
        self.capacity: int = cache.num_blocks * self.page
        self._admission = None if scheduler is None else Admission(scheduler, options, self.capacity, self.page)
        self._lock = threading.Lock()
        self._stats = Stats(capacity=self.capacity)
        self._log = log
        if log is not None:
            print(LOG_HEADER, file=log)
        super().__init__(cache, safety_margin, max_requests_per_batch)

    @property
    def stats(self) -> Stats:
        """What has been done so far; from any thread."""
        return self._stats

    @property
    def history(self) -> History | None:
        """Total output lengths of the requests that were answered; None with the engine's own rule."""
        return None if self._admission is None else self._admission.history

    def check(self, prompt: int, cap: int) -> None:
        """Counts and refuses a request that could never be served; from any thread.

        Args:
            prompt: tokens of the prompt.
            cap: the most tokens that it may generate.

        Raises ValueError for an empty prompt, a cap below 1, and for more tokens than the whole cache holds.
        """
        if prompt < 1:
            problem = "the prompt is empty"
        elif cap < 1:
            problem = f"max_new_tokens={cap}: must be at least 1"
        elif prompt + cap > self.capacity:
            problem = (
                f"{prompt} prompt tokens and up to {cap} new ones are more than the {self.capacity} tokens that the "
                "cache holds; lower max_new_tokens"
            )
        else:
            return
        self._note(rejected=1)
        raise ValueError(problem)

    def complete(self, request_id: str, length: int) -> None:
        """Ends a request whose answer is complete, though the engine would go on; from any thread.

        It is taken out before the next step and is recorded and counted as finished, not as cancelled: once, even if
        the engine ends it by itself at the same time.

        Args:
            request_id: a request that has generated something; nothing happens if it has ended already.
            length: tokens of the answer, those before evictions included, at least 1. What was generated beyond is no
                part of it.

        Raises ValueError for a length below 1.
        """
        if length < 1:
            raise ValueError(f"length={length}: must be at least 1")
        with self._lock:
            self._completed[request_id] = length

    def reset(self) -> None:
        super().reset()
        self._completed: dict[str, int] = {}
        self._arrival: dict[str, int] = {}
        self._arrivals = itertools.count()
        self._tokens = 0
        self._step: tuple[int, int, int, float] | None = None

    def add_waiting_request(self, state: RequestState) -> None:
        """A new request; or an evicted one, which goes back to its place by order of arrival."""
        if state._true_initial_tokens or state.is_cpu_offloaded:
            super().add_waiting_request(state)
            arrived = self._arrival.__getitem__
            self.waiting_requests_order = type(self.waiting_requests_order)(
                sorted(self.waiting_requests_order, key=arrived)
            )
            self._note(evictions=1)
            return
        if state.num_children:
            raise ValueError("num_return_sequences: must be 1; copies of a request would join without being admitted")
        if state.request_id in self._arrival:
            raise ValueError(f"request_id={state.request_id!r}: a request of that name is being served")
        self.check(len(state.initial_tokens), state._new_tokens_limit)
        self._arrival[state.request_id] = next(self._arrivals)
        super().add_waiting_request(state)
        self._note()

    def clear_cancelled_requests(self) -> list[RequestState]:
        # The engine calls this at the start of every step, so it is where the step before has ended.
        self._write_step()
        with self._lock:
            completed, self._completed = self._completed, {}
        for request_id in completed:
            self.set_request_cancellation(request_id)
        if not completed.keys().isdisjoint(self.active_requests):
            self.block_new_requests = False  # as the engine does when a request ends by itself
        removed = super().clear_cancelled_requests()
        for state in removed:
            if state.request_id in completed:
                state.status = RequestStatus.FINISHED  # a step that is under way will add nothing to it
                self._finished(state, completed[state.request_id])
            else:
                self._forget(state)
                self._note(cancelled=1)
        return removed

    def finish_request(self, request_id: str) -> None:
        """A request has ended; or is evicted, which is no end, and then it is added again at once."""
        state = self.active_requests.get(request_id)
        super().finish_request(request_id)
        if state is None:
            return
        failed = state.status == RequestStatus.FAILED
        if not failed and not _complete(state):
            return
        with self._lock:
            length = self._completed.pop(request_id, None)
        if length is not None:
            self._finished(state, length)
        elif failed:
            self._forget(state)
            self._note(failed=1)
        else:
            self._finished(state, _generated(state))

    def schedule_batch(self, token_budget: int, cache_budget: int) -> Any:
        if not self.active_requests:
            # Whom it waits for may have been cancelled; the engine by itself would wait for ever.
            self.block_new_requests = False
        if not self.waiting_requests and self._admission is not None:
            self._admission.ended()
        self._tokens = token_budget
        begun, before = time.perf_counter(), len(self.active_requests)
        planned = super().schedule_batch(token_budget, cache_budget)
        if not planned[0]:
            return planned
        if self._admission is not None:
            self._admission.stepped()
        running = occupied = prefilled = recomputed = 0
        for future in planned[0]:
            state = future.state
            if state.position_offset >= len(state.initial_tokens):
                running += 1
                occupied += state.position_offset
            else:
                prefilled += future.query_length
                if state._true_initial_tokens:
                    recomputed += future.query_length
        self._step = (running, occupied, prefilled, begun)
        admitted = len(self.active_requests) - before
        self._note(steps=1, admitted=admitted, prefilled=prefilled, recomputed=recomputed)
        return planned

    def _get_waiting_candidates(self) -> list[RequestState]:
        """What of the queue's head the engine may take now, in order of arrival."""
        admission = self._admission
        if not self.waiting_requests or (admission is not None and not admission.due(len(self.active_requests))):
            return []
        running = batch([_row(state) for state in self.active_requests.values()])
        reach = self._reach(running)
        if admission is None or not reach:
            return reach
        waiting = batch([_row(state) for state in reach])
        admitted = admission.admit(waiting, running)
        peak = admission.predicted_peak(joined(running, waiting, admitted))
        self._note(decisions=1, predicted_peak=peak)
        return reach[:admitted]

    def _reach(self, running: Batch) -> list[RequestState]:
        """As much of the queue as the engine could take in this step: requests, tokens to compute, and slots.

        The engine would skip one that finds no room, and take a later one; so those beyond it are not offered.
        """
        requests = self.max_requests_per_batch - running.size
        tokens = self._tokens
        for state in self.active_requests.values():
            tokens -= 1 if state.status == RequestStatus.DECODING else len(state.remaining_prefill_tokens)
        slots = self.capacity - sum(pages(held, self.page) for held in running.held.tolist())
        reach: list[RequestState] = []
        for request_id in self.waiting_requests_order:
            state = self.waiting_requests[request_id]
            slots -= pages(len(state.initial_tokens) + state.generated_len(), self.page)
            if len(reach) >= requests or tokens <= 0 or slots < 0:
                break
            tokens -= len(state.remaining_prefill_tokens)
            reach.append(state)
        return reach

    def _finished(self, state: RequestState, length: int) -> None:
        self._forget(state)
        if self._admission is not None:
            self._admission.history.record(length)
        self._note(finished=1, delivered=length)

    def _forget(self, state: RequestState) -> None:
        self._arrival.pop(state.request_id, None)
        if self._admission is not None:
            self._admission.ended()

    def _note(self, predicted_peak: int | None = None, **more: int) -> None:
        """Publishes the counters, some of them increased, and the present state."""
        with self._lock:
            old = self._stats
            free = self.cache.compute_free_capacity()
            self._stats = replace(
                old,
                running=len(self.active_requests),
                waiting=len(self.waiting_requests),
                occupied=round((1 - free) * self.cache.num_blocks) * self.page,
                predicted_peak=old.predicted_peak if predicted_peak is None else predicted_peak,
                **{name: getattr(old, name) + count for name, count in more.items()},
            )

    def _write_step(self) -> None:
        if self._step is not None and self._log is not None:
            running, occupied, prefilled, begun = self._step
            print(f"{running},{occupied},{prefilled},{time.perf_counter() - begun:.9f}", file=self._log)
        self._step = None


def _complete(state: RequestState) -> bool:
    """Whether a request has ended by itself; evicted ones are called finished by the engine, too."""
    last = state.generated_tokens[-1:]
    ended = state.generated_len() >= state._new_tokens_limit or not state._eos_token_ids.isdisjoint(last)
    return ended and state.error is None


def _generated(state: RequestState) -> int:
    """Tokens generated so far, those before evictions included: the engine counts these to the prompt."""
    return len(state.initial_tokens) - _prompt(state) + state.generated_len()


def _prompt(state: RequestState) -> int:
    return state._true_initial_tokens or len(state.initial_tokens)


def _row(state: RequestState) -> tuple[int, int, int, bool]:
    """The request as a scheduler sees it: prompt, generated, cap, exact."""
    prompt, generated = _prompt(state), _generated(state)
    cap = generated - state.generated_len() + state._new_tokens_limit
    if state.status == RequestStatus.DECODING:
        # With asynchronous batching, a token is on its way that is not among the generated ones yet.
        generated = state.position_offset + 1 - prompt
    return prompt, generated, cap, not state._eos_token_ids
