"""The protocol itself: the ledger against a plain one, and a learner with decisions and feedback of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.bandits import Learner, Ledger, Method


@given(
    steps=st.lists(st.one_of(st.none(), st.integers(0, 40)), max_size=80),
    max_pending=st.one_of(st.none(), st.integers(1, 5)),
    expire_after=st.one_of(st.none(), st.integers(1, 9)),
)
def test_the_ledger_equals_a_plain_one(steps: list[Any], max_pending: int | None, expire_after: int | None) -> None:
    ledger, status = Ledger(max_pending, expire_after), []
    late = 0
    for step in steps:
        if step is None:
            assert ledger.issue((len(status),)) == len(status)
            status.append("pending")
            for token, what in enumerate(status):
                over = max_pending is not None and status.count("pending") > max_pending
                old = expire_after is not None and token < len(status) - expire_after
                if what == "pending" and (over or old):
                    status[token] = "expired"
        elif step >= len(status) or status[step] in ("used", "late"):
            with pytest.raises(ValueError, match=f"token={step}"):
                ledger.find(step)
        else:
            kept = ledger.find(step)
            assert kept == ((step,) if status[step] == "pending" else None)
            ledger.close(step)
            late += status[step] == "expired"
            status[step] = "used" if status[step] == "pending" else "late"
    expired = status.count("expired") + late
    assert ledger.counts == (len(status), status.count("pending"), status.count("used"), expired, late)
    copy = Ledger(max_pending, expire_after)
    copy.set_arrays(ledger.arrays())
    assert copy.counts == ledger.counts
    assert [copy.find(t) for t, what in enumerate(status) if what in ("pending", "expired")] == [
        ledger.find(t) for t, what in enumerate(status) if what in ("pending", "expired")
    ]


@pytest.mark.parametrize("token", [-1, 1, 2**70, 0.5, None, "0", [0]])
def test_what_is_no_token_is_refused(token: Any) -> None:
    ledger = Ledger()
    ledger.issue(())
    with pytest.raises(ValueError, match="no such decision was made"):
        ledger.find(token)


def test_issuing_several_equals_issuing_each() -> None:
    one, two = Ledger(max_pending=3, expire_after=4), Ledger(max_pending=3, expire_after=4)
    assert one.issue_all([(i, np.zeros(i)) for i in range(6)]) == range(6)
    for i in range(6):
        two.issue((i, np.zeros(i)))
    assert one.counts == two.counts == (6, 3, 0, 3, 0)
    assert one.issue_all([]) == range(6, 6)


def test_arrays_of_changing_shapes_survive_a_ledger() -> None:
    ledger, copy = Ledger(), Ledger()
    kept = [(np.arange(6.0).reshape(2, 3), 1, 0.5), (np.zeros((0, 3)), 2, 0.25), (np.ones((1, 3)), 3, 1.0)]
    ledger.issue_all(kept)
    copy.set_arrays(ledger.arrays())
    for token, (array, number, chance) in enumerate(kept):
        found = copy.find(token)
        assert found is not None and np.array_equal(found[0], array) and found[1:] == (number, chance)


@dataclass(frozen=True, slots=True)
class Accepted:
    """Which of k people are accepted, each by its own probability."""

    token: int
    accepted: np.ndarray
    probability: np.ndarray
    supported: bool = True


@dataclass(frozen=True, slots=True)
class Labels:
    """0 or 1 for the accepted, NaN for the others."""

    token: int
    labels: np.ndarray


class _Totals(NamedTuple):
    totals: np.ndarray
    rngs: tuple[np.random.Generator, ...]


@dataclass(frozen=True)
class Gate(Method):
    """Accepts at random, more of those who look like those that went well."""

    kind: ClassVar[str] = "gate"

    def start(self, seed: int = 0) -> Gatekeeper:
        return Gatekeeper(self, _Totals(np.zeros((1, 2)), (np.random.default_rng(seed),)))


class Gatekeeper(Learner[Labels]):
    def decide(self, people: np.ndarray) -> Accepted:
        chance = (1 + self.state.totals[0, 0]) / (2 + self.state.totals[0, 1]) * np.ones(len(people))
        accepted = self.state.rngs[0].random(len(people)) < chance
        return Accepted(self.ledger.issue((accepted,)), accepted, np.where(accepted, chance, 1 - chance))

    def check_feedback(self, kept: Any, feedback: Labels) -> None:
        if not np.array_equal(np.isnan(feedback.labels), ~kept[0]):
            raise ValueError("labels: must be there for the accepted, and for them alone")

    def learn(self, kept: Any, feedback: Labels) -> None:
        self.state.totals[0] += np.nansum(feedback.labels), kept[0].sum()


def test_a_learner_with_its_own_decisions_feedback_and_generator_is_saved_like_any_other(tmp_path: Path) -> None:
    learner, other = Gate().start(1), Gate().start(2)
    first = learner.decide(np.zeros(6))
    late = learner.decide(np.zeros(3))
    with pytest.raises(ValueError, match="for them alone"):
        learner.update(Labels(first.token, np.zeros(6)))
    learner.update(Labels(first.token, np.where(first.accepted, 1.0, np.nan)))
    learner.save(tmp_path / "gate.npz")
    other.load(tmp_path / "gate.npz")
    for one in (learner, other):
        one.update([Labels(late.token, np.where(late.accepted, 0.0, np.nan))])
    assert np.array_equal(other.state.totals, learner.state.totals)
    assert np.array_equal(other.decide(np.zeros(50)).accepted, learner.decide(np.zeros(50)).accepted)


def test_a_file_that_lacks_a_part_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    from heedful.bandits import Reward, make

    learner = make("thompson").start(3, seed=1)
    for _ in range(9):
        learner.update(Reward(learner.decide().token, 1.0))
    learner.save(tmp_path / "whole")
    parts = dict(np.load(tmp_path / "whole"))
    before = {name: array.copy() for name, array in learner.state_arrays().items()}
    other = make("thompson").start(3, seed=1)
    for lost in [name for name in parts if name != "about"]:
        np.savez(tmp_path / "cut.npz", **{name: part for name, part in parts.items() if name != lost})
        for one in (learner, other):
            counts = one.counts
            with pytest.raises(ValueError, match="lacks"):
                one.load(tmp_path / "cut.npz")
            assert one.counts == counts
    assert all(np.array_equal(before[name], array) for name, array in learner.state_arrays().items())
    with pytest.raises(ValueError, match="is not a saved learner"):
        learner.load(tmp_path)


def test_a_missing_file_and_a_learner_of_another_shape_are_refused(tmp_path: Path) -> None:
    from heedful.bandits import UCB1

    with pytest.raises(FileNotFoundError):
        UCB1().start(3).load(tmp_path / "nothing")
    UCB1().start(3).save(tmp_path / "three")
    for other in (UCB1().start(4), UCB1(0.5).start(3), UCB1().many(3, seeds=range(2))):
        with pytest.raises(ValueError, match="was saved by"):
            other.load(tmp_path / "three")
