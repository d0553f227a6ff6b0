"""That the protocol carries what other published systems need, shown with toy policies.

A gate that reads a layer's input and hides entries; one budget shared over layers of different sizes; scores through
the output projection; probe rows after the prompt; and a cache that is copied for several questions.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from heedful.kv import H2O, EvictingCache, LazyEviction, Policy, Random, Reads, Slots
from heedful.kv.attention import Seen

WIDTH, KV_HEADS = 32, 2
pytestmark = pytest.mark.filterwarnings("ignore:budget=.*the prompt alone is longer")


def positions(cache: EvictingCache) -> list[list[list[set[int]]]]:
    return [
        [[{p for p in head.tolist() if p >= 0} for head in item] for item in cache.slots(i).position]
        for i in cache.evicting
    ]


# a learned gate on the layer's input: no budget, every head keeps what it likes


@dataclass(frozen=True)
class Gate(Policy):
    """A linear gate per layer and head on the attention's input; hides what it does not keep, even in the prompt."""

    weight: Tensor = field(default_factory=lambda: torch.empty(0))
    hides: bool = False

    @property
    def reads(self) -> Reads:
        return Reads(hidden=True)

    def flags(self, slots: Slots) -> Tensor:
        """bool ``[batch, heads, q]`` of the tokens of this call."""
        assert slots.hidden is not None
        return (slots.hidden @ self.weight[slots.layer].T).transpose(1, 2) > 0

    def visible(self, slots: Slots) -> Tensor | None:
        if not self.hides:
            return None
        shown = torch.ones_like(slots.position, dtype=torch.bool)
        shown[..., -slots.hidden.shape[1] :] = self.flags(slots)  # type: ignore[union-attr]
        return shown | (slots.position == 0)

    def prompted(self, slots: Slots, seen: Seen) -> None:
        q = slots.hidden.shape[1]  # type: ignore[union-attr]
        keep = torch.ones_like(slots.position, dtype=torch.bool)
        keep[..., -q:] = self.flags(slots)
        slots.keep(keep | (slots.position == 0))


@pytest.fixture(scope="module")
def gate() -> Tensor:
    """``[layers, heads, width]``"""
    return torch.randn(3, KV_HEADS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def test_a_gate_keeps_a_ragged_set_per_layer_item_and_head(
    gate: Tensor, tiny: Any, prompt: Any, padded: Any, generate: Any
) -> None:
    model = tiny()
    prompts = [prompt(20), prompt(13, seed=1), prompt(17, seed=2)]
    ids, mask = padded(prompts)
    cache = Gate(gate).cache_for(model)
    inputs: list[Tensor] = []
    hooks = [
        layer.input_layernorm.register_forward_hook(lambda _m, _a, out: inputs.append(out))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), past_key_values=cache)
    for hook in hooks:
        hook.remove()
    kept, counts = positions(cache), set()
    for layer in range(3):
        for i, p in enumerate(prompts):
            n = p.shape[1]
            for head in range(KV_HEADS):
                flags = (inputs[layer][i, -n:] @ gate[layer, head]) > 0
                expected = {0} | set(flags.nonzero()[:, 0].tolist())
                assert kept[layer][i][head] == expected
                counts.add(len(expected))
    assert len(counts) > 5
    usage = cache.usage()
    assert usage.slots == tuple(sum(len(h) for item in layer for h in item) / 6 for layer in kept)


@pytest.mark.parametrize("hides", [False, True])
def test_a_gated_batch_equals_single_runs(
    hides: bool, gate: Tensor, tiny: Any, prompt: Any, padded: Any, generate: Any
) -> None:
    model, policy = tiny(), Gate(gate, hides)
    prompts = [prompt(20), prompt(13, seed=1), prompt(17, seed=2)]
    ids, mask = padded(prompts)
    together = generate(model, ids, cache := policy.cache_for(model), 10, mask)
    for i, p in enumerate(prompts):
        alone = generate(model, p, single := policy.cache_for(model), 10)
        assert torch.equal(alone.sequences[0, -10:], together.sequences[i, -10:])
        for a, b in zip(alone.logits, together.logits):
            torch.testing.assert_close(a[0], b[i], rtol=0, atol=1e-10)
        assert [layer[i] for layer in positions(cache)] == [layer[0] for layer in positions(single)]


def test_hidden_entries_are_seen_by_no_token_but_their_own(gate: Tensor, tiny: Any, prompt: Any) -> None:
    """A prompt in one pass equals a masked forward, and equals decoding on the cache from which they were removed."""
    model, ids = tiny(num_hidden_layers=1), prompt(20)
    cache = Gate(gate, hides=True).cache_for(model)
    with torch.no_grad():
        got = model(ids, past_key_values=cache).logits[0]
        core = model.model
        x = core.layers[0].input_layernorm(core.embed_tokens(ids))
        flags = (x[0] @ gate[0].T).T > 0
        flags[:, 0] = True
        allowed = (flags[:, None, :] | torch.eye(20, dtype=torch.bool)) & torch.ones(20, 20, dtype=torch.bool).tril()
        attn = core.layers[0].self_attn
        cos, sin = core.rotary_emb(x, torch.arange(20)[None])

        def heads(projection: Any, turn: bool = True) -> Tensor:
            y = projection(x)[0].unflatten(-1, (-1, 8)).transpose(0, 1)
            return y * cos + torch.cat([-y[..., 4:], y[..., :4]], -1) * sin if turn else y

        keys, values = (y.repeat_interleave(2, 0) for y in (heads(attn.k_proj), heads(attn.v_proj, False)))
        logits = (heads(attn.q_proj) @ keys.transpose(1, 2)) / 8**0.5
        probs = logits.masked_fill(~allowed.repeat_interleave(2, 0), -torch.inf).softmax(-1)
        hidden = core.embed_tokens(ids)[0] + attn.o_proj((probs @ values).transpose(0, 1).flatten(1))
        hidden = hidden + core.layers[0].mlp(core.layers[0].post_attention_layernorm(hidden))
        expected = model.lm_head(core.norm(hidden))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)
    assert positions(cache)[0][0] == [set(f.nonzero()[:, 0].tolist()) for f in flags]


def test_two_gated_generations_at_once_read_their_own_input(gate: Tensor, tiny: Any, prompt: Any) -> None:
    model, policy, a, b = tiny(), Gate(gate), prompt(20), prompt(16, seed=1)
    caches = [policy.cache_for(model) for _ in range(3)]
    with torch.no_grad():
        for ids, cache in zip((a, b, a), caches):
            model(ids, past_key_values=cache)
    assert positions(caches[0]) == positions(caches[2]) != positions(caches[1])
    assert all(cache.slots(i).hidden is None for cache in caches for i in range(3))


def test_a_forgotten_cache_leaves_no_hook_behind(gate: Tensor, fresh: Any) -> None:
    model = fresh()
    before = [len(m._forward_pre_hooks) for m in model.modules()]
    cache = Gate(gate).cache_for(model)
    assert [len(m._forward_pre_hooks) for m in model.modules()] != before
    del cache
    assert [len(m._forward_pre_hooks) for m in model.modules()] == before


# one budget shared over layers


@dataclass
class Pool:
    """Scores that the layers have handed in so far, and the layers themselves."""

    layers: list[Slots] = field(default_factory=list)


@dataclass(frozen=True)
class SharedAfter(Policy):
    """One top-k over all layers and heads after the whole prompt; the last ``window`` entries stay everywhere."""

    total: int = 60
    window: int = 3

    fields: ClassVar[Mapping[str, torch.dtype]] = {"score": torch.float32}

    @property
    def reads(self) -> Reads:
        return Reads(prompt="last", window=self.window)

    def prompted(self, slots: Slots, seen: Seen) -> None:
        assert seen.rows is not None
        slots["score"] = seen.rows.amax(dim=(2, 3)).masked_fill(slots.recent(self.window), torch.inf)

    def passed(self, cache: EvictingCache) -> None:
        every = torch.stack([cache.slots(i)["score"] for i in cache.evicting], 1)
        best = every.flatten(1).argsort(descending=True, stable=True)[:, : self.total]
        chosen = torch.zeros_like(every.flatten(1), dtype=torch.bool).scatter(1, best, True).view_as(every)
        for layer, i in enumerate(cache.evicting):
            cache.slots(i).keep(chosen[:, layer])


def test_one_budget_is_shared_over_layers_after_the_prompt(tiny: Any, prompt: Any, generate: Any) -> None:
    model, ids = tiny(), prompt(30, batch=2)
    generate(model, ids, cache := SharedAfter(60).cache_for(model), 1)
    kept = positions(cache)
    for item in range(2):
        sizes = [len(head) for layer in kept for head in layer[item]]
        assert sum(sizes) == 60 and len(set(sizes)) > 2
        assert all({27, 28, 29} <= head for layer in kept for head in layer[item])
    assert sum(cache.usage().slots) == 60 / KV_HEADS
    assert len({len(layer[0][0]) + len(layer[0][1]) for layer in kept}) > 1


def test_layers_of_different_sizes_decode_like_single_runs(tiny: Any, prompt: Any, padded: Any, generate: Any) -> None:
    model, policy = tiny(), SharedAfter(60)
    prompts = [prompt(30), prompt(22, seed=1)]
    ids, mask = padded(prompts)
    together = generate(model, ids, cache := policy.cache_for(model), 12, mask)
    for i, p in enumerate(prompts):
        alone = generate(model, p, single := policy.cache_for(model), 12)
        assert [layer[i] for layer in positions(cache)] == [layer[0] for layer in positions(single)]
        for a, b in zip(alone.logits, together.logits):
            torch.testing.assert_close(a[0], b[i], rtol=0, atol=1e-10)


@dataclass(frozen=True)
class Cascade(Policy):
    """Shrinks the layers so far, as each one comes, to equal parts of one pool: nothing ever holds the whole prompt."""

    total: int = 60
    fields: ClassVar[Mapping[str, torch.dtype]] = {"score": torch.float32}

    @property
    def reads(self) -> Reads:
        return Reads(prompt="sums")

    def begin(self, layers: int) -> Pool:
        return Pool()

    def prompted(self, slots: Slots, seen: Seen) -> None:
        assert seen.sums is not None
        slots["score"] = seen.sums
        slots.state.layers.append(slots)
        for earlier in slots.state.layers:
            earlier.keep_best(earlier["score"], self.total // len(slots.state.layers))


def test_earlier_layers_can_be_cut_while_later_ones_come(tiny: Any, prompt: Any, generate: Any) -> None:
    """Cutting in stages by frozen scores equals cutting once."""
    model, ids = tiny(), prompt(70)
    staged, once = Cascade(60).cache_for(model), H2O(20, recent=0).cache_for(model)
    for cache in (staged, once):
        generate(model, ids, cache, 1)
    assert positions(staged) == positions(once)
    generate(model, ids, first := Cascade(60).cache_for(model), 9)
    generate(model, ids, second := Cascade(60).cache_for(model), 9)
    assert positions(first) == positions(second)
    assert first.state is not second.state


# through the output projection


@dataclass(frozen=True)
class ByValue(Policy):
    """Keeps the entries whose values, projected to the residual stream, are largest (L1, mean over the group)."""

    budget: int = 8

    def prompted(self, slots: Slots, seen: Seen) -> None:
        weight = slots.module.o_proj.weight
        d = slots.values.shape[-1]
        per_head = weight.T.unflatten(0, (slots.heads, -1, d))
        norms = torch.einsum("bhnd,hgdw->bhgnw", slots.values, per_head).abs().sum(-1).mean(2)
        slots.keep_best(norms, self.budget)


def test_scores_through_the_output_projection(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(), prompt(20)
    cache = ByValue().cache_for(model)
    values = []
    hooks = [
        layer.self_attn.v_proj.register_forward_hook(lambda _m, _a, out: values.append(out))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(ids, past_key_values=cache)
    for hook in hooks:
        hook.remove()
    for layer, kept in enumerate(positions(cache)):
        weight = model.model.layers[layer].self_attn.o_proj.weight.detach()
        for head in range(KV_HEADS):
            v = values[layer][0, :, 8 * head : 8 * head + 8]
            norms = [
                sum(float((v[i] @ weight[:, 8 * q : 8 * q + 8].T).abs().sum()) for q in (2 * head, 2 * head + 1))
                for i in range(20)
            ]
            assert kept[0][head] == set(sorted(range(20), key=lambda i: norms[i])[-8:])


# probe rows over the finished prompt


@dataclass(frozen=True)
class Lookahead(Policy):
    """Scores the prompt by what a few fixed extra rows attend to, once the prompt is through."""

    rows: Tensor = field(default_factory=lambda: torch.empty(0))
    budget: int = 8

    def passed(self, cache: EvictingCache) -> None:
        slots = [cache.slots(i) for i in cache.evicting]
        attention = cache.probe(self.rows.expand(slots[0].batch, -1, -1))
        for one in slots:
            n = one.position.shape[2]
            one.keep_best(attention[one.layer][..., :n].mean(3).mean(2), self.budget)


@pytest.fixture(scope="module")
def extra() -> Tensor:
    """Four embedding rows, ``[1, 4, width]``."""
    return torch.randn(1, 4, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def snapshot(cache: EvictingCache) -> list[Tensor]:
    found = []
    for i, layer in enumerate(cache.layers):
        if i in cache.evicting:
            slots = cache.slots(i)
            found += [slots.keys.clone(), slots.values.clone(), slots.position.clone(), slots.counts]
            found += [torch.tensor([slots.seen, slots.entries, slots.steps, slots.nbytes])]
        else:
            found += [layer.keys.clone(), layer.values.clone(), torch.tensor(layer.cumulative_length)]
    return found


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_probing_leaves_the_cache_and_what_follows_exactly_as_they_were(
    family: str, extra: Tensor, tiny: Any, prompt: Any
) -> None:
    model, ids = tiny(family), prompt(24)
    probed, plain = Random(64).cache_for(model), Random(64).cache_for(model)
    with torch.no_grad():
        for cache in (probed, plain):
            model(ids[:, :20], past_key_values=cache)
        before = snapshot(probed)
        probed.probe(extra)
        assert all(torch.equal(a, b) for a, b in zip(snapshot(probed), before))
        for a, b in ((20, 21), (21, 24)):
            mine, theirs = (model(ids[:, a:b], past_key_values=c).logits for c in (probed, plain))
            assert torch.equal(mine, theirs)


def test_probe_rows_are_those_of_tokens_that_come_next(extra: Tensor, tiny: Any, prompt: Any, padded: Any) -> None:
    """The reference: eager attention over the prompt's and the extra embeddings in one pass."""
    model = tiny()
    prompts = [prompt(20), prompt(13, seed=1)]
    ids, mask = padded(prompts)
    cache = Random(64).cache_for(model)
    with torch.no_grad():
        model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), past_key_values=cache)
        got = cache.probe(extra.expand(2, -1, -1))
        model.set_attn_implementation("eager")
        for i, p in enumerate(prompts):
            n = p.shape[1]
            embeddings = torch.cat([model.get_input_embeddings()(p), extra], 1)
            expected = model(inputs_embeds=embeddings, output_attentions=True).attentions
            for layer in range(3):
                rows = expected[layer][0, :, n:].unflatten(0, (KV_HEADS, -1))
                mine = got[layer][i]
                held = torch.cat([cache.slots(layer).position[i, 0] >= 0, torch.ones(extra.shape[1], dtype=torch.bool)])
                torch.testing.assert_close(mine[..., held], rows, rtol=0, atol=1e-6)  # eager: float32 softmax
                assert float(mine[..., ~held].abs().sum()) == 0
        model.set_attn_implementation("sdpa")


def test_lookahead_evicts_by_the_probe_and_the_first_token_is_the_plain_models(
    extra: Tensor, tiny: Any, prompt: Any, padded: Any, generate: Any, reference: Any
) -> None:
    model, policy = tiny(), Lookahead(extra, 8)
    prompts = [prompt(20), prompt(13, seed=1)]
    ids, mask = padded(prompts)
    got = generate(model, ids, cache := policy.cache_for(model), 10, mask)
    torch.testing.assert_close(got.logits[0], reference(model, ids, 10, mask).logits[0], rtol=0, atol=1e-11)
    for layer in positions(cache):
        for i, item in enumerate(layer):
            n = prompts[i].shape[1]
            for head in item:
                assert len(head & set(range(n))) == 8 and set(range(n, n + 9)) <= head
    for i, p in enumerate(prompts):
        alone = generate(model, p, single := policy.cache_for(model), 10)
        assert torch.equal(alone.sequences[0, -10:], got.sequences[i, -10:])
        assert [layer[i] for layer in positions(cache)] == [layer[0] for layer in positions(single)]


def test_probing_a_padded_batch_beside_sliding_layers_is_refused(
    extra: Tensor, tiny: Any, prompt: Any, padded: Any, generate: Any
) -> None:
    model = tiny("gemma3")
    ids, mask = padded([prompt(20), prompt(13, seed=1)])
    with pytest.raises(ValueError, match="probe: a padded batch"):
        generate(model, ids, Lookahead(extra).cache_for(model), 2, mask)


# one context, several questions


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize(
    "policy", [H2O(8), LazyEviction(8, 3, alpha=0.05), Cascade(30)], ids=lambda p: type(p).__name__
)
def test_a_copied_cache_goes_on_by_itself(policy: Policy, family: str, tiny: Any, prompt: Any) -> None:
    model, context = tiny(family), prompt(20)
    questions = [prompt(6, seed=s) for s in (1, 2, 3)]

    def ask(cache: EvictingCache, question: Tensor) -> Tensor:
        out = [model(question, past_key_values=cache).logits[:, -1]]
        for _ in range(6):
            out.append(model(out[-1].argmax(-1, keepdim=True), past_key_values=cache).logits[:, -1])
        return torch.stack(out)

    with torch.no_grad():
        cache = policy.cache_for(model)
        model(context, past_key_values=cache)
        before = positions(cache)
        copied = [ask(copy.deepcopy(cache), question) for question in questions]
        assert positions(cache) == before
        for question, got in zip(questions, copied):
            anew = policy.cache_for(model)
            model(context, past_key_values=anew)
            assert torch.equal(ask(anew, question), got)


def test_a_copy_shares_the_models_weights(tiny: Any, prompt: Any) -> None:
    model = tiny()
    cache = H2O(8).cache_for(model)
    with torch.no_grad():
        model(prompt(20), past_key_values=cache)
    twin = copy.deepcopy(cache)
    assert twin.slots(0).module is model.model.layers[0].self_attn
    assert twin.slots(0).keys.data_ptr() != cache.slots(0).keys.data_ptr()
    assert twin.usage() == cache.usage()
