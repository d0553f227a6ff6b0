"""What the adapter for transformers relies on inside of continuous batching, and what of it is not there.

None of it is public, and it has changed before. It is looked over once, before the adapter is used, so that a change
is one clear line and not an engine that quietly does something else.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from typing import Any

TESTED = "5.23"
"""The version of transformers that the adapter was written for and is tested with."""

_HOME = "transformers.generation.continuous_batching."
_SIGNATURES = {
    "scheduler:FIFOScheduler.__init__": ("self", "cache", "safety_margin", "max_requests_per_batch"),
    "scheduler:FIFOScheduler.schedule_batch": ("self", "token_budget", "cache_budget"),
    "scheduler:FIFOScheduler._get_waiting_candidates": ("self",),
    "scheduler:FIFOScheduler.add_waiting_request": ("self", "state"),
    "scheduler:FIFOScheduler.finish_request": ("self", "request_id"),
    "scheduler:FIFOScheduler.clear_cancelled_requests": ("self",),
    "scheduler:FIFOScheduler.set_request_cancellation": ("self", "request_id"),
    "scheduler:FIFOScheduler.reset": ("self",),
    "cache:PagedAttentionCache.compute_free_capacity": ("self", "relative"),
    "requests:RequestState.create_equivalent_initial_request": ("self",),
    "requests:RequestState.generated_len": ("self",),
    "requests:FutureRequestState.__init__": ("self", "state", "has_new_token", "complete_blocks", "query_length"),
    "offloading_manager:OffloadingManager.offload_requests": ("self",),
    "continuous_api:ContinuousBatchingManager.add_request": (
        "self", "input_ids", "request_id", "max_new_tokens", "streaming", "record_timestamps", "eos_token_id",
        "logit_processor_kwargs",
    ),
    "continuous_api:ContinuousBatchingManager.get_result": ("self", "request_id", "timeout"),
    "continuous_api:ContinuousBatchingManager.pause": ("self",),
    "continuous_api:ContinuousMixin.continuous_batching_context_manager": (
        "self", "generation_config", "block", "timeout", "continuous_batching_config", "persistent_manager", "warmup",
        "workload_hints",
    ),
}  # fmt: skip
"""Parameters of what the adapter overrides or calls."""
_FIELDS = {
    "requests:RequestState": (
        "request_id", "initial_tokens", "generated_tokens", "position_offset", "remaining_prefill_tokens",
        "num_children", "error", "is_cpu_offloaded", "_eos_token_ids", "_new_tokens_limit", "_true_initial_tokens",
    ),
    "requests:GenerationOutput": ("request_id", "generated_tokens", "error"),
}  # fmt: skip
_CONFIG_FIELDS = ("scheduler_type", "safety_margin", "allow_block_sharing", "num_blocks", "page_size")
_ATTRIBUTES = {
    "scheduler:FIFOScheduler.reset": (
        "active_requests", "waiting_requests", "waiting_requests_order", "block_new_requests",
    ),
    "cache:PagedAttentionCache.__init__": ("num_blocks", "cache_allocators"),
    "continuous_api:ContinuousBatchProcessor.__init__": ("scheduler",),
    "continuous_api:ContinuousBatchingManager.__init__": ("input_queue", "background_thread_status"),
    "continuous_api:ContinuousBatchProcessor._update_tp_group_state": ("add_waiting_request", "_handle_request_error"),
    "continuous_api:ContinuousBatchProcessor.prepare_next_batch": ("clear_cancelled_requests",),
    "continuous_api:ContinuousBatchProcessor.update_batch": ("finish_request", "block_new_requests"),
    "continuous_api:ContinuousBatchingManager._create_batch_processor": ("SCHEDULER_MAPPING", "scheduler_type"),
}  # fmt: skip
"""Names that these functions use: attributes that they set, and the calls by which the engine reaches the adapter."""


def changes() -> list[str]:
    """What is not as the adapter expects it, one line each; empty if it can be used."""
    found = []
    for name, expected in _SIGNATURES.items():
        function = _find(name)
        if function is None:
            found.append(f"{name} is gone")
        elif (has := tuple(inspect.signature(function).parameters)) != expected:
            found.append(f"{name} takes ({', '.join(has)}), not ({', '.join(expected)})")
    for name, expected in _FIELDS.items():
        cls = _find(name)
        if cls is None:
            found.append(f"{name} is gone")
            continue
        has = tuple(field.name for field in dataclasses.fields(cls))
        found.extend(f"{name} has no field {field}" for field in expected if field not in has)
    from transformers import ContinuousBatchingConfig

    has = tuple(field.name for field in dataclasses.fields(ContinuousBatchingConfig))
    found.extend(f"ContinuousBatchingConfig has no field {field}" for field in _CONFIG_FIELDS if field not in has)
    for name, expected in _ATTRIBUTES.items():
        function = _find(name)
        if function is None:
            found.append(f"{name} is gone")
        else:
            found.extend(f"{name} does not use {used}" for used in expected if used not in _names(function))
    status = _find("requests:RequestStatus")
    statuses = {"PENDING": 0, "PREFILLING": 1, "DECODING": 2, "FINISHED": 3, "FAILED": 4}
    if status is None or dict(status.__members__) != statuses:
        found.append(f"requests:RequestStatus is not {', '.join(statuses)}")
    return found


def _find(name: str) -> Any:
    """The object that ``module:qualified.name`` names, or None."""
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(_HOME + module)
    except ModuleNotFoundError:
        return None
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def _names(function: Callable[..., Any]) -> set[str]:
    """Names of attributes and globals in a function and its base classes' functions of the same name."""
    code = inspect.unwrap(function).__code__
    return {*code.co_names, *code.co_varnames}
