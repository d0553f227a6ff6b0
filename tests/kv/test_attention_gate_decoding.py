"""Attention-Gate after the prompt: what comes later is kept, or judged by gates that remember what they saw."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_gates import STORED, MakeGate, forward, positions, scores

from heedful.kv import Full
from heedful.kv.attention_gate import retention
from heedful.kv.gates import Gates, Rules
from heedful.kv.parts import load


def test_what_comes_later_is_kept(gate: MakeGate, tiny: Any, prompt: Any, generate: Any) -> None:
    """Also a later question, and a token that is given after one."""
    model, ids = tiny(), prompt(20)
    cache = gate(model).cache_for(model)
    forward(model, ids, cache)
    first = positions(cache)
    forward(model, prompt(6, seed=1), cache)
    forward(model, prompt(1, seed=2), cache)
    assert positions(cache) == [[[head | set(range(20, 27)) for head in item] for item in layer] for layer in first]


@pytest.mark.parametrize("context", ["prefix", "prompt"])
def test_later_tokens_get_the_flags_of_a_gate_that_remembers_everything(
    context: Any, gate: MakeGate, tiny: Any, prompt: Any, padded: Any
) -> None:
    model = tiny(num_hidden_layers=1)
    policy = gate(model, Rules(context), decode="gate", keep_first=0)
    sequences, prompts = [prompt(26), prompt(21, seed=1)], (20, 15)
    ids, mask = padded([s[:, :n] for s, n in zip(sequences, prompts)])
    cache = policy.cache_for(model)
    forward(model, ids, cache, mask)
    expected = [positions(cache)[0][i] for i in range(2)]
    with torch.no_grad():
        for step in range(6):
            feed = torch.stack([s[0, n + step] for s, n in zip(sequences, prompts)])[:, None]
            model(feed, position_ids=torch.tensor(prompts)[:, None] + step, past_key_values=cache)
    gates = Gates.of(load(Path(policy.parts), "gate"))
    gates.rules = replace(gates.rules, context="prefix")
    let = 0
    for item, (sequence, n) in enumerate(zip(sequences, prompts)):
        x = model.model.layers[0].input_layernorm(model.model.embed_tokens(sequence))[0].detach()
        flags = scores(gates, 0, x) > 0.5
        for head in range(STORED):
            new = {n + t for t in range(6) if flags[head, n + t]}
            assert positions(cache)[0][item][head] == expected[item][head] | new
            let += len(new)
    assert 0 < let < 24
    rows = [x for m in cache.state.memory.values() for x in (m.keys, m.values, m.real)]
    assert cache.slots(0).aside == sum(x.nbytes for x in rows) > 0
    assert cache.slots(0).nbytes > cache.slots(0).aside


@pytest.mark.parametrize("keep_last", [0, 3])
def test_a_gated_batch_decodes_like_single_runs(
    keep_last: int, gate: MakeGate, tiny: Any, prompt: Any, padded: Any, generate: Any
) -> None:
    model, policy = tiny(), gate(tiny(), decode="gate", keep_last=keep_last)
    prompts = [prompt(20), prompt(13, seed=1), prompt(17, seed=2)]
    ids, mask = padded(prompts)
    together = generate(model, ids, cache := policy.cache_for(model), 10, mask)
    for i, p in enumerate(prompts):
        alone = generate(model, p, single := policy.cache_for(model), 10)
        assert torch.equal(alone.sequences[0, -10:], together.sequences[i, -10:])
        assert [layer[i] for layer in positions(cache)] == [layer[0] for layer in positions(single)]
        for a, b in zip(alone.logits, together.logits):
            torch.testing.assert_close(a[0], b[i], rtol=0, atol=1e-10)


def test_what_the_gates_remember_follows_the_beams(gate: MakeGate, tiny: Any, prompt: Any) -> None:
    model, policy = tiny(), gate(tiny(), decode="gate")
    ids, order = prompt(20, batch=3), torch.tensor([2, 0, 2])
    moved, direct = policy.cache_for(model), policy.cache_for(model)
    forward(model, ids, moved)
    moved.reorder_cache(order)
    forward(model, ids[order], direct)
    for step in range(4):
        feed = prompt(1, batch=3, seed=9 + step)
        assert torch.equal(forward(model, feed, moved), forward(model, feed, direct))
        assert positions(moved) == positions(direct)


def test_a_copied_cache_goes_on_by_itself(gate: MakeGate, tiny: Any, prompt: Any) -> None:
    model, policy = tiny(), gate(tiny(), decode="gate")
    cache = policy.cache_for(model)
    forward(model, prompt(20), cache)
    before = positions(cache)
    answers = [forward(model, prompt(5, seed=s), copy.deepcopy(cache)) for s in (1, 2)]
    assert positions(cache) == before
    assert torch.equal(answers[1], forward(model, prompt(5, seed=2), cache))


def test_gates_that_saw_nothing_cannot_go_on(gate: MakeGate, tiny: Any, prompt: Any) -> None:
    model = tiny()
    cache = Full().cache_for(model)
    forward(model, prompt(20), cache)
    keeps = cache.heir(gate(model))
    forward(model, prompt(1), keeps)
    assert retention(keeps).min() == 1
    with pytest.raises(ValueError, match="decode='gate'"):
        forward(model, prompt(1), cache.heir(gate(model, decode="gate")))
