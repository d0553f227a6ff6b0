"""The room's systems, one module each: what the paper claims, and how it is measured here."""

RUNTIME = (
    "heedful.kv.attention",
    "heedful.kv.base",
    "heedful.kv.baselines",
    "heedful.kv.cache",
    "heedful.kv.cache_layer",
    "heedful.kv.evaluate",
    "heedful.kv.experiments._work",
    "heedful.kv.packed",
    "heedful.kv.policies",
    "heedful.kv.replay",
    "heedful.kv.slots",
)
"""Modules that every experiment of the room computes with; each adds its methods' own."""

PREFILL_RUNTIME = (
    *RUNTIME,
    "heedful.kv.experiments._retrieval",
    "heedful.kv.parts",
    "heedful.kv.prefill",
    "heedful.kv.shared_prompt",
    "heedful.models.tasks",
)
"""The same for systems that evict once, when the prompt has been read."""

MODEL = "task-2"
"""The checkpoint that those systems are measured on."""
