"""Training of attention gates: the masked pass is the cache's, the gradient has a path, a break changes nothing."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import heedful.kv.gate_training as training
from heedful import models
from heedful.kv import AttentionGate
from heedful.kv.attention_gate import Gates, Rules, retention
from heedful.kv.gate_training import GateSettings, attend, carry, eviction_loss, gated, train_gate
from heedful.kv.parts import load, store

SETTINGS = GateSettings(heads=2, size=4, steps=6, batch=3)


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


@pytest.fixture(scope="module")
def sequences() -> Callable[..., list[tuple[Tensor, Tensor]]]:
    """``sequences(count, counted)``: random tokens of random lengths; the last ``counted`` ones count in the loss."""

    def make(count: int = 12, counted: int = 4, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        found = []
        for _ in range(count):
            n = int(torch.randint(12, 24, (), generator=generator))
            counts = torch.arange(n) >= n - counted
            found.append((torch.randint(1, 64, (n,), generator=generator), counts))
        return found

    return make


def quiet(step: int, steps: int, loss: float | None) -> None:
    pass


# attention


@pytest.mark.parametrize("near", [0, 1, 5])
def test_attention_equals_an_explicit_softmax(near: int) -> None:
    """Blocks of rows included: more tokens than a block; padding on both sides."""
    generator = torch.Generator().manual_seed(0)
    n, d = training.BLOCK + 9, 4
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
    monkeypatch.setattr(training, "BLOCK", 4)
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


def test_the_one_sided_loss_leaves_alone_what_evicts_enough() -> None:
    means = torch.tensor([0.1, 0.5])
    assert float(eviction_loss(means, 0.3)) == pytest.approx(0.2)
    assert float(eviction_loss(means, 0.3, one_sided=True)) == pytest.approx(0.1)


# training


def test_training_changes_the_gates_only_and_puts_everything_back(tmp_path: Path, fresh: Any, sequences: Any) -> None:
    model = fresh(dtype=torch.float32)
    model.lm_head.weight.requires_grad_(False)
    model.train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    told: list[tuple[int, int, float | None]] = []
    parts = train_gate(
        model,
        sequences(),
        tmp_path / "a" / "g",
        settings=SETTINGS,
        state=tmp_path / "s",
        progress=lambda *x: told.append(x),
    )
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["lm_head.weight"]
    assert model.training and model.config._attn_implementation == "sdpa"
    assert [(step, steps) for step, steps, _ in told] == [(i + 1, 6) for i in range(6)]
    assert all(loss is not None and loss > 0 for _, _, loss in told)
    start = Gates.new(model, SETTINGS.rules, 2, 4).state_dict()
    assert set(parts.tensors) == set(start)
    assert all(not torch.equal(x, start[name]) for name, x in parts.tensors.items())
    stored = load(tmp_path / "a" / "g", "gate")
    assert all(torch.equal(x, stored.tensors[name]) for name, x in parts.tensors.items())
    assert stored.settings["trained_steps"] == 6 and stored.settings["beta"] == 0.3
    assert 0 < stored.settings["mean_score"] < 1 and 0 <= stored.settings["mean_flag"] <= 1
    AttentionGate(parts=str(tmp_path / "a" / "g")).cache_for(model)


class StopHere(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("lora", [0, 2])
def test_a_broken_training_ends_as_if_it_had_not_been(
    lora: int, tmp_path: Path, fresh: Any, sequences: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY_S", 0.0)
    model, settings = fresh(dtype=torch.float32), dataclasses.replace(SETTINGS, lora=lora)
    names = ("whole", "broken")
    whole = train_gate(model, sequences(), tmp_path / names[0], settings=settings, state=tmp_path / "s", progress=quiet)

    def stop(step: int, steps: int, loss: float | None) -> None:
        if step == 4:
            raise StopHere

    with pytest.raises(StopHere):
        train_gate(model, sequences(), tmp_path / names[1], settings=settings, state=tmp_path / "t", progress=stop)
    assert model.config._attn_implementation == "sdpa" and model.lm_head.weight.requires_grad
    told: list[int] = []
    resumed = train_gate(
        model,
        sequences(),
        tmp_path / names[1],
        settings=settings,
        state=tmp_path / "t",
        progress=lambda step, *_: told.append(step),
    )
    assert told == [4, 5, 6]
    assert all(torch.equal(x, resumed.tensors[name]) for name, x in whole.tensors.items())
    assert whole.settings == resumed.settings
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_state_of_another_training_is_refused(
    tmp_path: Path, fresh: Any, sequences: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY_S", 0.0)
    model, state = fresh(dtype=torch.float32), tmp_path / "s"

    def stop(step: int, steps: int, loss: float | None) -> None:
        if step == 2:
            raise StopHere

    def train(model: Any, data: Any, settings: GateSettings, progress: Any = quiet) -> None:
        train_gate(model, data, tmp_path / "g", settings=settings, state=state, progress=progress)

    with pytest.raises(StopHere):
        train(model, sequences(), SETTINGS, stop)
    for what, arguments in {
        "settings": (model, sequences(), dataclasses.replace(SETTINGS, beta=0.5)),
        "model": (fresh(dtype=torch.float32, seed=1), sequences(), SETTINGS),
        "data": (model, sequences(seed=1), SETTINGS),
    }.items():
        with pytest.raises(ValueError, match=f"its {what} differ") as error:
            train(*arguments)
        assert "\n" not in str(error.value) and str(state) in str(error.value)
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read") as error:
        train(model, sequences(), SETTINGS)
    assert "\n" not in str(error.value)


def test_seeds_decide(tmp_path: Path, fresh: Any, sequences: Any) -> None:
    model, found = fresh(dtype=torch.float32), []
    for seed in (0, 0, 1):
        settings = dataclasses.replace(SETTINGS, seed=seed, steps=2)
        found.append(
            train_gate(model, sequences(), tmp_path / "g", settings=settings, state=tmp_path / "s", progress=quiet)
        )
    a, b, c = (parts.tensors for parts in found)
    assert all(torch.equal(x, b[name]) for name, x in a.items())
    assert not torch.equal(a["0.query"], c["0.query"])


def test_minutes_end_a_training(tmp_path: Path, fresh: Any, sequences: Any) -> None:
    told: list[int] = []
    settings = dataclasses.replace(SETTINGS, steps=100_000, minutes=0.002)
    train_gate(
        fresh(dtype=torch.float32),
        sequences(),
        tmp_path / "g",
        settings=settings,
        state=tmp_path / "s",
        progress=lambda step, *_: told.append(step),
    )
    assert 1 <= told[-1] < 1000


def test_training_beats_random_flags_at_the_same_rate(tmp_path: Path) -> None:
    """Recall among pairs: the trained gates let go of a third and keep the answers, which chance does not."""
    import numpy as np

    torch.set_num_threads(1)
    model, _ = models.load("task-mini-1")
    items = models.tasks.sample("mk1", np.random.default_rng(0), 96, 64)
    data = [(torch.from_numpy(item.tokens), torch.from_numpy(item.scored)) for item in items]
    settings = GateSettings(heads=2, size=8, beta=0.3, keep_last=4, steps=50, batch=12, gate_rate=0.01)
    train_gate(model, data, tmp_path / "g", settings=settings, state=tmp_path / "s", progress=quiet)
    gates = Gates.of(load(tmp_path / "g", "gate"))
    fresh = models.tasks.sample("mk1", np.random.default_rng(1), 32, 64)
    ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(item.tokens) for item in fresh], batch_first=True)
    scored = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(item.scored) for item in fresh], batch_first=True)
    real = ids != 0

    def run() -> tuple[float, Tensor]:
        """Accuracy, and what is let through: ``[layers, heads]``."""
        with torch.no_grad(), gated(model, gates, real, real) as noted:
            right = model(ids, attention_mask=real.long()).logits[:, :-1].argmax(-1) == ids[:, 1:]
        share = [(flags * real[:, None]).sum((0, 2)) / real.sum() for flags in noted.flags.values()]
        return float(right[scored[:, 1:]].float().mean()), torch.stack(share)

    trained, rates = run()
    chance = torch.Generator().manual_seed(0)
    for rate, gate in zip(rates, gates.values()):
        gate.register_forward_hook(
            lambda _m, _a, g, rate=rate: (torch.rand(g.shape, generator=chance) < rate[:, None]).float()
        )
    random, at = run()
    assert float(rates.mean()) < 0.67 and float((rates - at).abs().mean()) < 0.05
    assert trained > 0.9 and random < trained - 0.2


# together with LoRA weights


@pytest.fixture
def tuned(tmp_path: Path, fresh: Any, sequences: Any) -> tuple[Any, Any, Path]:
    """A model, the parts that were trained on it with LoRA weights, and their file."""
    model = fresh(dtype=torch.float32)
    settings = dataclasses.replace(SETTINGS, lora=2, lora_rate=0.05, context="prompt")
    parts = train_gate(model, sequences(), tmp_path / "g", settings=settings, state=tmp_path / "s", progress=quiet)
    return model, parts, tmp_path / "g"


def test_lora_begins_as_nothing_and_learns(tuned: Any) -> None:
    model, parts, _ = tuned
    begun = training.Lora(model, 2, seed=1).tensors()
    assert {name for name in parts.tensors if name.startswith("lora.")} == set(begun)
    assert len(begun) == 3 * 2 * 2
    assert all(float(x.abs().max()) == 0 for name, x in begun.items() if name.endswith("up"))
    assert all(float(x.abs().max()) > 0 for name, x in parts.tensors.items() if name.startswith("lora."))


def test_gates_trained_with_lora_are_for_the_model_that_carries_it(tuned: Any, prompt: Any) -> None:
    """The masked pass with the additions equals the cache of the model that carries them."""
    model, parts, path = tuned
    with pytest.raises(ValueError, match=r"call heedful\.kv\.gate_training\.carry") as error:
        AttentionGate(parts=str(path)).cache_for(model)
    assert "\n" not in str(error.value)
    ids = prompt(20, batch=2)
    lora = training.Lora(model, 2, seed=1)
    for name, weight in lora.weights.items():
        weight.data = parts.tensors["lora." + name.replace("/", ".")]
    with torch.no_grad(), lora.added(model):
        expected, _ = masked(model, Gates.of(parts), ids, torch.ones_like(ids))
    carry(model, load(path, "gate"))
    with torch.no_grad():
        got = model(ids, past_key_values=AttentionGate(parts=str(path)).cache_for(model)).logits
        plain = model(ids).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert float((got - plain).abs().max()) > 1e-2


def test_lora_weights_are_carried_once_and_by_their_model_only(tuned: Any, tmp_path: Path, fresh: Any) -> None:
    model, parts, path = tuned
    with pytest.raises(ValueError, match="trained for"):
        carry(fresh(dtype=torch.float32, seed=1), parts)
    with pytest.raises(ValueError, match="trained for"):
        AttentionGate(parts=str(path)).cache_for(fresh(dtype=torch.float32, seed=1))
    carry(model, parts)
    with pytest.raises(ValueError, match="trained for"):
        carry(model, parts)
    plain = Gates.new(model).parts(model)
    with pytest.raises(ValueError, match="nothing to carry"):
        carry(model, plain)


def test_gates_that_are_left_open_make_it_lora_alone(tmp_path: Path, fresh: Any, sequences: Any) -> None:
    """The same weights as a plain training loop over the model's own attention finds."""
    model, data = fresh(dtype=torch.float32), sequences()
    settings = dataclasses.replace(SETTINGS, lora=2, lora_rate=0.01, gate_rate=0.0, bias=30.0, alpha=0.0, steps=3)
    parts = train_gate(model, data, tmp_path / "g", settings=settings, state=tmp_path / "s", progress=quiet)
    assert parts.settings["mean_flag"] == 1
    model.requires_grad_(False)
    lora, generator = training.Lora(model, 2, seed=1), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(lora.parameters(), weight_decay=0.01)
    for step in range(3):
        losses = []
        with lora.added(model):
            for i in torch.randint(12, (3,), generator=generator).tolist():
                tokens, counts = data[i]
                nats = -model(tokens[None]).logits[0, :-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
                losses.append(nats[counts[1:]].mean())
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(lora.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 0.01 * min(1.0, (1 - step / 3) / training.COOL_DOWN)
        optimizer.step()
    for name, x in lora.tensors().items():
        torch.testing.assert_close(parts.tensors[name], x, rtol=1e-3, atol=1e-5)


def test_lora_needs_separate_projections(fresh: Any, tmp_path: Path, sequences: Any) -> None:
    model = fresh(dtype=torch.float32)
    for layer in model.model.layers:
        del layer.self_attn.v_proj
    with pytest.raises(ValueError, match="lora=2: model family 'llama' has no v_proj"):
        training.Lora(model, 2, seed=0)


# errors


@pytest.mark.parametrize(
    "wrong",
    [
        {"context": "both"}, {"heads": -1}, {"size": 0}, {"beta": 1.1}, {"beta": -0.1}, {"alpha": -1.0},
        {"alpha": float("nan")}, {"tau": 0.0}, {"tau": 1.0}, {"keep_first": -1}, {"keep_last": -1}, {"lora": -1},
        {"gate_rate": -1.0}, {"lora_rate": float("inf")}, {"steps": 0}, {"batch": 0}, {"warm_up": 1.5},
        {"minutes": 0.0}, {"seed": -1}, {"steps": 2.5},
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_out_of_its_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(wrong))}=") as error:
        GateSettings(**wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ([], "sequences: there are none"),
        ([(torch.ones(5, dtype=torch.long), torch.ones(4, dtype=torch.bool))], r"sequences\[0\]: .* of one length"),
        ([(torch.ones(5, dtype=torch.long), torch.zeros(5, dtype=torch.bool))], r"sequences\[0\]: no token"),
        ([(torch.ones(1, dtype=torch.long), torch.ones(1, dtype=torch.bool))], r"sequences\[0\]: no token"),
    ],
)
def test_sequences_that_cannot_be_trained_on_are_named(wrong: Any, message: str, tmp_path: Path, tiny: Any) -> None:
    with pytest.raises(ValueError, match=message):
        train_gate(tiny(), wrong, tmp_path / "g", settings=SETTINGS, state=tmp_path / "s", progress=quiet)


def test_a_copy_of_the_settings_is_the_settings() -> None:
    assert copy.deepcopy(SETTINGS) == SETTINGS
