"""PyramidKV: budgets on a falling line, SnapKV's choice within a layer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.kv import PyramidKV, Share, SnapKV
from heedful.kv.pyramidkv import slope

WINDOW = 4


def pyramid(budget: Any = 14, **options: Any) -> PyramidKV:
    return PyramidKV(budget, **{"observation_window": WINDOW, **options})


def line(mean: int, cap: int, layers: int, beta: float) -> list[int]:
    found: list[int] = slope(torch.tensor([mean]), torch.tensor([cap]), layers, beta)[0].tolist()
    return found


def kept(cache: Any) -> list[list[list[list[int]]]]:
    return [
        [[sorted(p for p in h if p >= 0) for h in item] for item in cache.slots(i).position.tolist()]
        for i in cache.evicting
    ]


@settings(max_examples=100)
@given(st.integers(0, 200), st.integers(0, 300), st.integers(1, 12), st.floats(1, 40))
def test_budgets_fall_along_a_line_from_twice_the_mean_to_its_betath_part(
    mean: int, more: int, layers: int, beta: float
) -> None:
    cap = mean + more
    budgets = line(mean, cap, layers, beta)
    assert sum(budgets) == layers * mean
    assert budgets == sorted(budgets, reverse=True) and budgets[-1] >= 0 and budgets[0] <= cap
    top = min(2 * mean - mean / beta, cap)
    for depth, budget in enumerate(budgets):
        exact = top + (2 * mean - 2 * top) * depth / (layers - 1) if layers > 1 else mean
        assert abs(budget - exact) < 1 + 1e-6


def test_budgets_by_hand() -> None:
    assert line(20, 100, 5, 20) == [39, 30, 20, 10, 1]  # 39, 29.5, 20, 10.5, 1: the earlier of two halves gets more
    assert line(20, 30, 3, 20) == [30, 20, 10]
    assert line(20, 100, 1, 20) == [20]
    assert line(20, 100, 4, 1) == [20] * 4


def test_each_layer_keeps_what_snapkv_keeps_with_that_budget(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(num_hidden_layers=5), prompt(40, batch=2)
    cache = pyramid(14, beta=5.0).cache_for(model)
    with torch.no_grad():
        model(ids, past_key_values=cache)
    budgets = line(10, 36, 5, 5.0)
    assert budgets == [18, 14, 10, 6, 2]
    for layer, budget in enumerate(budgets):
        snap = SnapKV(budget + WINDOW, observation_window=WINDOW).cache_for(model)
        with torch.no_grad():
            model(ids, past_key_values=snap)
        assert kept(cache)[layer] == kept(snap)[layer]


def test_beta_one_is_snapkv(tiny: Any, prompt: Any, generate: Any) -> None:
    model, ids = tiny(), prompt(40)
    a, b = pyramid(beta=1.0).cache_for(model), SnapKV(14, observation_window=WINDOW).cache_for(model)
    x, y = generate(model, ids, a), generate(model, ids, b)
    assert kept(a) == kept(b)
    for p, q in zip(x.logits, y.logits):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-11)


@pytest.mark.parametrize("budget", [12, Share(0.5)], ids=str)
def test_padded_prompts_get_budgets_of_their_own_length(
    budget: Any, tiny: Any, prompt: Any, padded: Any, generate: Any
) -> None:
    model, lengths = tiny(num_hidden_layers=4), (40, 14, 25)
    prompts = [prompt(n, seed=n) for n in lengths]
    ids, mask = padded(prompts)
    together = pyramid(budget).cache_for(model)
    generate(model, ids, together, 2, mask)
    for i, p in enumerate(prompts):
        alone = pyramid(budget).cache_for(model)
        generate(model, p, alone, 2)
        assert [layer[i] for layer in kept(together)] == [layer[0] for layer in kept(alone)]
        each = 12 if budget == 12 else lengths[i] // 2
        assert sum(len(layer[0][0]) for layer in kept(alone)) == 4 * (each + 1)


def test_short_prompts_lose_nothing(tiny: Any, prompt: Any, padded: Any, generate: Any) -> None:
    model = tiny()
    ids, mask = padded([prompt(30), prompt(14, seed=1), prompt(2, seed=2)])
    cache = pyramid(14).cache_for(model)
    generate(model, ids, cache, 1, mask)
    assert [sum(len(layer[i][0]) for layer in kept(cache)) for i in range(3)] == [3 * 14, 3 * 14, 3 * 2]


def test_depth_counts_the_layers_that_are_managed(fresh: Any, prompt: Any) -> None:
    model = fresh("gemma3", layer_types=["sliding_attention", "full_attention", "full_attention"])
    cache = pyramid(14).cache_for(model)
    with torch.no_grad():
        model(prompt(60), past_key_values=cache)
    assert [int(cache.slots(i).counts[0, 0]) - WINDOW for i in (1, 2)] == line(10, 56, 2, 20)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"beta": 0.5}, "beta=0.5: must be a number >= 1"),
        ({"beta": math.nan}, "beta=nan"),
        ({"beta": math.inf}, "beta=inf"),
        ({"budget": 4}, "budget=4: pyramidkv needs at least 5 slots"),
        ({"kernel": 2}, "kernel=2: must be odd"),
        ({"pooling": "sum"}, "pooling='sum'"),
    ],
)
def test_bad_parameters_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        pyramid(**wrong)
    assert message in str(error.value)
