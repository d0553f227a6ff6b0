"""Heads of different lengths: attention over the packed entries is that of a masked dense one, and memory is saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heedful.kv import Policy, Reads, Slots
from heedful.kv.attention import Seen
from heedful.kv.packed import Packed


@settings(max_examples=60)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    group=st.integers(1, 3),
    longest=st.sampled_from([1, 7, 40, 300, 700]),
    steps=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_packed_attention_is_masked_dense_attention(
    batch: int, heads: int, group: int, longest: int, steps: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, d = batch * heads, 5
    counts = torch.randint(0, longest + 1, (rows,), generator=generator)
    keys, values = torch.randn(2, rows, longest, d, generator=generator, dtype=torch.float64)
    source = torch.arange(rows * longest).view(rows, longest)
    packed = Packed(keys.flatten(0, 1), values.flatten(0, 1), source, counts)
    held = torch.arange(longest) < counts[:, None]
    for _ in range(steps):
        new = torch.randn(2, rows, d, generator=generator, dtype=torch.float64)
        packed.append(*new)
        keys, values = (torch.cat([x, y[:, None]], 1) for x, y in zip((keys, values), new))
        held = torch.cat([held, torch.ones(rows, 1, dtype=torch.bool)], 1)
    query = torch.randn(batch, heads * group, 1, d, generator=generator, dtype=torch.float64)
    logits = torch.einsum("rgd,rnd->rgn", query.view(rows, group, d), keys) * 0.3
    probs = logits.masked_fill(~held[:, None], -torch.inf).softmax(-1)
    expected = torch.einsum("rgn,rnd->rgd", probs, values).reshape(batch, 1, heads * group, d)
    for wanted in (False, True):
        out, row = packed.attend(query, heads, 0.3, wanted)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)
    assert row is not None and row.shape == (batch, heads, group, int(counts.max()) + steps)
    for r in range(rows):
        mine = row.flatten(0, 1)[r]
        n = int(counts[r]) + steps
        torch.testing.assert_close(mine[:, :n], probs[r][:, held[r]], rtol=0, atol=1e-9)
        assert float(mine[:, n:].abs().sum()) == 0
    again_keys, again_values = packed.padded()
    for r in range(rows):
        assert torch.equal(again_keys[r, : int(counts[r]) + steps], keys[r, held[r]])
        assert torch.equal(again_values[r, : int(counts[r]) + steps], values[r, held[r]])


def test_a_full_row_gets_a_page_and_nothing_is_moved() -> None:
    """Appending a thousand entries to each of sixteen uneven heads copies what is there a few times, not each time
    that some head has filled a page, and reserves an eighth at most."""
    counts = torch.arange(16) * 40
    keys = torch.randn(16 * 640, 8)
    packed = Packed(keys, keys, torch.arange(16 * 640).view(16, 640), counts)
    moves, where = 0, packed.keys.data_ptr()
    for _ in range(1000):
        packed.append(torch.zeros(16, 8), torch.zeros(16, 8))
        moves, where = moves + (packed.keys.data_ptr() != where), packed.keys.data_ptr()
        entries = int(counts.sum()) + 16 * (packed.width - 600)
        assert packed.keys.shape[:2].numel() <= 1.125 * entries + 3 * 16 * packed.keys.shape[1]
    assert moves <= 14
    assert torch.equal(packed.padded()[0][3, :120], keys[3 * 640 : 3 * 640 + 120])


@dataclass(frozen=True)
class Uneven(Policy):
    """Keeps of the prompt, per layer and head, only positions that ``kept[layer][head]`` divides, and the last two."""

    kept: tuple[tuple[int, ...], ...] = field(default=((1, 7), (5, 2), (3, 9)))
    step: bool = False

    @property
    def reads(self) -> Reads:
        return Reads(step=self.step)

    def prompted(self, slots: Slots, seen: Seen) -> None:
        divisor = torch.tensor(self.kept[slots.layer])[None, :, None]
        slots.keep((slots.position % divisor == 0) | slots.recent(2))


def masked_logits(model: Any, ids: Tensor, prompt: int, policy: Uneven) -> Tensor:
    """The same by a plain forward over everything, with a mask ``[layer, query head]`` over dropped entries."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    x, n = model.model.embed_tokens(ids), ids.shape[1]
    position = torch.arange(n)[None]
    cos, sin = model.model.rotary_emb(x, position)
    for index, layer in enumerate(model.model.layers):
        h, attention = layer.input_layernorm(x), layer.self_attn
        q, k, v = (
            project(h).view(1, n, -1, 8).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        k, v = (y.repeat_interleave(2, dim=1) for y in (k, v))
        see = torch.ones(n, n, dtype=torch.bool).tril().expand(4, n, n).clone()
        for head in range(4):
            dropped = (torch.arange(prompt) % policy.kept[index][head // 2] != 0) & (torch.arange(prompt) < prompt - 2)
            see[head, prompt:, :prompt] &= ~dropped
        probs = (q @ k.transpose(2, 3) * attention.scaling).masked_fill(~see, -torch.inf).softmax(-1)
        x = x + attention.o_proj((probs @ v).transpose(1, 2).reshape(1, n, -1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.lm_head(model.model.norm(x))[0, prompt - 1 :]


@pytest.mark.parametrize("step", [False, True])
def test_generation_on_uneven_heads_equals_a_masked_forward_and_batches_equal_single_runs(
    step: bool, tiny: Any, prompt: Any, padded: Any, generate: Any
) -> None:
    model, policy, new = tiny(), Uneven(step=step), 70
    prompts = [prompt(n, seed=n) for n in (40, 33, 21)]
    ids, mask = padded(prompts)
    together = generate(model, ids, policy.cache_for(model), new, mask)
    for i, p in enumerate(prompts):
        alone = generate(model, p, cache := policy.cache_for(model), new)
        assert torch.equal(together.sequences[i, -new:], alone.sequences[0, -new:])
        with torch.no_grad():
            expected = masked_logits(model, alone.sequences[:, :-1], p.shape[1], policy)
            again = policy.cache_for(model)
            pieces = alone.sequences[:, :-1].split([p.shape[1], *[1] * (new - 1)], dim=1)
            got = torch.cat([model(piece, past_key_values=again).logits[0, -1:] for piece in pieces])
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)
        counts = [
            [sum(1 for at in range(p.shape[1]) if at % d == 0 or at >= p.shape[1] - 2) + new - 1 for d in layer]
            for layer in policy.kept
        ]
        assert cache.usage().slots == tuple(sum(layer) / 2 for layer in counts)


def test_memory_is_what_is_kept(fresh: Any, prompt: Any) -> None:
    """One head keeps everything and one a fiftieth: half of the bytes, not all of them behind a mask."""
    model = fresh(dtype=torch.float32, max_position_embeddings=8192, head_dim=64)
    ids = prompt(4000)
    used = {}
    for kept in (((1, 1),) * 3, ((1, 50),) * 3, ((50, 50),) * 3):
        cache = Uneven(kept).cache_for(model)
        with torch.inference_mode():
            model(ids, past_key_values=cache, logits_to_keep=1)
        used[kept[0]] = sum(cache.usage().nbytes)
    assert used[1, 50] < 0.54 * used[1, 1]
    assert used[50, 50] < 0.03 * used[1, 1]


def test_a_later_question_of_several_tokens_attends_to_uneven_heads(tiny: Any, prompt: Any) -> None:
    """Given at once or one by one, its logits are the same."""
    model, policy = tiny(), Uneven()
    ids, question = prompt(30), prompt(6, seed=5)
    outs = []
    with torch.no_grad():
        for pieces in ([question], list(question.split(1, dim=1))):
            cache = policy.cache_for(model)
            model(ids, past_key_values=cache)
            evicting = [cache.slots(i).counts.clone() for i in range(3)]
            seen = 30
            for piece in pieces:
                at = torch.arange(seen, seen + piece.shape[1])[None]
                shown = model(piece, past_key_values=cache, position_ids=at).logits[:, -1]
                seen += piece.shape[1]
            outs.append((shown, evicting))
    torch.testing.assert_close(outs[0][0], outs[1][0], rtol=0, atol=1e-10)
    assert all(torch.equal(a, b) for a, b in zip(outs[0][1], outs[1][1]))


def test_beams_reorder_uneven_heads(tiny: Any, prompt: Any, generate: Any) -> None:
    """Two equal sequences of a batch are the same as one, whatever the order of the beams."""
    model, policy, ids = tiny(), Uneven(), prompt(30)
    one = generate(model, ids, policy.cache_for(model), 12, num_beams=3, output_logits=False)
    two = generate(model, ids.repeat(2, 1), policy.cache_for(model), 12, num_beams=3, output_logits=False)
    assert torch.equal(one.sequences[0], two.sequences[0]) and torch.equal(one.sequences[0], two.sequences[1])
