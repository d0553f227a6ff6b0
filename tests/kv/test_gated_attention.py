"""The pass that hides what gates do not let through: it is the cache's, and the gates have a gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from heedful.kv import AttentionGate, gated_attention
from heedful.kv.attention_gate import retention
from heedful.kv.gate_training import eviction_loss
from heedful.kv.gated_attention import attend, gated
from heedful.kv.gates import Gates, Rules
from heedful.kv.parts import store


def random_gates(model: Any, rules: Rules, heads: int = 2, bias: float = 0.0) -> Gates:
    gates = Gates.new(model, rules, heads, 4, bias, seed=3)
    for name, weight in gates.named_parameters():
        if name.endswith(("query", "key")):
            weight.data *= 2
    return gates.to(next(model.parameters()).dtype)


def masked(model: Any, gates: Gates, ids: Tensor, mask: Tensor, prompt: Tensor | None = None) -> tuple[Tensor, Any]:
    """Logits of the masked pass, and what the gates said."""
    real = mask.bool()
    with gated(model, gates, real, torch.ones_like(real) if prompt is None else prompt) as noted:
        out = model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=False)
    return out.logits, noted


# attention


@pytest.mark.parametrize("near", [0, 1, 5])
def test_attention_equals_an_explicit_softmax(near: int) -> None:
    """Blocks of rows included: more tokens than a block; padding on both sides."""
    generator = torch.Generator().manual_seed(0)
    n, d = gated_attention.BLOCK + 9, 4
    query = torch.randn(2, 4, n, d, dtype=torch.float64, generator=generator)
    key, value = torch.randn(2, 2, 2, n, d, dtype=torch.float64, generator=generator)
    real = torch.ones(2, n, dtype=torch.bool)
    real[0, :5], real[1, -7:] = False, False
    weight = (torch.rand(2, 2, n, generator=generator) > 0.6).double() * real[:, None]
    got = attend(query, key, value, weight, real, 0.7, near)
    for item in range(2):
        for head in range(4):
            for i in real[item].nonzero()[:, 0].tolist():
                seen = [
                    j
                    for j in range(i + 1)
                    if j == i or (real[item, j] and (weight[item, head // 2, j] or i - j < near))
                ]
                probs = (0.7 * key[item, head // 2, seen] @ query[item, head, i]).softmax(0)
                expected = probs @ value[item, head // 2, seen]
                torch.testing.assert_close(got[item, i, head], expected, rtol=0, atol=1e-12)


def test_gradients_are_those_of_weighted_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    """By finite differences, weights between 0 and 1 included."""
    monkeypatch.setattr(gated_attention, "BLOCK", 4)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, 6, 2, dtype=torch.float64, generator=generator)
    key, value = torch.randn(2, 1, 2, 6, 2, dtype=torch.float64, generator=generator)
    weight = torch.rand(1, 2, 6, dtype=torch.float64, generator=generator) + 0.1
    real = torch.ones(1, 6, dtype=torch.bool)
    inputs = [x.requires_grad_() for x in (query, key, value, weight)]
    for near in (1, 3):
        assert torch.autograd.gradcheck(lambda q, k, v, w, near=near: attend(q, k, v, w, real, 0.6, near), inputs)


def test_a_key_out_of_sight_has_the_gradient_of_letting_it_in() -> None:
    """At weight 0 the derivative is p_j (v_j - out), of the probabilities among what is in sight."""
    generator = torch.Generator().manual_seed(1)
    query, key, value = torch.randn(3, 1, 1, 6, 4, dtype=torch.float64, generator=generator)
    weight = torch.tensor([[[1.0, 0.0, 1.0, 0.0, 1.0, 1.0]]], dtype=torch.float64, requires_grad=True)
    real = torch.ones(1, 6, dtype=torch.bool)
    out = attend(query, key, value, weight, real, 1.0)
    (got,) = torch.autograd.grad(out[0, 5].sum(), weight)
    odds = (key[0, 0] @ query[0, 0, 5]).exp()
    odds = odds / odds[[0, 2, 4, 5]].sum()
    expected = odds * (value[0, 0] - out[0, 5, 0].detach()).sum(-1)
    expected[5] = 0  # a token always sees itself
    torch.testing.assert_close(got[0, 0], expected, rtol=1e-9, atol=1e-12)


# the masked pass and the cache


@pytest.mark.parametrize("keep_last", [0, 3])
@pytest.mark.parametrize("heads", [2, 0], ids=["attention", "linear"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3"])
def test_the_masked_pass_equals_a_cache_without_the_entries(
    family: str, heads: int, keep_last: int, tmp_path: Path, tiny: Any, prompt: Any, padded: Any
) -> None:
    """Gates with the prefix in view: prompt in one pass, then token by token with flags; grouped heads, padding."""
    model, new = tiny(family), 8
    rules = Rules(keep_first=2, keep_last=keep_last)
    gates = random_gates(model, rules, heads)
    store(tmp_path / "g", gates.parts(model))
    lengths = (26, 26, 26) if family == "gemma3" else (26, 19, 23)  # sliding layers leave padding to their own mask
    sequences = [prompt(n, seed=i) for i, n in enumerate(lengths)]
    ids, mask = padded(sequences)
    with torch.no_grad():
        expected, noted = masked(model, gates, ids, mask)
        cache = AttentionGate(parts=str(tmp_path / "g"), decode="gate").cache_for(model)
        width, position = 26 - new, (mask.cumsum(1) - 1).clamp(min=0)
        got = [
            model(
                ids[:, :width], attention_mask=mask[:, :width], position_ids=position[:, :width], past_key_values=cache
            ).logits
        ]
        for t in range(width, 26):
            got.append(model(ids[:, t : t + 1], position_ids=position[:, t : t + 1], past_key_values=cache).logits)
    found = torch.cat(got, dim=1)
    for i, n in enumerate(lengths):
        torch.testing.assert_close(found[i, -n:], expected[i, -n:], rtol=0, atol=1e-6)  # RMSNorm is in float32
        for layer in cache.evicting:
            for head in range(2):
                flags = noted.flags[layer][i, head, -n:].bool()
                kept = {0, 1} | set(flags.nonzero()[:, 0].tolist()) | set(range(n + 1 - max(1, keep_last), n))
                assert {p for p in cache.slots(layer).position[i, head].tolist() if p >= 0} == kept
    assert 0.1 < float(retention(cache).mean()) < 0.9
    with torch.no_grad():
        plain = model(ids, attention_mask=mask, position_ids=position, use_cache=False).logits
    assert float((found - plain)[mask.bool()].abs().max()) > 1e-2


@pytest.mark.parametrize("keep_last", [0, 3])
def test_the_masked_pass_equals_a_cache_that_is_cut_once(
    keep_last: int, tmp_path: Path, tiny: Any, prompt: Any, padded: Any
) -> None:
    """Gates with the prompt in view: what comes after it has no gate, and is kept."""
    model, new = tiny(), 6
    gates = random_gates(model, Rules("prompt", keep_last=keep_last))
    store(tmp_path / "g", gates.parts(model))
    lengths = (26, 19, 23)
    ids, mask = padded([prompt(n, seed=i) for i, n in enumerate(lengths)])
    before = torch.arange(26)[None] < 26 - new
    with torch.no_grad():
        expected, _ = masked(model, gates, ids, mask, before.expand(3, -1))
        cache = AttentionGate(parts=str(tmp_path / "g")).cache_for(model)
        position = (mask.cumsum(1) - 1).clamp(min=0)
        got = [
            model(ids[:, :20], attention_mask=mask[:, :20], position_ids=position[:, :20], past_key_values=cache).logits
        ]
        for t in range(20, 26):
            got.append(model(ids[:, t : t + 1], position_ids=position[:, t : t + 1], past_key_values=cache).logits)
    for i, n in enumerate(lengths):
        torch.testing.assert_close(torch.cat(got, dim=1)[i, -n:], expected[i, -n:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("context", ["prefix", "prompt"])
def test_padding_on_the_right_is_padding_on_the_left(context: Any, tiny: Any, prompt: Any, padded: Any) -> None:
    model = tiny()
    gates = random_gates(model, Rules(context))
    sequences = [prompt(20), prompt(13, seed=1)]
    left = padded(sequences)
    right = tuple(x.clone() for x in left)
    for x in right:
        x[1] = x[1].roll(-7)
    with torch.no_grad():
        (a, noted_a), (b, noted_b) = (masked(model, gates, *batch) for batch in (left, right))
    torch.testing.assert_close(a[1, 7:], b[1, :13], rtol=0, atol=1e-10)
    for layer in range(3):
        torch.testing.assert_close(noted_a.scores[layer][1, :, 7:], noted_b.scores[layer][1, :, :13])
    torch.testing.assert_close(noted_a.means(noted_a.scores), noted_b.means(noted_b.scores))


def test_padding_is_not_in_the_mean(tiny: Any, prompt: Any, padded: Any) -> None:
    model = tiny()
    gates = random_gates(model, Rules())
    sequences = [prompt(20), prompt(5, seed=1)]
    with torch.no_grad():
        together = masked(model, gates, *padded(sequences))[1]
        alone = [masked(model, gates, p, torch.ones_like(p))[1] for p in sequences]
    for layer in range(3):
        sums = sum(noted.scores[layer].sum() for noted in alone)
        torch.testing.assert_close(together.means(together.scores)[layer], sums / (2 * 25))


def test_flags_do_not_depend_on_the_answer(tiny: Any, prompt: Any) -> None:
    """Else a gate that sees the whole prompt could tell the prompt's tokens what comes."""
    model, ids = tiny(), prompt(20)
    gates = random_gates(model, Rules("prompt"))
    before = torch.arange(20)[None] < 15
    other = ids.clone()
    other[0, 15:] = (ids[0, 15:] + 5) % 63 + 1
    with torch.no_grad():
        (a, noted_a), (b, noted_b) = (masked(model, gates, x, torch.ones_like(x), before) for x in (ids, other))
    for layer in range(3):
        assert torch.equal(noted_a.flags[layer][..., :15], noted_b.flags[layer][..., :15])
    torch.testing.assert_close(a[:, :15], b[:, :15], rtol=0, atol=1e-12)
    assert noted_a.gated.sum() == 15


def test_with_all_flags_1_outputs_and_gradients_are_the_plain_models(fresh: Any, prompt: Any, padded: Any) -> None:
    model = fresh()
    ids, mask = padded([prompt(20), prompt(13, seed=1)])
    gates = random_gates(model, Rules(), bias=30.0)
    grads = []
    for run in (
        lambda: masked(model, gates, ids, mask)[0],
        lambda: model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits,
    ):
        model.zero_grad()
        logits = run()
        logits[mask.bool()].square().mean().backward()
        grads.append((logits.detach()[mask.bool()], {n: p.grad.clone() for n, p in model.named_parameters()}))
    torch.testing.assert_close(grads[0][0], grads[1][0], rtol=0, atol=1e-6)
    for name, grad in grads[1][1].items():
        scale = float(grad.abs().max())
        assert float((grads[0][1][name] - grad).abs().max()) <= 1e-6 * max(1.0, scale), name


def test_with_all_flags_0_everything_is_finite(fresh: Any, prompt: Any, padded: Any) -> None:
    model = fresh(dtype=torch.float32)
    ids, mask = padded([prompt(20), prompt(13, seed=1)])
    gates = random_gates(model, Rules(keep_first=0), bias=-30.0)
    logits, noted = masked(model, gates, ids, mask)
    logits[mask.bool()].log_softmax(-1).mean().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in [*model.parameters(), *gates.parameters()] if p.grad is not None)
    assert max(float(flags.max()) for flags in noted.flags.values()) == 0
    alone = model(ids[0, 7:8][None], position_ids=torch.tensor([[7]])).logits[0, 0]
    torch.testing.assert_close(logits[0, 7], alone, rtol=0, atol=1e-4)


# gradients of the gates


@pytest.mark.parametrize("bias", [8.0, -8.0], ids=["all let through", "nothing let through"])
def test_the_loss_reaches_the_bias_though_all_flags_are_the_same(bias: float, fresh: Any, prompt: Any) -> None:
    model, ids = fresh(), prompt(20, batch=2)
    model.requires_grad_(False)
    gates = random_gates(model, Rules(), bias=bias)
    logits, noted = masked(model, gates, ids, torch.ones_like(ids))
    assert all(len(flags.unique()) == 1 for flags in noted.flags.values())
    logits.log_softmax(-1)[..., 7].mean().backward()
    for gate in gates.values():
        assert float(gate.bias.grad.abs().min()) > 0
        assert float(gate.query.grad.abs().max()) > 0
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("bias", [4.0, -4.0])
def test_the_eviction_loss_alone_drives_the_mean_to_beta(bias: float, fresh: Any, prompt: Any) -> None:
    model, ids = fresh(dtype=torch.float32), prompt(24, batch=4)
    model.requires_grad_(False)
    gates = random_gates(model, Rules(), bias=bias)
    optimizer = torch.optim.AdamW(gates.parameters(), lr=0.05)
    first = None
    for step in range(200):
        noted = masked(model, gates, ids, torch.ones_like(ids))[1]
        means = noted.means(noted.scores)
        first = means.detach() if first is None else first
        optimizer.zero_grad()
        eviction_loss(means, 0.3).backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 200)
    assert float((first - 0.3).abs().min()) > 0.2
    assert float((means.detach() - 0.3).abs().max()) < 0.02
