"""CAKE: what the preference is made of, what the cascade leaves, and what decides inside a layer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_cake import WINDOW, cake, kept
from torch import Tensor

from heedful.kv import CAKE, Full, Slots, SnapKV
from heedful.kv.attention import Seen
from heedful.kv.cake import dispersion, moments, shift
from heedful.kv.layer_budgets import shares, whole
from heedful.kv.replay import record

# what the preference is made of


def plain_statistics(rows: Tensor, window: int) -> tuple[float, float]:
    """H and V by their definition; rows ``[heads, W, n]``."""
    h = v = 0.0
    for head in rows[:, :, : rows.shape[2] - window].tolist():
        h -= sum(x * math.log(x + 1e-10) for row in head for x in row)
        for column in zip(*head):
            mean = sum(column) / len(column)
            v += sum((x - mean) ** 2 for x in column) / (len(column) - 1)
    return h, v


@pytest.mark.parametrize("taus", [(1.0, 1.0), (1.6, 0.4)])
def test_the_preference_is_the_papers(taus: tuple[float, float], tiny: Any, prompt: Any) -> None:
    model, ids = tiny(), prompt(20)
    rows = record(model, ids)
    cache = cake(tau1=taus[0], tau2=taus[1]).cache_for(model)
    with torch.no_grad():
        model(ids, past_key_values=cache)
    for layer, recorded in enumerate(rows):
        h, v = plain_statistics(recorded[0].flatten(0, 1)[:, -WINDOW:], WINDOW)
        assert float(cache.state.preference[0, layer]) == pytest.approx(
            h ** (1 / taus[0]) * v ** (1 / taus[1]), rel=1e-9
        )


def plain_indicator(rows: Tensor, window: int, gamma: float, kernel: int) -> list[float]:
    """I by its definition; rows ``[group, W, n]``."""
    n, total = rows.shape[2] - window, None
    for head in rows.tolist():
        worth = []
        for i in range(n):
            column = [row[i] for row in head]
            mean = sum(column) / len(column)
            worth.append(mean + gamma * sum((x - mean) ** 2 for x in column) / (len(column) - 1))
        half = kernel // 2
        pooled = [sum(worth[max(0, i - half) : i + half + 1]) / kernel for i in range(n)]
        total = pooled if total is None else [a + b for a, b in zip(total, pooled)]
    assert total is not None
    return [x / len(rows) for x in total]


@pytest.mark.parametrize("gamma, kernel", [(200.0, 5), (0.0, 5), (30.0, 1), (200.0, 3)])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_what_stays_is_what_the_definitions_say(
    gamma: float, kernel: int, kv_heads: int, tiny: Any, prompt: Any
) -> None:
    model, ids = tiny(num_key_value_heads=kv_heads), prompt(24, seed=kv_heads)
    rows = record(model, ids)
    cache = cake(9, gamma=gamma, kernel=kernel).cache_for(model)
    with torch.no_grad():
        model(ids, past_key_values=cache)
    preference = [math.prod(plain_statistics(r[0].flatten(0, 1)[:, -WINDOW:], WINDOW)) for r in rows]
    exact = shares(torch.tensor([preference], dtype=torch.float64), torch.tensor([5 * 3]), torch.tensor([20]))
    budgets = whole(exact, torch.tensor([15]))[0].tolist()
    assert sum(budgets) == 15 and len(set(budgets)) > 1
    for layer, recorded in enumerate(rows):
        for head in range(kv_heads):
            worth = plain_indicator(recorded[0, head, :, -WINDOW:], WINDOW, gamma, kernel)
            best = sorted(range(20), key=lambda i: (-worth[i], i))[: budgets[layer]]
            assert cache.slots(layer).position[0, head].tolist() == [*sorted(best), 20, 21, 22, 23]


def test_variances_are_centred_and_equal_rows_have_none() -> None:
    rows = torch.rand(2, 3, 2, 7, 40, dtype=torch.float64)
    mean, variance = moments(rows)
    torch.testing.assert_close(mean, rows.mean(3), rtol=0, atol=1e-12)
    torch.testing.assert_close(variance, rows.var(3), rtol=0, atol=1e-12)
    tiny_but_different = 0.25 + 1e-6 * torch.rand(1, 1, 1, 32, 50)
    exact = tiny_but_different.double().var(3)
    torch.testing.assert_close(moments(tiny_but_different)[1].double(), exact, rtol=1e-3, atol=0)
    equal = torch.rand(1, 2, 2, 1, 30).expand(1, 2, 2, 7, 30)
    assert float(shift(moments(equal)[1])) == 0.0
    uniform = torch.full((1, 2, 2, 32, 30), 1 / 30)
    assert float(shift(moments(uniform)[1])) == 0.0
    assert float(dispersion(uniform)) == pytest.approx(4 * 32 * math.log(30), rel=1e-6)


def test_one_hot_rows_have_no_dispersion_and_no_preference() -> None:
    rows = torch.zeros(1, 1, 2, 5, 30, dtype=torch.float64)
    rows[..., 11] = 1.0
    variance = moments(rows)[1]
    assert float(dispersion(rows)) == 0.0 and float(shift(variance)) == 0.0
    assert float(cake().preference(rows, variance)) == 0.0


def test_a_variance_needs_two_rows() -> None:
    with pytest.raises(ValueError, match="rows: a variance needs at least 2, got 1"):
        moments(torch.rand(1, 1, 1, 1, 9))


def fed(policy: CAKE, layers: Sequence[Tensor]) -> list[Slots]:
    """The layers' entries after a prompt with the given last rows ``[batch, heads, group, W, n]``."""
    state = policy.begin(len(layers))
    stores = [Slots(layer, policy, state) for layer in range(len(layers))]
    for slots, rows in zip(stores, layers):
        batch, heads, _, _, n = rows.shape
        slots.append(*(torch.zeros(batch, heads, n, 2),) * 2)
        policy.prompted(slots, Seen(rows=rows))
        slots.fresh = False
    return stores


@pytest.mark.parametrize("strange", [0.0, math.inf, math.nan])
@pytest.mark.parametrize("cascade", [True, False])
def test_no_usable_preference_splits_uniformly_and_warns(
    strange: float, cascade: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CAKE, "preference", lambda self, rows, variance: torch.full((1,), strange).double())
    rows = [torch.rand(1, 2, 2, WINDOW, 30).softmax(-1) for _ in range(4)]
    with pytest.warns(UserWarning, match="share the pool equally"):
        stores = fed(cake(12, cascade=cascade), rows)
    assert [s.counts.unique().tolist() for s in stores] == [[12]] * 4


def test_uniform_attention_of_all_layers_splits_uniformly() -> None:
    with pytest.warns(UserWarning, match="share the pool equally"):
        stores = fed(cake(12), [torch.full((1, 2, 2, WINDOW, 30), 1 / 30) for _ in range(3)])
    assert [s.counts.unique().tolist() for s in stores] == [[12]] * 3
    assert stores[0].position[0, 0].tolist() == [*range(2, 10), 26, 27, 28, 29]  # ends are pooled with zeros


def test_a_layer_without_preference_keeps_its_window_alone() -> None:
    rows = [torch.rand(1, 2, 2, WINDOW, 30).softmax(-1) for _ in range(3)]
    rows[1][:] = 0.0
    rows[1][..., 5] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stores = fed(cake(7), rows)
    assert stores[1].position[0, 0].tolist() == [26, 27, 28, 29]
    assert sum(int(s.counts[0, 0]) for s in stores) == 21


# the cascade


def random_rows(seed: int, layers: int, batch: int, n: int) -> list[Tensor]:
    """Rows of layers that differ much in how peaked their attention is."""
    generator = torch.Generator().manual_seed(seed)
    sharp = (torch.randn(layers, generator=generator) * 1.5).exp()
    return [
        (torch.randn(batch, 2, 2, WINDOW, n, generator=generator, dtype=torch.float64) * s).softmax(-1) for s in sharp
    ]


def indicators(slots: Slots) -> list[list[tuple[int, float]]]:
    """What is stored beside each entry, in the order of the sequence."""
    pairs = zip(slots.position.flatten(0, 1).tolist(), slots["indicator"].flatten(0, 1).tolist())
    return [sorted((p, x) for p, x in zip(*head) if p >= 0) for head in pairs]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    layers=st.integers(1, 9),
    batch=st.integers(1, 3),
    n=st.integers(WINDOW, 60),
    budget=st.integers(WINDOW + 1, 40),
    split=st.sampled_from(["preference", "dispersion", "shift", "uniform"]),
)
def test_the_cascade_leaves_what_one_decision_at_the_end_leaves(
    seed: int, layers: int, batch: int, n: int, budget: int, split: Any
) -> None:
    rows = random_rows(seed, layers, batch, n)
    policy = cake(budget, split=split)
    cascade, at_once = fed(policy, rows), fed(replace(policy, cascade=False), rows)
    assert kept(cascade) == kept(at_once)
    assert [indicators(s) for s in cascade] == [indicators(s) for s in at_once]
    each = min(budget - WINDOW, n - WINDOW)
    for item in range(batch):
        assert sum(int(s.counts[item, 0]) for s in cascade) == layers * (each + WINDOW)


@settings(max_examples=60)
@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e9)), min_size=1, max_size=10), st.integers(5, 30))
@pytest.mark.filterwarnings("ignore:cake")
def test_the_cascade_is_exact_whatever_the_preferences(preference: list[float], budget: int) -> None:
    rows = random_rows(len(preference), len(preference), 1, 40)
    results = []
    for cascade in (True, False):
        given_ = iter(preference)

        class Given(CAKE):
            def preference(self, rows: Tensor, variance: Tensor, given_: Any = given_) -> Tensor:
                return torch.tensor([next(given_)], dtype=torch.float64)

        results.append(kept(fed(Given(budget, observation_window=WINDOW, cascade=cascade), rows)))
    assert results[0] == results[1]


@pytest.mark.parametrize("family, layers", [("llama", 6), ("qwen3", 5), ("gemma3", 3)])
def test_on_models_the_cascade_is_exact_and_holds_little(
    family: str, layers: int, tiny: Any, prompt: Any, generate: Any
) -> None:
    model, ids, budget, length = tiny(family, num_hidden_layers=layers), prompt(60, seed=layers), 14, 60
    caches, outs = [], []
    for cascade in (True, False):
        caches.append(cake(budget, cascade=cascade).cache_for(model))
        outs.append(generate(model, ids, caches[-1], 8))
    assert torch.equal(outs[0].sequences, outs[1].sequences)
    for a, b in zip(outs[0].logits, outs[1].logits):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    stores = [[c.slots(i) for i in c.evicting] for c in caches]
    assert kept(stores[0]) == kept(stores[1])
    n = len(caches[0].evicting)
    pool = (budget - WINDOW) * n
    assert caches[0].usage().held_peak <= max(pool + n + n * WINDOW + length, n * (budget + 8))
    assert caches[1].usage().held_peak == n * length


def test_the_peak_stays_bounded_however_long_the_prompt(tiny: Any, prompt: Any) -> None:
    model, budget, layers = tiny(num_hidden_layers=8, max_position_embeddings=2048), 24, 8
    for length in (100, 400, 1000):
        cache = cake(budget).cache_for(model)
        with torch.no_grad():
            model(prompt(length), past_key_values=cache)
        held, entry = cache.usage().held_peak, 2 * 8 * 8 + 8 + 4
        bound = (budget - WINDOW) * layers + layers + layers * WINDOW + length
        assert length < held <= bound
        assert cache.usage().held_peak_nbytes <= 2 * entry * (1.25 * bound + 16 * layers)


def test_heads_and_stored_scores_move_together(tiny: Any, prompt: Any) -> None:
    """After the cascade a kept entry still carries the key that the full cache has at its position."""
    model, ids = tiny(num_hidden_layers=6), prompt(50, batch=2)
    cut, full = cake(11).cache_for(model), Full().cache_for(model)
    with torch.no_grad():
        for cache in (cut, full):
            model(ids, past_key_values=cache)
    for layer in range(6):
        mine, everything = cut.slots(layer), full.slots(layer)
        where = mine.position.long().clamp(min=0)[..., None].expand(-1, -1, -1, 8)
        there = (mine.position >= 0)[..., None]
        for a, b in ((mine.keys, everything.keys), (mine.values, everything.values)):
            torch.testing.assert_close(a * there, b.gather(2, where) * there, rtol=0, atol=1e-11)


# limits


def test_without_variance_pooling_and_preference_it_is_snapkv(tiny: Any, prompt: Any, generate: Any) -> None:
    model, ids = tiny(), prompt(40, batch=2)
    ours = cake(15, gamma=0.0, kernel=1, split="uniform").cache_for(model)
    snap = SnapKV(15, observation_window=WINDOW, kernel=1).cache_for(model)
    a, b = generate(model, ids, ours), generate(model, ids, snap)
    assert kept([ours.slots(i) for i in range(3)]) == kept([snap.slots(i) for i in range(3)])
    for x, y in zip(a.logits, b.logits):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-10)


# batches


def test_padded_prompts_get_their_own_preferences_and_budgets(
    tiny: Any, prompt: Any, padded: Any, generate: Any
) -> None:
    model, lengths = tiny(num_hidden_layers=5), (40, 23, 31, 9, 3)
    prompts = [prompt(n, seed=n) for n in lengths]
    ids, mask = padded(prompts)
    together = cake(12).cache_for(model)
    generate(model, ids, together, 2, mask)
    held = kept([together.slots(i) for i in range(5)])
    for i, p in enumerate(prompts):
        alone = cake(12).cache_for(model)
        generate(model, p, alone, 2)
        assert [layer[i] for layer in held] == [layer[0] for layer in kept([alone.slots(j) for j in range(5)])]
        if lengths[i] > 12:
            torch.testing.assert_close(together.state.preference[i], alone.state.preference[0], rtol=1e-9, atol=0)
            assert together.state.budgets[i].tolist() == alone.state.budgets[0].tolist()
            assert len(set(alone.state.budgets[0].tolist())) > 1
    assert len({tuple(b) for b in together.state.budgets[:3].tolist()}) == 3


# ablations


def test_splits_use_what_they_say(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(num_hidden_layers=5), prompt(50)
    found = {}
    for split in ("preference", "dispersion", "shift", "uniform"):
        cache = cake(12, split=split, tau1=1.6, tau2=0.4).cache_for(model)
        with torch.no_grad():
            model(ids, past_key_values=cache)
        found[split] = cache.state.preference[0]
    torch.testing.assert_close(found["dispersion"] * found["shift"], found["preference"], rtol=1e-9, atol=0)
    assert found["uniform"].tolist() == [1.0] * 5
    assert cache.state.budgets.tolist() == [[8] * 5]
    rows = record(model, ids)
    h = [plain_statistics(r[0].flatten(0, 1)[:, -WINDOW:], WINDOW)[0] ** (1 / 1.6) for r in rows]
    torch.testing.assert_close(found["dispersion"], torch.tensor(h).double(), rtol=1e-6, atol=0)


def test_shuffled_budgets_are_the_same_multiset_by_seed(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(num_hidden_layers=6), prompt(60)

    def budgets(**options: Any) -> list[int]:
        cache = cake(14, **options).cache_for(model)
        with torch.no_grad():
            model(ids, past_key_values=cache)
        assert [int(cache.slots(i).counts[0, 0]) - WINDOW for i in range(6)] == cache.state.budgets[0].tolist()
        found: list[int] = cache.state.budgets[0].tolist()
        return found

    plain = budgets()
    shuffles = [budgets(split="shuffled", seed=seed) for seed in range(6)]
    assert all(sorted(s) == sorted(plain) for s in shuffles)
    assert len({tuple(s) for s in shuffles}) > 3 and plain not in shuffles[:3]
    assert budgets(split="shuffled", seed=2) == shuffles[2]
