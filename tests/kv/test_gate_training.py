"""Training of attention gates, alone and together with LoRA weights: it learns, and a break changes nothing."""

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
from heedful.kv.gate_training import GateSettings, carry, eviction_loss, train_gate
from heedful.kv.gated_attention import gated
from heedful.kv.gates import Gates
from heedful.kv.parts import load

SETTINGS = GateSettings(heads=2, size=4, steps=6, batch=3)


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


# the eviction loss


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
    real = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad(), lora.added(model), gated(model, Gates.of(parts), real, real):
        expected = model(ids, use_cache=False).logits
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
