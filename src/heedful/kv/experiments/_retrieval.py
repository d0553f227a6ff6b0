"""Retrieval from long prompts under many policies at once: what the experiments on prompt eviction share.

The prompt of a batch of items is read once for all policies (:mod:`heedful.kv.shared_prompt`), so a cell is a task, a
seed and a run of items; methods and shares are columns of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from heedful.kv.baselines import Clairvoyant
from heedful.kv.evaluate import Episode, play_all
from heedful.kv.experiments import MODEL, _work
from heedful.kv.policies import make
from heedful.lab import Cell, Context, Row
from heedful.models.tasks import Item


def episode(item: Item, protocol: str = "aware") -> Episode:
    """An item as it is given to the model.

    Args:
        item: the item.
        protocol: ``"aware"``: the policy decides when the question has been read; ``"agnostic"``: before it;
            ``"reask"``: when the first question has been read, and only the answer to the second one is scored.
    """
    parts = (item.spans[0][2], item.prompt_length) if protocol == "agnostic" else (item.prompt_length,)
    scored = item.scored
    if protocol == "reask":
        start = [start for part, start, _ in item.spans if part == "question"][1]
        scored = scored & (np.arange(len(scored)) >= start)
    return Episode(item.tokens, scored, parts)


def measure(
    cell: Cell,
    ctx: Context,
    contenders: Sequence[tuple[str, float]],
    window: int = 32,
    sums: bool = True,
    policy_for: Any = None,
    work: Sequence[Item] | None = None,
) -> Iterator[Row]:
    """Answers to the items of a cell (``task``, ``seed``, ``chunk``, perhaps ``split``) under every contender.

    Args:
        cell: the cell; its task may have a protocol, ``"niah1@reask"``.
        ctx: with ``items`` (of a chunk), ``length`` and ``batch`` among its parameters.
        contenders: policy and share of the item's length; one whose method is ``"full"`` is the full cache.
        window: the most attention rows that one of them reads.
        sums: whether one of them reads column sums.
        policy_for: ``(spec, slots, items of the cell) -> policy, or a function from a batch's indices to one``, where
            :func:`~heedful.kv.policies.make` does not do.
        work: the items, where :func:`items` does not do.

    Yields:
        per contender and item: ``method``, ``share``, ``item`` (unique over seeds and chunks), ``accuracy`` (1 if the
        whole scored answer is right), ``token_accuracy``, ``slots``, ``held_peak``.
    """
    protocol = cell["task"].partition("@")[2]
    work = items(cell, ctx) if work is None else work
    make_it = policy_for or (lambda spec, slots, mine: make(spec, slots))
    length = ctx.params["length"]
    policies = [make_it(spec, round(share * length), work) for spec, share in contenders]
    played = play_all(
        _work.model(MODEL, ctx.device),
        policies,
        [episode(item, protocol or "aware") for item in work],
        batch=ctx.params["batch"],
        device=ctx.device,
        window=window,
        sums=sums,
    )
    first = 100_000 * cell["seed"] + ctx.params["items"] * cell["chunk"]
    for (method, share), results in zip(contenders, played, strict=True):
        for index, result in enumerate(results):
            right = result.correct[episode(work[index], protocol or "aware").scored]
            yield {
                "item": first + index,
                "method": method,
                "share": share,
                "accuracy": float(right.all()),
                "token_accuracy": float(right.mean()),
                "slots": float(np.mean(result.usage.slots)),
                "held_peak": result.usage.held_peak,
            }


def items(cell: Cell, ctx: Context) -> list[Item]:
    """The items of a cell; ``reask`` ones have two questions."""
    seed = 1_000 * cell["seed"] + cell["chunk"]
    return _work.items(cell["task"], seed, ctx.params["items"], ctx.params["length"], cell.get("split", "test"))


def clairvoyant(slots: int, work: Sequence[Item]) -> Any:
    """What :func:`~heedful.kv.evaluate.play_all` takes for the policy that is told what each item needs."""
    needs = [_work.uses(item) for item in work]
    return lambda batch: Clairvoyant(slots, needs=tuple(needs[i] for i in batch))
