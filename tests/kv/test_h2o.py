"""H2O against a greedy simulation on full attention matrices, and its limits and variants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from heedful.kv import H2O, Local, Share, Slots
from heedful.kv.attention import Seen


def masked_forward(model: Any, ids: Tensor, alive: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The plain reference: a Llama forward over all tokens at once, every head behind a mask of its own.

    Args:
        model: a Llama.
        ids: ``[1, T]``.
        alive: bool ``[layers, KV heads, T, T]``, which entries each query may see.

    Returns:
        the logits ``[T, vocabulary]`` and per layer the probabilities ``[query heads, T, T]``.
    """
    core, rows = model.model, []
    hidden = core.embed_tokens(ids)
    cos, sin = core.rotary_emb(hidden, torch.arange(ids.shape[1])[None])

    def rotate(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin

    for layer, allowed in zip(core.layers, alive):
        attn, x = layer.self_attn, layer.input_layernorm(hidden)
        q, k, v = (
            f(x)[0].unflatten(-1, (-1, attn.head_dim)).transpose(0, 1) for f in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        group = q.shape[0] // k.shape[0]
        q, k = rotate(q), rotate(k).repeat_interleave(group, 0)
        logits = (q @ k.transpose(1, 2)) * attn.head_dim**-0.5
        probs = logits.masked_fill(~allowed.repeat_interleave(group, 0), -torch.inf).softmax(-1)
        rows.append(probs)
        out = (probs @ v.repeat_interleave(group, 0)).transpose(0, 1).flatten(1)
        hidden = hidden + attn.o_proj(out)[None]
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return model.lm_head(core.norm(hidden))[0], rows


def greedy(
    model: Any,
    ids: Tensor,
    prompt: int,
    budget: int,
    recent: int,
    statistic: str = "sum",
    granularity: str = "head",
    decay: float = 0.99,
) -> tuple[list[list[list[set[int]]]], Tensor]:
    """Token by token on full attention matrices: who is alive after each step, and the logits.

    Layer by layer: a layer's rows depend on the masks of the layers below, which are final by then.
    """
    length, heads = ids.shape[1], model.config.num_key_value_heads
    layers = model.config.num_hidden_layers
    mask = torch.ones(length, length, dtype=torch.bool).tril().repeat(layers, heads, 1, 1)
    history: list[list[list[set[int]]]] = [
        [[set() for _ in range(heads)] for _ in range(layers)] for _ in range(length + 1)
    ]
    for layer in range(layers):
        score = [dict.fromkeys(range(length), 0.0) for _ in range(heads)]
        alive = [set(range(prompt)) for _ in range(heads)]
        for t in range(prompt - 1, length):
            _, rows = masked_forward(model, ids, mask)
            grouped = rows[layer].unflatten(0, (heads, -1)).sum(1)
            queries = range(prompt) if t == prompt - 1 else [t]
            for head in range(heads):
                if t >= prompt:
                    alive[head].add(t)
                for s in queries:
                    for i in range(length):
                        old = score[head][i] * (decay if statistic == "ema" else 1.0)
                        score[head][i] = old + float(grouped[head, s, i])
            worth = [
                {i: score[h][i] / (t + 1 - i if statistic == "mean" else 1) for i in range(t + 1)} for h in range(heads)
            ]
            if granularity == "layer":
                total = {i: sum(w[i] for w in worth) for i in range(t + 1)}
                worth = [total] * heads
            for head in range(heads):
                while len(alive[head]) > budget:
                    candidates = [i for i in alive[head] if i <= t - recent]
                    alive[head].remove(min(candidates, key=lambda i: (worth[head][i], i)))
                for later in range(t + 1, length):
                    row = torch.zeros(length, dtype=torch.bool)
                    row[sorted(alive[head])] = True
                    row[t + 1 : later + 1] = True
                    mask[layer, head, later] = row
                history[t + 1][layer][head] = set(alive[head])
    return history, masked_forward(model, ids, mask)[0]


def stream(model: Any, policy: Any, ids: Tensor, prompt: int) -> tuple[list[list[list[set[int]]]], Tensor]:
    """The same of the streaming implementation, teacher-forced on ``ids``."""
    cache, logits = policy.cache_for(model), []
    history: list[list[list[set[int]]]] = [[] for _ in range(ids.shape[1] + 1)]
    with torch.no_grad():
        for start, stop in [(0, prompt), *((t, t + 1) for t in range(prompt, ids.shape[1]))]:
            out = model(ids[:, start:stop], past_key_values=cache, position_ids=torch.arange(start, stop)[None])
            logits.append(out.logits[0])
            history[stop] = [
                [{p for p in h.tolist() if p >= 0} for h in cache.slots(i).position[0]] for i in cache.evicting
            ]
    return history, torch.cat(logits)


def test_the_masked_forward_of_these_tests_is_the_model(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(), prompt(15)
    everything = torch.ones(15, 15, dtype=torch.bool).tril().expand(3, 2, 15, 15)
    with torch.no_grad():
        torch.testing.assert_close(masked_forward(model, ids, everything)[0], model(ids).logits[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "layers, options",
    [
        (1, {}),
        (3, {}),
        (3, {"recent": 0}),
        (2, {"recent": 6}),
        (2, {"statistic": "mean"}),
        (2, {"statistic": "ema", "decay": 0.8}),
        (2, {"granularity": "layer"}),
        (2, {"granularity": "layer", "statistic": "mean", "recent": 1}),
    ],
    ids=str,
)
def test_streaming_equals_the_greedy_simulation(layers: int, options: dict[str, Any], tiny: Any, prompt: Any) -> None:
    model, ids, first, budget = tiny(num_hidden_layers=layers), prompt(24, seed=3), 12, 7
    with torch.no_grad():
        expected, logits = greedy(model, ids, first, budget, **{"recent": budget // 2, **options})
    got, out = stream(model, H2O(budget, **options), ids, first)
    assert got[first:] == expected[first:]
    torch.testing.assert_close(out, logits, rtol=0, atol=1e-10)


def test_without_grouping_too(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(num_hidden_layers=2, num_key_value_heads=4), prompt(20, seed=4)
    with torch.no_grad():
        expected, logits = greedy(model, ids, 10, 6, 3)
    got, out = stream(model, H2O(6), ids, 10)
    assert got[10:] == expected[10:]
    torch.testing.assert_close(out, logits, rtol=0, atol=1e-10)


def test_no_heavy_part_is_a_sliding_window(tiny: Any, prompt: Any, generate: Any) -> None:
    model, ids = tiny(), prompt(20)
    a = generate(model, ids, H2O(8, recent=8).cache_for(model))
    b = generate(model, ids, Local(8).cache_for(model))
    assert torch.equal(a.sequences, b.sequences)
    for x, y in zip(a.logits, b.logits):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-11)


def test_the_recent_part_is_always_alive(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(), prompt(30)
    history, _ = stream(model, H2O(9, recent=5), ids, 14)
    for t in range(14, 31):
        assert all(set(range(t - 5, t)) <= head and len(head) == 9 for layer in history[t] for head in layer)


def test_without_a_recent_part_the_newest_entry_may_leave(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(), prompt(40)
    history, _ = stream(model, H2O(5, recent=0), ids, 8)
    assert any(t - 1 not in head for t in range(9, 41) for layer in history[t] for head in layer)


def fed(policy: H2O, rows: list[Tensor], prompt: Tensor) -> Slots:
    """Slots that have seen the given attention: column sums ``prompt``, then one row per step."""
    slots = Slots(0, policy)
    batch, heads, n = prompt.shape
    slots.append(*(torch.zeros(batch, heads, n, 2),) * 2)
    policy.prompted(slots, Seen(sums=prompt))
    slots.fresh = False
    for row in rows:
        slots.append(*(torch.zeros(batch, heads, 1, 2),) * 2)
        slots.steps += 1
        policy.decoded(slots, Seen(rows=row[:, :, :, None, : slots.position.shape[2]]))
    return slots


def test_mass_per_step_sums_to_the_group_and_is_carried(
    tiny: Any, prompt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids, policy = tiny(), prompt(30), H2O(9)
    before: dict[int, dict[tuple[int, int], float]] = {}
    increments, gains = [], []
    inner = H2O.decoded

    def follow(mine: H2O, slots: Slots, seen: Seen) -> None:
        old = {
            (h, p): m
            for h in range(2)
            for p, m in zip(slots.position[0, h].tolist(), slots["mass"][0, h].tolist())
            if p >= 0
        }
        row = seen.mass()[0]
        increments.extend(row.sum(-1).tolist())
        inner(mine, slots, seen)
        for h in range(2):
            for column, p in enumerate(slots.position[0, h].tolist()):
                if p >= 0:
                    gains.append(float(slots["mass"][0, h, column]) - old[h, p] - float(row[h, column]))
        if slots.layer in before:
            kept = before[slots.layer]
            assert all(old[key] == value for key, value in kept.items())
        before[slots.layer] = {
            (h, p): m
            for h in range(2)
            for p, m in zip(slots.position[0, h].tolist(), slots["mass"][0, h].tolist())
            if p >= 0
        }

    monkeypatch.setattr(H2O, "decoded", follow)
    stream(model, policy, ids, 14)
    assert len(increments) == 16 * 3 * 2
    torch.testing.assert_close(torch.tensor(increments), torch.full((96,), 2.0), rtol=0, atol=1e-5)
    assert max(abs(g) for g in gains) < 1e-12


def test_uniform_attention_keeps_the_oldest_without_a_recent_part() -> None:
    n = 12
    harmonic = torch.tensor([sum(1 / s for s in range(i + 1, n + 1)) for i in range(n)], dtype=torch.float64)
    policy = H2O(6, recent=0)
    slots = fed(policy, [torch.full((1, 1, 1, 7), 1 / 7, dtype=torch.float64)] * 9, harmonic.expand(1, 1, n))
    assert sorted(p for p in slots.position[0, 0].tolist() if p >= 0) == list(range(6))


def test_uniform_attention_makes_means_tie_so_that_age_decides() -> None:
    """Every entry receives the same from every query that sees it: means tie, and ties keep the newer."""
    policy = H2O(6, recent=0, statistic="mean")
    received = torch.arange(12, 0, -1, dtype=torch.float64) / 8
    slots = fed(policy, [torch.full((1, 1, 1, 7), 1 / 8, dtype=torch.float64)] * 4, received.expand(1, 1, 12))
    assert sorted(p for p in slots.position[0, 0].tolist() if p >= 0) == list(range(10, 16))


def test_shares_are_taken_of_the_real_prompt(tiny: Any, prompt: Any, padded: Any, generate: Any) -> None:
    model = tiny()
    ids, mask = padded([prompt(30), prompt(20, seed=1)])
    cache = H2O(Share(0.3), recent=Share(0.1)).cache_for(model)
    generate(model, ids, cache, 5, mask)
    assert cache.slots(0).counts.tolist() == [[9, 9], [6, 6]]
    newest = [[33, 32, 31], [23, 22]]
    for item, expected in enumerate(newest):
        for head in cache.slots(1).position[item]:
            assert set(expected) <= set(head.tolist())


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"recent": -1}, "recent=-1"),
        ({"recent": 11}, "recent=11: must not exceed budget=10"),
        ({"recent": 1.5}, "recent=1.5"),
        ({"budget": Share(0.2), "recent": Share(0.3)}, "recent=30%: must not exceed budget=20%"),
        ({"statistic": "max"}, "statistic='max'"),
        ({"granularity": "model"}, "granularity='model'"),
        ({"decay": 1.0}, "decay=1.0"),
        ({"decay": float("nan")}, "decay=nan"),
    ],
)
def test_bad_parameters_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        H2O(**{"budget": 10, **wrong})


def test_attention_that_is_not_a_number_is_refused(fresh: Any, prompt: Any, generate: Any) -> None:
    model = fresh()
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"layer 1 contain NaN"):
        generate(model, prompt(20), H2O(8).cache_for(model))
