"""LazyEviction: trackers and decisions against a plain bookkeeping, its score, variants and limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heedful.kv import LazyEviction, Local, Slots
from heedful.kv.attention import Seen
from heedful.kv.lazy_eviction import importance

pytestmark = pytest.mark.filterwarnings("ignore:budget=.*the prompt alone is longer")


def score_of(silence: int, interval: int, variant: str) -> float:
    """The formulas, number by number."""

    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x)) if x > -700 else 0.0

    if variant == "lag":
        return -silence
    if interval == 0:
        return 0.0
    usual = 2 * sigma(-silence / interval)
    if variant == "reference":
        usual = 2 * sigma(-(1 + silence / (interval + 1e-5)))
    often = 2 * sigma(1 - interval)
    return {"h1": usual, "h2": often}.get(variant, usual + often)


class Books:
    """One head's trackers in plain Python: position -> [TS, MRI]."""

    def __init__(self, policy: LazyEviction, prompt: int) -> None:
        self.policy = policy
        self.entries = {p: [0, 0] for p in range(prompt)}
        self.length, self.t = prompt, 0

    def step(self, row: dict[int, float]) -> None:
        """``row``: the (reduced) attention weight of every stored position, the new one included."""
        policy = self.policy
        self.t += 1
        self.entries[self.length] = [self.t - 1, 0]
        self.length += 1
        for p, entry in self.entries.items():
            if row[p] >= policy.alpha:
                young = policy.birth == "ignore" and self.length - p <= policy.grace
                if not young:
                    entry[1] = max(entry[1], self.t - entry[0])
                entry[0] = self.t
        if self.t % policy.window == 0 and len(self.entries) > policy.budget:

            def rank(p: int) -> tuple[bool, float, int]:
                last, interval = self.entries[p]
                return p >= self.length - policy.window, score_of(self.t - last, interval, policy.variant), -p

            kept = sorted(self.entries, key=rank, reverse=True)[: policy.budget]
            self.entries = {p: self.entries[p] for p in kept}


def trackers(slots: Slots, head: int = 0, item: int = 0) -> dict[int, list[int]]:
    columns = zip(
        slots.position[item, head].tolist(),
        slots["last"][item, head].tolist(),
        slots["recurrence"][item, head].tolist(),
    )
    return {p: [last, interval] for p, last, interval in columns if p >= 0}


def replayed(policy: LazyEviction, rows: Tensor, prompt: int) -> list[dict[int, list[int]]]:
    """What one head tracks after each step, fed ``rows[t, p]``, p's weight at decode step t + 1."""
    slots, history = Slots(0, policy), []
    slots.append(*(torch.zeros(1, 1, prompt, 1),) * 2)
    policy.prompted(slots, Seen())
    slots.fresh = False
    for row in rows:
        slots.append(*(torch.zeros(1, 1, 1, 1),) * 2)
        slots.steps += 1
        weights = row[slots.position.long().clamp(min=0)].masked_fill(slots.position < 0, 0.0)
        policy.decoded(slots, Seen(rows=weights[:, :, None, None]))
        history.append(trackers(slots))
    return history


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(1, 6),
    st.sampled_from(["paper", "reference", "h1", "h2", "lag"]),
    st.sampled_from(["ignore", "reference"]),
    st.sampled_from([0.0, 0.3, 0.8, 1.5]),
    st.integers(0, 5),
)
def test_trackers_and_decisions_equal_the_plain_bookkeeping(
    seed: int, prompt: int, window: int, above: int, variant: Any, birth: Any, alpha: float, grace: int
) -> None:
    policy = LazyEviction(window + above, window, alpha=alpha, variant=variant, birth=birth, grace=grace)
    rows = torch.rand(30, prompt + 30, generator=torch.Generator().manual_seed(seed))
    books = Books(policy, prompt)
    last: dict[int, list[int]] = {}
    for t, got in enumerate(replayed(policy, rows, prompt), start=1):
        books.step({p: float(rows[t - 1, p]) for p in range(books.length + 1)})
        assert got == books.entries
        for p, (ts, mri) in got.items():
            assert ts <= t and 0 <= mri <= t
            if p in last:
                assert ts >= last[p][0] and mri >= last[p][1]
        assert len(got) <= policy.budget + window or t <= window
        assert t % window or (
            len(got) <= policy.budget
            and set(range(prompt + t - window, prompt + t)) <= set(got) | {p for p in range(prompt + t - window, 0)}
        )
        last = got


@pytest.mark.parametrize("gap", [1, 2, 5, 9])
def test_an_entry_active_every_g_steps_has_recurrence_g(gap: int) -> None:
    rows = torch.zeros(3 * gap, 40)
    rows[gap - 1 :: gap, 0] = 1
    history = replayed(LazyEviction(39, 1, alpha=0.5, grace=0), rows, 8)
    assert history[2 * gap - 1][0] == [2 * gap, gap]
    assert history[3 * gap - 1][0] == [3 * gap, gap]


def test_alpha_zero_makes_every_interval_one_past_the_grace() -> None:
    policy = LazyEviction(10, 4, alpha=0.0, grace=4)
    history = replayed(policy, torch.rand(40, 60), 12)
    for t, entries in enumerate(history, start=1):
        assert all(last == t for last, _ in entries.values())
        assert all(mri == (1 if p <= 12 + t - 1 - 4 else 0) or p > 12 + t - 1 - 4 for p, (_, mri) in entries.items())
    decided = history[39]
    assert sorted(decided) == [0, 1, 2, 3, 4, 5, 48, 49, 50, 51]


def test_alpha_above_one_makes_nothing_active() -> None:
    history = replayed(LazyEviction(10, 4, alpha=1.01), torch.rand(40, 60), 12)
    assert all(mri == 0 for entries in history for _, mri in entries.values())
    assert sorted(history[39]) == [0, 1, 2, 3, 4, 5, 48, 49, 50, 51]


def test_the_reference_birth_rule_counts_an_entrys_look_at_itself() -> None:
    rows = torch.zeros(1, 9)
    rows[0, 8] = 1
    assert replayed(LazyEviction(20, 2, alpha=0.5, birth="reference"), rows, 8)[0][8] == [1, 1]
    assert replayed(LazyEviction(20, 2, alpha=0.5, birth="ignore"), rows, 8)[0][8] == [1, 0]


@pytest.mark.parametrize("variant", ["paper", "reference", "h1", "h2", "lag"])
@settings(max_examples=40)
@given(silence=st.integers(0, 5000), interval=st.integers(0, 5000))
def test_importance_equals_its_formula(variant: str, silence: int, interval: int) -> None:
    got = importance(torch.tensor([silence]), torch.tensor([interval]), variant)
    assert float(got) == pytest.approx(score_of(silence, interval, variant), abs=2e-6)


@settings(max_examples=100)
@given(silence=st.integers(0, 3000), interval=st.integers(1, 3000), more=st.integers(1, 500))
def test_importance_is_monotone_where_the_paper_says_so(silence: int, interval: int, more: int) -> None:
    def at(d: int, m: int, variant: str) -> float:
        return float(importance(torch.tensor([d]), torch.tensor([m]), variant))

    assert 0 <= at(silence, interval, "h1") <= 1
    assert at(silence + more, interval, "h1") <= at(silence, interval, "h1")
    assert at(silence, interval + more, "h1") >= at(silence, interval, "h1")
    assert at(silence, interval + more, "h2") <= at(silence, interval, "h2")
    assert at(silence, 1, "h2") == 1
    assert at(0, interval, "h1") == 1
    if silence <= 30 * interval and more <= 30 * interval:
        assert at(silence, interval, "h1") > 0


def test_never_active_again_scores_least() -> None:
    silence, interval = torch.arange(400).repeat(60, 1), torch.arange(60)[:, None].expand(60, 400)
    for variant in ("paper", "reference", "h1", "h2"):
        got = importance(silence, interval, variant)
        assert (got[0] == 0).all() and (got[1:] >= 0).all()
        assert (got[1:, :50] > 0).all()


def test_mask_equivalence(tiny: Any, prompt: Any) -> None:
    """A step on the cut cache computes what a plain model computes with the evicted entries masked."""
    model, ids, first = tiny(num_hidden_layers=1), prompt(40), 12
    policy = LazyEviction(10, 3, alpha=0.1)
    cache, outs, alive = policy.cache_for(model), [], torch.zeros(2, 40, 40, dtype=torch.bool)
    with torch.no_grad():
        model(ids[:, :first], past_key_values=cache)
        for t in range(first, 40):
            slots = cache.slots(0)
            for head in range(2):
                alive[head, t, slots.position[0, head][slots.position[0, head] >= 0].long()] = True
                alive[head, t, t] = True
            outs.append(model(ids[:, t : t + 1], past_key_values=cache).logits[0, 0])
        core = model.model
        hidden = core.embed_tokens(ids)
        attn, x = core.layers[0].self_attn, core.layers[0].input_layernorm(hidden)
        cos, sin = core.rotary_emb(hidden, torch.arange(40)[None])

        def heads(projection: Any) -> Tensor:
            return projection(x)[0].unflatten(-1, (-1, 8)).transpose(0, 1)

        def rotate(y: Tensor) -> Tensor:
            return y * cos + torch.cat([-y[..., 4:], y[..., :4]], -1) * sin

        query, key = rotate(heads(attn.q_proj)), rotate(heads(attn.k_proj)).repeat_interleave(2, 0)
        logits = (query @ key.transpose(1, 2) / 8**0.5).masked_fill(~alive.repeat_interleave(2, 0), -torch.inf)
        out = (logits[:, first:].softmax(-1) @ heads(attn.v_proj).repeat_interleave(2, 0)).transpose(0, 1).flatten(1)
        hidden = hidden[0, first:] + attn.o_proj(out)
        hidden = hidden + core.layers[0].mlp(core.layers[0].post_attention_layernorm(hidden))
        expected = model.lm_head(core.norm(hidden))
    assert cache.usage().evicted[0] == 40 - len(cache.slots(0).position[0, 0][cache.slots(0).position[0, 0] >= 0])
    assert cache.usage().evicted[0] >= 28
    torch.testing.assert_close(torch.stack(outs), expected, rtol=0, atol=1e-11)


def test_the_deciding_step_still_sees_the_uncut_cache(tiny: Any, prompt: Any) -> None:
    """Up to and including the first decision, logits are the full cache's; afterwards they are not."""
    model, ids = tiny(), prompt(30)
    cache = LazyEviction(8, 5, alpha=0.1).cache_for(model)
    with torch.no_grad():
        expected = model(ids).logits[0]
        model(ids[:, :20], past_key_values=cache)
        got = torch.stack([model(ids[:, t : t + 1], past_key_values=cache).logits[0, 0] for t in range(20, 30)])
    torch.testing.assert_close(got[:5], expected[20:25], rtol=0, atol=1e-11)
    assert float((got[5:] - expected[25:]).abs().max()) > 1e-3


def test_keys_stay_with_their_trackers(tiny: Any, prompt: Any) -> None:
    """Every stored key, found by its position, is the key that a full cache holds there."""
    model, ids = tiny(num_hidden_layers=1), prompt(50)
    from heedful.kv import Full

    lazy, full = LazyEviction(12, 4, alpha=0.05).cache_for(model), Full().cache_for(model)
    with torch.no_grad():
        for cache in (lazy, full):
            model(ids[:, :10], past_key_values=cache)
            for t in range(10, 50):
                model(ids[:, t : t + 1], past_key_values=cache)
    slots, whole = lazy.slots(0), full.slots(0)
    for head in range(2):
        for column, p in enumerate(slots.position[0, head].tolist()):
            torch.testing.assert_close(slots.keys[0, head, column], whole.keys[0, head, p], rtol=0, atol=1e-12)
            torch.testing.assert_close(slots.values[0, head, column], whole.values[0, head, p], rtol=0, atol=1e-12)


def test_group_max_and_mean_reduce_the_heads_of_a_group() -> None:
    rows = torch.tensor([0.9, 0.1, 0.5])[None, None, :, None, None].expand(1, 1, 3, 1, 5).double()
    for group, alpha, active in (
        ("max", 0.8, True),
        ("mean", 0.8, False),
        ("mean", 0.45, True),
        ("max", 0.95, False),
    ):
        policy = LazyEviction(20, 2, alpha=alpha, group=group, grace=0)  # type: ignore[arg-type]
        slots = Slots(0, policy)
        slots.append(*(torch.zeros(1, 1, 4, 1),) * 2)
        policy.prompted(slots, Seen())
        slots.fresh = False
        slots.append(*(torch.zeros(1, 1, 1, 1),) * 2)
        slots.steps += 1
        policy.decoded(slots, Seen(rows=rows))
        assert (slots["recurrence"] == int(active)).all()


def test_query_heads_equal_kv_heads_when_there_is_no_group(tiny: Any, prompt: Any, generate: Any) -> None:
    model, ids = tiny(num_key_value_heads=4), prompt(20)
    runs = [
        generate(model, ids, LazyEviction(9, 3, alpha=0.05, group=g).cache_for(model), 20)
        for g in ("max", "query-head")
    ]
    assert torch.equal(runs[0].sequences, runs[1].sequences)
    assert all(torch.equal(a, b) for a, b in zip(runs[0].logits, runs[1].logits))


def test_per_query_head_stores_the_group_many_times_and_equals_the_full_cache_when_it_fits(
    tiny: Any, prompt: Any, generate: Any, reference: Any
) -> None:
    model, ids = tiny(), prompt(20)
    cache = LazyEviction(40, 3, group="query-head").cache_for(model)
    got, expected = generate(model, ids, cache, 10), reference(model, ids, 10)
    for a, b in zip(got.logits, expected.logits):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
    assert (cache.slots(0).heads, cache.usage().slots[0]) == (4, 29.0)
    small = [LazyEviction(9, 3, alpha=0.05, group=g).cache_for(model) for g in ("max", "query-head")]
    for one in small:
        generate(model, ids, one, 10)
    assert small[1].usage().nbytes[0] == 2 * small[0].usage().nbytes[0]


def test_lag_only_keeps_the_most_recently_active() -> None:
    rows = torch.zeros(6, 20)
    rows[torch.arange(6), torch.tensor([0, 3, 1, 3, 5, 5])] = 1
    kept = replayed(LazyEviction(5, 2, alpha=0.5, variant="lag"), rows, 8)[5]
    assert sorted(kept) == [1, 3, 11, 12, 13]


def test_a_prompt_beyond_the_budget_waits_for_the_first_decision_with_a_warning(
    tiny: Any, prompt: Any, generate: Any
) -> None:
    model = tiny()
    cache = LazyEviction(8, 4).cache_for(model)
    with pytest.warns(UserWarning, match="budget=8: the prompt alone is longer"):
        generate(model, prompt(20), cache, 4)
    assert cache.usage().slots == (23.0,) * 3
    cache = LazyEviction(8, 4).cache_for(model)
    generate(model, prompt(20), cache, 5)
    assert (cache.usage().slots, cache.usage().peak_slots) == ((8.0,) * 3, (24.0,) * 3)


def test_only_recency_counts_when_nothing_is_ever_active_but_the_window(tiny: Any, prompt: Any, generate: Any) -> None:
    """A budget of the window and one more is Local, but for the one."""
    model, ids = tiny(), prompt(20)
    lazy, local = (p.cache_for(model) for p in (LazyEviction(9, 8, alpha=2.0), Local(9, window=8)))
    for cache in (lazy, local):
        generate(model, ids, cache, 17)
    kept, newest = ({p for p in c.slots(1).position[0, 0].tolist() if p >= 0} for c in (lazy, local))
    assert kept - newest == {0} and newest - kept == {27}


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"budget": 8, "window": 8}, "budget=8: lazy-eviction needs at least 9"),
        ({"window": 0}, "window=0"),
        ({"alpha": -0.1}, "alpha=-0.1"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"variant": "h3"}, "variant='h3'"),
        ({"birth": "late"}, "birth='late'"),
        ({"group": "min"}, "group='min'"),
        ({"grace": -1}, "grace=-1"),
    ],
)
def test_bad_parameters_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LazyEviction(**{"budget": 40, **wrong})


def test_attention_that_is_not_a_number_is_refused(fresh: Any, prompt: Any, generate: Any) -> None:
    model = fresh()
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="attention of layer 0 contains NaN"):
        generate(model, prompt(20), LazyEviction(8, 2).cache_for(model))
