"""Playing episodes and comparing generations."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from heedful.kv import H2O, Clairvoyant, Full, Local
from heedful.kv.evaluate import Episode, play
from heedful.kv.faithfulness import faithfulness, reference


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=60,
    )
    return LlamaForCausalLM(config).double().eval()


@pytest.fixture(scope="module")
def episodes():
    rng = np.random.default_rng(0)
    return [
        Episode(rng.integers(3, 60, n), rng.random(n) < 0.4, (5 + i, 9 + 2 * i)) for i, n in enumerate([30, 41, 36])
    ]


def test_full_policy_equals_one_forward_pass(model, episodes):
    for episode, played in zip(episodes, play(model, Full(), episodes, batch=3)):
        with torch.inference_mode():
            logits = model(torch.from_numpy(episode.tokens)[None]).logits[0]
        logprob = torch.log_softmax(logits.float(), dim=-1).numpy()
        at = np.flatnonzero(episode.scored & (np.arange(len(episode.tokens)) >= episode.parts[-1]))
        np.testing.assert_allclose(played.nats[at], -logprob[at - 1, episode.tokens[at]], atol=1e-6)
        np.testing.assert_array_equal(played.correct[at], logprob[at - 1].argmax(-1) == episode.tokens[at])
        assert np.isnan(played.nats[~episode.scored]).all()


@pytest.mark.parametrize("policy", [H2O(budget=8), Local(budget=8)], ids=str)
def test_results_do_not_depend_on_the_batch(model, episodes, policy):
    for together, alone in zip(play(model, policy, episodes, batch=3), play(model, policy, episodes, batch=1)):
        np.testing.assert_allclose(together.nats, alone.nats, atol=1e-9)
        assert alone.usage.slots == (8.0, 8.0)


def test_running_free_feeds_the_models_own_predictions(model):
    tokens = np.array([5, 6, 7, 8, 9, 10])
    scored = np.array([False] * 3 + [True] * 3)
    (played,) = play(model, Full(), [Episode(tokens, scored, (3,))], free=True)
    with torch.inference_mode():
        own = model.generate(torch.from_numpy(tokens[None, :3]), max_new_tokens=3, do_sample=False, eos_token_id=None)[
            0, 3:
        ]
    np.testing.assert_array_equal(played.correct[3:], own.numpy() == tokens[3:])


def test_a_policy_may_depend_on_the_items(model, episodes):
    needs = [{2: [len(e.tokens) - 1]} for e in episodes]
    seen = []

    def policy(batch):
        seen.extend(batch)
        return Clairvoyant(7, needs=tuple(needs[i] for i in batch))

    assert len(play(model, policy, episodes, batch=2)) == 3
    assert sorted(seen) == [0, 1, 2]


def test_the_full_policy_is_faithful_to_itself(model):
    expected = reference(model, torch.tensor([5, 9, 11, 4]), 12)
    found = faithfulness(model, Full(), expected)
    assert (found.kl, found.agreement, found.divergence) == (0.0, 1.0, 12)
    assert found.tokens == tuple(expected.tokens.tolist())


def test_unfaithfulness_is_seen(model):
    expected = reference(model, torch.randint(3, 60, (40,), generator=torch.Generator().manual_seed(3)), 12)
    found = faithfulness(model, Local(budget=3), expected)
    assert found.kl > 1e-6
    assert found.usage.slots == (3.0, 3.0)
    own = np.array(found.tokens) != expected.tokens.numpy()[: len(found.tokens)]
    assert found.divergence == (int(own.argmax()) if own.any() else 12)
