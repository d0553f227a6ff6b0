"""CAKE where nothing has to go, while it decodes, and where it is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_cake import WINDOW, cake

from heedful.kv import CAKE, Share, Slots
from heedful.kv.attention import Seen
from heedful.kv.cake import Allocation

# limits


@pytest.mark.parametrize("decode", ["freeze", "capacity"])
@pytest.mark.parametrize("budget", [30, 31, 500])
def test_a_prompt_within_the_budget_loses_nothing(
    decode: Any, budget: int, tiny: Any, prompt: Any, generate: Any, reference: Any
) -> None:
    model, ids = tiny(), prompt(30)
    cache = cake(budget, decode=decode).cache_for(model)
    got, expected = generate(model, ids, cache, 1), reference(model, ids, 1)
    torch.testing.assert_close(got.logits[0], expected.logits[0], rtol=0, atol=1e-11)
    assert cache.usage().evicted == (0.0,) * 3 and cache.usage().slots == (30.0,) * 3
    cache = cake(29, decode=decode).cache_for(model)
    generate(model, ids, cache, 1)
    assert sum(cache.usage().slots) == 3 * 29


def test_a_prompt_shorter_than_the_window_loses_nothing_and_a_share_of_it_is_refused(
    tiny: Any, prompt: Any, generate: Any, reference: Any
) -> None:
    model, ids = tiny(), prompt(7)
    cache = CAKE(64).cache_for(model)
    got, expected = generate(model, ids, cache), reference(model, ids)
    for a, b in zip(got.logits, expected.logits):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match="budget=50% of this prompt is 3 slots: cake needs at least 33"):
        generate(model, ids, CAKE(Share(0.5)).cache_for(model))


# decoding


def test_with_capacity_sizes_are_constant_and_the_window_is_the_newest(
    tiny: Any, prompt: Any, padded: Any, generate: Any
) -> None:
    model, lengths = tiny(num_hidden_layers=4), (40, 26)
    ids, mask = padded([prompt(n, seed=n) for n in lengths])
    policy = cake(12, decode="capacity")
    cache = policy.cache_for(model)
    generate(model, ids, cache, 2, mask)
    sizes = [cache.slots(i).counts.tolist() for i in range(4)]
    assert [sum(s[i][0] for s in sizes) for i in range(2)] == [48, 48]
    assert len({tuple(s[0]) for s in sizes}) > 1
    step = torch.full((2, 1), 9)
    for t in range(1, 15):
        position = torch.tensor([[n + t] for n in lengths])
        with torch.no_grad():
            model(step, past_key_values=cache, position_ids=position)
        for layer in range(4):
            slots = cache.slots(layer)
            assert slots.counts.tolist() == sizes[layer]
            for item, n in enumerate(lengths):
                for head in slots.position[item].tolist():
                    assert {n + t - k for k in range(WINDOW)} <= set(head)


def test_capacity_drops_what_the_newest_row_says(tiny: Any, prompt: Any) -> None:
    """Each step against a plain evaluation of the step's own attention row over what is held."""
    model, ids, policy = tiny(), prompt(30, seed=2), cake(10, decode="capacity")
    cache, seen_rows = policy.cache_for(model), {}
    inner: Callable[..., None] = CAKE.decoded

    def spy(self: CAKE, slots: Slots, seen: Seen) -> None:
        assert seen.rows is not None
        before = slots.position[0].tolist()
        row = seen.rows[0, :, :, 0].mean(1).tolist()
        inner(self, slots, seen)
        seen_rows[slots.layer] = (before, row, [[p for p in h if p >= 0] for h in slots.position[0].tolist()])

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(CAKE, "decoded", spy)
        model(ids, past_key_values=cache)
        token = ids[:, :1]
        for t in range(30, 48):
            model(token, past_key_values=cache, position_ids=torch.tensor([[t]]))
            for before, row, after in seen_rows.values():
                for head, (held, probability) in enumerate(zip(before, row)):
                    old = sorted((p, x) for p, x in zip(held, probability) if p <= t - WINDOW)
                    worth = [sum(x for _, x in old[max(0, i - 2) : i + 3]) / 5 for i in range(len(old))]
                    loser = old[min(range(len(old)), key=lambda i: (worth[i], -old[i][0]))][0]
                    assert set(after[head]) == set(held) - {loser}


def test_frozen_decoding_only_adds(tiny: Any, prompt: Any, generate: Any) -> None:
    model = tiny()
    cache = cake(10).cache_for(model)
    generate(model, prompt(30), cache, 13)
    assert sum(cache.usage().slots) == 3 * (10 + 12)
    assert not cake().reads.step and cake(decode="capacity").reads.step


def test_capacity_of_a_short_prompt_is_the_budget(tiny: Any, prompt: Any, generate: Any) -> None:
    model = tiny()
    cache = cake(14, decode="capacity").cache_for(model)
    generate(model, prompt(8), cache, 20)
    assert cache.usage().slots == (14.0,) * 3
    assert cache.slots(0).keys.shape[2] == 15


# the interface


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"budget": 4}, "budget=4: cake needs at least 5 slots"),
        ({"budget": 3}, "budget=3: cake needs at least 5 slots"),
        ({"observation_window": 1}, "observation_window=1: must be at least 2"),
        ({"tau1": 0.0}, "tau1=0.0: must be a number above 0"),
        ({"tau2": -1.0}, "tau2=-1.0: must be a number above 0"),
        ({"tau1": math.nan}, "tau1=nan"),
        ({"gamma": -1.0}, "gamma=-1.0: must be a number >= 0"),
        ({"gamma": math.inf}, "gamma=inf"),
        ({"kernel": 4}, "kernel=4: must be odd"),
        ({"kernel": 0}, "kernel=0"),
        ({"split": "depth"}, "split='depth'"),
        ({"rounding": "up"}, "rounding='up': must be 'remainder' or 'reference'"),
        ({"decode": "grow"}, "decode='grow'"),
        ({"cascade": "no"}, "cascade='no': must be False or True"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_parameters_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        cake(**wrong)
    assert message in str(error.value)


def test_attention_that_is_not_a_number_is_refused(fresh: Any, prompt: Any, generate: Any) -> None:
    model = fresh()
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"layer 1 contain NaN"):
        generate(model, prompt(30), cake(8).cache_for(model))


def test_state_is_let_go_when_the_prompt_is_over(tiny: Any, prompt: Any, generate: Any) -> None:
    model = tiny()
    cache = cake(12).cache_for(model)
    generate(model, prompt(40), cache, 3)
    state: Allocation = cache.state
    assert state.stores == [] and state.preference.shape == (1, 3)


def test_half_precision_models_are_judged_in_single_precision(fresh: Any, prompt: Any) -> None:
    model, ids = fresh(dtype=torch.bfloat16), prompt(40)
    cache = cake(12).cache_for(model)
    with torch.no_grad():
        model(ids, past_key_values=cache)
    assert cache.slots(0)["indicator"].dtype == torch.float32
    assert sum(cache.usage().slots) == 36
    assert bool((cache.state.preference > 0).all())
