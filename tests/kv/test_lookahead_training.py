"""Training of lookahead tokens: its loss, its ground truth, what learns, and that a break changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from heedful.kv import LookaheadKV, lookahead_training
from heedful.kv.lookahead_training import LookaheadSettings, initial, lookahead_loss, train_lookahead
from heedful.kv.parts import load

QUICK = LookaheadSettings(tokens=4, rank=2, batch=4, answer_tokens=5, rate_tokens=0.05, rate_lora=0.01, steps=8)


def held(model: Any, policy: LookaheadKV, ids: Tensor) -> list[list[int]]:
    """How many entries of one prompt stay, by layer and KV head."""
    cache = policy.cache_for(model)
    with torch.no_grad():
        model(ids, past_key_values=cache)
    return [(cache.slots(i).position[0] >= 0).sum(-1).tolist() for i in cache.evicting]


def prompts_of(prompt: Any, count: int = 12) -> list[Tensor]:
    return [prompt(14 + i % 5, seed=i)[0] for i in range(count)]


class StoppedError(Exception):
    pass


def test_loss_is_the_divergence_of_what_is_normalised_and_zero_only_if_both_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    g, s = torch.rand(2, 3, 1, 2, 9, generator=generator, dtype=torch.float64)
    expected = 0.0
    for a, b in zip(g.reshape(-1, 9).tolist(), s.reshape(-1, 9).tolist()):
        a, b = [x / sum(a) for x in a], [x / sum(b) for x in b]
        expected += sum(x * torch.log(torch.tensor(x / y, dtype=torch.float64)) for x, y in zip(a, b))
    loss = lookahead_loss({0: s, 4: s}, {0: g, 4: g})
    torch.testing.assert_close(loss, torch.as_tensor(expected / 6), rtol=0, atol=1e-12)
    torch.testing.assert_close(lookahead_loss({0: 7 * s}, {0: g}), loss, rtol=0, atol=1e-12)
    assert abs(float(lookahead_loss({0: g}, {0: 3 * g}))) < 1e-12 < float(lookahead_loss({0: g + 1e-3 * s}, {0: g}))


def test_loss_and_gradient_are_finite_where_a_head_gives_the_prompt_nothing() -> None:
    s = torch.zeros(1, 1, 1, 4, requires_grad=True)
    loss = lookahead_loss({0: s}, {0: torch.tensor([[[[0.5, 0.5, 0.0, 0.0]]]])})
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(s.grad).all()


def test_gradients_reach_the_parts_and_nothing_else(fresh: Any, prompt: Any, tmp_path: Path) -> None:
    model = fresh()
    before = [parameter.clone() for parameter in model.parameters()]
    model.lm_head.weight.requires_grad_(False)
    got: dict[str, Tensor] = {}

    def watch(foreseen: dict[int, Tensor], truth: dict[int, Tensor]) -> Tensor:
        loss = lookahead_loss(foreseen, truth)
        assert all(parameter.grad is None for parameter in model.parameters())
        got["loss"] = loss
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookahead_training, "lookahead_loss", watch)
        parts = train_lookahead(
            model, prompts_of(prompt), tmp_path / "p", settings=replace(QUICK, steps=2), state=tmp_path / "s"
        )
    begun = initial(model, prompts_of(prompt), QUICK)
    last = f"layers.{len(model.model.layers) - 1}"
    for name, x in parts.tensors.items():
        unused = name.startswith(f"{last}.") and "q_proj" not in name and "k_proj" not in name
        assert torch.equal(x, begun[name]) or not unused, name
        if not unused and not name.endswith(".a"):
            assert not torch.equal(x, begun[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    wanted = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert wanted == {"lm_head.weight"}


def test_ground_truth_is_the_attention_of_the_models_own_greedy_answer(fresh: Any, prompt: Any, tmp_path: Path) -> None:
    """Against eager attention over prompt and answer in one pass, prompt by prompt; float16 keeps three digits."""
    model, work = fresh(), prompts_of(prompt, 3)
    found: list[dict[int, Tensor]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookahead_training, "lookahead_loss", lambda s, g: found.append(g) or lookahead_loss(s, g))
        train_lookahead(model, work, tmp_path / "p", settings=replace(QUICK, steps=1), state=tmp_path / "s")
    model.set_attn_implementation("eager")
    order = sorted(range(3), key=lambda i: len(work[i]))
    for row, index in enumerate(order):
        ids, n = work[index][None], len(work[index])
        with torch.no_grad():
            for _ in range(5):
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
            rows = model(ids, output_attentions=True).attentions
        for layer, attention in enumerate(rows):
            g = attention[0, :, n:, :n].mean(1)
            mine = found[0][layer][row].flatten(0, 1)[:, -n:]
            torch.testing.assert_close(mine.double(), g / g.sum(-1, keepdim=True), rtol=0, atol=6e-4)


def test_training_reduces_the_loss(fresh: Any, prompt: Any, tmp_path: Path) -> None:
    losses: list[float] = []
    settings = replace(QUICK, batch=12, steps=30)
    parts = train_lookahead(
        fresh(num_hidden_layers=2), prompts_of(prompt), tmp_path / "p", settings=settings, state=tmp_path / "s",
        progress=lambda done, total, loss: losses.append(loss) if loss is not None else None,
    )  # fmt: skip
    assert losses[-1] < 0.7 * losses[0]
    assert parts.settings["loss"] == losses[-1] and load(tmp_path / "p", "lookahead").settings == parts.settings


@pytest.mark.parametrize("stop", [0, 3, 7])
def test_training_that_was_interrupted_goes_on_to_the_same_bits(
    stop: int, fresh: Any, prompt: Any, tmp_path: Path
) -> None:
    model, work = fresh(num_hidden_layers=2), prompts_of(prompt)
    whole = train_lookahead(model, work, tmp_path / "a", settings=QUICK, state=tmp_path / "sa")

    def interrupt(done: int, total: int, loss: float | None) -> None:
        assert total == 8
        if done == stop:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_lookahead(model, work, tmp_path / "b", settings=QUICK, state=tmp_path / "sb", progress=interrupt)
    assert not (tmp_path / "b").exists()
    calls: list[int] = []
    again = train_lookahead(
        model, work, tmp_path / "b", settings=QUICK, state=tmp_path / "sb", progress=lambda done, *_: calls.append(done)
    )
    assert calls == list(range(stop, 9))
    assert whole.tensors.keys() == again.tensors.keys()
    assert all(torch.equal(x, again.tensors[name]) for name, x in whole.tensors.items())
    finished: list[int] = []
    train_lookahead(
        model, work, tmp_path / "b", settings=QUICK, state=tmp_path / "sb", progress=lambda d, *_: finished.append(d)
    )
    assert finished == [8]


def test_ground_truth_that_is_not_held_is_worked_out_again_to_the_same_bits(
    fresh: Any, prompt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, work = fresh(num_hidden_layers=2), prompts_of(prompt)
    held = train_lookahead(model, work, tmp_path / "a", settings=QUICK, state=tmp_path / "sa")
    monkeypatch.setattr(lookahead_training, "HELD_BYTES", 0)
    again = train_lookahead(model, work, tmp_path / "b", settings=QUICK, state=tmp_path / "sb")
    assert all(torch.equal(x, again.tensors[name]) for name, x in held.tensors.items())


def test_a_budget_of_time_is_spent_over_all_calls(fresh: Any, prompt: Any, tmp_path: Path) -> None:
    settings = replace(QUICK, steps=None, minutes=0.005)
    steps: list[list[float]] = [[], []]
    for call in steps:
        train_lookahead(
            fresh(num_hidden_layers=2), prompts_of(prompt), tmp_path / "p", settings=settings, state=tmp_path / "s",
            progress=lambda done, total, loss, call=call: call.append(done),
        )  # fmt: skip
    assert len(steps[0]) >= 2 and steps[1] == [steps[0][-1]]


@pytest.mark.parametrize("family", ["qwen3", "mistral", "gemma3"])
def test_other_families_are_trained_too(family: str, fresh: Any, prompt: Any, tmp_path: Path) -> None:
    """Among them one with sliding layers, whose batches cannot be padded."""
    model, losses = fresh(family), list[float]()
    parts = train_lookahead(
        model, prompts_of(prompt), tmp_path / "p", settings=replace(QUICK, steps=6), state=tmp_path / "s",
        progress=lambda done, total, loss: losses.append(loss) if loss is not None else None,
    )  # fmt: skip
    assert len(losses) == 6 and all(0 < loss < 20 for loss in losses)
    assert sum(name.endswith(".a") for name in parts.tensors) == 7 * 3
    left = held(model, LookaheadKV(8, parts=str(tmp_path / "p")), prompt(20))
    assert all(head == 8 for layer in left for head in layer)


@pytest.mark.parametrize("options", [{"rank": 0}, {"rows": "prompt", "tokens": 6}])
def test_ablations_train_what_they_have(options: dict[str, Any], fresh: Any, prompt: Any, tmp_path: Path) -> None:
    model, settings = fresh(), replace(QUICK, **options)
    parts = train_lookahead(model, prompts_of(prompt), tmp_path / "p", settings=settings, state=tmp_path / "s")
    assert ("embeddings" in parts.tensors) == (settings.rows == "tokens")
    assert (len(parts.tensors) > 1) == (settings.rank > 0)
    assert held(model, LookaheadKV(8, parts=str(tmp_path / "p")), prompt(20)) == [[8, 8]] * 3


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"tokens": 0}, "tokens=0: must be at least 1"),
        ({"rank": -1}, "rank=-1"),
        ({"rank": 0, "rows": "prompt"}, "rank=0: with rows='prompt' there would be nothing to train"),
        ({"rows": "both"}, "rows='both': must be 'tokens' or 'prompt'"),
        ({"batch": 0}, "batch=0"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 5, "minutes": 1.0}, "minutes: give steps or minutes, not both"),
        ({"minutes": 0.0}, "minutes=0.0: must be a number above 0"),
        ({"rate_lora": -1.0}, "rate_lora=-1.0"),
        ({"clip": float("nan")}, "clip=nan"),
        ({"warm_up": 1.0}, "warm_up=1.0"),
        ({"answer_tokens": 0}, "answer_tokens=0"),
    ],
)
def test_bad_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LookaheadSettings(**wrong)


@pytest.mark.parametrize(
    "prompts, message",
    [
        ([], "prompts: there are none"),
        ([torch.arange(5), torch.empty(0, dtype=torch.int64)], r"prompts\[1\]: is empty"),
        ([torch.ones(5)], r"prompts\[0\]: must be int64 \[n\]"),
        ([torch.ones(1, 5, dtype=torch.int64)], r"prompts\[0\]: must be int64 \[n\], got torch.int64 \[1, 5\]"),
    ],
)
def test_unfit_prompts_are_named(prompts: list[Tensor], message: str, tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train_lookahead(tiny(), prompts, tmp_path / "p", settings=QUICK, state=tmp_path / "s")
    short = replace(QUICK, rows="prompt")
    with pytest.raises(ValueError, match=r"prompts\[0\]: has 3 tokens, fewer than tokens=4"):
        train_lookahead(tiny(), [torch.arange(3)], tmp_path / "p", settings=short, state=tmp_path / "s")


def test_a_state_of_another_training_or_a_damaged_one_is_refused(fresh: Any, prompt: Any, tmp_path: Path) -> None:
    model, work, state = fresh(), prompts_of(prompt), tmp_path / "s"
    train_lookahead(model, work, tmp_path / "p", settings=replace(QUICK, steps=1), state=state)
    for other, others in ((replace(QUICK, steps=2), work), (replace(QUICK, steps=1), work[1:])):
        with pytest.raises(ValueError, match="belongs to other settings, other prompts or another model"):
            train_lookahead(model, others, tmp_path / "p", settings=other, state=state)
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read; remove it to begin again"):
        train_lookahead(model, work, tmp_path / "p", settings=replace(QUICK, steps=1), state=state)
