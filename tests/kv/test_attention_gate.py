"""Attention-Gate at work: flags against a plain reference, what they hide, what is stored, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_gates import HEADS, STORED, MakeGate, forward, inputs_of, positions, scores

from heedful.kv import H2O, AttentionGate, Full
from heedful.kv.attention_gate import FILE, retention
from heedful.kv.gates import Gates, Rules
from heedful.kv.parts import load, store

# flags


@pytest.mark.parametrize("heads", [HEADS, 0], ids=["attention", "linear"])
@pytest.mark.parametrize("context", ["prefix", "prompt"])
def test_what_is_stored_is_what_the_gates_let_through(
    context: Any, heads: int, gate: MakeGate, tiny: Any, prompt: Any, padded: Any
) -> None:
    """Against a plain loop over tokens and heads, per layer, item of a padded batch, and KV head."""
    model = tiny()
    prompts = [prompt(20), prompt(13, seed=1), prompt(17, seed=2)]
    ids, mask = padded(prompts)
    policy = gate(model, Rules(context), heads=heads)
    gates = Gates.of(load(Path(policy.parts), "gate"))
    cache = policy.cache_for(model)
    _, inputs = inputs_of(model, lambda: forward(model, ids, cache, mask))
    kept, sizes = positions(cache), set()
    for layer in range(3):
        for i, p in enumerate(prompts):
            g = scores(gates, layer, inputs[layer][i, -p.shape[1] :])
            for head in range(STORED):
                expected = {0} | set((g[head] > 0.5).nonzero()[:, 0].tolist())
                assert kept[layer][i][head] == expected
                sizes.add(len(expected))
    assert len(sizes) > 5
    assert any(len({len(head) for head in item}) > 1 for layer in kept for item in layer)


@pytest.mark.parametrize("context", ["prefix", "prompt"])
def test_a_later_token_moves_earlier_flags_only_if_the_context_is_the_prompt(
    context: Any, gate: MakeGate, tiny: Any, prompt: Any
) -> None:
    model, ids, at = tiny(num_hidden_layers=1), prompt(20), 12
    changed = ids.clone()
    changed[0, at] = (ids[0, at] + 7) % 63 + 1
    gates = Gates.of(load(Path(gate(model, Rules(context)).parts), "gate")).double()
    x = [inputs_of(model, lambda ids=ids: forward(model, ids, None))[1][0] for ids in (ids, changed)]  # type: ignore[misc]
    a, b = (gates["0"](h, torch.ones(1, 20, dtype=torch.bool), context == "prefix") for h in x)
    assert torch.equal(a[..., :at], b[..., :at]) == (context == "prefix")
    assert not torch.equal(a[..., at:], b[..., at:])


@pytest.mark.parametrize("context", ["prefix", "prompt"])
def test_padding_never_changes_flags(context: Any, gate: MakeGate, tiny: Any, prompt: Any, padded: Any) -> None:
    """Neither how much of it there is, nor which tokens stand there, nor in which order."""
    model, policy = tiny(), gate(tiny(), Rules(context))
    ids, mask = padded([prompt(13), prompt(20, seed=1)])
    alone = policy.cache_for(model)
    forward(model, prompt(13), alone)
    filled = ids.clone()
    filled[0, :7] = torch.tensor([5, 9, 1, 33, 2, 60, 7])
    permuted = ids.clone()
    permuted[0, :7] = filled[0, torch.tensor([3, 0, 6, 5, 1, 2, 4])]
    for batch in (ids, filled, permuted):
        cache = policy.cache_for(model)
        forward(model, batch, cache, mask)
        assert [layer[0] for layer in positions(cache)] == [layer[0] for layer in positions(alone)]


def test_a_threshold_is_a_threshold(gate: MakeGate, tiny: Any, prompt: Any) -> None:
    model, sizes = tiny(num_hidden_layers=1), []
    for tau in (0.2, 0.5, 0.8):
        cache = gate(model, tau=tau).cache_for(model)
        forward(model, prompt(30), cache)
        sizes.append(positions(cache)[0][0])
    for more, fewer in pairwise(sizes):
        assert all(a >= b for a, b in zip(more, fewer))
        assert sum(map(len, more)) > sum(map(len, fewer))


# what is hidden


def test_with_all_flags_1_nothing_changes(gate: MakeGate, tiny: Any, prompt: Any, generate: Any) -> None:
    model, ids = tiny(), prompt(20, batch=2)
    got = generate(model, ids, cache := gate(model, bias=30, decode="gate").cache_for(model))
    expected = generate(model, ids, Full().cache_for(model))
    assert torch.equal(got.sequences, expected.sequences)
    for a, b in zip(got.logits, expected.logits):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
    assert retention(cache).min() == 1


def test_with_all_flags_0_every_token_sees_itself_only(gate: MakeGate, tiny: Any, prompt: Any, padded: Any) -> None:
    model, policy = tiny(), gate(tiny(), bias=-300, keep_first=0, decode="gate")
    prompts = [prompt(9), prompt(5, seed=1)]
    ids, mask = padded(prompts)
    cache = policy.cache_for(model)
    logits = forward(model, ids, cache, mask)
    assert torch.isfinite(logits).all()
    assert retention(cache).max() == 0
    for i, p in enumerate(prompts):
        for t in range(p.shape[1]):
            with torch.no_grad():
                alone = model(p[:, t : t + 1], position_ids=torch.tensor([[t]])).logits[0, 0]
            torch.testing.assert_close(logits[i, 9 - p.shape[1] + t], alone, rtol=0, atol=1e-10)
    feed = torch.tensor([[3], [4]])
    with torch.no_grad():
        later = model(feed, position_ids=torch.tensor([[9], [5]]), past_key_values=cache).logits[:, 0]
        alone = torch.cat(
            [model(feed[i : i + 1], position_ids=torch.tensor([[p]])).logits[0] for i, p in ((0, 9), (1, 5))]
        )
    torch.testing.assert_close(later, alone, rtol=0, atol=1e-10)
    assert retention(cache).max() == 0


@pytest.mark.parametrize("keep_last", [0, 1, 4])
def test_hidden_tokens_are_seen_by_their_neighbours_only(
    keep_last: int, gate: MakeGate, tiny: Any, prompt: Any, padded: Any
) -> None:
    """One layer, spelt out with an explicit mask; the cache holds what the next token may see."""
    model = tiny(num_hidden_layers=1)
    prompts = [prompt(20), prompt(14, seed=1)]
    ids, mask = padded(prompts)
    policy = gate(model, keep_last=keep_last, keep_first=2)
    cache = policy.cache_for(model)
    got = forward(model, ids, cache, mask)
    gates = Gates.of(load(Path(policy.parts), "gate"))
    core, attn = model.model, model.model.layers[0].self_attn
    for item, p in enumerate(prompts):
        n = p.shape[1]
        with torch.no_grad():
            x = core.layers[0].input_layernorm(core.embed_tokens(p))
            flags = scores(gates, 0, x[0]) > 0.5
            row, column = torch.arange(n)[:, None], torch.arange(n)
            always = (column == row) | (column < 2) | (row - column < keep_last)
            allowed = (flags[:, None] | always) & (column <= row)
            cos, sin = core.rotary_emb(x, torch.arange(n)[None])

            query, keys, values = (
                projection(x)[0].unflatten(-1, (-1, 8)).transpose(0, 1)
                for projection in (attn.q_proj, attn.k_proj, attn.v_proj)
            )
            query, keys = (y * cos + torch.cat([-y[..., 4:], y[..., :4]], -1) * sin for y in (query, keys))
            keys, values = (y.repeat_interleave(2, 0) for y in (keys, values))
            logits = query @ keys.transpose(1, 2) / 8**0.5
            probs = logits.masked_fill(~allowed.repeat_interleave(2, 0), -torch.inf).softmax(-1)
            hidden = core.embed_tokens(p)[0] + attn.o_proj((probs @ values).transpose(0, 1).flatten(1))
            hidden = hidden + core.layers[0].mlp(core.layers[0].post_attention_layernorm(hidden))
            expected = model.lm_head(core.norm(hidden))
        torch.testing.assert_close(got[item, -n:], expected, rtol=0, atol=1e-11)
        for head in range(STORED):
            later = {0, 1} | set(range(n + 1 - max(1, keep_last), n)) | set(flags[head].nonzero()[:, 0].tolist())
            assert positions(cache)[0][item][head] == later


def test_without_hiding_the_prompt_computes_as_ever_and_then_drops_the_same(
    gate: MakeGate, tiny: Any, prompt: Any
) -> None:
    model, ids = tiny(num_hidden_layers=1), prompt(20)
    hiding, showing = gate(model).cache_for(model), gate(model, hides=False).cache_for(model)
    hidden, shown = forward(model, ids, hiding), forward(model, ids, showing)
    torch.testing.assert_close(shown, forward(model, ids, Full().cache_for(model)), rtol=0, atol=1e-11)
    assert float((hidden - shown).abs().max()) > 1e-2
    assert positions(hiding) == positions(showing)


# sizes


def test_the_eviction_rate_is_counted_from_what_is_stored(gate: MakeGate, tiny: Any, prompt: Any, padded: Any) -> None:
    model = tiny()
    lengths = (60, 33, 47)
    ids, mask = padded([prompt(n, seed=i) for i, n in enumerate(lengths)])
    cache = gate(model).cache_for(model)
    forward(model, ids, cache, mask)
    rates = retention(cache)
    kept, used = positions(cache), cache.usage()
    for layer in range(3):
        for item, n in enumerate(lengths):
            for head in range(STORED):
                assert float(rates[layer, item, head]) == len(kept[layer][item][head]) / n
    assert 0.1 < float(rates.mean()) < 0.9
    stored = sum(len(head) for layer in kept for item in layer for head in item)
    assert stored == sum(cache.slots(i).entries for i in range(3))
    assert sum(used.evicted) * 3 * STORED == pytest.approx(3 * STORED * sum(lengths) - stored)


def test_memory_is_what_is_kept(gate: MakeGate, tiny: Any, prompt: Any) -> None:
    """Heads that keep little do not pay for those that keep much: pages of 16, against all entries in columns."""
    model, n = tiny(), 400
    gates = Gates.of(load(Path(gate(model).parts), "gate"))
    for i, layer in enumerate(gates.values()):
        layer.bias.data = torch.tensor([-300.0, 300.0] if i else [-300.0, -300.0])
    path = Path(gate(model).parts).with_name("extreme.safetensors")
    store(path, gates.parts(model))
    cache, full = AttentionGate(parts=str(path), keep_last=0).cache_for(model), Full().cache_for(model)
    for each in (cache, full):
        forward(model, prompt(n), each)
    assert [[len(head) for head in layer[0]] for layer in positions(cache)] == [[1, 1], [1, n], [1, n]]
    mine, all_of_it = cache.usage().nbytes, full.usage().nbytes
    assert mine[0] < 0.05 * all_of_it[0]
    assert max(mine[1:]) < 0.62 * all_of_it[1]  # half, and what pages and their bookkeeping add at 8 numbers a head


# odds and ends


@pytest.mark.parametrize("context", ["prefix", "prompt"])
def test_a_prompt_of_one_token(context: Any, gate: MakeGate, tiny: Any, prompt: Any) -> None:
    model = tiny()
    cache = gate(model, Rules(context), bias=-300, keep_first=0).cache_for(model)
    got = forward(model, prompt(1), cache)
    torch.testing.assert_close(got, forward(model, prompt(1), Full().cache_for(model)), rtol=0, atol=1e-11)
    assert retention(cache).max() == 0


def test_the_gate_of_a_bf16_model_computes_in_float32(gate: MakeGate, fresh: Any, prompt: Any) -> None:
    model = fresh(dtype=torch.bfloat16)
    policy = gate(model)
    cache = policy.cache_for(model)
    _, inputs = inputs_of(model, lambda: forward(model, prompt(40), cache))
    gates = Gates.of(load(Path(policy.parts), "gate"))
    assert all(weight.dtype == torch.float32 for weight in cache.state.gates.parameters())
    for layer in range(3):
        assert inputs[layer].dtype == torch.bfloat16
        g = scores(gates, layer, inputs[layer][0].double())
        clear = (g - 0.5).abs() > 1e-5
        for head in range(STORED):
            kept = torch.zeros(40, dtype=torch.bool)
            kept[list(positions(cache)[layer][0][head])] = True
            assert torch.equal(kept[1:][clear[head, 1:]], (g[head] > 0.5)[1:][clear[head, 1:]])


def test_only_layers_that_attend_to_everything_have_gates(gate: MakeGate, tiny: Any, prompt: Any) -> None:
    model = tiny("gemma3")
    gates = Gates.new(model)
    assert list(gates) == ["1"]
    cache = gate(model).cache_for(model)
    assert torch.isfinite(forward(model, prompt(20), cache)).all()
    assert 0 < float(retention(cache).mean()) < 1


def test_the_rules_of_training_hold_unless_others_are_given(gate: MakeGate, tiny: Any, prompt: Any) -> None:
    model, sizes = tiny(num_hidden_layers=1), {}
    for name, options in {"trained": {}, "given": {"keep_first": 0, "keep_last": 0}}.items():
        cache = gate(model, Rules(keep_first=4, keep_last=7), bias=-300, **options).cache_for(model)
        forward(model, prompt(30), cache)
        sizes[name] = positions(cache)[0][0][0]
    assert sizes == {"trained": {0, 1, 2, 3, 24, 25, 26, 27, 28, 29}, "given": set()}


# errors


@pytest.mark.parametrize(
    "wrong",
    [{"tau": 0.0}, {"tau": 1.0}, {"keep_first": -1}, {"keep_last": -2}, {"keep_first": 1.5}, {"decode": "never"}],
    ids=str,
)
def test_a_parameter_out_of_its_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}=") as error:
        AttentionGate(**wrong)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused_in_one_line(tmp_path: Path, tiny: Any) -> None:
    with pytest.raises(ValueError, match=r"nothing\.safetensors: no such file") as error:
        AttentionGate(parts=str(tmp_path / "nothing.safetensors")).cache_for(tiny())
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=f"no {FILE} beside .*heedful kv train gate") as error:
        AttentionGate().cache_for(tiny())
    assert "\n" not in str(error.value)


def test_a_file_that_is_cut_short_damaged_or_of_another_kind_is_refused(
    tmp_path: Path, gate: MakeGate, tiny: Any
) -> None:
    whole = Path(gate(tiny()).parts)
    short = tmp_path / "short.safetensors"
    short.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut short"):
        AttentionGate(parts=str(short)).cache_for(tiny())
    parts = load(whole, "gate")
    store(tmp_path / "other.safetensors", replace(parts, kind="lookahead"))
    with pytest.raises(ValueError, match="holds lookahead parts"):
        AttentionGate(parts=str(tmp_path / "other.safetensors")).cache_for(tiny())
    some = {name: x for name, x in parts.tensors.items() if name != "1.score"}
    store(tmp_path / "some.safetensors", replace(parts, tensors=some))
    with pytest.raises(ValueError, match=r"the gates are damaged .*1\.score") as error:
        AttentionGate(parts=str(tmp_path / "some.safetensors")).cache_for(tiny())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"seed": 1}, {"num_hidden_layers": 2}, {"hidden_size": 48}], ids=str)
def test_gates_of_another_model_are_refused(change: dict[str, int], gate: MakeGate, tiny: Any) -> None:
    with pytest.raises(ValueError, match="gate parts were trained for") as error:
        gate(tiny()).cache_for(tiny(**change))
    assert "\n" not in str(error.value)


def test_gates_beside_the_model_are_found(tmp_path: Path, fresh: Any, prompt: Any) -> None:
    from transformers import AutoModelForCausalLM

    fresh(dtype=torch.float32).save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    store(tmp_path / "model" / FILE, Gates.new(model, bias=-300).parts(model))
    cache = AttentionGate().cache_for(model)
    forward(model, prompt(20), cache)
    assert float(retention(cache).max()) == 1 / 20


def test_a_prompt_that_gates_take_part_in_cannot_be_shared(gate: MakeGate, tiny: Any, prompt: Any) -> None:
    from heedful.kv.shared_prompt import SharedPrompt

    shared = SharedPrompt(tiny(), prompt(20))
    assert shared.cache_for(H2O(8)).usage().slots == (8.0,) * 3
    with pytest.raises(ValueError, match="takes part in reading the prompt"):
        shared.cache_for(gate(tiny()))
