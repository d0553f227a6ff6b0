"""Unmodified Hugging Face models and ``generate``: families, decoding modes, options, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM as Auto
from transformers import (
    AutoModelForSeq2SeqLM,
    DynamicCache,
    Gemma2Config,
    GPTNeoXConfig,
    StaticCache,
    T5Config,
)

from heedful.kv import H2O, TOVA, Full, LazyEviction, Local, Policy, Random

FAMILIES = ["llama", "qwen3", "mistral", "gemma3"]
EVICTING = [H2O(10), TOVA(10, window=3), LazyEviction(10, 3, alpha=0.05), Local(10)]
pytestmark = pytest.mark.filterwarnings("ignore:budget=.*the prompt alone is longer")


def name_of(policy: Policy) -> str:
    return policy.name


def assert_same(got: Any, expected: Any, atol: float = 1e-11) -> None:
    assert torch.equal(got.sequences, expected.sequences)
    for a, b in zip(got.logits, expected.logits):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


# families


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_at_a_large_budget_equals_its_plain_cache(
    family: str, tiny: Any, prompt: Any, padded: Any, generate: Any, reference: Any
) -> None:
    model = tiny(family)
    ids, mask = padded([prompt(20), prompt(13, seed=1)])
    for policy in (Full(), H2O(64), LazyEviction(64)):
        got = generate(model, ids, policy.cache_for(model), 14, mask)
        assert_same(got, reference(model, ids, 14, mask))


@pytest.mark.parametrize("policy", EVICTING, ids=name_of)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_evicts_in_its_global_layers_and_only_there(
    policy: Policy, family: str, tiny: Any, prompt: Any, generate: Any
) -> None:
    model = tiny(family)
    cache: Any = policy.cache_for(model)
    generate(model, prompt(20), cache, 16)
    managed = (1,) if family == "gemma3" else (0, 1, 2)
    assert cache.evicting == managed
    usage = cache.usage()
    assert all(evicted >= 35 - 10 - 3 for evicted in usage.evicted)
    assert all(evicted + slots == 35 for evicted, slots in zip(usage.evicted, usage.slots))
    if family == "gemma3":
        assert [cache.layers[i].keys.shape[-2] for i in (0, 2)] == [5, 5]


def test_a_sliding_layer_is_what_it_is_without_us(tiny: Any, prompt: Any) -> None:
    """Gemma's first layer does not depend on the others, so its entries must be the plain cache's."""
    model, ids = tiny("gemma3"), prompt(25)
    mine: Any = H2O(6).cache_for(model)
    plain: Any = DynamicCache(config=model.config)
    with torch.no_grad():
        for cache in (mine, plain):
            model(ids[:, :20], past_key_values=cache)
            for t in range(20, 25):
                model(ids[:, t : t + 1], past_key_values=cache)
    assert torch.equal(mine.layers[0].keys, plain.layers[0].keys)
    assert not torch.equal(mine.layers[2].keys, plain.layers[2].keys)


def test_a_model_that_only_slides_is_refused(tiny: Any) -> None:
    with pytest.raises(ValueError, match="'mistral': no full-attention layer"):
        H2O(8).cache_for(tiny("mistral", sliding_window=16))


def test_an_encoder_decoder_is_refused() -> None:
    config = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match="'t5': encoder-decoder models are not supported"):
        H2O(8).cache_for(AutoModelForSeq2SeqLM.from_config(config))


def test_softcapped_attention_is_refused_before_anything_runs() -> None:
    config = Gemma2Config(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, attn_logit_softcapping=30.0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="'gemma2': attention with attn_logit_softcapping is not supported"):
        H2O(8).cache_for(Auto.from_config(config))


def test_another_family_works_too(prompt: Any, generate: Any, reference: Any) -> None:
    """GPT-NeoX is Llama's elder: fused projections, parallel residuals."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = Auto.from_config(config).double().eval()
    assert_same(generate(model, prompt(20), H2O(50).cache_for(model)), reference(model, prompt(20)))
    cache = H2O(9).cache_for(model)
    generate(model, prompt(20), cache)
    assert cache.usage().slots == (9.0, 9.0)


# ways to decode


@pytest.mark.parametrize("policy", [Full(), H2O(60), LazyEviction(60)], ids=name_of)
def test_sampling_with_a_seed_equals_the_plain_cache(
    policy: Policy, tiny: Any, prompt: Any, generate: Any, reference: Any
) -> None:
    model, ids = tiny(), prompt(20, batch=2)
    options = dict(do_sample=True, top_p=0.9, temperature=3.0, num_return_sequences=3)
    torch.manual_seed(5)
    expected = reference(model, ids, **options)
    torch.manual_seed(5)
    got = generate(model, ids, policy.cache_for(model), **options)
    assert got.sequences.shape == (6, 32)
    assert got.sequences[:3].unique(dim=0).shape[0] == 3
    assert_same(got, expected)


@pytest.mark.parametrize("policy", [Full(), H2O(60), LazyEviction(60)], ids=name_of)
def test_beam_search_at_a_full_budget_equals_the_plain_cache(
    policy: Policy, tiny: Any, prompt: Any, padded: Any, generate: Any, reference: Any
) -> None:
    model = tiny()
    ids, mask = padded([prompt(20), prompt(13, seed=1)])
    options = dict(num_beams=3, num_return_sequences=2)
    got = generate(model, ids, policy.cache_for(model), 12, mask, **options)
    assert_same(got, reference(model, ids, 12, mask, **options))


@pytest.mark.parametrize("policy", EVICTING, ids=name_of)
def test_beams_carry_their_own_evictions(policy: Policy, tiny: Any, prompt: Any, generate: Any) -> None:
    """The logits along the best beam are those of decoding that beam alone on the evicting cache."""
    model, ids = tiny(), prompt(20)
    cache = policy.cache_for(model)
    got = generate(model, ids, cache, 12, num_beams=4, output_scores=True)
    assert max(cache.usage().slots) <= 10 + 3
    best, alone = got.sequences[0], policy.cache_for(model)
    logp = 0.0
    with torch.no_grad():
        logits = model(ids, past_key_values=alone).logits[0, -1]
        for token in best[20:]:
            logp += float(logits.log_softmax(-1)[token])
            logits = model(token[None, None], past_key_values=alone).logits[0, -1]
    assert logp / 12 == pytest.approx(float(got.sequences_scores[0]), abs=1e-6)


def test_streaming_gives_every_token_as_it_comes(tiny: Any, prompt: Any, generate: Any) -> None:
    class Streamer:
        def __init__(self) -> None:
            self.tokens: list[int] = []
            self.ended = False

        def put(self, value: Tensor) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.ended = True

    model, streamer = tiny(), Streamer()
    got = generate(model, prompt(20), H2O(10).cache_for(model), streamer=streamer)
    assert streamer.tokens == got.sequences[0].tolist() and streamer.ended


@pytest.mark.parametrize("policy", [Full(), H2O(90), LazyEviction(90)], ids=name_of)
def test_a_second_generate_continues_where_the_first_ended(
    policy: Policy, tiny: Any, prompt: Any, padded: Any, generate: Any, reference: Any
) -> None:
    model = tiny()
    context, mask = padded([prompt(20), prompt(13, seed=1)])
    questions, more = padded([prompt(5, seed=2), prompt(3, seed=3)])
    first = generate(model, context, cache := policy.cache_for(model), 6, mask)
    whole = torch.cat([first.sequences, questions], 1)
    attention = torch.cat([mask, torch.ones(2, 6, dtype=torch.long), more], 1)
    second = generate(model, whole, cache, 8, attention)
    assert_same(second, reference(model, whole, 8, attention))


@pytest.mark.parametrize("policy", EVICTING, ids=name_of)
def test_a_question_after_eviction_is_the_same_in_a_padded_batch(
    policy: Policy, tiny: Any, prompt: Any, padded: Any, generate: Any
) -> None:
    """Context, evict, then a question of several tokens, padded in the middle of the sequence."""
    model = tiny()
    contexts, questions = [prompt(20), prompt(13, seed=1)], [prompt(5, seed=2), prompt(3, seed=3)]
    context, mask = padded(contexts)
    question, more = padded(questions)
    cache = policy.cache_for(model)
    first = generate(model, context, cache, 6, mask)
    ones = torch.ones(2, 6, dtype=torch.long)
    together = generate(model, torch.cat([first.sequences, question], 1), cache, 8, torch.cat([mask, ones, more], 1))
    for i in range(2):
        single = policy.cache_for(model)
        a = generate(model, contexts[i], single, 6)
        assert torch.equal(a.sequences[0, -6:], first.sequences[i, -6:])
        b = generate(model, torch.cat([a.sequences, questions[i]], 1), single, 8)
        assert torch.equal(b.sequences[0, -8:], together.sequences[i, -8:])
        for x, y in zip(b.logits, together.logits):
            torch.testing.assert_close(x[0], y[i], rtol=0, atol=1e-10)
        for layer in cache.evicting:
            mine, theirs = cache.slots(layer).position[i], single.slots(layer).position[0]
            assert [set(h.tolist()) - {-1} for h in mine] == [set(h.tolist()) - {-1} for h in theirs]


@pytest.mark.parametrize("chunk", [1, 4, 7, 19])
@pytest.mark.parametrize("policy", [Full(), H2O(60), LazyEviction(60), TOVA(60)], ids=name_of)
def test_chunked_prefill_at_a_large_budget_equals_one_pass(
    policy: Policy, chunk: int, tiny: Any, prompt: Any, padded: Any, generate: Any, reference: Any
) -> None:
    model = tiny()
    ids, mask = padded([prompt(20), prompt(13, seed=1)])
    got = generate(model, ids, policy.cache_for(model), 8, mask, prefill_chunk_size=chunk)
    assert_same(got, reference(model, ids, 8, mask))


def test_chunks_do_not_count_the_diagonal_twice(tiny: Any, prompt: Any) -> None:
    """H2O's mass of a prompt is the same however it was cut, as long as nothing is evicted."""
    model, ids, masses = tiny(), prompt(21), []
    with torch.no_grad():
        for chunk in (21, 8, 1):
            cache = H2O(60).cache_for(model)
            for start in range(0, 21, chunk):
                model(ids[:, start : start + chunk], past_key_values=cache)
            masses.append(torch.stack([cache.slots(i)["mass"] for i in range(3)]))
    assert float(masses[0].sum()) == pytest.approx(21 * 4 * 3)
    for mass in masses[1:]:
        torch.testing.assert_close(mass, masses[0], rtol=0, atol=1e-10)


def test_chunked_prefill_holds_no_more_than_the_budget_and_a_chunk(tiny: Any, prompt: Any, generate: Any) -> None:
    model = tiny()
    cache = H2O(8).cache_for(model)
    generate(model, prompt(40), cache, 4, prefill_chunk_size=6)
    assert cache.usage().peak_slots == (14.0,) * 3
    assert cache.usage().slots == (8.0,) * 3


def test_bare_calls_without_positions_continue_at_the_right_place(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(), prompt(24)
    cache = H2O(60).cache_for(model)
    with torch.no_grad():
        expected = model(ids).logits
        parts = [model(ids[:, a:b], past_key_values=cache).logits for a, b in ((0, 15), (15, 16), (16, 20), (20, 24))]
        torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=0, atol=1e-11)
        cut = H2O(5).cache_for(model)
        for a, b in ((0, 15), (15, 16), (16, 20), (20, 24)):
            model(ids[:, a:b], past_key_values=cut)
    assert cut.get_seq_length() == 24
    assert int(cut.slots(0).position.max()) == 23


# options


def test_assisted_decoding_works_with_the_full_policy(tiny: Any, prompt: Any, generate: Any, reference: Any) -> None:
    model, assistant = tiny(), tiny(seed=1, num_hidden_layers=1)
    ids = prompt(5).repeat(1, 4)
    expected = reference(model, ids, 20)
    for options in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": assistant}):
        cache = Full().cache_for(model)
        got = generate(model, ids, cache, 20, **options)
        assert torch.equal(got.sequences, expected.sequences)
        assert cache.slots(0).counts.tolist() == [[39, 39]]


def test_assisted_decoding_works_where_some_layers_slide(tiny: Any, prompt: Any, generate: Any, reference: Any) -> None:
    model, ids = tiny("gemma3"), prompt(5).repeat(1, 4)
    got = generate(model, ids, Full().cache_for(model), 20, prompt_lookup_num_tokens=3)
    assert torch.equal(got.sequences, reference(model, ids, 20).sequences)


@pytest.mark.parametrize("option", ["prompt_lookup_num_tokens", "assistant_model"])
@pytest.mark.parametrize("policy", EVICTING, ids=name_of)
def test_assisted_decoding_with_eviction_is_refused_before_it_begins(
    policy: Policy, option: str, tiny: Any, prompt: Any, generate: Any
) -> None:
    model = tiny()
    cache = policy.cache_for(model)
    value = 3 if option == "prompt_lookup_num_tokens" else tiny(seed=1, num_hidden_layers=1)
    with pytest.raises(ValueError, match=f"{option}.*{policy.name}"):
        generate(model, prompt(20), cache, **{option: value})
    assert cache.get_seq_length() == 0


def test_a_cache_that_evicts_cannot_take_tokens_back(tiny: Any, prompt: Any) -> None:
    model = tiny()
    cache = H2O(60).cache_for(model)
    with torch.no_grad():
        model(prompt(20), past_key_values=cache)
    assert not cache.is_croppable
    with pytest.raises(ValueError, match="cannot"):
        cache.crop(-2)


def test_a_compiled_model_gives_the_same(fresh: Any, prompt: Any) -> None:
    model, ids, runs = fresh(num_hidden_layers=1), prompt(20), []
    for called in (model, torch.compile(model, backend="eager")):
        cache = H2O(8).cache_for(model)
        with torch.no_grad():
            logits = [called(ids, past_key_values=cache).logits[:, -1]]
            logits += [called(ids[:, t : t + 1], past_key_values=cache).logits[:, -1] for t in range(3)]
        runs.append((torch.stack(logits), cache.usage().slots))
    torch.testing.assert_close(runs[1][0], runs[0][0], rtol=0, atol=1e-11)
    assert runs[0][1] == runs[1][1] == (8.0,)


@pytest.mark.parametrize("kind", ["quantized", "static", "offloaded", "dynamic"])
def test_a_second_cache_implementation_is_refused(kind: str, tiny: Any, prompt: Any, generate: Any) -> None:
    model = tiny()
    with pytest.raises(ValueError, match="cache_implementation"):
        generate(model, prompt(10), H2O(8).cache_for(model), cache_implementation=kind)


def test_offloading_is_refused(tiny: Any) -> None:
    cache = H2O(8).cache_for(tiny())
    with pytest.raises(ValueError, match="offloading"):
        cache.offload(0)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_other_caches_are_unchanged_while_the_model_uses_our_attention(
    family: str, tiny: Any, prompt: Any, padded: Any, generate: Any, reference: Any
) -> None:
    model = tiny(family)
    ids, mask = padded([prompt(20), prompt(13, seed=1)])
    expected = reference(model, ids, 8, mask)
    H2O(8).cache_for(model)
    assert model.config._attn_implementation == "heedful"
    dynamic = generate(model, ids, DynamicCache(config=model.config), 8, mask)
    static = generate(model, ids, StaticCache(config=model.config, max_cache_len=28), 8, mask, disable_compile=True)
    nothing = generate(model, ids, None, 8, mask)
    for got in (dynamic, static, nothing):
        assert torch.equal(got.sequences, expected.sequences)
    for got in (dynamic, nothing):
        assert all(torch.equal(a, b) for a, b in zip(got.logits, expected.logits))
    assert_same(static, expected)


def test_the_context_manager_restores_the_attention_even_after_an_error(tiny: Any, prompt: Any) -> None:
    model = tiny()
    for before in ("sdpa", "eager"):
        model.set_attn_implementation(before)
        with H2O(8).on(model) as cache:
            assert model.config._attn_implementation == "heedful"
            with torch.no_grad():
                model(prompt(10), past_key_values=cache)
        assert model.config._attn_implementation == before
        with pytest.raises(RuntimeError, match="on purpose"), H2O(8).on(model):
            raise RuntimeError("on purpose")
        assert model.config._attn_implementation == before
    model.set_attn_implementation("sdpa")


def test_leaving_the_context_manager_stops_a_running_generation_with_one_line(tiny: Any, prompt: Any) -> None:
    model = tiny()
    with H2O(8).on(model) as cache, torch.no_grad():
        model(prompt(10), past_key_values=cache)
    with torch.no_grad(), pytest.raises(ValueError, match="attn_implementation"):
        model(prompt(1), past_key_values=cache)


def test_a_model_made_with_eager_attention_gives_the_same(
    fresh: Any, tiny: Any, prompt: Any, generate: Any, reference: Any
) -> None:
    model = fresh()
    model.set_attn_implementation("eager")
    got = generate(model, prompt(20), H2O(60).cache_for(model))
    assert_same(got, reference(tiny(), prompt(20)), atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_keeps_its_scores_in_float32(
    dtype: torch.dtype, tiny: Any, prompt: Any, generate: Any, reference: Any
) -> None:
    model = tiny("llama", dtype)
    cache = H2O(10).cache_for(model)
    got = generate(model, prompt(20), cache)
    assert cache.slots(0)["mass"].dtype == torch.float32
    assert (cache.slots(0).keys.dtype, cache.usage().slots) == (dtype, (10.0,) * 3)
    assert all(torch.isfinite(x).all() for x in got.logits)
    full = generate(model, prompt(20), Full().cache_for(model), 1)
    expected = reference(model, prompt(20), 1)
    torch.testing.assert_close(full.logits[0], expected.logits[0], rtol=0.05, atol=0.05)


def test_a_reset_cache_is_a_new_one(tiny: Any, prompt: Any, generate: Any) -> None:
    model = tiny()
    cache = H2O(10).cache_for(model)
    first = generate(model, prompt(20), cache)
    cache.reset()
    assert (cache.get_seq_length(), cache.usage().slots) == (0, (0.0,) * 3)
    assert_same(generate(model, prompt(20), cache), first, atol=0)


def test_two_caches_of_different_policies_share_a_model(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(), prompt(30)
    policies = [H2O(8), Random(8), Full()]

    def run(caches: list[Any]) -> list[Tensor]:
        last = [model(ids[:, :12], past_key_values=c).logits for c in caches]
        for t in range(12, 30):
            last = [model(ids[:, t : t + 1], past_key_values=c).logits for c in caches]
        return last

    with torch.no_grad():
        together = run([p.cache_for(model) for p in policies])
        alone = [run([p.cache_for(model)])[0] for p in policies]
    assert all(torch.equal(a, b) for a, b in zip(together, alone))


def test_usage_counts_what_is_stored(tiny: Any, prompt: Any, padded: Any, generate: Any) -> None:
    model = tiny()
    ids, mask = padded([prompt(20), prompt(12, seed=1)])
    cache = Local(8).cache_for(model)
    generate(model, ids, cache, 5, mask)
    usage = cache.usage()
    assert usage.slots == (8.0,) * 3
    assert usage.peak_slots == (16.0,) * 3
    assert usage.evicted == (12.0,) * 3  # (24 + 16) / 2 tokens given, 8 kept
    assert usage.tokens == 24
    assert usage.nbytes == (2 * 2 * 9 * (2 * 8 * 8 + 4),) * 3
    assert all(peak >= 2 * 2 * 20 * (2 * 8 * 8 + 4) for peak in usage.peak_nbytes)
