"""The store of one layer against a plain model of it: a dict of entries per sequence and head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heedful.kv import Policy, Slots

HEADS = 2


@dataclass(frozen=True)
class Tagged(Policy):
    """Keeps a field of each kind per entry."""

    fields: ClassVar[Mapping[str, torch.dtype]] = {
        "mass": torch.float32,
        "age": torch.int32,
        "mark": torch.bool,
    }


def tag(tokens: Tensor, factor: int) -> Tensor:
    """Keys or values ``[batch, heads, q, d]`` that say which token and head they belong to."""
    head = torch.arange(HEADS, dtype=torch.float64)[None, :, None]
    return (tokens[:, None] * factor + head)[..., None].repeat(1, 1, 1, factor)


class Plain:
    """What the store should hold: per sequence and head, position -> (token, mass, age)."""

    def __init__(self, batch: int) -> None:
        self.length = [0] * batch
        self.held: list[list[dict[int, tuple[int, float, int]]]] = [[{} for _ in range(HEADS)] for _ in range(batch)]
        self.evicted = 0

    def append(self, tokens: Tensor, real: Tensor, born: int) -> None:
        for b, row in enumerate(tokens.tolist()):
            for token, is_real in zip(row, real[b].tolist()):
                if is_real:
                    for head in self.held[b]:
                        head[self.length[b]] = (token, 0.0, born)
                    self.length[b] += 1

    def add_mass(self, amount: dict[int, float]) -> None:
        for item in self.held:
            for head in item:
                for p, (token, mass, age) in head.items():
                    head[p] = (token, mass + amount[token], age)

    def keep_best(self, worth: dict[int, float], keep: list[list[int]], newest: int, ties: str) -> None:
        for b, item in enumerate(self.held):
            for h, head in enumerate(item):

                def rank(p: int, head: dict = head, b: int = b) -> tuple[bool, float, int]:
                    protected = p >= self.length[b] - newest
                    return protected, 0 if protected else worth[head[p][0]], p if ties == "newer" else -p

                chosen = sorted(head, key=rank, reverse=True)[: keep[b][h]]
                self.evicted += len(head) - len(chosen)
                item[h] = {p: head[p] for p in chosen}


def held(slots: Slots) -> list[list[dict[int, tuple[int, float, int]]]]:
    """The same of the real store, checking that keys, values and fields agree about whose they are."""
    result = []
    for b in range(slots.batch):
        item = []
        for h in range(HEADS):
            head = {}
            for column, p in enumerate(slots.position[b, h].tolist()):
                if p >= 0:
                    key, value = slots.keys[b, h, column], slots.values[b, h, column]
                    assert (key == key[0]).all() and (value == value[0]).all()
                    token = (int(key[0]) - h) // 3
                    assert int(value[0]) == token * 2 + h
                    assert p not in head
                    head[p] = (token, float(slots["mass"][b, h, column]), int(slots["age"][b, h, column]))
            item.append(head)
        result.append(item)
    return result


@settings(max_examples=80)
@given(st.data())
def test_any_sequence_of_operations_equals_the_plain_model(data: st.DataObject) -> None:
    batch = data.draw(st.integers(1, 3))
    slots, plain = Slots(0, Tagged(), capacity=data.draw(st.sampled_from([None, 3, 40]))), Plain(batch)
    seen = 0
    for turn in range(data.draw(st.integers(1, 14))):
        act = (
            data.draw(st.sampled_from(["append", "step", "step", "decide", "decide", "drop", "cut", "select"]))
            if turn
            else "append"
        )
        if act in ("append", "step"):
            q = data.draw(st.integers(1, 7)) if act == "append" else 1
            tokens = (torch.arange(seen, seen + q) * 10).repeat(batch, 1) + torch.arange(batch)[:, None]
            real = torch.ones(batch, q, dtype=torch.bool)
            if act == "append" and data.draw(st.booleans()):
                real = (
                    torch.arange(q)
                    >= torch.tensor(data.draw(st.lists(st.integers(0, q - 1), min_size=batch, max_size=batch)))[:, None]
                )
            slots.append(tag(tokens, 3), tag(tokens, 2), None if real.all() else real)
            slots.born("age", turn)
            plain.append(tokens, real, turn)
            seen += q
        elif act in ("decide", "drop"):
            # a score that is the same for a token wherever it is stored, with many ties
            worth_of = data.draw(st.integers(1, 5))
            worth = {t: float((t * 7 // 3) % worth_of) for t in range(0, (seen + 1) * 10)}
            column_token = ((slots.keys[..., 0] - torch.arange(HEADS)[None, :, None]) / 3).round()
            score = (column_token * 7 // 3) % worth_of
            slots["mass"] += torch.where(slots.position >= 0, score, 0.0)
            plain.add_mass(worth)
            most = max(len(h) for item in plain.held for h in item)
            if act == "drop":
                each = torch.tensor([[max(0, len(h) - 1) for h in item] for item in plain.held])
                keep: int | Tensor = each if data.draw(st.booleans()) else max(0, most - 1)
            else:
                count = st.integers(0, most + 1)
                item = st.lists(count, min_size=batch, max_size=batch)
                head = st.lists(st.tuples(*[count] * HEADS), min_size=batch, max_size=batch)
                drawn = data.draw(st.one_of(count, item, head))
                keep = drawn if isinstance(drawn, int) else torch.tensor(drawn)
            newest, ties = data.draw(st.integers(0, 2)), data.draw(st.sampled_from(["older", "newer"]))
            full = torch.as_tensor(keep)
            full = (full if full.ndim == 2 else full.reshape(-1, 1)).expand(batch, HEADS)
            slots.keep_best(score, keep, slots.recent(newest) if newest else None, ties)  # type: ignore[arg-type]
            plain.keep_best(worth, full.tolist(), newest, ties)
        elif act == "cut":
            worth = {t: float(t % 7 // 2) for t in range(0, (seen + 1) * 10)}
            column_token = ((slots.keys[..., 0] - torch.arange(HEADS)[None, :, None]) / 3).round()
            most = max(len(h) for item in plain.held for h in item)
            counts = st.lists(st.integers(0, most + 1), min_size=batch, max_size=batch)
            cuts = torch.tensor(data.draw(st.lists(counts, min_size=1, max_size=3)))
            slots.keep_best(column_token % 7 // 2, cuts[0], ties="older", ranked=True)
            for cut in cuts[1:]:
                slots.truncate(cut)
            left = cuts.amin(dim=0)[:, None].expand(batch, HEADS)
            plain.keep_best(worth, left.tolist(), 0, "older")
        else:
            index = data.draw(st.lists(st.integers(0, batch - 1), min_size=batch, max_size=batch))
            slots.select_batch(torch.tensor(index))
            plain.held = [[dict(head) for head in plain.held[i]] for i in index]
            plain.length = [plain.length[i] for i in index]
        assert held(slots) == plain.held
        assert slots.counts.tolist() == [[len(h) for h in item] for item in plain.held]
        assert slots.entries == sum(len(h) for item in plain.held for h in item)
        lengths = slots.length if isinstance(slots.length, Tensor) else torch.full((batch,), slots.length)
        assert lengths.tolist() == plain.length
        assert slots.evicted == plain.evicted
        assert slots.seen == seen
        valid = slots.valid()
        assert torch.equal(
            slots.position >= 0, torch.ones_like(slots.position, dtype=torch.bool) if valid is None else valid
        )


def filled(n: int, policy: Policy | None = None, d: int = 8) -> Slots:
    slots = Slots(0, policy or Tagged())
    slots.append(torch.randn(2, HEADS, n, d), torch.randn(2, HEADS, n, d))
    slots.fresh = False
    return slots


def test_dropping_the_newest_tokens_restores_what_was_before() -> None:
    slots = filled(10)
    keys, position = slots.keys.clone(), slots.position.clone()
    slots.append(torch.randn(2, HEADS, 4, 8), torch.randn(2, HEADS, 4, 8))
    slots.drop_newest(4)
    assert torch.equal(slots.keys, keys) and torch.equal(slots.position, position)
    assert (slots.length, slots.seen, slots.entries, slots.evicted) == (10, 10, 40, 0)


def test_evicting_most_of_a_prompt_frees_its_memory() -> None:
    slots = filled(1000)
    before = slots.nbytes
    slots.keep_best(torch.rand(2, HEADS, 1000), 100)
    assert slots.nbytes <= before * 0.11
    assert slots.peak_nbytes == before
    entry = 2 * 8 * 4 + 4 + 4 + 4 + 1
    assert slots.nbytes == 2 * HEADS * 101 * entry


def test_truncating_moves_nothing_until_a_fifth_is_free_and_then_frees_it() -> None:
    slots = filled(1000)
    slots.keep_best(torch.rand(2, HEADS, 1000), 500, ranked=True)
    where, full = slots.keys.data_ptr(), slots.nbytes
    kept = slots.position.clone()
    slots.truncate(450)
    assert (slots.keys.data_ptr(), slots.nbytes) == (where, full)
    assert torch.equal(slots.position, kept[..., :450]) and slots.counts.unique().tolist() == [450]
    slots.truncate(torch.tensor([300, 200]))
    assert slots.nbytes == pytest.approx(full * 301 / 501)
    assert slots.counts.tolist() == [[300, 300], [200, 200]]
    assert torch.equal(slots.position[0], kept[0, :, :300])
    assert torch.equal(slots.position[1, :, :200], kept[1, :, :200])
    assert (slots.entries, slots.evicted) == (1000, 3000)
    slots.keep(slots.position >= 0)
    assert (slots.position[0].diff(dim=-1) > 0).all() and (slots.entries, slots.evicted) == (1000, 3000)


def test_one_in_one_out_moves_and_allocates_nothing() -> None:
    slots = filled(50)
    slots.keep_best(torch.rand(2, HEADS, 50), 20)
    slots.append(*(torch.randn(2, HEADS, 1, 8),) * 2)
    slots.keep_best(torch.rand(2, HEADS, 21), 20)
    where = (
        slots.keys.data_ptr(),
        slots.values.data_ptr(),
        slots.position.data_ptr(),
        slots["mass"].data_ptr(),
    )
    nbytes = slots.nbytes
    untouched = slots.keys.clone()
    for _ in range(100):
        slots.append(*(torch.randn(2, HEADS, 1, 8),) * 2)
        changed = (slots.keys != untouched).any(-1).sum(-1)
        assert (changed == 1).all()
        untouched = slots.keys.clone()
        slots.keep_best(torch.rand(2, HEADS, 21), 20)
    assert where == (
        slots.keys.data_ptr(),
        slots.values.data_ptr(),
        slots.position.data_ptr(),
        slots["mass"].data_ptr(),
    )
    assert (slots.nbytes, slots.keys.shape[2], slots.counts.unique().tolist()) == (nbytes, 21, [20])


def test_one_in_one_out_moves_nothing_where_heads_differ_either() -> None:
    slots = filled(50)
    slots.keep_best(torch.rand(2, HEADS, 50), torch.tensor([[20, 7], [12, 31]]))
    slots.append(*(torch.randn(2, HEADS, 1, 8),) * 2)
    where, pages, nbytes = slots.packed.keys.data_ptr(), slots.packed.keys.shape, slots.nbytes  # type: ignore[union-attr]
    for _ in range(60):
        slots.keep_best(torch.rand(2, HEADS, slots.position.shape[2]), slots.counts - 1)
        assert slots.counts.tolist() == [[20, 7], [12, 31]]
        slots.append(*(torch.randn(2, HEADS, 1, 8),) * 2)
        assert (slots.position == slots.length - 1).sum(-1).tolist() == [[1, 1], [1, 1]]
    packed = slots.packed
    assert packed is not None
    assert (packed.keys.data_ptr(), packed.keys.shape, slots.nbytes) == (where, pages, nbytes)
    assert slots.evicted == 2 * HEADS * 50 - 70 + 60 * 4


def test_growing_copies_seldom() -> None:
    slots = filled(10)
    moves, last = 0, slots.keys.data_ptr()
    for _ in range(1000):
        slots.append(*(torch.zeros(2, HEADS, 1, 8),) * 2)
        moves, last = moves + (slots.keys.data_ptr() != last), slots.keys.data_ptr()
    assert moves <= 12


@pytest.mark.parametrize("keep", [3, 9])
def test_scores_that_are_not_numbers_are_refused(keep: int) -> None:
    slots = filled(10)
    score = torch.rand(2, HEADS, 10)
    score[1, 0, 4] = float("nan")
    with pytest.raises(ValueError, match="layer 0 contain NaN"):
        slots.keep_best(score, keep)


@pytest.mark.parametrize("keep", [3, 9])
@pytest.mark.parametrize("worst", [-torch.inf, torch.finfo(torch.float32).min])
def test_infinite_scores_rank_but_never_beat_a_protected_entry(keep: int, worst: float) -> None:
    slots = filled(10)
    score = torch.full((2, HEADS, 10), torch.inf)
    score[..., 4] = worst
    protected = torch.zeros(2, HEADS, 10, dtype=torch.bool)
    protected[..., 4] = True
    slots.keep_best(score, keep, protected)
    assert (slots.position == 4).any(-1).all()


def test_sequences_that_change_places_take_their_holes_along() -> None:
    slots = Slots(0, Tagged())
    tokens = torch.tensor([[0, 1, 2, 3], [10, 11, 12, 13]])
    slots.append(tag(tokens, 3), tag(tokens, 2))
    score = torch.tensor([[0.0, 1, 1, 1], [1, 1, 0, 1]])
    slots.keep_best(score[:, None].expand(2, HEADS, 4), 3)
    slots.select_batch(torch.tensor([1, 0]))
    slots.append(tag(torch.tensor([[14], [4]]), 3), tag(torch.tensor([[14], [4]]), 2))
    kept = [[sorted(token for token, _, _ in head.values()) for head in item] for item in held(slots)]
    assert kept == [[[10, 11, 13, 14]] * HEADS, [[1, 2, 3, 4]] * HEADS]
