"""As many random tokens per layer and head as another method kept."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from heedful.kv import Full, RandomRates
from heedful.kv.random_rates import HiddenRates

RATES = ((0.2, 0.6), (1.0, 0.0), (0.35, 0.35))


def run(model: Any, ids: Any, policy: Any, mask: Any = None) -> tuple[Any, Any]:
    cache = policy.cache_for(model)
    position = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(ids, attention_mask=mask, position_ids=position, past_key_values=cache).logits, cache


def positions(cache: Any) -> list[list[list[set[int]]]]:
    return [
        [[{p for p in head.tolist() if p >= 0} for head in item] for item in cache.slots(i).position]
        for i in cache.evicting
    ]


@pytest.mark.parametrize("keep_last", [0, 3])
def test_every_head_keeps_its_rate_and_what_always_stays(keep_last: int, tiny: Any, prompt: Any, padded: Any) -> None:
    lengths = (40, 25)
    ids, mask = padded([prompt(n, seed=i) for i, n in enumerate(lengths)])
    _, cache = run(tiny(), ids, RandomRates(RATES, keep_last=keep_last), mask)
    for (layer, item), head in product(product(range(3), range(2)), range(2)):
        n = lengths[item]
        kept = positions(cache)[layer][item][head]
        assert {0} | set(range(n - keep_last, n)) <= kept
        assert len(kept) == max(1 + keep_last, round(RATES[layer][head] * n))


def test_tokens_are_random_but_the_same_in_any_batch(tiny: Any, prompt: Any, padded: Any) -> None:
    model = tiny()
    ids, mask = padded([prompt(40), prompt(25, seed=1)])
    together = positions(run(model, ids, RandomRates(RATES), mask)[1])
    alone = positions(run(model, prompt(40), RandomRates(RATES))[1])
    other = positions(run(model, prompt(40), RandomRates(RATES, seed=1))[1])
    assert [layer[0] for layer in together] == [layer[0] for layer in alone] != [layer[0] for layer in other]
    assert alone[2][0][0] != alone[2][0][1]


def test_hiding_changes_the_prompt_and_not_what_is_kept(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(), prompt(30)
    plain, _ = run(model, ids, Full())
    shown, a = run(model, ids, RandomRates(RATES))
    hidden, b = run(model, ids, HiddenRates(RATES))
    near, _ = run(model, ids, HiddenRates(RATES, keep_last=3))
    torch.testing.assert_close(shown, plain, rtol=0, atol=1e-11)
    assert float((hidden - plain).abs().max()) > 1e-2 and float((hidden - near).abs().max()) > 1e-2
    assert positions(a) == positions(b)
    everything, _ = run(model, ids, HiddenRates(((1.0, 1.0),) * 3))
    torch.testing.assert_close(everything, plain, rtol=0, atol=1e-11)


def test_what_comes_later_is_kept(tiny: Any, prompt: Any) -> None:
    model = tiny()
    _, cache = run(model, prompt(30), RandomRates(RATES))
    before = positions(cache)
    with torch.no_grad():
        model(prompt(4, seed=1), past_key_values=cache)
        model(prompt(1, seed=2), past_key_values=cache)
    assert positions(cache) == [[[head | set(range(30, 35)) for head in item] for item in layer] for layer in before]


def test_a_prompt_of_one_token_sees_itself(tiny: Any, prompt: Any) -> None:
    got, cache = run(tiny(), prompt(1), HiddenRates(((0.0, 0.0),) * 3, keep_first=0))
    torch.testing.assert_close(got, run(tiny(), prompt(1), Full())[0], rtol=0, atol=1e-11)
    assert positions(cache) == [[[set(), set()]]] * 3


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"rates": ((1.5,),)}, "rates="),
        ({"keep_first": -1}, "keep_first=-1"),
        ({"keep_last": 0.5}, "keep_last=0.5"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_input_is_named(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomRates(**wrong)


def test_rates_of_another_model_are_refused(tiny: Any, prompt: Any) -> None:
    with pytest.raises(ValueError, match="rates: given for 2 layers"):
        RandomRates(RATES[:2]).cache_for(tiny())
    with pytest.raises(ValueError, match="rates: given for 1 heads"):
        run(tiny(), prompt(9), RandomRates(((0.5,),) * 3))
