"""RaaS, TOVA, StreamingLLM, Local, Random and the clairvoyant reference against plain references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from heedful.kv import TOVA, Clairvoyant, Local, Policy, RaaS, Random, Share, Slots, StreamingLLM
from heedful.kv.attention import Seen
from heedful.kv.replay import record, simulate

LENGTH, PROMPT = 40, 14
Decide = Callable[[set[int], int, dict[int, Tensor]], set[int]]


def replayed(policy: Policy, model: Any, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Who each query finds alive, ``[layers, heads, T, T]``, and the recorded rows."""
    rows = record(model, ids)
    return simulate(policy, rows, PROMPT)[0], rows


def plain(rows: Tensor, decide: Decide, at_prompt: bool, window: int = 1) -> Tensor:
    """The same of one head, ``[T, T]``; ``decide`` gets who is alive, the time, and weights per query head."""
    alive: set[int] = set(range(PROMPT))
    table = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    table[:PROMPT] = torch.ones(PROMPT, LENGTH, dtype=torch.bool).tril()
    for t in range(PROMPT - 1, LENGTH):
        if t >= PROMPT:
            alive.add(t)
            table[t, sorted(alive)] = True
        total = rows[:, t, sorted(alive)].sum(-1)
        weights = {p: rows[:, t, p] / total for p in alive}
        kept = decide(set(alive), t, weights)
        if (t >= PROMPT or at_prompt) and (t - PROMPT + 1) % window == 0:
            alive = kept
    return table


@pytest.mark.parametrize("window", [1, 4])
def test_tova_drops_what_the_layers_heads_look_at_least(window: int, tiny: Any, prompt: Any) -> None:
    got, rows = replayed(TOVA(9, window), tiny(), prompt(LENGTH))
    for layer in range(3):
        every_head = rows[layer][0].flatten(0, 1)

        def decide(alive: set[int], t: int, weights: dict[int, Tensor]) -> set[int]:
            return set(sorted(alive, key=lambda p: (float(weights[p].mean()), p))[-9:])

        expected = plain(every_head, decide, True, window)
        assert torch.equal(got[layer, 0], expected) and torch.equal(got[layer, 1], expected)


@pytest.mark.parametrize("window", [1, 4])
def test_raas_drops_the_least_recently_used_and_never_the_prompt(window: int, tiny: Any, prompt: Any) -> None:
    alpha, budget = 0.08, PROMPT + 6
    got, rows = replayed(RaaS(budget, window, alpha=alpha), tiny(), prompt(LENGTH))
    left_early = 0
    for layer in range(3):
        for head in range(2):
            used: dict[int, int] = {}

            def decide(alive: set[int], t: int, weights: dict[int, Tensor], used: dict[int, int] = used) -> set[int]:
                for p in alive:
                    if p == t or float(weights[p].max()) >= alpha:
                        used[p] = t
                order = sorted(alive, key=lambda p: (p < PROMPT, used.get(p, -1), p))
                return set(order[-budget:])

            expected = plain(rows[layer][0, head], decide, False, window)
            assert torch.equal(got[layer, head], expected)
            assert got[layer, head, -1, :PROMPT].all()
            left_early += int(not got[layer, head, -1, -6:].all())
    assert window > 1 or left_early > 0


def test_raas_keeps_a_prompt_that_fills_its_budget_and_the_newest_entry(tiny: Any, prompt: Any, generate: Any) -> None:
    model = tiny()
    cache = RaaS(6).cache_for(model)
    generate(model, prompt(20), cache, 10)
    for head in cache.slots(2).position[0]:
        assert sorted(p for p in head.tolist() if p >= 0) == [*range(20), 28]


def test_raas_never_drops_a_later_question(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(), prompt(60)
    cache = RaaS(30, alpha=0.05).cache_for(model)
    with torch.no_grad():
        model(ids[:, :12], past_key_values=cache)
        for t in range(12, 30):
            model(ids[:, t : t + 1], past_key_values=cache)
        model(ids[:, 30:37], past_key_values=cache)
        for t in range(37, 60):
            model(ids[:, t : t + 1], past_key_values=cache)
    given = {*range(12), *range(30, 37)}
    for i in cache.evicting:
        for head in cache.slots(i).position[0]:
            held = {p for p in head.tolist() if p >= 0}
            assert given <= held and len(held) == 30


def test_streaming_llm_holds_sinks_and_the_newest(tiny: Any, prompt: Any) -> None:
    got, _ = replayed(StreamingLLM(9, sinks=3), tiny(), prompt(LENGTH))
    for t in range(PROMPT, LENGTH):
        expected = {0, 1, 2, *range(t - 6, t + 1)}
        for layer in range(3):
            for head in range(2):
                assert set(got[layer, head, t].nonzero()[:, 0].tolist()) == expected


def test_without_sinks_streaming_llm_is_local(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(), prompt(LENGTH)
    a, b = (replayed(p, model, ids)[0] for p in (StreamingLLM(9, sinks=0), Local(9)))
    assert torch.equal(a, b)


@pytest.mark.parametrize("window", [1, 5])
def test_local_holds_the_newest(window: int, tiny: Any, prompt: Any) -> None:
    got, _ = replayed(Local(9, window), tiny(), prompt(LENGTH))
    for t in range(PROMPT, LENGTH):
        oldest = PROMPT - 9 + (t - PROMPT) // window * window
        assert got[0, 0, t].nonzero()[:, 0].tolist() == list(range(oldest, t + 1))


def chosen(policy: Policy, layer: int = 0, heads: int = 2, n: int = 4000, batch: int = 1) -> Tensor:
    slots = Slots(layer, policy)
    slots.append(*(torch.zeros(batch, heads, n, 1),) * 2)
    policy.prompted(slots, Seen())
    return slots.position.sort(dim=-1).values


def test_random_is_uniform_over_positions_and_always_keeps_the_newest() -> None:
    for seed in range(3):
        kept = chosen(Random(1000, seed=seed))[0]
        for head in kept:
            assert head[-1] == 3999 and head.unique().numel() == 1000
            share = torch.histc(head.float(), 10, 0, 4000)
            assert float(((share - 100) ** 2 / (100 * 0.75)).sum()) < 30
            runs = int((head.diff() == 1).sum())
            assert 190 < runs < 310


def test_random_draws_differ_between_heads_layers_and_seeds_but_not_between_items() -> None:
    kept = chosen(Random(500), batch=2)
    assert torch.equal(kept[0], kept[1])
    sets = [
        set(x.tolist())
        for x in (
            kept[0, 0],
            kept[0, 1],
            chosen(Random(500), layer=1)[0, 0],
            chosen(Random(500, seed=1))[0, 0],
        )
    ]
    for i, a in enumerate(sets):
        for b in sets[:i]:
            assert 30 < len(a & b) < 100


def test_random_in_its_window_form_holds_the_same_entries(tiny: Any, prompt: Any) -> None:
    model, ids = tiny(), prompt(LENGTH)
    often, seldom = (replayed(Random(9, w), model, ids)[0] for w in (1, 5))
    after = PROMPT + 5 * 4
    assert torch.equal(often[:, :, after, : after - 1], seldom[:, :, after, : after - 1])


def test_the_clairvoyant_keeps_what_is_needed_soonest_and_its_neighbours(tiny: Any, prompt: Any) -> None:
    needs = {5: [25, 38], 9: [30], 2: [17, 36]}
    policy = Clairvoyant(12, needs=[needs], recent=2)
    got, _ = replayed(policy, tiny(), prompt(LENGTH))
    head = got[1, 0]
    for t in range(PROMPT, LENGTH):
        alive = set(head[t].nonzero()[:, 0].tolist())
        assert {0, t, t - 1} <= alive and len(alive) == 13
        for position, uses in needs.items():
            # the token at position u is predicted by query u - 1
            if any(u - 1 >= t for u in uses):
                assert {position - 1, position, position + 1} <= alive


def test_the_clairvoyant_prefers_the_sooner_need(tiny: Any, prompt: Any) -> None:
    policy = Clairvoyant(6, needs=[{4: [39], 8: [20]}], recent=2)
    head = replayed(policy, tiny(), prompt(LENGTH))[0][0, 0]
    assert {7, 8, 9} <= set(head[19].nonzero()[:, 0].tolist())
    assert not head[19, 4]
    assert not head[22, 8]


def test_the_clairvoyant_needs_one_plan_per_sequence(tiny: Any, prompt: Any, generate: Any) -> None:
    model = tiny()
    policy = Clairvoyant(8, needs=[{1: [3]}])
    with pytest.raises(ValueError, match="needs: given for 1 sequences, but the batch has 2"):
        generate(model, prompt(20, batch=2), policy.cache_for(model))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: StreamingLLM(4), "budget=4: streaming-llm needs at least 5"),
        (lambda: StreamingLLM(9, sinks=-1), "sinks=-1"),
        (lambda: StreamingLLM(9, sinks=Share(0.1)), "sinks="),
        (lambda: RaaS(9, alpha=-1.0), "alpha=-1.0"),
        (lambda: Clairvoyant(4), "budget=4: clairvoyant needs at least 5"),
        (lambda: Clairvoyant(9, recent=-1), "recent=-1"),
        (lambda: Random(9, seed=0.5), "seed=0.5"),
    ],
)
def test_bad_parameters_are_named(build: Callable[[], Policy], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
