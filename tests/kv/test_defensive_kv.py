"""DefensiveKV and its layer form on models: against the method spelt out, its limits, streaming, and decoding."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from heedful.kv import DefensiveKV, Full, LayerDefensiveKV, Share, Slots
from heedful.kv.base import Reads
from heedful.kv.experiments._defensive_kv import repeated
from heedful.kv.prefill import best_of_all
from heedful.models import tasks

W = 4


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


# the method spelt out


@dataclass(frozen=True)
class Options:
    """What :func:`spelt_out` does."""

    kernel: int = 5
    aggregation: str = "max"
    floor: bool = True
    value_term: bool = True
    stage1: bool = True
    window_mass: str = "true"
    temperature: float = 1.0


def spelt_out(rows: Tensor, values: Tensor, weight: Tensor, room: int, o: Options = Options()) -> np.ndarray:
    """The score of every entry, ``[heads, S]``, step by step; infinite where nothing can make an entry leave."""
    heads, group, window, length = rows.shape
    context = length - window
    a = rows.numpy() ** (1 / o.temperature)
    a = a / a.sum(-1, keepdims=True)
    score = np.full((heads, length), np.inf)
    norms = np.zeros((heads, context))
    for k in range(heads):
        smooth = np.zeros((group, window, context))
        for g in range(group):
            for j in range(window):
                row = a[k, g, j, :context]
                for i in range(context):
                    near = range(max(0, i - o.kernel // 2), min(context, i + o.kernel // 2 + 1))
                    smooth[g, j, i] = sum(row[n] for n in near) / o.kernel
                smooth[g, j] *= row.sum() / smooth[g, j].sum()
            d = values.shape[-1]
            part = weight[:, (k * group + g) * d : (k * group + g + 1) * d].numpy()
            norms[k] += np.abs(values[k, :context].numpy() @ part.T).sum(-1) / group
        flat = smooth.reshape(-1, context)
        score[k, :context] = {
            "max": lambda x=flat: x.max(0),
            "mean": lambda x=flat: x.mean(0),
            "quantile": lambda x=flat: np.quantile(x, 0.9, axis=0),
            "top3": lambda x=flat: np.sort(x, axis=0)[-3:].sum(0),
        }[o.aggregation]()
        if o.floor:
            score[k, :context] = np.maximum(score[k, :context], score[k, :context].mean())
    if o.value_term:
        score[:, :context] *= norms / norms.sum(0)
    if o.stage1:
        seen = a[..., context:] if o.window_mass == "true" else a[..., context - window : context]
        w = seen.sum(-1).mean()
        for k in range(heads):
            mean = a[k, :, :, :context].mean((0, 1))
            mass = 0.0
            for rank, i in enumerate(np.argsort(-mean, kind="stable")):
                mass += mean[i] / mean.sum()
                if mass >= 0.9 - w or rank >= room - window:
                    break
                score[k, i] = np.inf
    return score


def best(scores: list[np.ndarray], count: int) -> list[list[list[int]]]:
    """The best ``count`` of all layers' and heads' entries; ties to the lower layer, the older, the lower head."""
    everyone = [
        (-score[k, i], layer, i, k)
        for layer, score in enumerate(scores)
        for k in range(score.shape[0])
        for i in range(score.shape[1])
    ]
    found: list[list[list[int]]] = [[[] for _ in score] for score in scores]
    for _, layer, i, k in sorted(everyone)[:count]:
        found[layer][k].append(i)
    return [[sorted(head) for head in layer] for layer in found]


def expected(model: Any, sights: Any, share: float, length: int, o: Options, layers: bool) -> list[list[list[int]]]:
    """Which entries the method spelt out keeps of a prompt."""
    heads, room = model.config.num_key_value_heads, int(share * length + 1e-9)
    scores = [
        spelt_out(rows, values, layer.self_attn.o_proj.weight.detach(), room, o)
        for (rows, values), layer in zip(sights, model.model.layers)
    ]
    if layers:
        return best(scores, int(share * length * heads * len(scores) + 1e-9))
    return [best([score], int(share * length * heads + 1e-9))[0] for score in scores]


CHOICES = [
    Options(),
    Options(stage1=False),
    Options(stage1=False, value_term=False),
    Options(stage1=False, floor=False),
    Options(kernel=1),
    Options(kernel=3, window_mass="reference"),
    Options(aggregation="mean", floor=False),
    Options(aggregation="mean", stage1=False),
    Options(aggregation="quantile", stage1=False),
    Options(aggregation="top3", stage1=False),
    Options(temperature=2.5),
    Options(temperature=0.4, stage1=False),
]


@pytest.mark.parametrize("layers", [False, True])
@pytest.mark.parametrize("o", CHOICES, ids=str)
def test_it_is_the_method_spelt_out(o: Options, layers: bool, tiny: Any, prompt: Any, observed: Any) -> None:
    model, length, share = tiny(), 29, 0.45
    ids = prompt(length, seed=7)
    policy = (LayerDefensiveKV if layers else DefensiveKV)(Share(share), W, **vars(o))
    assert kept(read(model, policy, ids)) == expected(model, observed(model, ids, W), share, length, o, layers)


@pytest.mark.parametrize("layers", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("o", [Options(), Options(stage1=False)], ids=str)
def test_of_a_padded_batch_each_item_gets_its_own_share(
    o: Options, kv_heads: int, layers: bool, tiny: Any, prompt: Any, padded: Any, observed: Any
) -> None:
    model, lengths, share = tiny(num_key_value_heads=kv_heads), (30, 17, 23), 0.37
    prompts = [prompt(n, seed=n) for n in lengths]
    policy = (LayerDefensiveKV if layers else DefensiveKV)(Share(share), W, **vars(o))
    cache = read(model, policy, *padded(prompts))
    for item, (length, ids) in enumerate(zip(lengths, prompts)):
        assert kept(cache, item) == expected(model, observed(model, ids, W), share, length, o, layers)


# counts, limits, errors


@pytest.mark.parametrize("cls", [DefensiveKV, LayerDefensiveKV])
def test_a_share_of_everything_gives_the_full_caches_logits(cls: Any, tiny: Any, prompt: Any) -> None:
    model, ids = tiny(), prompt(24, batch=2)
    logits = []
    for policy in (Full(), cls(Share(1.0), W)):
        cache = policy.cache_for(model)
        with torch.no_grad():
            outs = [model(ids, past_key_values=cache).logits]
            outs += [model(ids[:, i : i + 1], past_key_values=cache).logits for i in range(6)]
        logits.append(torch.cat(outs, 1))
    assert torch.equal(*logits)


@pytest.mark.parametrize("share", [0.21, 0.4, 0.99])
@pytest.mark.parametrize("stage1", [True, False])
def test_counts_are_exact_and_the_window_is_in_every_head(
    stage1: bool, share: float, tiny: Any, prompt: Any, padded: Any
) -> None:
    model, lengths = tiny(), (37, 26)
    ids, mask = padded([prompt(n, seed=n) for n in lengths])
    for cls in (DefensiveKV, LayerDefensiveKV):
        cache = read(model, cls(Share(share), W, stage1=stage1), ids, mask)
        for item, length in enumerate(lengths):
            layers = kept(cache, item)
            counts = [sum(map(len, layer)) for layer in layers]
            if cls is DefensiveKV:
                assert counts == [int(share * length * 2 + 1e-9)] * 3
            else:
                assert sum(counts) == int(share * length * 6 + 1e-9)
            for head in (head for layer in layers for head in layer):
                assert head[-W:] == list(range(length - W, length)) and head == sorted(set(head))


def test_heads_and_layers_get_different_lengths(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(), prompt(60, seed=8)
    in_layers = read(model, DefensiveKV(20, W, stage1=False), ids)
    assert len({len(head) for layer in kept(in_layers) for head in layer}) > 2
    assert in_layers.usage().slots == (20.0,) * 3
    of_all = read(model, LayerDefensiveKV(20, W, stage1=False), ids).usage().slots
    assert len(set(of_all)) > 1 and sum(of_all) == 60


@pytest.mark.parametrize("cls", [DefensiveKV, LayerDefensiveKV])
def test_a_prompt_within_the_window_stays_whole_with_a_notice(cls: Any, tiny: Any, prompt: Any, padded: Any) -> None:
    model, policy = tiny(), cls(Share(0.5), 9)
    for length in (5, 9):
        with pytest.warns(UserWarning, match=rf"{cls.name}: .* observation_window=9 tokens is kept whole"):
            cache = read(model, policy, prompt(length))
        assert cache.usage().evicted == (0.0,) * 3
    with pytest.warns(UserWarning, match="kept whole"):
        cache = read(model, policy, *padded([prompt(7), prompt(30, seed=1)]))
    assert [[len(head) for head in layer] for layer in kept(cache)] == [[7, 7]] * 3
    assert sum(len(head) for layer in kept(cache, 1) for head in layer) == 3 * 2 * 15
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(model, cls(10, 9), prompt(7)).usage().evicted == (0.0,) * 3


@pytest.mark.parametrize("cls", [DefensiveKV, LayerDefensiveKV])
def test_a_budget_below_the_window_is_refused(cls: Any, tiny: Any, prompt: Any, padded: Any) -> None:
    with pytest.raises(ValueError, match=r"budget=8: .* needs at least 10 slots"):
        cls(8, 9)
    with pytest.raises(ValueError, match=rf"budget=20% of this prompt is 8 slots: {cls.name} needs at least 10"):
        read(tiny(), cls(Share(0.2), 9), *padded([prompt(40), prompt(90)]))


@pytest.mark.parametrize("cls", [DefensiveKV, LayerDefensiveKV])
def test_without_an_output_projection_values_do_not_count_and_one_warning_says_so(cls: Any, prompt: Any) -> None:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model, ids = AutoModelForCausalLM.from_config(config).eval(), prompt(30)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = kept(read(model, cls(12, W), ids))
    assert [str(w.message) for w in caught if "o_proj" in str(w.message)] == [
        f"{cls.name}: the attention modules of 'gpt_neox' have no plain o_proj.weight, so entries are judged by "
        "attention alone"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert got == kept(read(model, cls(12, W, value_term=False), ids))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"kernel": 4}, "kernel=4: must be odd"),
        ({"aggregation": "median"}, "aggregation='median': must be"),
        ({"floor": 2}, "floor=2: must be 1"),
        ({"value_term": "off"}, "value_term='off': must be"),
        ({"stage1": 0.5}, r"stage1=0\.5: must be"),
        ({"threshold": 1.5}, r"threshold=1\.5: must be within 0\.\.1"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"window_mass": "none"}, "window_mass='none': must be"),
        ({"temperature": 0}, "temperature=0: must be a number above 0"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"observation_window": 0}, "observation_window=0"),
    ],
)
def test_bad_parameters_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DefensiveKV(**{"budget": 10, "observation_window": W, **wrong})


@pytest.mark.parametrize("cls", [DefensiveKV, LayerDefensiveKV])
def test_attention_that_is_not_a_number_is_refused(cls: Any, fresh: Any, prompt: Any) -> None:
    model = fresh()
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="scores contain NaN"):
        read(model, cls(10, W), prompt(20))


def test_values_are_read_only_where_they_count() -> None:
    assert DefensiveKV(10, W).reads == Reads(prompt="last", window=W, outputs=True)
    assert DefensiveKV(10, W, value_term=False).reads == Reads(prompt="last", window=W)


# limits of the whole


def test_one_row_and_nothing_else_is_the_best_of_that_row(tiny: Any, prompt: Any, observed: Any) -> None:
    """No grouping, a window of one: what TOVA would keep, over the heads of a layer."""
    model, ids, length, room = tiny(num_key_value_heads=4), prompt(30, seed=9), 30, 8
    cache = read(model, DefensiveKV(room, 1, kernel=1, floor=False, value_term=False, stage1=False), ids)
    for layer, (rows, _) in enumerate(observed(model, ids, 1)):
        row = rows[:, 0, 0]
        order = sorted((-float(row[k, i]), i, k) for k in range(4) for i in range(length - 1))[: 4 * (room - 1)]
        assert kept(cache)[layer] == [sorted([i for _, i, k in order if k == head] + [length - 1]) for head in range(4)]


def test_equal_scores_leave_the_choice_to_the_values(fresh: Any, prompt: Any, observed: Any) -> None:
    """Uniform attention: every entry scores its head's floor, so value norms alone decide."""
    model, ids, room, length = fresh(), prompt(24, seed=10), 9, 24
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    cache = read(model, DefensiveKV(room, W, kernel=1, stage1=False), ids)
    for layer, (rows, values) in enumerate(observed(model, ids, W)):
        mass = rows[0, 0, :, : length - W].amax(0)
        torch.testing.assert_close(mass, mass[:1].expand_as(mass), rtol=0, atol=1e-15)
        weight = model.model.layers[layer].self_attn.o_proj.weight.detach().T.reshape(2, 2, 8, -1)
        norms = torch.einsum("knd,kgdw->kgnw", values, weight).abs().sum(-1).mean(1)[:, : length - W]
        share = norms / norms.sum(0)
        order = sorted((-float(share[k, i]), i, k) for k in range(2) for i in range(length - W))[: 2 * (room - W)]
        window = list(range(length - W, length))
        assert kept(cache)[layer] == [sorted(i for _, i, k in order if k == head) + window for head in range(2)]


# the layer form's streaming


@dataclass(frozen=True)
class OneShot(LayerDefensiveKV):
    """Holds everything until the last layer has been read, then decides once."""

    def begin(self, layers: int) -> Any:
        return []

    def select(self, slots: Slots, score: Tensor, room: Any) -> None:
        slots.state.append((slots, score))

    def passed(self, cache: Any) -> None:
        slots, scores = zip(*cache.state)
        for each, chosen in zip(slots, best_of_all(scores, self.total(slots[0], slots[0].heads * len(slots)))):
            each.keep(chosen)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("share", [0.15, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("stage1", [True, False])
def test_streaming_keeps_the_entries_of_one_decision_over_everything(
    stage1: bool, share: float, kv_heads: int, tiny: Any, prompt: Any, padded: Any
) -> None:
    model = tiny(num_key_value_heads=kv_heads, num_hidden_layers=6)
    ids, mask = padded([prompt(n, seed=n) for n in (60, 41, 52)])
    caches = [read(model, cls(Share(share), W, stage1=stage1), ids, mask) for cls in (LayerDefensiveKV, OneShot)]
    for item in range(3):
        assert kept(caches[0], item) == kept(caches[1], item)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_full_cache_is_never_held(share: float, tiny: Any, prompt: Any) -> None:
    layers, length, heads = 8, 80, 2
    model, ids = tiny(num_hidden_layers=layers), prompt(length, seed=11)
    cache = read(model, LayerDefensiveKV(Share(share), W), ids)
    total = int(share * length * heads * layers + 1e-9)
    assert sum(sum(map(len, layer)) for layer in kept(cache)) == total
    # while the last layer is read: the budget of all, and what of this layer is not yet in it
    assert cache.usage().held_peak * heads <= total + heads * (length - W)
    assert read(model, OneShot(Share(share), W), ids).usage().held_peak == layers * length
    assert cache.usage().held_peak_nbytes < 0.8 * read(model, OneShot(Share(share), W), ids).usage().held_peak_nbytes
    assert cache.state.slots == [] and cache.state.scores == []


def test_an_item_reads_on_from_where_its_copy_was_taken(tiny: Any, prompt: Any) -> None:
    """Nothing of the reading is left in the cache's state, so a copy of it decodes by itself."""
    model, ids = tiny(), prompt(30, seed=12)
    cache = read(model, LayerDefensiveKV(10, W), ids)
    twin = copy.deepcopy(cache)
    with torch.no_grad():
        first = model(ids[:, :1], past_key_values=cache).logits
        assert torch.equal(model(ids[:, :1], past_key_values=twin).logits, first)
    assert kept(cache) == kept(twin)


# decoding on what is left


@pytest.mark.parametrize("cls", [DefensiveKV, LayerDefensiveKV])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_decoding_on_ragged_heads_is_masked_dense_attention(
    kv_heads: int, cls: Any, tiny: Any, prompt: Any, padded: Any
) -> None:
    """Against a forward over all tokens at once in which a mask per layer and head hides what was dropped."""
    model, lengths, new = tiny(num_key_value_heads=kv_heads), (40, 27), 8
    ids, mask = padded([prompt(n, seed=n) for n in lengths])
    more = prompt(new, batch=2, seed=13)
    cache = read(model, cls(Share(0.3), W, stage1=False), ids, mask)
    before = [kept(cache, item) for item in range(2)]
    assert (kv_heads == 1 and cls is DefensiveKV) or len({len(head) for layer in before[0] for head in layer}) > 1
    position = torch.tensor(lengths)[:, None]
    with torch.no_grad():
        got = [
            model(more[:, t : t + 1], position_ids=position + t, past_key_values=cache).logits[:, 0] for t in range(new)
        ]
    model.set_attn_implementation("sdpa")
    group = 4 // kv_heads
    for item, length in enumerate(lengths):
        whole = torch.cat([ids[item : item + 1, -length:], more[item : item + 1]], 1)
        total = length + new
        hooks = []
        for layer, heads in zip(model.model.layers, before[item]):
            allowed = torch.ones(total, total, dtype=torch.bool).tril().repeat(kv_heads, 1, 1)
            for k, head in enumerate(heads):
                gone = sorted(set(range(length)) - set(head))
                allowed[k, length:, gone] = False
            hidden = allowed.repeat_interleave(group, 0)[None]

            def put(module: Any, args: Any, kwargs: Any, hidden: Tensor = hidden) -> Any:
                return args, {**kwargs, "attention_mask": hidden}

            hooks.append(layer.self_attn.register_forward_pre_hook(put, with_kwargs=True))
        with torch.no_grad():
            dense = model(whole, use_cache=False).logits[0, length:]
        for hook in hooks:
            hook.remove()
        for t in range(new):
            torch.testing.assert_close(got[t][item], dense[t], rtol=0, atol=1e-9)


# what the experiment asks


def test_a_question_said_over_and_over_fills_the_window_and_keeps_its_answer() -> None:
    item = tasks.sample("mk3", np.random.default_rng(0), 1, 200)[0]
    long = repeated(item, 16)
    start, end = item.spans[0][2], item.prompt_length
    question = item.tokens[start : end - 1]
    tail = long.tokens[: long.prompt_length]
    assert tail[-1] == item.tokens[end - 1] and len(question) == 3
    assert tail[-17:-1].tolist() == np.tile(question, 6)[-16:].tolist()
    assert long.tokens[long.scored].tolist() == item.tokens[item.scored].tolist()
    assert [long.tokens[[p[0] for p in needs]].tolist() for needs in long.needs.values()] == [
        item.tokens[[p[0] for p in needs]].tolist() for needs in item.needs.values()
    ]
    assert long.spans[-1][2] == len(long.tokens) == len(long.scored) == len(long.last_use)
