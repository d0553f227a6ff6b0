"""What every learner promises; a new method is tested by being listed, a new kind by a file ``driver_<kind>.py``."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heedful.bandits import Labels, Method, Outcome, Reward, make, names
from heedful.bandits.learners import classes


def drivers() -> dict[str, Any]:
    """The driver of every kind."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("driver_*.py")):
        spec = importlib.util.spec_from_file_location(f"bandits_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[module.Driver.KIND] = module.Driver
    return found


DRIVERS = drivers()
SPECS = [*names(), *(spec for driver in DRIVERS.values() for spec in driver.EXTRA)]


@pytest.fixture(params=SPECS)
def driver(request: pytest.FixtureRequest) -> Any:
    kind = classes()[request.param.partition(":")[0]].kind
    assert kind in DRIVERS, f"tests/bandits/driver_{kind}.py is missing"
    return DRIVERS[kind](request.param)


def play(driver: Any, learner: Any, rounds: range) -> list[Any]:
    """Rounds with feedback at once; decisions as numbers."""
    out = []
    for round_ in rounds:
        decision = driver.decide(learner, round_)
        out.append(driver.values(decision))
        learner.update(driver.feedback(decision, round_))
    return out


def of_another_kind(kind: type, token: int) -> list[Any]:
    """Feedback on the decision as other learners take it."""
    each = [Reward(token, 0.5), Outcome(token, 0.5, 0.0, 0.5), Labels(token, np.ones(3))]
    return [one for one in each if type(one) is not kind]


def finite(learner: Any) -> bool:
    return all(np.isfinite(a).all() for a in learner.state_arrays().values() if a.dtype.kind == "f")


def test_a_seed_fixes_every_decision(driver: Any) -> None:
    first, second = driver.start(seed=3), driver.start(seed=3)
    assert play(driver, first, range(60)) == play(driver, second, range(60))


def test_decisions_carry_a_token_and_an_exact_probability(driver: Any) -> None:
    learner = driver.start()
    for round_ in range(20):
        decision = driver.decide(learner, round_)
        assert decision.token == round_
        probability = np.asarray(decision.probability)
        if decision.supported:
            assert ((probability > 0) & (probability <= 1)).all()
        learner.update(driver.feedback(decision, round_))


def test_a_learner_loaded_in_mid_run_goes_on_as_the_one_saved(driver: Any, tmp_path: Path) -> None:
    learner = driver.start(seed=1, max_pending=9, expire_after=40)
    play(driver, learner, range(30))
    pending = [(driver.decide(learner, round_), round_) for round_ in range(30, 42)]
    learner.save(tmp_path / "learner")
    other = driver.start(seed=2, max_pending=9, expire_after=40)
    other.load(tmp_path / "learner")
    assert other.counts == learner.counts and other.counts.pending == 9 and other.counts.expired == 3
    for one in (learner, other):
        one.update([driver.feedback(*waiting) for waiting in reversed(pending)])
    assert other.counts == learner.counts and other.counts.late == 3 and other.counts.pending == 0
    assert play(driver, other, range(42, 80)) == play(driver, learner, range(42, 80))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learner"]


def test_lanes_decide_as_learners_of_their_seeds_and_can_be_saved(driver: Any, tmp_path: Path) -> None:
    seeds = range(3)
    lanes, singles = driver.many(seeds, max_pending=9), [driver.start(seed=seed, max_pending=9) for seed in seeds]
    for round_ in range(60):
        decision = driver.decide_lanes(lanes, round_)  # lane s is asked what others are in round_ + s
        each = [driver.decide(one, round_ + s) for s, one in enumerate(singles)]
        for s, own in enumerate(each):
            for found, expected in zip(driver.lane(decision, s), driver.values(own), strict=True):
                assert found == (expected if isinstance(expected, str) else pytest.approx(expected, abs=1e-12))
        told = [driver.feedback(own, round_ + s) for s, own in enumerate(each)]
        for field in dataclasses.fields(decision):  # what is handed out may be written to
            if isinstance(array := getattr(decision, field.name), np.ndarray):
                array[...] = 0
        if round_ % 5 == 4:
            continue  # never told
        lanes.update(driver.together(decision.token, told))
        for one, feedback in zip(singles, told):
            one.update(feedback)
        if round_ == 30:
            lanes.save(tmp_path / "lanes")
            lanes = driver.many(range(4, 7), max_pending=9)
            lanes.load(tmp_path / "lanes")
    assert lanes.lanes == 3 and all(lanes.counts == one.counts for one in singles)
    with pytest.raises(ValueError, match="was saved by"):
        driver.many(range(2)).load(tmp_path / "lanes")
    for bad in ([], [-1], [0.5]):
        with pytest.raises(ValueError, match="seed"):
            driver.many(bad)


def test_what_cannot_be_loaded_is_refused_and_changes_nothing(driver: Any, tmp_path: Path) -> None:
    learner = driver.start(seed=1)
    (tmp_path / "text").write_text("not a learner")
    np.savez(tmp_path / "arrays.npz", values=np.zeros(3))
    for name in ("text", "arrays.npz"):
        with pytest.raises(ValueError, match="is not a saved learner"):
            learner.load(tmp_path / name)
    stranger = make("ucb1").start(9)
    stranger.save(tmp_path / "stranger")
    with pytest.raises(ValueError, match="was saved by"):
        learner.load(tmp_path / "stranger")
    assert play(driver, learner, range(20)) == play(driver, driver.start(seed=1), range(20))


def test_feedback_out_of_order_in_batches_or_never_is_accounted_for(driver: Any) -> None:
    learner = driver.start()
    decisions = [(driver.decide(learner, round_), round_) for round_ in range(40)]
    assert learner.counts == (40, 40, 0, 0, 0)
    order = np.random.default_rng(0).permutation(40)
    for index in order[:10]:
        learner.update(driver.feedback(*decisions[index]))
    learner.update([driver.feedback(*decisions[index]) for index in order[10:30]])
    learner.update([])
    assert learner.counts == (40, 10, 30, 0, 0)
    assert finite(learner)
    play(driver, learner, range(40, 60))
    assert learner.counts == (60, 10, 50, 0, 0)


def test_expired_decisions_are_counted_and_never_learned_from(driver: Any) -> None:
    learner, untold = driver.start(expire_after=2), driver.start()
    first = driver.decide(learner, 0)
    driver.decide(untold, 0)
    for round_ in range(1, 4):
        driver.decide(learner, round_)
        driver.decide(untold, round_)
    assert learner.counts == (4, 2, 0, 2, 0)
    learner.update(driver.feedback(first, 0))
    assert learner.counts == (4, 2, 0, 2, 1)
    for name, array in untold.state_arrays().items():
        assert np.array_equal(array, learner.state_arrays()[name]), name
    with pytest.raises(ValueError, match="has come already"):
        learner.update(driver.feedback(first, 0))


def test_unknown_and_used_tokens_and_bad_feedback_are_refused_and_change_nothing(driver: Any) -> None:
    learner, twin = driver.start(), driver.start()
    for one in (learner, twin):
        play(driver, one, range(10))
    decision, same = driver.decide(learner, 10), driver.decide(twin, 10)
    good = driver.feedback(decision, 10)
    for bad in driver.bad_feedback(decision):
        with pytest.raises(ValueError):
            learner.update(bad)
        with pytest.raises(ValueError):
            learner.update([bad])
    with pytest.raises(ValueError, match="twice"):
        learner.update([good, good])
    for not_feedback in (1.0, None, [1.0], *(of_another_kind(type(good), 10))):
        with pytest.raises(ValueError, match="feedback"):
            learner.update(not_feedback)
    assert learner.counts.pending == 1
    learner.update(good)
    twin.update(driver.feedback(same, 10))
    with pytest.raises(ValueError, match=r"token=10: its feedback has come already"):
        learner.update(good)
    other = driver.start()
    with pytest.raises(ValueError, match=r"token=10: no such decision was made"):
        other.update(good)
    assert play(driver, learner, range(11, 30)) == play(driver, twin, range(11, 30))


def test_bad_requests_are_refused_in_one_line_and_decide_nothing(driver: Any) -> None:
    learner = driver.start(seed=5)
    for ask in driver.bad_requests(learner):
        with pytest.raises(ValueError) as error:
            ask()
        assert "\n" not in str(error.value) and ":" in str(error.value)
    assert learner.counts.decided == 0
    assert play(driver, learner, range(20)) == play(driver, driver.start(seed=5), range(20))


def test_thin_data_never_gives_nan(driver: Any) -> None:
    for told in range(4):
        learner = driver.start()
        for round_ in range(15):
            decision = driver.decide(learner, round_)
            if round_ < told:
                learner.update(driver.feedback(decision, round_))
            assert not decision.supported or np.isfinite(decision.probability).all()
        assert finite(learner)


def test_a_trivial_world_is_solved(driver: Any) -> None:
    learner, solved = driver.start(seed=7), 0
    for round_ in range(2500):
        decision = driver.decide(learner, round_)
        learner.update(driver.feedback(decision, round_))
        solved += round_ >= 2000 and driver.solved(decision)
    if driver.spec not in driver.LEARNS_NOTHING:
        assert solved >= 400


def test_limits_out_of_range_are_refused(driver: Any) -> None:
    for limits in ({"max_pending": 0}, {"expire_after": -1}, {"max_pending": 1.5}, {"expire_after": True}):
        with pytest.raises(ValueError, match=r"max_pending|expire_after"):
            driver.start(**limits)
    with pytest.raises(ValueError, match="seed"):
        driver.start(seed=-1)


def test_a_method_is_immutable_and_its_parameters_are_documented() -> None:
    for name, cls in classes().items():
        assert issubclass(cls, Method) and cls.name == name
        method = make(name)
        with pytest.raises(AttributeError):
            method.name = "other"
        for field in inspect.signature(cls).parameters:
            assert f"{field}:" in (cls.__doc__ or ""), f"{name}: {field} is not documented"
