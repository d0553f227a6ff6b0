"""Replay on recorded attention agrees with live decoding where they must agree, and bounds what it bounds."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from heedful.kv import H2O, TOVA, Full, LazyEviction, Local, RaaS, Random, StreamingLLM
from heedful.kv.replay import belady, hits, record, recurrence, simulate

PROMPT, LENGTH = 10, 48
POLICIES = [
    H2O(budget=14),
    H2O(budget=14, window=4),
    TOVA(budget=14),
    LazyEviction(budget=14, window=4, alpha=0.03),
    RaaS(budget=20, alpha=0.03),
    StreamingLLM(budget=9),
    Local(budget=9),
    Random(budget=9),
]


@pytest.fixture(scope="module")
def one_layer():
    """A one-layer model: its attention does not depend on what was evicted from layers below."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=97,
    )
    return LlamaForCausalLM(config).double().eval()


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(3, 97, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def test_recorded_rows_are_causal_probabilities(one_layer, tokens):
    (rows,) = record(one_layer, tokens)
    assert rows.shape == (2, 2, 2, LENGTH, LENGTH)
    torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows[..., 0]), rtol=0, atol=1e-12)
    assert rows.triu(1).abs().max() == 0


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_replay_keeps_what_live_decoding_keeps(policy, one_layer, tokens):
    alive = simulate(policy, record(one_layer, tokens), PROMPT)
    with torch.inference_mode(), policy.on(one_layer) as cache:
        one_layer(tokens[:, :PROMPT], past_key_values=cache)
        for t in range(PROMPT, LENGTH):
            held = cache.slots(0).position.long()
            expected = torch.zeros(2, 2, LENGTH + 1, dtype=torch.bool)
            expected.scatter_(-1, torch.where(held < 0, LENGTH, held), True)
            expected[..., t] = True
            assert torch.equal(alive[:, 0, :, t], expected[..., :LENGTH]), t
            one_layer(tokens[:, t : t + 1], past_key_values=cache)
    assert cache.slots(0).evicted > 0


def test_full_policy_hits_everything(one_layer, tokens):
    alive = simulate(Full(), record(one_layer, tokens), PROMPT)
    needs = {20: ((3,), (7, 12)), 40: ((0,),)}
    assert hits(alive[0], needs) == {20: 1.0, 40: 1.0}


def test_hits_counts_alternatives_once():
    alive = torch.zeros(1, 2, 6, 6, dtype=torch.bool)
    alive[0, 0, 3, 1] = True
    assert hits(alive, {4: ((1, 2),)}) == {4: 0.5}
    assert hits(alive, {4: ((1,), (2,))}) == {4: 0.25}


def test_belady_is_the_best_of_all_policies():
    """Exhaustive search over every eviction choice on small instances."""

    def best(length, prompt, budget, needs):
        def go(now, held):
            if now >= prompt:
                held = held | {now}
            gained = sum(any(p in held for p in need) for need in needs.get(now + 1, ()))
            if now + 1 == length:
                return gained
            if len(held) <= budget:
                return gained + go(now + 1, held)
            return gained + max(go(now + 1, held - {victim}) for victim in held)

        return go(prompt - 1, frozenset(range(prompt)))

    rng = np.random.default_rng(0)
    for _ in range(60):
        length, prompt, budget = 9, 3, int(rng.integers(2, 4))
        needs = {
            int(t): tuple((int(p),) for p in rng.choice(t - 1, size=1, replace=False))
            for t in rng.choice(np.arange(prompt + 1, length), size=4, replace=False)
        }
        found = belady(length, prompt, budget, needs)
        assert sum(found[t] * len(needs[t]) for t in needs) == pytest.approx(best(length, prompt, budget, needs))


def test_recurrence_of_a_periodic_entry_is_its_period():
    length, prompt, period = 40, 4, 6
    rows = torch.zeros(1, 1, 1, length, length)
    for t in range(length):
        rows[..., t, t] = 1.0
        if t >= prompt and (t - prompt + 1) % period == 0:
            rows[..., t, t], rows[..., t, 2] = 0.5, 0.5
    found = recurrence([rows], prompt, 0.1)
    assert found[0, 0, 0, 2] == period
    assert found[0, 0, 0, [0, 1, 3, 20]].tolist() == [0, 0, 0, 0]


def test_bad_prompt_length_is_refused(one_layer, tokens):
    rows = record(one_layer, tokens)
    with pytest.raises(ValueError, match="prompt=0"):
        simulate(Full(), rows, 0)
