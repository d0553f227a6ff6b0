"""AdaKV against its algorithm spelt out, and the limits of its safeguard."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from heedful.kv import AdaKV, Share, Slots, SnapKV
from heedful.kv.attention import Seen

W, KERNEL = 4, 5


def kept(cache: Any, item: int = 0) -> list[list[list[int]]]:
    """Sorted positions per layer and head."""
    return [
        [sorted(p for p in head.tolist() if p >= 0) for head in cache.slots(i).position[item]] for i in cache.evicting
    ]


def read(model: Any, policy: Any, ids: Tensor, mask: Tensor | None = None) -> Any:
    """The cache that a prompt leaves."""
    cache = policy.cache_for(model)
    position = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        model(ids, attention_mask=mask, position_ids=position, past_key_values=cache)
    return cache


def spelt_out(scores: list[list[float]], length: int, room: int, safeguard: float) -> list[list[int]]:
    """AdaKV of one layer, entry by entry: the window, each head's sure ones, then whoever is next in all heads."""
    heads = [set(range(length - W, length)) for _ in scores]
    for mine, score in zip(heads, scores):
        for i in sorted(range(length - W), key=lambda i, score=score: (-score[i], i)):  # type: ignore[misc]
            if len(mine) < int(safeguard * room + 1e-9):
                mine.add(i)
    everyone = [(-s, i, k) for k, score in enumerate(scores) for i, s in enumerate(score)]
    for _, i, k in sorted(everyone):
        if sum(map(len, heads)) < room * len(scores):
            heads[k].add(i)
    return [sorted(mine) for mine in heads]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("safeguard", [0.0, 0.2, 0.7, 1.0])
def test_it_is_the_algorithm_spelt_out(
    kv_heads: int, safeguard: float, tiny: Any, prompt: Any, observed: Any, snap_scores: Any
) -> None:
    model, ids, room = tiny(num_key_value_heads=kv_heads), prompt(26, seed=2), 10
    got = kept(read(model, AdaKV(room, W, KERNEL, safeguard=safeguard), ids))
    for layer, (rows, _) in enumerate(observed(model, ids, W)):
        assert got[layer] == spelt_out(snap_scores(rows, KERNEL), 26, room, safeguard)


def test_of_a_padded_batch_each_item_gets_its_own_share(
    tiny: Any, prompt: Any, padded: Any, observed: Any, snap_scores: Any
) -> None:
    model, lengths = tiny(), (30, 19, 25)
    prompts = [prompt(n, seed=n) for n in lengths]
    cache = read(model, AdaKV(Share(0.4), W, KERNEL), *padded(prompts))
    for item, (length, ids) in enumerate(zip(lengths, prompts)):
        room = int(0.4 * length + 1e-9)
        for layer, (rows, _) in enumerate(observed(model, ids, W)):
            assert kept(cache, item)[layer] == spelt_out(snap_scores(rows, KERNEL), length, room, 0.2)


def test_a_safeguard_of_everything_is_snapkv(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(), prompt(30, seed=5)
    assert kept(read(model, AdaKV(11, W, safeguard=1.0), ids)) == kept(read(model, SnapKV(11, W), ids))


def test_without_a_safeguard_no_choice_of_that_size_holds_more_score(
    tiny: Any, prompt: Any, observed: Any, snap_scores: Any
) -> None:
    model, ids, room = tiny(), prompt(30, seed=6), 9
    free, even = kept(read(model, AdaKV(room, W, safeguard=0.0), ids)), kept(read(model, SnapKV(room, W), ids))
    gains = []
    for layer, (rows, _) in enumerate(observed(model, ids, W)):
        scores = snap_scores(rows, KERNEL)
        held = [sum(scores[k][i] for k in range(2) for i in choice[layer][k] if i < 30 - W) for choice in (free, even)]
        best = sum(sorted((s for score in scores for s in score), reverse=True)[: 2 * (room - W)])
        assert held[0] == pytest.approx(best, rel=1e-9)
        gains.append(held[0] - held[1])
    assert min(gains) >= 0 and max(gains) > 0.01


def test_equal_scores_keep_the_oldest_of_every_head() -> None:
    slots, policy = Slots(0, AdaKV(7, W, kernel=1)), AdaKV(7, W, kernel=1)
    slots.append(*(torch.zeros(1, 2, 20, 2),) * 2)
    policy.prompted(slots, Seen(rows=torch.full((1, 2, 2, W, 20), 1 / 20)))
    assert slots.position[0].sort().values.tolist() == [[0, 1, 2, 16, 17, 18, 19]] * 2


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_safeguard_is_a_share(value: float) -> None:
    with pytest.raises(ValueError, match=r"safeguard=.*: must be within 0\.\.1"):
        AdaKV(10, W, safeguard=value)


def test_attention_that_is_not_a_number_is_refused(fresh: Any, prompt: Any) -> None:
    model = fresh()
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="scores contain NaN"):
        read(model, AdaKV(10, W), prompt(20))
