"""Replay on recorded attention agrees with live decoding where they must agree, and bounds what it bounds."""

from itertools import combinations

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


def _best(length, prompt, budget, needs, refetch):
    """Exhaustive search over every choice of what to hold; with ``refetch``, what was missed is back after its use."""

    def go(now, held):
        held = held | {now}
        wanted = [need[0] for need in needs.get(now + 1, ())]
        gained = sum(each in held for each in wanted)
        if now + 1 == length:
            return gained
        if refetch:
            held = held | set(wanted)
        choices = combinations(sorted(held), min(budget, len(held)))
        return gained + max(go(now + 1, frozenset(kept)) for kept in choices)

    return go(prompt - 1, frozenset(range(prompt)))


def test_belady_is_the_best_of_all_policies():
    rng = np.random.default_rng(0)
    for _ in range(60):
        length, prompt, budget = 9, 4, int(rng.integers(1, 3))
        times = rng.choice(np.arange(prompt, length), size=4, replace=False)
        needs = {int(t): ((int(rng.integers(0, min(t, 3))),),) for t in times}
        found = sum(belady(length, prompt, budget, needs).values())
        assert found == pytest.approx(_best(length, prompt, budget, needs, refetch=True))
        assert found >= _best(length, prompt, budget, needs, refetch=False)


def test_belady_bounds_policies_that_evict_for_good():
    needs = {6: ((1,),), **{t: ((2,),) for t in range(7, 11)}}
    assert sum(belady(14, 4, 1, needs).values()) >= 4


def test_belady_counts_copies_as_one_entry():
    assert belady(12, 5, 2, {8: ((1, 2),), 9: ((3,),)}) == {8: 1.0, 9: 1.0}


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
