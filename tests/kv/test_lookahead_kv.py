"""LookaheadKV against a plain forward in which only the lookahead rows have a LoRA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from heedful.kv import Full, LookaheadKV, Share
from heedful.kv.foresight import attention_of
from heedful.kv.lookahead_kv import FILE, lookahead_attention
from heedful.kv.lookahead_training import LookaheadSettings, initial
from heedful.kv.parts import Parts, likeness, store

SETTINGS = LookaheadSettings(tokens=5, rank=3, alpha=6)


def untrained(
    model: Any, settings: LookaheadSettings = SETTINGS, seed: int = 3, scale: float = 0.3
) -> dict[str, Tensor]:
    """Parts whose LoRA is not zero, as if they had been trained."""
    generator = torch.Generator().manual_seed(seed)
    tensors = initial(model, [torch.arange(64)], settings)
    return {
        name: x + torch.randn(x.shape, generator=generator, dtype=x.dtype) * (1 if name == "embeddings" else scale)
        for name, x in tensors.items()
    }


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., str]:
    """``stored(model, tensors, settings)``: a file of parts for that model."""

    def write(model: Any, tensors: dict[str, Tensor] | None = None, settings: LookaheadSettings = SETTINGS) -> str:
        path = tmp_path / f"parts{len(list(tmp_path.iterdir()))}.safetensors"
        store(path, Parts("lookahead", tensors or untrained(model, settings), asdict(settings), likeness(model)))
        return str(path)

    return write


def selective_forward(model: Any, ids: Tensor, tensors: dict[str, Tensor], scale: float) -> tuple[Tensor, list[Tensor]]:
    """The plain reference: one Llama forward over [X; P] in which the rows of P alone have the LoRA.

    Returns the prompt's logits ``[n, vocabulary]`` and per layer the probabilities ``[query heads, n + m, n + m]``.
    """
    core, n = model.model, ids.shape[1]
    hidden = torch.cat([core.embed_tokens(ids)[0], tensors["embeddings"]])
    cos, sin = core.rotary_emb(hidden[None], torch.arange(len(hidden))[None])
    probabilities = []

    def linear(x: Tensor, index: int, name: str) -> Tensor:
        part, key = core.layers[index].get_submodule(name), f"layers.{index}.{name}"
        out = x @ part.weight.T
        for row in range(n, len(x)):
            out[row] += scale * (tensors[f"{key}.b"] @ (tensors[f"{key}.a"] @ x[row]))
        return out

    def rotate(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin

    causal = torch.ones(len(hidden), len(hidden), dtype=torch.bool).tril()
    for index, layer in enumerate(core.layers):
        x = layer.input_layernorm(hidden)
        q, k, v = (
            linear(x, index, f"self_attn.{part}").unflatten(-1, (-1, layer.self_attn.head_dim)).transpose(0, 1)
            for part in ("q_proj", "k_proj", "v_proj")
        )
        group = q.shape[0] // k.shape[0]
        q, k, v = rotate(q), rotate(k).repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        logits = (q @ k.transpose(1, 2)) * layer.self_attn.head_dim**-0.5
        probs = logits.masked_fill(~causal, -torch.inf).softmax(-1)
        probabilities.append(probs)
        hidden = hidden + linear((probs @ v).transpose(0, 1).flatten(1), index, "self_attn.o_proj")
        x = layer.post_attention_layernorm(hidden)
        gate, up = linear(x, index, "mlp.gate_proj"), linear(x, index, "mlp.up_proj")
        hidden = hidden + linear(torch.nn.functional.silu(gate) * up, index, "mlp.down_proj")
    return model.lm_head(core.norm(hidden[:n])), probabilities


def read(model: Any, policy: Any, ids: Tensor, mask: Tensor | None = None) -> tuple[Any, Tensor]:
    """The cache that a prompt leaves, and the logits ``[batch, n, vocabulary]``."""
    cache = policy.cache_for(model)
    position = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(ids, attention_mask=mask, position_ids=position, past_key_values=cache).logits
    return cache, logits


def kept(cache: Any) -> list[list[list[list[int]]]]:
    """Positions in the order of the columns, by layer, batch item and head."""
    return [
        [[[p for p in head.tolist() if p >= 0] for head in item] for item in cache.slots(i).position]
        for i in cache.evicting
    ]


def best(rows: Tensor, budget: int, kernel: int = 7) -> tuple[set[int], Tensor]:
    """The kept set of one KV head, entry by entry, from its group's rows ``[group, m, n]``; and its scores."""
    n = rows.shape[-1]
    mean = [float(rows[:, :, j].mean()) for j in range(n)]
    score = [max(mean[max(0, j - kernel // 2) : j + kernel // 2 + 1]) for j in range(n)]
    return set(sorted(range(n), key=lambda j: (-score[j], j))[:budget]), torch.tensor(score, dtype=torch.float64)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_rows_and_choice_are_those_of_one_pass_with_a_lora_on_the_lookahead_rows_alone(
    kv_heads: int, tiny: Any, prompt: Any, stored: Any
) -> None:
    model, ids, budget = tiny(num_key_value_heads=kv_heads), prompt(26, seed=4), 9
    tensors = untrained(model)
    with torch.no_grad():
        logits, expected = selective_forward(model, ids, tensors, 2.0)
    cache, got = read(model, LookaheadKV(budget, parts=stored(model, tensors)), ids)
    full, _ = read(model, LookaheadKV(26, parts=stored(model, tensors)), ids)
    with torch.no_grad():
        found = lookahead_attention(full, tensors, asdict(SETTINGS))
    torch.testing.assert_close(got[0], logits, rtol=0, atol=1e-9)
    group = 4 // kv_heads
    for layer, probs in enumerate(expected):
        rows = probs[:, 26:, :26].unflatten(0, (kv_heads, group))
        torch.testing.assert_close(found[layer][0], rows.mean(2), rtol=0, atol=1e-9)
        for head in range(kv_heads):
            assert set(kept(cache)[layer][0][head]) == best(rows[head], budget)[0]


def test_pooling_comes_after_the_mean_of_the_group(tiny: Any) -> None:
    """Two heads that look at different places: pooled first, the place between them would win."""
    rows = torch.zeros(1, 1, 2, 12, dtype=torch.float64)
    rows[0, 0, 0, 2], rows[0, 0, 1, 4], rows[0, 0, :, 9] = 0.6, 0.6, 0.4
    policy = LookaheadKV(3, kernel=3)
    expected = torch.tensor([0, 0.3, 0.3, 0.3, 0.3, 0.3, 0, 0, 0.4, 0.4, 0.4, 0], dtype=torch.float64)
    torch.testing.assert_close(policy.score(rows)[0, 0], expected, rtol=0, atol=1e-12)
    largest = replace(policy, reduction="max").score(rows)[0, 0]
    assert largest.tolist() == [0, 0.6, 0.6, 0.6, 0.6, 0.6, 0, 0, 0.4, 0.4, 0.4, 0]
    means = replace(policy, pooling="avg", kernel=3).score(rows)[0, 0]
    torch.testing.assert_close(means[3], torch.tensor(0.2, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_what_the_prompt_computes_does_not_depend_on_the_parts(
    family: str, tiny: Any, prompt: Any, stored: Any
) -> None:
    """Bit for bit: with these parts, with zero ones, and without any."""
    model, ids = tiny(family), prompt(24, batch=2)
    plain = DynamicCache(config=model.config)
    tensors = untrained(model)
    results = [
        read(model, LookaheadKV(8, parts=stored(model, chosen)), ids)
        for chosen in (tensors, {name: torch.zeros_like(x) for name, x in tensors.items()})
    ]
    with torch.no_grad():
        logits = model(ids, past_key_values=plain).logits
    for cache, mine in results:
        assert torch.equal(mine, logits)
        for layer in cache.evicting:
            slots = cache.slots(layer)
            index = slots.position.long()[..., None].expand(-1, -1, -1, 8)
            for own, theirs in ((slots.keys, plain.layers[layer].keys), (slots.values, plain.layers[layer].values)):
                assert torch.equal(own, theirs.gather(2, index))
    assert kept(results[0][0]) != kept(results[1][0])


def test_the_lora_is_gone_after_the_probe_and_after_a_failed_one(tiny: Any, prompt: Any, stored: Any) -> None:
    model, ids = tiny(), prompt(20)
    hooks = [len(module._forward_hooks) for module in model.modules()]
    tensors = untrained(model)
    read(model, LookaheadKV(8, parts=stored(model, tensors)), ids)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    broken = {name: x[:, :-1] if name.endswith("down_proj.a") else x for name, x in tensors.items()}
    with pytest.raises(RuntimeError):
        read(model, LookaheadKV(8, parts=stored(model, broken)), ids)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


def test_scores_are_shares_of_attention(tiny: Any, prompt: Any, padded: Any) -> None:
    """s >= 0, and what a row gives the prompt and the lookahead rows is all it has."""
    model = tiny()
    ids, mask = padded([prompt(20), prompt(13, seed=1)])
    cache, _ = read(model, Full(), ids, mask)
    rows = torch.randn(2, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        probed, mean = cache.probe(rows), attention_of(cache, rows)
    for layer, attention in probed.items():
        assert float(attention.min()) >= 0
        torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention.sum(-1)), rtol=0, atol=1e-12)
        own = attention[..., 20:].sum(-1).mean(3)
        torch.testing.assert_close(mean[layer].sum(-1) + own, torch.ones_like(own), rtol=0, atol=1e-12)
        assert float(mean[layer][1, :, :, :7].abs().max()) == 0.0


def test_a_budget_of_the_whole_prompt_generates_what_the_plain_model_does(
    tiny: Any, prompt: Any, padded: Any, generate: Any, reference: Any, stored: Any
) -> None:
    """All heads, grouped queries, a padded batch: token by token, and the logits of every step."""
    model = tiny()
    ids, mask = padded([prompt(20), prompt(13, seed=1), prompt(17, seed=2)])
    cache = LookaheadKV(20, parts=stored(model)).cache_for(model)
    got, expected = generate(model, ids, cache, 14, mask), reference(model, ids, 14, mask)
    assert torch.equal(got.sequences, expected.sequences)
    for mine, plain in zip(got.logits, expected.logits):
        torch.testing.assert_close(mine, plain, rtol=0, atol=1e-9)


def test_kept_sets_have_the_budget_sorted_and_positions_go_on_behind_the_prompt(
    tiny: Any, prompt: Any, padded: Any, generate: Any, stored: Any
) -> None:
    model, lengths, new = tiny(), (20, 6, 17), 6
    ids, mask = padded([prompt(n, seed=n) for n in lengths])
    cache = LookaheadKV(8, parts=stored(model)).cache_for(model)
    generate(model, ids, cache, new, mask)
    for layer in kept(cache):
        for item, n in enumerate(lengths):
            for head in layer[item]:
                assert head == sorted(set(head))
                assert len([p for p in head if p < n]) == min(8, n)
                assert head[min(8, n) :] == list(range(n, n + new - 1))


def test_a_batch_item_does_not_depend_on_its_neighbours_or_on_padding(
    tiny: Any, prompt: Any, padded: Any, stored: Any
) -> None:
    model = tiny()
    prompts = [prompt(20), prompt(13, seed=1), prompt(17, seed=2)]
    policy = LookaheadKV(Share(0.4), parts=stored(model))
    ids, mask = padded(prompts)
    together, _ = read(model, policy, ids, mask)
    tensors = untrained(model)
    full, _ = read(model, Full(), ids, mask)
    with torch.no_grad():
        scores = lookahead_attention(full, tensors, asdict(SETTINGS))
    for item, one in enumerate(prompts):
        alone, _ = read(model, policy, one)
        assert [layer[item] for layer in kept(together)] == [layer[0] for layer in kept(alone)]
        plain, _ = read(model, Full(), one)
        with torch.no_grad():
            expected = lookahead_attention(plain, tensors, asdict(SETTINGS))
        for layer, rows in expected.items():
            mine = scores[layer][item, :, :, 20 - one.shape[1] :]
            torch.testing.assert_close(mine, rows[0], rtol=0, atol=1e-10)


def test_equal_scores_keep_the_older_entries(fresh: Any, prompt: Any, stored: Any) -> None:
    """Without queries attention is uniform, so that all scores are the same."""
    model = fresh()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    tensors = {name: x * 0 if "q_proj" in name else x for name, x in untrained(model).items()}
    cache, _ = read(model, LookaheadKV(7, parts=stored(model, tensors)), prompt(20))
    assert all(head == list(range(7)) for layer in kept(cache) for item in layer for head in item)
    ends = LookaheadKV(7, keep_last=3, keep_first=1, parts=stored(model, tensors))
    cache, _ = read(model, ends, prompt(20))
    assert all(head == [0, 1, 2, 3, 17, 18, 19] for layer in kept(cache) for item in layer for head in item)


def test_a_later_question_is_appended_and_evicts_nothing(tiny: Any, prompt: Any, stored: Any) -> None:
    model = tiny()
    cache, _ = read(model, LookaheadKV(8, parts=stored(model)), prompt(20))
    before = kept(cache)
    with torch.no_grad():
        model(prompt(5, seed=9), past_key_values=cache)
    expected = [[[[*head, *range(20, 25)] for head in item] for item in layer] for layer in before]
    assert kept(cache) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_of_a_model_in_half_precision_are_computed_in_float32(
    dtype: torch.dtype, fresh: Any, prompt: Any
) -> None:
    model = fresh(dtype=dtype)
    cache, _ = read(model, Full(), prompt(60))
    tensors = untrained(model, scale=0.05)
    assert all(x.dtype == torch.float32 for x in tensors.values())
    rows = tensors["embeddings"].to(dtype).expand(1, -1, -1)
    with torch.no_grad():
        found, probed = lookahead_attention(cache, tensors, asdict(SETTINGS)), cache.probe(rows)
    for layer, attention in found.items():
        assert attention.dtype == torch.float32
        total = probed[layer].sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)
    assert any(not torch.equal(x, x.to(dtype).float()) for x in found.values())


def test_parts_lie_beside_the_model_or_are_named(fresh: Any, prompt: Any, stored: Any, tmp_path: Path) -> None:
    model, other = fresh(), fresh(seed=1)
    with pytest.raises(ValueError, match=rf"no {FILE} beside the model; give parts=FILE, or train them"):
        LookaheadKV(8).cache_for(model)
    model.config._name_or_path = str(tmp_path / "m")
    store(tmp_path / "m" / FILE, Parts("lookahead", untrained(model), asdict(SETTINGS), likeness(model)))
    cache, _ = read(model, LookaheadKV(8), prompt(20))
    assert [len(head) for layer in kept(cache) for head in layer[0]] == [8] * 6
    with pytest.raises(ValueError, match="the weights are others"):
        LookaheadKV(8, parts=str(tmp_path / "m" / FILE)).cache_for(other)
    with pytest.raises(ValueError, match=r"none\.safetensors: no such file"):
        LookaheadKV(8, parts=str(tmp_path / "none.safetensors")).cache_for(model)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "m" / FILE).read_bytes()[:-9])
    with pytest.raises(ValueError, match="cannot be read, perhaps cut short"):
        LookaheadKV(8, parts=str(cut)).cache_for(model)


def test_a_file_that_was_trained_again_is_read_again(tiny: Any, prompt: Any, stored: Any) -> None:
    model, ids = tiny(), prompt(24)
    path = Path(stored(model, untrained(model)))
    first, _ = read(model, LookaheadKV(8, parts=str(path)), ids)
    store(path, Parts("lookahead", untrained(model, seed=11), asdict(SETTINGS), likeness(model)))
    second, _ = read(model, LookaheadKV(8, parts=str(path)), ids)
    assert kept(first) != kept(second)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"budget": 0}, "budget=0: must be at least 1"),
        ({"budget": -2}, "budget=-2: must be at least 1"),
        ({"budget": 4, "keep_first": 2, "keep_last": 2}, "budget=4: lookaheadkv needs at least 5 slots"),
        ({"kernel": 4}, "kernel=4: must be odd"),
        ({"kernel": 0}, "kernel=0: must be at least 1"),
        ({"keep_first": -1}, "keep_first=-1"),
        ({"keep_last": 1.5}, "keep_last=1.5"),
        ({"reduction": "sum"}, "reduction='sum': must be 'mean' or 'max'"),
        ({"pooling": "median"}, "pooling='median': must be 'max' or 'avg'"),
    ],
)
def test_bad_parameters_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LookaheadKV(**{"budget": 10, **wrong})


# the prompt's own last tokens as probe rows (an ablation)


def test_the_last_prompt_tokens_run_again_as_probe_rows(tiny: Any, prompt: Any, padded: Any, stored: Any) -> None:
    model, settings = tiny(), replace(SETTINGS, rows="prompt", tokens=6)
    tensors = untrained(model, settings)
    assert "embeddings" not in tensors
    ids, mask = padded([prompt(20), prompt(13, seed=1)])
    as_tokens = {**tensors, "embeddings": torch.empty(0)}
    cache, _ = read(model, LookaheadKV(8, parts=stored(model, tensors, settings)), ids, mask)
    for item in range(2):
        real = ids[item, mask[item] == 1]
        as_tokens["embeddings"] = model.model.embed_tokens(real[-6:]).detach()
        with torch.no_grad():
            _, expected = selective_forward(model, real[None], as_tokens, 2.0)
        n = len(real)
        for layer, probs in enumerate(expected):
            for head in range(2):
                rows = probs[2 * head : 2 * head + 2, n:, :n]
                assert set(kept(cache)[layer][item][head]) == best(rows, 8)[0]
    with pytest.raises(ValueError, match="run the last 6 tokens again, but a prompt is shorter"):
        read(model, LookaheadKV(3, parts=stored(model, tensors, settings)), prompt(5))
