"""The room's systems, one module each: what the paper claims, and how it is measured here."""

RUNTIME = (
    "heedful.kv.attention",
    "heedful.kv.base",
    "heedful.kv.baselines",
    "heedful.kv.cache",
    "heedful.kv.evaluate",
    "heedful.kv.experiments._work",
    "heedful.kv.policies",
    "heedful.kv.replay",
    "heedful.kv.slots",
)
"""Modules that every experiment of the room computes with; each adds its methods' own."""
