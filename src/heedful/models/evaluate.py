"""Teacher-forced accuracy under a full cache: what a model can do before anything is evicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .tasks import Item

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def correct(model: PreTrainedModel, items: Sequence[Item], batch_size: int = 16) -> list[NDArray[np.bool_]]:
    """Which scored tokens the model's arg-max gets right, every token before them being the true one.

    Args:
        model: a causal language model over the tasks' vocabulary.
        items: of any tasks and lengths; batched in the order of their lengths, padded on the right.
        batch_size: items per forward pass.

    Returns:
        For every item bool [T], true where a token is scored and predicted right.

    Raises:
        ValueError: ``batch_size`` under 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    import torch

    right = [np.zeros(len(item.tokens), dtype=bool) for item in items]
    order = np.argsort([len(item.tokens) for item in items], kind="stable").tolist()
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        ids = np.zeros((len(rows), max(len(items[i].tokens) for i in rows)), dtype=np.int64)
        scored = np.zeros(ids.shape, dtype=bool)
        for row, i in enumerate(rows):
            ids[row, : len(items[i].tokens)] = items[i].tokens
            scored[row, : len(items[i].tokens)] = items[i].scored
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(ids).to(model.device), use_cache=False).logits
        best = logits[:, :-1].argmax(-1).cpu().numpy()
        hits = np.zeros(ids.shape, dtype=bool)
        hits[:, 1:] = (best == ids[:, 1:]) & scored[:, 1:]
        for row, i in enumerate(rows):
            right[i][:] = hits[row, : len(right[i])]
    return right


def accuracy(model: PreTrainedModel, items: Sequence[Item], batch_size: int = 16) -> float:
    """Mean over items of the share of scored tokens that :func:`correct` finds right.

    Raises:
        ValueError: no items, an item with nothing scored, or ``batch_size`` under 1.
    """
    if not items or not all(item.scored.any() for item in items):
        raise ValueError("accuracy needs at least one item, each with at least one scored token")
    shares = [hit.sum() / item.scored.sum() for hit, item in zip(correct(model, items, batch_size), items)]
    return float(np.mean(shares))
