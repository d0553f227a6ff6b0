"""Policies that attend with a draft or with the answer (LAQ, SpecKV, Oracle) against plain forwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from heedful.kv import H2O, LAQ, Full, LookaheadKV, Oracle, Random, Share, SnapKV, SpecKV
from heedful.kv.cache import EvictingCache
from heedful.kv.foresight import attention_of, before_end, embedded, greedy
from heedful.kv.shared_prompt import SharedPrompt


def masked_forward(model: Any, ids: Tensor, alive: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """The plain reference: a Llama forward over all tokens, every head behind a mask of its own.

    Args:
        model: a Llama.
        ids: ``[1, T]``.
        alive: bool ``[layers, KV heads, T, T]``, which entries each query may see.

    Returns:
        logits ``[T, vocabulary]``; per layer probabilities ``[KV heads, group, T, T]``, scaled queries
        ``[KV heads, group, T, d]`` and keys ``[KV heads, T, d]``.
    """
    core, found = model.model, ([], [], [])
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
        q, k = rotate(q) * attn.head_dim**-0.5, rotate(k)
        q = q.unflatten(0, (len(k), -1))
        probs = (q @ k.mT[:, None]).masked_fill(~allowed[:, None], -torch.inf).softmax(-1)
        for kept, new in zip(found, (probs, q, k)):
            kept.append(new)
        out = (probs @ v[:, None]).flatten(0, 1).transpose(0, 1).flatten(1)
        hidden = hidden + attn.o_proj(out)[None]
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return model.lm_head(core.norm(hidden))[0], *found


def causal(model: Any, length: int) -> Tensor:
    triangle = torch.ones(length, length, dtype=torch.bool).tril()
    return triangle.repeat(model.config.num_hidden_layers, model.config.num_key_value_heads, 1, 1)


def best(mean: Tensor, budget: int, kernel: int) -> set[int]:
    """The kept set of a head, entry by entry, from its mean row ``[n]``."""
    n = len(mean)
    score = [float(mean[max(0, j - kernel // 2) : j + kernel // 2 + 1].max()) for j in range(n)]
    return set(sorted(range(n), key=lambda j: (-score[j], j))[:budget])


def kept(cache: Any) -> list[list[list[set[int]]]]:
    return [
        [[{p for p in head.tolist() if p >= 0} for head in item] for item in cache.slots(i).position]
        for i in cache.evicting
    ]


def read(model: Any, policy: Any, ids: Tensor, mask: Tensor | None = None) -> Any:
    cache = policy.cache_for(model)
    position = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        model(ids, attention_mask=mask, position_ids=position, past_key_values=cache)
    return cache


def draft_from_snapkv(
    model: Any, ids: Tensor, budget: int, window: int, kernel: int, draft: int
) -> tuple[list[int], list[Tensor]]:
    """LAQ in the plain: the draft, and per layer the mean rows ``[KV heads, n]`` of its tokens over the prompt."""
    n, layers, heads = ids.shape[1], model.config.num_hidden_layers, model.config.num_key_value_heads
    _, rows, _, keys = masked_forward(model, ids, causal(model, n))
    alive = torch.zeros(layers, heads, n + draft, n + draft, dtype=torch.bool)
    alive[:, :, :n, :n] = causal(model, n)
    for layer in range(layers):
        for head in range(heads):
            seen = rows[layer][head, :, n - window :].clone()
            seen[..., n - window :] = 0
            pooled = [
                float(seen[:, :, max(0, j - kernel // 2) : j + kernel // 2 + 1].mean(1).amax(-1).mean())
                for j in range(n)
            ]
            others = sorted(range(n - window), key=lambda j: (-pooled[j], j))[: budget - window]
            small = [*others, *range(n - window, n - 1)]
            alive[layer, head, n - 1, :] = False
            for t in range(n - 1, n + draft):
                alive[layer, head, t, small] = True
                alive[layer, head, t, n - 1 : t + 1] = True
    tokens = ids
    for t in range(draft):
        logits = masked_forward(model, tokens, alive[:, :, : n + t, : n + t])[0]
        tokens = torch.cat([tokens, logits[-1].argmax()[None, None]], dim=1)
    _, _, queries, _ = masked_forward(model, tokens, alive)
    means = [(q[:, :, n:] @ k.mT[:, None]).softmax(-1).mean(2).mean(1) for q, k in zip(queries, keys)]
    return tokens[0, n:].tolist(), means


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("draft, share", [(1, 9), (5, 9), (5, 14)])
def test_laq_is_a_draft_from_a_snapkv_cache_then_its_queries_over_the_whole_prompt(
    draft: int, share: int, kv_heads: int, tiny: Any, prompt: Any
) -> None:
    model, ids, budget = tiny(num_key_value_heads=kv_heads), prompt(24, seed=6), 9
    own = None if share == budget else share
    policy = LAQ(budget, kernel=3, draft=draft, observation_window=4, draft_budget=own)
    with torch.no_grad():
        _, means = draft_from_snapkv(model, ids, share, 4, 3, draft)
    expected = [[best(head, budget, 3) for head in mean] for mean in means]
    assert [layer[0] for layer in kept(read(model, policy, ids))] == expected


def test_laq_reads_prompts_of_embeddings_and_padded_ones(tiny: Any, prompt: Any, padded: Any) -> None:
    model, policy = tiny(), LAQ(8, draft=3, observation_window=4)
    prompts = [prompt(20), prompt(13, seed=1), prompt(7, seed=2)]
    ids, mask = padded(prompts)
    together = kept(read(model, policy, ids, mask))
    for item, one in enumerate(prompts):
        expected = [layer[0] for layer in kept(read(model, policy, one))]
        assert [layer[item] for layer in together] == expected
        cache = policy.cache_for(model)
        with torch.no_grad():
            model(inputs_embeds=embedded(model, one), past_key_values=cache)
        assert [layer[0] for layer in kept(cache)] == expected


def test_the_draft_leaves_nothing_behind(tiny: Any, prompt: Any) -> None:
    """Keys and values of what is kept are the plain prompt's, bit for bit; the hooks of the draft's cache are gone."""
    model, ids = tiny(), prompt(20)
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    plain = read(model, Full(), ids)
    cache = read(model, LAQ(8, draft=4, observation_window=4), ids)
    for layer in cache.evicting:
        slots = cache.slots(layer)
        index = slots.position.long()[..., None].expand(-1, -1, -1, 8)
        assert torch.equal(slots.keys, plain.slots(layer).keys.gather(2, index))
        assert torch.equal(slots.values, plain.slots(layer).values.gather(2, index))
        assert (slots.length, slots.seen, slots.steps) == (20, 20, 0)
    del cache
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks


@pytest.mark.parametrize("draft", [1, 6])
def test_speckv_attends_with_what_the_drafter_goes_on_with(draft: int, tiny: Any, prompt: Any, padded: Any) -> None:
    model, drafter = tiny(), tiny(num_hidden_layers=1, seed=5)
    prompts = [prompt(20), prompt(13, seed=1)]
    ids, mask = padded(prompts)
    cache = read(model, SpecKV(8, kernel=3, drafter=drafter, draft=draft), ids, mask)
    for item, one in enumerate(prompts):
        n, tokens = one.shape[1], one
        with torch.no_grad():
            for _ in range(draft):
                tokens = torch.cat([tokens, drafter(tokens).logits[:, -1:].argmax(-1)], dim=1)
            rows = masked_forward(model, tokens, causal(model, n + draft))[1]
        for layer, probs in enumerate(rows):
            for head in range(2):
                mean = probs[head, :, n:, :n].mean(1).mean(0)
                assert kept(cache)[layer][item][head] == best(mean, 8, 3)


def test_a_drafter_is_loaded_from_its_folder(tiny: Any, prompt: Any, tmp_path: Any) -> None:
    model, drafter, ids = tiny(), tiny(num_hidden_layers=1, seed=5), prompt(20)
    drafter.save_pretrained(tmp_path)
    loaded, given = (kept(read(model, SpecKV(8, drafter=one), ids)) for one in (str(tmp_path), drafter))
    assert loaded == given


def test_the_oracle_attends_with_the_given_answers(tiny: Any, prompt: Any, padded: Any) -> None:
    """Answers of different lengths, prompts of different lengths: each as if it were alone, in one plain pass."""
    model, answers = tiny(), [[7, 3, 21, 9, 5], [11, 2]]
    prompts = [prompt(20), prompt(13, seed=1)]
    ids, mask = padded(prompts)
    cache = read(model, Oracle(8, answers=answers), ids, mask)
    full = read(model, Full(), ids, mask)
    tokens, counted = torch.tensor([answers[0], [11, 2, 0, 0, 0]]), torch.tensor([[1] * 5, [1, 1, 0, 0, 0]]).bool()
    with torch.no_grad():
        found = attention_of(full, embedded(model, tokens), counted)
    for item, (one, answer) in enumerate(zip(prompts, answers)):
        n = one.shape[1]
        with torch.no_grad():
            rows = masked_forward(model, torch.cat([one, torch.tensor([answer])], 1), causal(model, n + len(answer)))[1]
        for layer, probs in enumerate(rows):
            g = probs[:, :, n:, :n].mean(2)
            torch.testing.assert_close(found[layer][item, :, :, -n:], g, rtol=0, atol=1e-10)
            for head in range(2):
                assert kept(cache)[layer][item][head] == best(g[head].mean(0), 8, 1)


@pytest.mark.parametrize("budget", [5, 10])
def test_before_pooling_nothing_keeps_more_of_the_answers_attention_than_the_oracle(
    budget: int, tiny: Any, prompt: Any
) -> None:
    """Head by head; and the others keep less somewhere, so that the bound is not idle."""
    model, ids, answer = tiny(), prompt(30, seed=2), [4, 8, 15, 16, 23]
    full = read(model, Full(), ids)
    with torch.no_grad():
        g = {i: x.mean(2) for i, x in attention_of(full, embedded(model, torch.tensor([answer]))).items()}

    def mass(policy: Any) -> Tensor:
        cache = read(model, policy, ids)
        return torch.stack([g[i].gather(2, cache.slots(i).position.long()).sum(-1) for i in cache.evicting])

    most = mass(Oracle(budget, answers=[answer]))
    rivals = [
        SnapKV(budget, observation_window=4),
        LAQ(budget, observation_window=4, kernel=1),
        SpecKV(budget, drafter=tiny(num_hidden_layers=1, seed=5), kernel=1),
        H2O(budget),
        Random(budget),
        Oracle(budget, answers=[answer], kernel=3),
        Oracle(budget, answers=[answer[::-1]]),
    ]
    for rival in rivals:
        other = mass(rival)
        assert bool((most >= other - 1e-12).all()) and float((most - other).max()) > 1e-3, rival


def test_what_follows_the_end_of_a_draft_does_not_count(fresh: Any, prompt: Any) -> None:
    model = fresh()
    tokens = torch.tensor([[5, 6, 7, 8], [6, 2, 9, 2], [2, 5, 5, 5], [5, 5, 5, 3]])
    model.generation_config.eos_token_id = None
    assert before_end(model, tokens).all()
    model.generation_config.eos_token_id = [2, 3]
    expected = [[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]
    assert before_end(model, tokens).int().tolist() == expected


def test_drafting_stops_when_every_item_has_ended(fresh: Any, prompt: Any) -> None:
    model, ids = fresh(), prompt(20, batch=2)

    def continuation(count: int) -> tuple[Tensor, EvictingCache]:
        cache = Full().cache_for(model)
        with torch.no_grad():
            logits = model(ids, past_key_values=cache).logits[:, -1]
            return greedy(model, cache, logits, count), cache

    tokens, cache = continuation(6)
    assert tokens.shape == (2, 6) and cache.get_seq_length() == 25
    model.generation_config.eos_token_id = [int(tokens[0, 1]), int(tokens[1, 3])]
    shorter, cache = continuation(6)
    longest = max(int((~before_end(model, tokens)).int().argmax(1).max()), 1)
    assert shorter.shape[1] == longest + 1 <= 4
    assert torch.equal(shorter, tokens[:, : longest + 1]) and cache.get_seq_length() == 20 + longest


def test_a_draft_that_ends_at_once_leaves_the_last_prompt_token_to_attend(fresh: Any, prompt: Any) -> None:
    model, ids = fresh(), prompt(20)
    with torch.no_grad():
        small, _ = draft_from_snapkv(model, ids, 8, 4, 7, 1)
    model.generation_config.eos_token_id = small[0]
    cache = read(model, LAQ(8, observation_window=4), ids)
    assert all(len(head) == 8 for layer in kept(cache) for head in layer[0])


def test_bounds_of_the_policies_that_need_more_than_the_model(tiny: Any, prompt: Any, padded: Any) -> None:
    model = tiny()
    with pytest.raises(ValueError, match="drafter='': speckv needs a smaller model, or its folder"):
        SpecKV(8).cache_for(model)
    with pytest.raises(ValueError, match="drafter='/nowhere': speckv needs"):
        SpecKV(8, drafter="/nowhere").cache_for(model)
    with pytest.raises(ValueError, match="drafter: its vocabulary has 80 tokens, the model's 64"):
        SpecKV(8, drafter=tiny(vocab_size=80)).cache_for(model)
    with pytest.raises(ValueError, match="the prompt was given as embeddings, which the drafter cannot read"):
        model(inputs_embeds=embedded(model, prompt(20)), past_key_values=SpecKV(8, drafter=model).cache_for(model))
    with pytest.raises(ValueError, match="answers: given for 1 sequences, but the batch has 2"):
        read(model, Oracle(8, answers=[[1]]), prompt(20, batch=2))
    with pytest.raises(ValueError, match="answers: each needs at least one token"):
        read(model, Oracle(8, answers=[[1], []]), prompt(20, batch=2))
    with pytest.raises(ValueError, match="laq: writes a draft, which needs a model whose layers all attend"):
        LAQ(20).cache_for(tiny("gemma3"))
    with pytest.raises(ValueError, match="budget=10% of this prompt is 2 slots: laq needs at least 5"):
        read(model, LAQ(Share(0.1), observation_window=4), prompt(20))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"draft": 0}, "draft=0: must be at least 1"),
        ({"observation_window": 0}, "observation_window=0"),
        ({"budget": 8}, "budget=8: laq needs at least 9 slots"),
        ({"draft_budget": 8}, "draft_budget=8: must exceed observation_window=8"),
        ({"draft_budget": 0}, "draft_budget=0"),
        ({"kernel": 2}, "kernel=2: must be odd"),
    ],
)
def test_bad_parameters_of_laq_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LAQ(**{"budget": 20, **wrong})


def test_a_draft_budget_of_its_own_frees_the_budget(tiny: Any, prompt: Any) -> None:
    cache = read(tiny(), LAQ(3, draft_budget=12, observation_window=8), prompt(20))
    assert all(len(head) == 3 for layer in kept(cache) for head in layer[0])


def test_foresight_works_beside_sliding_layers(tiny: Any, prompt: Any) -> None:
    """Gemma 3's full layer: what a sliding layer holds is what it held before."""
    model, ids = tiny("gemma3"), prompt(20)
    for policy in (Oracle(8, answers=[[5, 6]]), SpecKV(8, drafter=model)):
        cache, plain = read(model, policy, ids), read(model, Full(), ids)
        assert [len(head) for head in kept(cache)[0][0]] == [8, 8]
        for mine, theirs in zip(cache.layers, plain.layers):
            if not hasattr(mine, "slots"):
                assert torch.equal(mine.keys, theirs.keys)


def test_one_pass_serves_them_all(tiny: Any, prompt: Any, padded: Any) -> None:
    """Several policies after one pass over the prompt: none of them disturbs the next."""
    model = tiny()
    ids, mask = padded([prompt(20), prompt(13, seed=1)])
    shared = SharedPrompt(model, ids, mask, window=8)
    for policy in (LAQ(9), SpecKV(8, drafter=model), Oracle(8, answers=[[5, 6], [7]])):
        assert kept(shared.cache_for(policy)) == kept(read(model, policy, ids, mask))


def test_names_on_the_command_line() -> None:
    assert [cls.name for cls in (LookaheadKV, LAQ, SpecKV, Oracle)] == ["lookaheadkv", "laq", "speckv", "oracle"]
