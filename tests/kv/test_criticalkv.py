"""CriticalKV and its Ada form against their algorithm spelt out; the norms of values behind the output projection."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from heedful.kv import AdaCriticalKV, AdaKV, CriticalKV, Share, SnapKV, value_norms
from heedful.kv.value_norms import projection_of

W, KERNEL = 4, 5


def kept(cache: Any, item: int = 0) -> list[list[list[int]]]:
    """Sorted positions per layer and head."""
    return [
        [sorted(p for p in head.tolist() if p >= 0) for head in cache.slots(i).position[item]] for i in cache.evicting
    ]


def read(model: Any, policy: Any, ids: Tensor, mask: Tensor | None = None) -> Any:
    """The cache that a prompt leaves."""
    cache = policy.cache_for(model)
    position = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        model(ids, attention_mask=mask, position_ids=position, past_key_values=cache)
    return cache


def norms(values: Tensor, weight: Tensor) -> Tensor:
    """``[KV heads, n]``, from everything at once: ``values [KV heads, n, d]``, ``weight [width, query heads x d]``."""
    heads, _, d = values.shape
    slices = weight.T.reshape(heads, -1, d, weight.shape[0])  # [KV heads, group, d, width]
    return torch.einsum("knd,kgdw->kgnw", values, slices).abs().sum(-1).mean(1)


def spelt_out(scores: list[list[float]], worth: Tensor, length: int, counts: list[int]) -> list[list[int]]:
    """CriticalKV of one layer: of each head the window, half of its count by score, the rest by score and value."""
    chosen = []
    for k, (score, count) in enumerate(zip(scores, counts)):
        context = range(length - W)
        half = max(0, count // 2 - W)  # the window is in the first half
        mine = sorted(context, key=lambda i, score=score: (-score[i], i))[:half]  # type: ignore[misc]
        value = [(score[i] + 1e-4) * float(worth[k, i]) for i in context]
        rest = sorted(set(context) - set(mine), key=lambda i, value=value: (-value[i], i))  # type: ignore[misc]
        chosen.append(sorted([*mine, *rest[: count - W - half], *range(length - W, length)]))
    return chosen


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("room", [7, 12, 19])
@pytest.mark.parametrize("ada", [False, True])
def test_it_is_the_algorithm_spelt_out(
    ada: bool, room: int, kv_heads: int, tiny: Any, prompt: Any, observed: Any, snap_scores: Any
) -> None:
    model, ids, length = tiny(num_key_value_heads=kv_heads), prompt(28, seed=3), 28
    policy = AdaCriticalKV(room, W, KERNEL) if ada else CriticalKV(room, W, KERNEL)
    got, shares = kept(read(model, policy, ids)), kept(read(model, AdaKV(room, W, KERNEL), ids))
    for layer, (rows, values) in enumerate(observed(model, ids, W)):
        counts = [len(head) for head in shares[layer]] if ada else [room] * kv_heads
        worth = norms(values, model.model.layers[layer].self_attn.o_proj.weight.detach())
        assert got[layer] == spelt_out(snap_scores(rows, KERNEL), worth, length, counts)


@pytest.mark.parametrize("ada", [False, True])
def test_of_a_padded_batch_each_item_gets_its_own_share(
    ada: bool, tiny: Any, prompt: Any, padded: Any, observed: Any, snap_scores: Any
) -> None:
    model, lengths = tiny(), (30, 19, 25)
    prompts = [prompt(n, seed=n) for n in lengths]
    cls = AdaCriticalKV if ada else CriticalKV
    cache, shares = (read(model, c(Share(0.5), W, KERNEL), *padded(prompts)) for c in (cls, AdaKV))
    for item, (length, ids) in enumerate(zip(lengths, prompts)):
        for layer, (rows, values) in enumerate(observed(model, ids, W)):
            counts = [len(h) for h in kept(shares, item)[layer]] if ada else [length // 2] * 2
            worth = norms(values, model.model.layers[layer].self_attn.o_proj.weight.detach())
            assert kept(cache, item)[layer] == spelt_out(snap_scores(rows, KERNEL), worth, length, counts)


def test_values_change_what_stays_and_only_in_the_second_half(
    tiny: Any, prompt: Any, observed: Any, snap_scores: Any
) -> None:
    model, ids, room, length = tiny(), prompt(40, seed=4), 20, 40
    got, plain = kept(read(model, CriticalKV(room, W), ids)), kept(read(model, SnapKV(room, W), ids))
    assert got != plain
    for layer, (rows, _) in enumerate(observed(model, ids, W)):
        for k, score in enumerate(snap_scores(rows, KERNEL)):
            best = sorted(range(length - W), key=lambda i, s=score: (-s[i], i))[: room // 2 - W]  # type: ignore[misc]
            assert set(best) <= set(got[layer][k])


@pytest.mark.parametrize("block", [1, 7, 32, 1000])
@pytest.mark.parametrize("heads, group", [(1, 1), (2, 3), (4, 1)])
def test_norms_in_blocks_are_those_of_everything_at_once(
    block: int, heads: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(value_norms, "BLOCK", block)
    generator = torch.Generator().manual_seed(heads)
    values = torch.randn(2, heads, 9, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(33, heads * group * 5, generator=generator, dtype=torch.float64)
    expected = torch.stack([norms(item, weight) for item in values])
    torch.testing.assert_close(value_norms.value_norms(values, weight), expected, rtol=0, atol=1e-12)
    single = value_norms.value_norms(values.float(), weight.float())
    torch.testing.assert_close(single, expected.float(), rtol=1e-5, atol=0)
    half = value_norms.value_norms(values.bfloat16(), weight.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected.float(), rtol=2e-2, atol=0)


def test_a_block_of_the_output_is_all_that_norms_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = []
    inner = Tensor.__matmul__

    def product(a: Tensor, b: Tensor) -> Tensor:
        largest.append(inner(a, b).numel())
        return inner(a, b)

    monkeypatch.setattr(Tensor, "__matmul__", product)
    heads, group, n, width = 2, 2, 50, 640
    value_norms.value_norms(torch.randn(1, heads, n, 8), torch.randn(width, heads * group * 8))
    assert max(largest) == heads * group * n * value_norms.BLOCK
    assert len(largest) == width / value_norms.BLOCK


@pytest.mark.parametrize("cls, plain", [(CriticalKV, SnapKV), (AdaCriticalKV, AdaKV)])
def test_without_an_output_projection_values_do_not_count_and_one_warning_says_so(
    cls: Any, plain: Any, prompt: Any
) -> None:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model, ids = AutoModelForCausalLM.from_config(config).eval(), prompt(20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = kept(read(model, cls(12, W), ids))
    assert [str(w.message) for w in caught if "o_proj" in str(w.message)] == [
        f"{cls.name}: the attention modules of 'gpt_neox' have no plain o_proj.weight, so entries are judged by "
        "attention alone"
    ]
    assert got == kept(read(model, plain(12, W), ids))


def test_a_projection_that_does_not_fit_the_values_is_not_used() -> None:
    module = torch.nn.Module()
    values = torch.zeros(1, 2, 9, 8)
    assert projection_of(module, values) is None
    module.o_proj = torch.nn.Linear(32, 16)
    assert projection_of(module, values) is module.o_proj.weight
    module.o_proj = torch.nn.Linear(24, 16)
    assert projection_of(module, values) is None
    module.o_proj.weight = torch.nn.Parameter(torch.zeros(16, 32, dtype=torch.uint8), requires_grad=False)
    assert projection_of(module, values) is None


def test_attention_that_is_not_a_number_is_refused(fresh: Any, prompt: Any) -> None:
    model = fresh()
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="layer 1 contain NaN"):
        read(model, CriticalKV(10, W), prompt(20))
