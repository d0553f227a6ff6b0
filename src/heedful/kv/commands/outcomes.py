"""What came out of a comparison on the embedded tasks, as tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from heedful.kv.baselines import Full
from heedful.kv.commands.embedded import WINDOW, Job
from heedful.kv.commands.options import Protocol
from heedful.kv.commands.page import Table, paired_difference, with_interval
from heedful.kv.commands.playing import Outcome

PROMPT: dict[Protocol, str] = {
    "aware": "The cache shrinks at the end of a long prompt that ends in its question; accuracy: % of items whose "
    "whole answer is right.",
    "agnostic": "The cache shrinks at the end of a long text, before the question about it is read; accuracy: % of "
    "items whose whole answer is right.",
    "reask": "The cache shrinks when a long text and a question about it have been read; accuracy: % of items whose "
    "whole answer to a second question is right.",
}
"""What is asked of a policy at the end of a prompt."""


def tables(todo: Sequence[Job], outcomes: Sequence[Outcome]) -> list[Table]:
    """What came out, a table for each group that was played."""
    items = todo[0].items
    about = (
        f"In [] the 95 % interval over {items} items, the same for every policy; vs full: the difference on "
        "the same items. Budgets: slots per layer and KV head, or a share of an item's length. Slots: "
        "averages over layers, KV heads and items. KiB: allocated for one item. tokens/s: of decoding in "
        "batches, while other workers run; of answers to prompts, over all tasks."
    )
    decode = (
        "A long trace is fed token by token; accuracy: % of an item's scored tokens that are right, "
        "averaged over items."
    )
    window = f"An observation window has at most {WINDOW} tokens unless it is given."
    found = []
    for group, title in (("prompt", "Prompt eviction"), ("decode", "Decode eviction")):
        chosen = [(job, out) for job, out in zip(todo, outcomes, strict=True) if job.work.group == group]
        if chosen:
            note = decode if group == "decode" else f"{PROMPT[chosen[0][0].work.protocol]} {window}"
            found.append(
                Table(
                    title,
                    f"{note} {about}",
                    rows(*zip(*chosen, strict=True)),
                    ("task", "policy"),
                    {"accuracy": ("accuracy %", 100, 1, ""), "difference": ("vs full", 100, 1, "+")},
                    "accuracy",
                )
            )
    return found


def rows(todo: Sequence[Job], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """A row per job: sizes, accuracy, difference to the full cache on the same items; 95 % intervals."""
    full = {job.work: out.right for job, out in zip(todo, outcomes, strict=True) if isinstance(job.policy, Full)}
    speeds = _speeds(todo, outcomes)
    return [
        {
            "task": job.work.title,
            "length": job.work.length,
            "policy": job.contender.spec,
            "budget": job.contender.budget,
            "budget_slots": job.contender.slots,
            "slots": out.slots,
            "peak_slots": out.peak_slots,
            "bytes": out.nbytes,
            "peak_bytes": out.peak_nbytes,
            **with_interval("accuracy", out.right.tolist(), binary=job.work.group == "prompt"),
            **paired_difference("difference", out.right.tolist(), full[job.work].tolist()),
            "tokens_per_s": speeds[_paced(job)],
            "items": len(out.right),
        }
        for job, out in zip(todo, outcomes, strict=True)
    ]


def _speeds(todo: Sequence[Job], outcomes: Sequence[Outcome]) -> dict[Any, float]:
    """Tokens per second of all jobs that are alike; the few tokens of one task's answers would say little."""
    steps: defaultdict[Any, float] = defaultdict(float)
    seconds: defaultdict[Any, float] = defaultdict(float)
    for job, out in zip(todo, outcomes, strict=True):
        steps[_paced(job)] += out.steps
        seconds[_paced(job)] += out.seconds
    return {key: steps[key] / seconds[key] for key in steps}


def _paced(job: Job) -> tuple[Any, ...]:
    """What the speed of decoding depends on: the policy, its budget and how long items are."""
    one = "" if job.work.group == "prompt" else job.work.task
    return job.contender.spec, job.contender.budget, job.work.length, one
