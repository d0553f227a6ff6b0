"""DefensiveKV on given rows of attention: what its aggregation guarantees, and how heads and layers share."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heedful.kv import DefensiveKV, LayerDefensiveKV, Slots
from heedful.kv.attention import Seen
from heedful.kv.defensive_kv import aggregated, smoothed
from heedful.kv.prefill import best_of_all

W = 4
BARE: dict[str, Any] = {"kernel": 1, "floor": False, "value_term": False, "stage1": False}


def fed(policy: Any, rows: Tensor, state: Any = None, layer: int = 0) -> Slots:
    """Slots that have seen the last rows ``[batch, heads, group, W, S]`` of a prompt."""
    slots = Slots(layer, policy, state)
    batch, heads, _, _, length = rows.shape
    slots.append(*(torch.zeros(batch, heads, length, 2, dtype=rows.dtype),) * 2)
    policy.prompted(slots, Seen(rows=rows))
    return slots


def held(slots: Slots) -> list[list[int]]:
    return [sorted(p for p in head.tolist() if p >= 0) for head in slots.position[0]]


def attention(*shape: int, seed: int = 0, sharp: float = 3.0, window: int = W) -> Tensor:
    """Random causal rows ``[batch, heads, group, W, S]``, float64."""
    logits = sharp * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    future = torch.ones(window, window, dtype=torch.bool).triu(1)
    logits[..., -window:].masked_fill_(future, -torch.inf)
    return logits.softmax(-1)


# what the aggregation guarantees


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("context, keep", [(6, 2), (8, 4), (10, 3)])
def test_max_and_mean_are_each_optimal_for_their_own_criterion(context: int, keep: int, seed: int) -> None:
    """Over all subsets of that size: the largest single weight that is lost, and the mean mass that is lost."""
    rows = attention(1, 1, 2, W, context + W, seed=seed)
    weights = rows[0, 0].flatten(0, 1)[:, :context]

    def losses(kept_ones: tuple[int, ...]) -> tuple[float, float]:
        gone = [i for i in range(context) if i not in kept_ones]
        return float(weights[:, gone].max()), float(weights[:, gone].sum(1).mean())

    every = [losses(subset) for subset in combinations(range(context), keep)]
    lost = {}
    for kind in ("max", "mean"):
        chosen = held(fed(DefensiveKV(keep + W, W, aggregation=kind, **BARE), rows))[0]  # type: ignore[arg-type]
        lost[kind] = losses(tuple(chosen[:-W]))
    assert lost["max"][0] == pytest.approx(min(worst for worst, _ in every), abs=1e-12)
    assert lost["mean"][1] == pytest.approx(min(mean for _, mean in every), abs=1e-12)


def test_each_aggregation_can_be_bad_for_the_others_criterion() -> None:
    """Rows that each look up an entry of their own, and entries of steady small weight."""
    rows = torch.zeros(1, 1, 1, W, 12 + W, dtype=torch.float64)
    for j in range(W):
        rows[0, 0, 0, j, j] = 0.4  # a spike: 0.1 in the mean
    rows[..., W : 2 * W] = 0.15  # steady
    spikes, steady = list(range(W)), list(range(W, 2 * W))
    window = list(range(12, 12 + W))
    assert held(fed(DefensiveKV(2 * W, W, aggregation="max", **BARE), rows))[0] == spikes + window
    assert held(fed(DefensiveKV(2 * W, W, aggregation="mean", **BARE), rows))[0] == steady + window


@settings(max_examples=60)
@given(seed=st.integers(0, 999), group=st.integers(1, 3), window=st.integers(1, 5), n=st.integers(1, 30))
def test_the_worst_case_bounds_every_row_and_only_rises(seed: int, group: int, window: int, n: int) -> None:
    rows = attention(1, 2, group, window + 1, n + window + 1, seed=seed, window=window + 1)[..., :n]
    there = torch.ones(1, 2, n, dtype=torch.bool)
    smooth = smoothed(rows, 3, there)
    worst = aggregated(smooth, "max")
    policy = DefensiveKV(window + 2, window + 1, value_term=False, kernel=3)
    slots = Slots(0, policy)
    slots.append(*(torch.zeros(1, 2, n + window + 1, 2, dtype=torch.float64),) * 2)
    risk = policy.risk(slots, rows, there)
    assert bool((risk >= worst).all()) and bool((worst[:, :, None, None] >= smooth).all())
    assert bool((risk >= worst.mean(-1, keepdim=True) - 1e-15).all())
    fewer = aggregated(smooth[:, :, :, 1:], "max")
    assert bool((worst >= fewer).all())
    more = rows.clone()
    more[0, 0, 0, 0, n // 2] += 0.1
    raised = aggregated(smoothed(more, 1, there), "max")
    assert bool((raised >= aggregated(rows, "max")).all())


@settings(max_examples=60)
@given(seed=st.integers(0, 999), kernel=st.sampled_from([1, 3, 5, 9]), n=st.integers(1, 40), pad=st.integers(0, 6))
def test_smoothing_keeps_the_sums_of_rows_and_rows_without_mass_stay_so(
    seed: int, kernel: int, n: int, pad: int
) -> None:
    rows = attention(2, 2, 2, W, n + W, seed=seed)[..., :n].float()
    rows[:, 1, 0, 2] = 0
    there = torch.ones(2, 2, n, dtype=torch.bool)
    there[1, :, : min(pad, n - 1)] = False
    rows = rows.masked_fill(~there[:, :, None, None], 0)
    smooth = smoothed(rows, kernel, there)
    torch.testing.assert_close(smooth.sum(-1), rows.sum(-1), rtol=0, atol=1e-6)
    assert float(smooth[:, 1, 0, 2].abs().max()) == 0 and bool(smooth.isfinite().all())
    assert float(smooth.masked_fill(there[:, :, None, None], 0).abs().max()) == 0


def test_rows_that_agree_make_max_and_mean_the_same_choice() -> None:
    rows = attention(1, 2, 1, 1, 40, seed=3, window=1).expand(1, 2, 3, W, 40).clone()
    options = {"value_term": False, "stage1": False, "floor": False}
    worst, mean = (held(fed(DefensiveKV(12, W, aggregation=kind, **options), rows)) for kind in ("max", "mean"))  # type: ignore[arg-type]
    assert worst == mean


@pytest.mark.parametrize("kind", ["top3", "quantile"])
def test_the_other_aggregations(kind: Any) -> None:
    rows = attention(2, 3, 2, W, 20, seed=4)
    flat = rows.flatten(2, 3)
    wanted = flat.sort(2).values[:, :, -3:].sum(2) if kind == "top3" else flat.quantile(0.9, dim=2)
    torch.testing.assert_close(aggregated(rows, kind), wanted, rtol=0, atol=1e-12)


# heads, layers and the first stage


@pytest.mark.parametrize("cls", [DefensiveKV, LayerDefensiveKV])
def test_if_everything_is_equal_the_oldest_stay(cls: Any) -> None:
    rows = torch.full((1, 3, 2, W, 30), 1 / 30, dtype=torch.float64)
    policy = cls(9, W, kernel=1, stage1=False)
    state, layers = policy.begin(3), []
    for layer in range(3):
        layers.append(fed(policy, rows, state, layer))
    window = list(range(26, 30))
    if cls is DefensiveKV:
        assert [held(slots) for slots in layers] == [[[*range(5), *window]] * 3] * 3
    else:  # 81 entries, of which 36 are windows: the other 45 are the first layer's fifteen oldest in each head
        assert [held(slots) for slots in layers] == [[[*range(15), *window]] * 3, [window] * 3, [window] * 3]


@settings(max_examples=40)
@given(seed=st.integers(0, 999), scale=st.sampled_from([1.01, 1.5, 4.0, 100.0]))
def test_a_louder_head_gets_no_fewer_entries_and_a_louder_layer_counts_only_among_layers(
    seed: int, scale: float
) -> None:
    rows = [attention(1, 3, 2, W, 30, seed=3 * seed + layer) for layer in range(3)]
    louder = rows[1].clone()
    louder[:, 2] *= scale
    policy = DefensiveKV(10, W, stage1=False)
    assert len(held(fed(policy, louder))[2]) >= len(held(fed(policy, rows[1]))[2])
    assert held(fed(policy, rows[1] * scale)) == held(fed(policy, rows[1]))

    def spread(attended: list[Tensor]) -> list[int]:
        layered = LayerDefensiveKV(10, W, stage1=False)
        state = layered.begin(3)
        layers = [fed(layered, each, state, layer) for layer, each in enumerate(attended)]
        return [slots.entries for slots in layers]

    plain, loud = spread(rows), spread([rows[0], rows[1] * scale, rows[2]])
    assert sum(plain) == sum(loud) == 90 and loud[1] >= plain[1]
    if scale == 100:
        assert loud[1] > plain[1]


def test_a_quiet_layer_keeps_its_window_and_what_its_mean_attention_rests_on() -> None:
    loud, quiet = attention(1, 2, 2, W, 40, seed=1), attention(1, 2, 2, W, 40, seed=2) * 1e-6
    policy = LayerDefensiveKV(12, W)
    state = policy.begin(2)
    layers = [fed(policy, each, state, layer) for layer, each in enumerate((loud, quiet))]
    alone = DefensiveKV(12, W)
    slots = Slots(1, alone)
    slots.append(*(torch.zeros(1, 2, 40, 2, dtype=torch.float64),) * 2)
    first = alone.first_stage(slots, quiet, torch.ones(1, 2, 36, dtype=torch.bool))[0]
    assert int(first.sum()) > 4
    for head, protected in zip(held(layers[1]), first):
        assert set(protected.nonzero()[:, 0].tolist()) | set(range(36, 40)) <= set(head)
    assert sum(slots.entries for slots in layers) == 48


@pytest.mark.parametrize("window_mass", ["true", "reference"])
@pytest.mark.parametrize("room", [9, 20, 33])
def test_the_first_stage_is_the_longest_prefix_below_the_threshold(window_mass: Any, room: int) -> None:
    rows = attention(2, 3, 2, W, 40, seed=5, sharp=2.0)
    policy = DefensiveKV(room, W, window_mass=window_mass, threshold=0.8)
    slots = Slots(0, policy)
    slots.append(*(torch.zeros(2, 3, 40, 2, dtype=torch.float64),) * 2)
    first = policy.first_stage(slots, rows, torch.ones(2, 3, 36, dtype=torch.bool))
    lengths = set()
    for item in range(2):
        part = rows[item, ..., 36:] if window_mass == "true" else rows[item, ..., 32:36]
        threshold = 0.8 - float(part.sum(-1).mean())
        for head in range(3):
            mean = rows[item, head, ..., :36].mean((0, 1))
            order = mean.argsort(descending=True)
            reached = (mean[order] / mean.sum()).cumsum(0)
            count = min(int((reached < threshold).sum()), room - W)
            assert set(first[item, head].nonzero()[:, 0].tolist()) == set(order[:count].tolist())
            lengths.add(count)
    assert {room - W} == lengths if room == 9 else min(lengths) < room - W


def test_attention_that_stays_in_the_window_protects_nothing_else() -> None:
    rows = torch.zeros(1, 2, 1, W, 20, dtype=torch.float64)
    rows[0, 0, ..., -1] = 1  # all in the window
    rows[0, 1, ..., 3] = 1  # all on one entry
    policy = DefensiveKV(9, W)
    slots = Slots(0, policy)
    slots.append(*(torch.zeros(1, 2, 20, 2, dtype=torch.float64),) * 2)
    first = policy.first_stage(slots, rows, torch.ones(1, 2, 16, dtype=torch.bool))
    assert not bool(first[0, 0].any())
    score = policy.score(slots, Seen(rows=rows))
    assert bool(score[..., :16].isfinite().all()) and bool((score[..., 16:] == torch.inf).all())


def test_temperature_is_that_of_the_softmax() -> None:
    logits = torch.randn(1, 2, 2, W, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, warm = logits.softmax(-1), (logits / 2.5).softmax(-1)
    options = {"value_term": False, "kernel": 1, "stage1": False}
    policies = DefensiveKV(9, W, temperature=2.5, **options), DefensiveKV(9, W, **options)  # type: ignore[arg-type]
    slots = Slots(0, policies[0])
    slots.append(*(torch.zeros(1, 2, 20, 2, dtype=torch.float64),) * 2)
    torch.testing.assert_close(
        policies[0].score(slots, Seen(rows=plain)), policies[1].score(slots, Seen(rows=warm)), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_streaming_breaks_ties_as_one_decision_does(levels: int) -> None:
    """Scores from a few levels only: most of the order is ties, between ragged layers."""
    generator = torch.Generator().manual_seed(levels)
    rows = [torch.randint(1, levels + 1, (2, 3, 1, W, 30), generator=generator).double() for _ in range(5)]
    policy = LayerDefensiveKV(11, W, **BARE)
    state = policy.begin(5)
    layers = [fed(policy, each, state, layer) for layer, each in enumerate(rows)]
    whole = [each[..., :26].amax((2, 3)) for each in rows]
    scores = [torch.cat([score, torch.full((2, 3, W), torch.inf)], -1) for score in whole]
    for slots, chosen in zip(layers, best_of_all(scores, 11 * 3 * 5)):
        for item in range(2):
            for head in range(3):
                got = sorted(p for p in slots.position[item, head].tolist() if p >= 0)
                assert got == chosen[item, head].nonzero()[:, 0].tolist()
