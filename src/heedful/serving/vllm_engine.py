"""Schedulers inside vLLM (version 1 of its engine): its engine does the work, ours says who may join.

vLLM is told which class to use, and hands its options on to the engine's process:

    vllm serve MODEL --scheduler-cls heedful.serving.vllm_engine.AsyncAdmissionScheduler \\
        --additional-config '{"heedful": {"scheduler": "past-future:rho=0.03", "window": 1000}}'

``AsyncAdmissionScheduler`` is for asynchronous scheduling, which is vLLM's default; with ``--no-async-scheduling`` it
is ``AdmissionScheduler``. The options are ``scheduler``, a description as :func:`heedful.serving.schedulers.make` takes
it (by default ``"past-future"``), and those of :class:`~heedful.serving.admission.Options`. vLLM counts them to what
its compiled code depends on, so it compiles anew when they change.

Nothing else differs. Before each step vLLM's own limit on active requests is set to those that run and those that the
scheduler admits; with nothing left to admit under it, vLLM's loop over the queue stops. Requests that it preempts go
back to the head of its queue by themselves. Sharing of prefixes makes predictions too high by what is shared
(``--no-enable-prefix-caching``).

The classes are made when they are first asked for, as nothing here can be imported without vLLM.
"""

from __future__ import annotations

import importlib
import itertools
from functools import cache
from importlib.metadata import version
from typing import Any

from packaging.specifiers import SpecifierSet

from heedful.serving.admission import Admission, Options, batch
from heedful.serving.schedulers import make

TESTED = "0.33"
"""The version of vLLM whose scheduler the adapter was written for, which is not a public interface."""
_BASES = {
    "AdmissionScheduler": ("vllm.v1.core.sched.scheduler", "Scheduler"),
    "AsyncAdmissionScheduler": ("vllm.v1.core.sched.async_scheduler", "AsyncScheduler"),
}
_USED = (
    "running", "waiting", "kv_holding_waiting", "num_waiting_for_streaming_input", "max_num_active_reqs",
    "max_num_scheduled_tokens", "max_model_len", "block_size", "kv_cache_manager",
)  # fmt: skip
"""Attributes of vLLM's scheduler that are read or set."""


def __getattr__(name: str) -> Any:
    if name not in _BASES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _scheduler_class(name)


@cache
def _scheduler_class(name: str) -> type:
    """vLLM's scheduler of that kind, with our admission.

    Raises ImportError, in one line, if vLLM is not there or is of a version that has no such scheduler.
    """
    module, base_name = _BASES[name]
    try:
        base = getattr(importlib.import_module(module), base_name)
    except (ImportError, AttributeError) as error:
        raise ImportError(f"{name}: needs vLLM {TESTED}.x in this environment ({error})") from error
    return type(name, (_Admitting, base), {"__module__": __name__, "asynchronous": name != "AdmissionScheduler"})


class _Admitting:
    """What is laid over vLLM's scheduler."""

    asynchronous: bool

    def __init__(self, vllm_config: Any, *args: Any, **keywords: Any) -> None:
        scheduler, options = _settings(vllm_config)
        wanted = bool(vllm_config.scheduler_config.async_scheduling)
        if wanted != self.asynchronous:
            other = "AsyncAdmissionScheduler" if wanted else "AdmissionScheduler"
            raise ValueError(f"asynchronous scheduling is {'on' if wanted else 'off'}: use {__name__}.{other}")
        super().__init__(vllm_config, *args, **keywords)  # type: ignore[call-arg]
        if missing := [used for used in _USED if not hasattr(self, used)]:
            raise RuntimeError(f"vLLM's scheduler has no {', '.join(missing)}; that of version {TESTED} has")
        engine: Any = self
        if (policy := vllm_config.scheduler_config.policy) != "fcfs":
            raise ValueError(f"scheduling policy {policy!r}: must be 'fcfs', first come, first served")
        if (groups := len(engine.kv_cache_config.kv_cache_groups)) != 1:
            raise ValueError(
                f"the model's KV cache has {groups} groups of layers; what a request holds is only known for one"
            )
        # One block is vLLM's own, the null block.
        capacity = (engine.kv_cache_manager.block_pool.num_gpu_blocks - 1) * engine.block_size
        self.admission = Admission(scheduler, options, capacity, engine.block_size)

    def schedule(self, *args: Any, **keywords: Any) -> Any:
        """One step, for which no more requests may be active than run or are admitted."""
        engine: Any = self
        own_limit = engine.max_num_active_reqs
        active = len(engine.running) + engine.num_waiting_for_streaming_input
        engine.max_num_active_reqs = active + self._admitted(own_limit - active)
        try:
            planned = super().schedule(*args, **keywords)  # type: ignore[misc]
        finally:
            engine.max_num_active_reqs = own_limit
        self.admission.stepped()
        return planned

    def _admitted(self, places: int) -> int:
        """How many waiting requests may join, with so many places free."""
        engine: Any = self
        # Requests that wait for their grammar or their KV count as the others do: vLLM passes over them if they are not
        # ready, and looks whether they are only while it may admit somebody. Those that wait for more input from the
        # client come back to the queue by themselves.
        queue = (
            request
            for request in itertools.chain(engine.kv_holding_waiting, engine.waiting)
            if request.status.name != "WAITING_FOR_STREAMING_REQ"
        )
        tokens = engine.max_num_scheduled_tokens - len(engine.running)
        reach = []
        for request in itertools.islice(queue, max(places, 0)):
            if tokens <= 0:
                break
            tokens -= request.num_tokens
            reach.append(request)
        if not engine.waiting and not engine.kv_holding_waiting:
            self.admission.ended()
        if not reach or not self.admission.due(len(engine.running)):
            return 0
        if not engine.running and reach[0].num_tokens >= self.admission.capacity:
            # It fits only if vLLM knows of room that we do not, so it is left to vLLM.
            return 1
        waiting, running = (batch([self._row(request) for request in part]) for part in (reach, engine.running))
        return self.admission.admit(waiting, running)

    def _row(self, request: Any) -> tuple[int, int, int, bool]:
        """The request as a scheduler sees it: prompt, generated, cap, exact."""
        engine: Any = self
        # With asynchronous scheduling, placeholders stand for tokens that are on their way.
        generated = request.num_output_tokens + request.num_output_placeholders
        cap = max(1, min(request.max_tokens, engine.max_model_len - request.num_prompt_tokens))
        asked = request.sampling_params
        exact = asked is not None and bool(asked.ignore_eos) and not asked.stop and not asked.stop_token_ids
        return request.num_prompt_tokens, generated, cap, exact

    def _free_request(self, request: Any, *args: Any, **keywords: Any) -> Any:
        """vLLM calls this once for each request that has ended, in whatever way."""
        if request.status.name in ("FINISHED_STOPPED", "FINISHED_LENGTH_CAPPED") and request.num_output_tokens:
            self.admission.history.record(request.num_output_tokens)
        self.admission.ended()
        return super()._free_request(request, *args, **keywords)  # type: ignore[misc]


def _settings(vllm_config: Any) -> tuple[Any, Options]:
    """The scheduler and its options, from vLLM's ``additional_config``.

    Raises ValueError for options that there are not or are out of range, RuntimeError for a version of vLLM that has
    not been tested.
    """
    given = vllm_config.additional_config
    given = dict(given.get("heedful", {})) if isinstance(given, dict) else {}
    found = version("vllm")
    if not given.pop("any_version", False) and found not in SpecifierSet(f"=={TESTED}.*"):
        raise RuntimeError(
            f'vLLM {found} has not been tested, {TESTED}.x has; to use it all the same, add "any_version": true to '
            '"heedful" in additional_config'
        )
    scheduler = make(str(given.pop("scheduler", "past-future")))
    if "lengths" in given:
        given["lengths"] = tuple(given["lengths"])
    try:
        return scheduler, Options(**given)
    except TypeError as error:
        raise ValueError(f'additional_config, "heedful": {error}') from error
