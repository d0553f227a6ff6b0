"""DefensiveKV and its layer form: against the method spelt out, what its aggregation guarantees, and its limits."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from heedful.kv import DefensiveKV, Full, LayerDefensiveKV, Share, Slots
from heedful.kv.attention import Seen
from heedful.kv.base import Reads
from heedful.kv.defensive_kv import aggregated, smoothed
from heedful.kv.experiments._defensive_kv import repeated
from heedful.kv.prefill import best_of_all
from heedful.models import tasks

W = 4
BARE: dict[str, Any] = {"kernel": 1, "floor": False, "value_term": False, "stage1": False}


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


def fed(policy: Any, rows: Tensor, state: Any = None, layer: int = 0) -> Slots:
    """Slots that have seen the last rows ``[batch, heads, group, W, S]`` of a prompt."""
    slots = Slots(layer, policy, state)
    batch, heads, _, _, length = rows.shape
    slots.append(*(torch.zeros(batch, heads, length, 2, dtype=rows.dtype),) * 2)
    policy.prompted(slots, Seen(rows=rows))
    return slots


def held(slots: Slots) -> list[list[int]]:
    return [sorted(p for p in head.tolist() if p >= 0) for head in slots.position[0]]


def attention(*shape: int, seed: int = 0, sharp: float = 3.0, window: int = W) -> Tensor:
    """Random causal rows ``[batch, heads, group, W, S]``, float64."""
    logits = sharp * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    future = torch.ones(window, window, dtype=torch.bool).triu(1)
    logits[..., -window:].masked_fill_(future, -torch.inf)
    return logits.softmax(-1)


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
def test_a_prompt_within_the_window_stays_whole_with_a_notice(
    cls: Any, tiny: Any, prompt: Any, padded: Any
) -> None:
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


# what the aggregation guarantees


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("context, keep", [(6, 2), (8, 4), (10, 3)])
def test_max_and_mean_are_each_optimal_for_their_own_criterion(context: int, keep: int, seed: int) -> None:
    """Over all subsets of that size: the largest single weight that is lost, and the mean mass that is lost."""
    rows = attention(1, 1, 2, W, context + W, seed=seed)
    weights = rows[0, 0].flatten(0, 1)[:, :context]

    def losses(kept_ones: tuple[int, ...]) -> tuple[float, float]:
        gone = [i for i in range(context) if i not in kept_ones]
        return float(weights[:, gone].max()), float(weights[:, gone].sum(1).mean())

    every = [losses(subset) for subset in combinations(range(context), keep)]
    lost = {}
    for kind in ("max", "mean"):
        chosen = held(fed(DefensiveKV(keep + W, W, aggregation=kind, **BARE), rows))[0]  # type: ignore[arg-type]
        lost[kind] = losses(tuple(chosen[:-W]))
    assert lost["max"][0] == pytest.approx(min(worst for worst, _ in every), abs=1e-12)
    assert lost["mean"][1] == pytest.approx(min(mean for _, mean in every), abs=1e-12)


def test_each_aggregation_can_be_bad_for_the_others_criterion() -> None:
    """Rows that each look up an entry of their own, and entries of steady small weight."""
    rows = torch.zeros(1, 1, 1, W, 12 + W, dtype=torch.float64)
    for j in range(W):
        rows[0, 0, 0, j, j] = 0.4  # a spike: 0.1 in the mean
    rows[..., W : 2 * W] = 0.15  # steady
    spikes, steady = list(range(W)), list(range(W, 2 * W))
    window = list(range(12, 12 + W))
    assert held(fed(DefensiveKV(2 * W, W, aggregation="max", **BARE), rows))[0] == spikes + window
    assert held(fed(DefensiveKV(2 * W, W, aggregation="mean", **BARE), rows))[0] == steady + window


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), group=st.integers(1, 3), window=st.integers(1, 5), n=st.integers(1, 30))
def test_the_worst_case_bounds_every_row_and_only_rises(seed: int, group: int, window: int, n: int) -> None:
    rows = attention(1, 2, group, window + 1, n + window + 1, seed=seed, window=window + 1)[..., :n]
    there = torch.ones(1, 2, n, dtype=torch.bool)
    smooth = smoothed(rows, 3, there)
    worst = aggregated(smooth, "max")
    policy = DefensiveKV(window + 2, window + 1, value_term=False, kernel=3)
    slots = Slots(0, policy)
    slots.append(*(torch.zeros(1, 2, n + window + 1, 2, dtype=torch.float64),) * 2)
    risk = policy.risk(slots, rows, there)
    assert bool((risk >= worst).all()) and bool((worst[:, :, None, None] >= smooth).all())
    assert bool((risk >= worst.mean(-1, keepdim=True) - 1e-15).all())
    fewer = aggregated(smooth[:, :, :, 1:], "max")
    assert bool((worst >= fewer).all())
    more = rows.clone()
    more[0, 0, 0, 0, n // 2] += 0.1
    raised = aggregated(smoothed(more, 1, there), "max")
    assert bool((raised >= aggregated(rows, "max")).all())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), kernel=st.sampled_from([1, 3, 5, 9]), n=st.integers(1, 40), pad=st.integers(0, 6))
def test_smoothing_keeps_the_sums_of_rows_and_rows_without_mass_stay_so(
    seed: int, kernel: int, n: int, pad: int
) -> None:
    rows = attention(2, 2, 2, W, n + W, seed=seed)[..., :n].float()
    rows[:, 1, 0, 2] = 0
    there = torch.ones(2, 2, n, dtype=torch.bool)
    there[1, :, : min(pad, n - 1)] = False
    rows = rows.masked_fill(~there[:, :, None, None], 0)
    smooth = smoothed(rows, kernel, there)
    torch.testing.assert_close(smooth.sum(-1), rows.sum(-1), rtol=0, atol=1e-6)
    assert float(smooth[:, 1, 0, 2].abs().max()) == 0 and bool(smooth.isfinite().all())
    assert float(smooth.masked_fill(there[:, :, None, None], 0).abs().max()) == 0


def test_rows_that_agree_make_max_and_mean_the_same_choice() -> None:
    rows = attention(1, 2, 1, 1, 40, seed=3, window=1).expand(1, 2, 3, W, 40).clone()
    options = {"value_term": False, "stage1": False, "floor": False}
    worst, mean = (held(fed(DefensiveKV(12, W, aggregation=kind, **options), rows)) for kind in ("max", "mean"))  # type: ignore[arg-type]
    assert worst == mean


@pytest.mark.parametrize("kind", ["top3", "quantile"])
def test_the_other_aggregations(kind: Any) -> None:
    rows = attention(2, 3, 2, W, 20, seed=4)
    flat = rows.flatten(2, 3)
    wanted = flat.sort(2).values[:, :, -3:].sum(2) if kind == "top3" else flat.quantile(0.9, dim=2)
    torch.testing.assert_close(aggregated(rows, kind), wanted, rtol=0, atol=1e-12)


# limits of the whole


def test_one_row_and_nothing_else_is_the_best_of_that_row(tiny: Any, prompt: Any, observed: Any) -> None:
    """No grouping, a window of one: what TOVA would keep, over the heads of a layer."""
    model, ids, length, room = tiny(num_key_value_heads=4), prompt(30, seed=9), 30, 8
    cache = read(model, DefensiveKV(room, 1, **BARE), ids)
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


@pytest.mark.parametrize("cls", [DefensiveKV, LayerDefensiveKV])
def test_if_everything_is_equal_the_oldest_stay(cls: Any) -> None:
    rows = torch.full((1, 3, 2, W, 30), 1 / 30, dtype=torch.float64)
    policy = cls(9, W, kernel=1, stage1=False)
    state, layers = policy.begin(3), []
    for layer in range(3):
        layers.append(fed(policy, rows, state, layer))
    window = list(range(26, 30))
    if cls is DefensiveKV:
        assert [held(slots) for slots in layers] == [[[*range(5), *window]] * 3] * 3
    else:  # 81 entries, of which 36 are windows: the other 45 are the first layer's fifteen oldest in each head
        assert [held(slots) for slots in layers] == [[[*range(15), *window]] * 3, [window] * 3, [window] * 3]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), scale=st.sampled_from([1.01, 1.5, 4.0, 100.0]))
def test_a_louder_head_gets_no_fewer_entries_and_a_louder_layer_counts_only_among_layers(
    seed: int, scale: float
) -> None:
    rows = [attention(1, 3, 2, W, 30, seed=3 * seed + layer) for layer in range(3)]
    louder = rows[1].clone()
    louder[:, 2] *= scale
    policy = DefensiveKV(10, W, stage1=False)
    assert len(held(fed(policy, louder))[2]) >= len(held(fed(policy, rows[1]))[2])
    assert held(fed(policy, rows[1] * scale)) == held(fed(policy, rows[1]))

    def spread(attended: list[Tensor]) -> list[int]:
        layered = LayerDefensiveKV(10, W, stage1=False)
        state = layered.begin(3)
        layers = [fed(layered, each, state, layer) for layer, each in enumerate(attended)]
        return [slots.entries for slots in layers]

    plain, loud = spread(rows), spread([rows[0], rows[1] * scale, rows[2]])
    assert sum(plain) == sum(loud) == 90 and loud[1] >= plain[1]
    if scale == 100:
        assert loud[1] > plain[1]


def test_a_quiet_layer_keeps_its_window_and_what_its_mean_attention_rests_on() -> None:
    loud, quiet = attention(1, 2, 2, W, 40, seed=1), attention(1, 2, 2, W, 40, seed=2) * 1e-6
    policy = LayerDefensiveKV(12, W)
    state = policy.begin(2)
    layers = [fed(policy, each, state, layer) for layer, each in enumerate((loud, quiet))]
    alone = DefensiveKV(12, W)
    slots = Slots(1, alone)
    slots.append(*(torch.zeros(1, 2, 40, 2, dtype=torch.float64),) * 2)
    first = alone.first_stage(slots, quiet, torch.ones(1, 2, 36, dtype=torch.bool))[0]
    assert int(first.sum()) > 4
    for head, protected in zip(held(layers[1]), first):
        assert set(protected.nonzero()[:, 0].tolist()) | set(range(36, 40)) <= set(head)
    assert sum(slots.entries for slots in layers) == 48


@pytest.mark.parametrize("window_mass", ["true", "reference"])
@pytest.mark.parametrize("room", [9, 20, 33])
def test_the_first_stage_is_the_longest_prefix_below_the_threshold(window_mass: Any, room: int) -> None:
    rows = attention(2, 3, 2, W, 40, seed=5, sharp=2.0)
    policy = DefensiveKV(room, W, window_mass=window_mass, threshold=0.8)
    slots = Slots(0, policy)
    slots.append(*(torch.zeros(2, 3, 40, 2, dtype=torch.float64),) * 2)
    first = policy.first_stage(slots, rows, torch.ones(2, 3, 36, dtype=torch.bool))
    lengths = set()
    for item in range(2):
        part = rows[item, ..., 36:] if window_mass == "true" else rows[item, ..., 32:36]
        threshold = 0.8 - float(part.sum(-1).mean())
        for head in range(3):
            mean = rows[item, head, ..., :36].mean((0, 1))
            order = mean.argsort(descending=True)
            reached = (mean[order] / mean.sum()).cumsum(0)
            count = min(int((reached < threshold).sum()), room - W)
            assert set(first[item, head].nonzero()[:, 0].tolist()) == set(order[:count].tolist())
            lengths.add(count)
    assert {room - W} == lengths if room == 9 else min(lengths) < room - W


def test_attention_that_stays_in_the_window_protects_nothing_else() -> None:
    rows = torch.zeros(1, 2, 1, W, 20, dtype=torch.float64)
    rows[0, 0, ..., -1] = 1  # all in the window
    rows[0, 1, ..., 3] = 1  # all on one entry
    policy = DefensiveKV(9, W)
    slots = Slots(0, policy)
    slots.append(*(torch.zeros(1, 2, 20, 2, dtype=torch.float64),) * 2)
    first = policy.first_stage(slots, rows, torch.ones(1, 2, 16, dtype=torch.bool))
    assert not bool(first[0, 0].any())
    score = policy.score(slots, Seen(rows=rows))
    assert bool(score[..., :16].isfinite().all()) and bool((score[..., 16:] == torch.inf).all())


def test_temperature_is_that_of_the_softmax() -> None:
    logits = torch.randn(1, 2, 2, W, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, warm = logits.softmax(-1), (logits / 2.5).softmax(-1)
    options = {"value_term": False, "kernel": 1, "stage1": False}
    policies = DefensiveKV(9, W, temperature=2.5, **options), DefensiveKV(9, W, **options)  # type: ignore[arg-type]
    slots = Slots(0, policies[0])
    slots.append(*(torch.zeros(1, 2, 20, 2, dtype=torch.float64),) * 2)
    torch.testing.assert_close(
        policies[0].score(slots, Seen(rows=plain)), policies[1].score(slots, Seen(rows=warm)), rtol=0, atol=1e-12
    )


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


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_streaming_breaks_ties_as_one_decision_does(levels: int) -> None:
    """Scores from a few levels only: most of the order is ties, between ragged layers."""
    generator = torch.Generator().manual_seed(levels)
    rows = [torch.randint(1, levels + 1, (2, 3, 1, W, 30), generator=generator).double() for _ in range(5)]
    policy = LayerDefensiveKV(11, W, **BARE)
    state = policy.begin(5)
    layers = [fed(policy, each, state, layer) for layer, each in enumerate(rows)]
    whole = [each[..., :26].amax((2, 3)) for each in rows]
    scores = [torch.cat([score, torch.full((2, 3, W), torch.inf)], -1) for score in whole]
    for slots, chosen in zip(layers, best_of_all(scores, 11 * 3 * 5)):
        for item in range(2):
            for head in range(3):
                got = sorted(p for p in slots.position[item, head].tolist() if p >= 0)
                assert got == chosen[item, head].nonzero()[:, 0].tolist()


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
