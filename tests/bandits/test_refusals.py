"""What public calls refuse in one line, having changed nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heedful.bandits import (
    OFUL,
    UCB1,
    LinearSystem,
    LinTS,
    LinUCB,
    LSDOptimistic,
    Payoffs,
    Reward,
    SquareCB,
    Support,
    make,
)
from heedful.bandits.auditors import pooled
from heedful.bandits.checks import numbers_of
from heedful.bandits.dynamical import play, polytope_vertices
from heedful.bandits.exploring import mask_of
from heedful.bandits.lsd_planning import greedy, round_robin
from heedful.bandits.lsd_rounding import arms_played, averages

SYSTEM = LinearSystem(np.array([[0.5]]), np.array([[1.0]]), np.array([1.0]), np.array([0.5]))
PAYOFFS = Payoffs([[0.1, 0.2]] * 3, [[0.1, 0.1]] * 3)
NOISE = np.zeros((2, 5))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no scores": (
        lambda: SquareCB().probabilities(np.zeros((2, 0))),
        "there must be at least one action",
    ),
    "no actions": (lambda: mask_of(None, 3, 0), "there must be at least one action"),
    "rows nan": (lambda: SquareCB().probabilities([[0.1, 0.2]], rows=np.nan), "rows=nan: must be a whole number"),
    "rows below": (lambda: SquareCB().probabilities([[0.1, 0.2]], rows=-4), "rows=-4: must be at least 0"),
    "scores text": (lambda: SquareCB().probabilities("ab"), "scores: must be an array of numbers"),
    "seeds": (lambda: play(SYSTEM, [[1.0]], UCB1(), NOISE, [0]), r"noise: must have shape \[1, T\]"),
    "noise": (lambda: play(SYSTEM, [[1.0]], UCB1(), NOISE[0], [0, 1]), r"noise: must have shape \[2, T\]"),
    "range": (lambda: play(SYSTEM, [[1.0]], UCB1(), NOISE, [0, 1], 1.0, 1.0), "low must be below high"),
    "crowd": (
        lambda: play(SYSTEM, np.ones((40_000, 1)), UCB1(), NOISE, [0, 1]),
        "actions: are 40000, at most 32767",
    ),
    "no noise": (
        lambda: play(SYSTEM, [[1.0]], UCB1(), np.zeros((0, 5)), []),
        r"noise: must have shape \[0, T\], a row",
    ),
    "nan noise": (lambda: play(SYSTEM, [[1.0]], UCB1(), NOISE * np.nan, [0, 1]), "noise: must be finite"),
    "text range": (lambda: play(SYSTEM, [[1.0]], UCB1(), NOISE, [0, 1], "a"), "low='a': must be a number"),
    "text as numbers": (lambda: numbers_of("x", ["1", "2"]), "x: must be an array of numbers"),
    "none as numbers": (lambda: numbers_of("x", [1.0, None]), "x: must be an array of numbers"),
    "complex": (lambda: numbers_of("x", [1.0, 2j]), "x: must be an array of numbers"),
    "lengths": (lambda: numbers_of("x", [[1.0], [1.0, 2.0]]), "x: must be an array of numbers"),
    "text context": (lambda: LinUCB().start(2, 2).decide(["1", "2"]), "context: linucb needs an array of numbers"),
    "ragged context": (lambda: LinUCB().start(2, 2).decide([[1], [1, 2]]), "context: linucb needs an array of numbers"),
    "nobody": (lambda: pooled(np.zeros((3, 0, 0)), 0.5), r"distances: must have shape \[m, k, k\]"),
    "one weight": (lambda: Support.of(3.0), "weights: must"),
    "system": (lambda: LinearSystem("x", [[1.0]], [1.0], [1.0]), "a: must be an array of numbers"),
    "flat system": (lambda: LinearSystem(0.5, [[1.0]], [1.0], [1.0]), r"a: must have shape \[1, 1\]"),
    "payoffs": (lambda: Payoffs("a", "b"), "rested: must be an array of numbers"),
    "table": (lambda: Payoffs.of_table("a"), "table: must be an array of numbers"),
    "fewer arms": (lambda: arms_played(greedy(2), PAYOFFS, 5), "is one of 2 arms, payoffs are those of 3"),
    "more arms": (lambda: averages([greedy(4)], PAYOFFS, 5), "is one of 4 arms, payoffs are those of 3"),
    "no rounds": (lambda: averages([round_robin(PAYOFFS)], PAYOFFS, 0), "rounds=0: must be at least 1"),
    "linucb": (lambda: LinUCB(shared="no"), "shared='no': must be True or False"),
    "lints": (lambda: LinTS(shared=1), "shared=1: must be True or False"),
    "squarecb": (lambda: SquareCB(shared=None), "shared=None: must be True or False"),
    "infinite": (lambda: LinUCB(alpha=10**400), r"alpha=10+: must be a number in \[0, inf\)"),
    "ragged mask": (
        lambda: UCB1().start(2).decide(feasible=[[True], [True, False]]),
        "feasible: must be a mask, is",
    ),
    "ragged masks": (lambda: mask_of([[True], [True, False]], 2, 2), "feasible: must be a mask, is"),
    "grid": (lambda: make("ofs").start("ab"), "grid: must be an array of numbers"),
    "vectors": (lambda: OFUL().start("ab"), "actions: must be an array of numbers"),
    "polytope": (lambda: polytope_vertices([[np.nan, 1.0]], [1.0]), "coefficients, limits: must be finite"),
    "polytope's shape": (lambda: polytope_vertices([[1.0]], [1.0, 2.0]), r"\[rows\]; have \[1, 1\], \[2\]"),
    "logged action": (lambda: UCB1().start(3).learn_logged(100_000, 0.5), r"action=100000: must be in 0\.\.2"),
    "logged reward": (lambda: UCB1().start(3).learn_logged(0, np.nan), "reward=nan: must be"),
    "logged chance": (lambda: make("exp3").start(3).learn_logged(0, 0.5, 0.0), r"probability=0.0: must be a number in"),
    "logged context": (lambda: LinUCB().start(3, 1).learn_logged(0, 0.5, 1.0, [np.nan]), "context: must be finite"),
    "logged set": (lambda: make("linucb:shared=true").start(3, 1).learn_logged(1, 0.5, 1.0, [[1.0]]), "action=1: must"),
    "no text": (lambda: make(None), "method None: must be text"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


LEARNERS: dict[str, Callable[[], Any]] = {
    "arms": lambda: UCB1().start(3),
    "linear": lambda: make("linucb").start(3, 2),
    "vectors": lambda: OFUL().start([[1.0], [0.5]]),
    "switching": lambda: LSDOptimistic(horizon=100).start(arms=3, window=2),
}


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize("odd", [np.array([0.5]), 10**400, "0.5", None, [0.5], 0.5j], ids=lambda x: type(x).__name__)
def test_feedback_that_is_no_number_is_refused_and_can_come_again(kind: str, odd: Any) -> None:
    learner = LEARNERS[kind]()
    first, second = ((learner.decide([1.0, 0.0]) if kind == "linear" else learner.decide()).token for _ in range(2))
    for wrong in (Reward(first, odd), [Reward(second, 0.25), Reward(first, odd)]):
        with pytest.raises(ValueError) as error:
            learner.update(wrong)
        assert "\n" not in str(error.value)
        assert learner.counts.learned == 0
    learner.update([Reward(first, 0.5), Reward(second, np.float32(0.25))])
    assert learner.counts.learned == 2


def _changed(change: dict[str, Any], path: Path, target: Path) -> None:
    with np.load(path) as file:
        parts = {name: file[name] for name in file.files}
    for name, how in change.items():
        parts[name] = how(parts[name])
    np.savez(target, **{name: part for name, part in parts.items() if part is not None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ledger.tokens": lambda x: x.astype(str)}, "tokens: is <U"),
        ({"ledger.tokens": lambda x: x + 50}, "tokens: are not those of decisions that were made"),
        ({"ledger.tokens": lambda x: x[:1]}, "values0: are not those of 1 decisions"),
        ({"ledger.numbers": lambda x: x.astype(float)}, "numbers: is float64"),
        ({"ledger.shapes1": lambda x: None}, "lacks 'shapes1'"),
        ({"ledger.values1": lambda x: x[:-1]}, "values1: are not those of 2 decisions"),
        ({"state.estimate": lambda x: x.astype(str)}, "estimate: is <U"),
        ({"state.inverse": lambda x: x.astype(np.float32)}, "inverse: is float32"),
    ],
)
def test_a_saved_learner_that_was_changed_is_refused_and_nothing_is_taken(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    saved, other = (make("linucb").start(3, 2) for _ in range(2))
    for t in range(4):
        token = saved.decide([1.0, float(t)]).token
        if t < 2:
            saved.update(Reward(token, 0.5))
    saved.save(tmp_path / "a.npz")
    _changed(change, tmp_path / "a.npz", tmp_path / "b.npz")
    before = [part.copy() for part in other.state]
    with pytest.raises(ValueError, match=message) as error:
        other.load(tmp_path / "b.npz")
    assert "\n" not in str(error.value) and str(tmp_path / "b.npz") in str(error.value)
    assert all(np.array_equal(a, b) for a, b in zip(before, other.state)) and other.counts.decided == 0
    other.load(tmp_path / "a.npz")
    assert other.counts == saved.counts


@pytest.mark.parametrize("at", [6, 10])
def test_a_file_whose_index_was_damaged_is_refused(at: int, tmp_path: Path) -> None:
    """The version and the method of compression of a zip file's first entry, which zipfile may not know."""
    learner = UCB1().start(2)
    learner.save(tmp_path / "a.npz")
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[data.index(b"PK\x01\x02") + at] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npz: ") as error:
        learner.load(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


def test_weights_that_are_large_have_a_mean_of_their_own() -> None:
    found = Support.of([1e308, 1e308])
    assert (found.ess, found.max_weight, found.mean_weight) == (2.0, 1e308, 1e308)


def test_a_bare_array_is_no_saved_learner(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"a\.npy: is not a saved learner"):
        UCB1().start(2).load(tmp_path / "a.npy")


def test_generators_of_a_saved_learner_are_looked_at_before_anything_is_taken(tmp_path: Path) -> None:
    saved = LSDOptimistic(horizon=100).start(arms=3, window=2)
    saved.update(Reward(saved.decide().token, 0.5))
    saved.save(tmp_path / "a.npz")
    _changed({"state.rngs": lambda x: np.array(["{}"])}, tmp_path / "a.npz", tmp_path / "b.npz")
    other = LSDOptimistic(horizon=100).start(arms=3, window=2)
    with pytest.raises(ValueError, match="rngs: is not the state of a generator"):
        other.load(tmp_path / "b.npz")
    assert not other.state.counts.any()
