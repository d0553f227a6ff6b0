"""Intervals cover what they promise, pairs are what the claim says, and verdicts follow the declared rule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

import heedful.lab as lab
from heedful.lab import intervals
from heedful.lab.judge import Verdict, _select, verdict

METRICS = (
    lab.Metric("reward", "1", "higher", "more is better"),
    lab.Metric("loss", "1", "lower", "less is better"),
    lab.Metric("size", "1", "neither", "just a size"),
    lab.Metric("seconds", "s", "lower", "how long", timing=True),
)
CLAIM = lab.Claim(
    "claim",
    "Ours is better.",
    "reward",
    unit=("seed",),
    treatment={"method": "ours"},
    control={"method": "rival"},
    boundary=True,
)
EXPERIMENT = lab.Experiment(
    slug="toy",
    room="toys",
    title="Toy",
    question="?",
    summary="!",
    paper=lab.Paper("On Toys", "A. Toymaker", 2024),
    metrics=METRICS,
    scales={"smoke": lab.Scale({}), "small": lab.Scale({})},
    cells=lambda params, tuned: [],
    measure=lambda cell, ctx: [],
    claims=(CLAIM,),
)


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows as the store gives them: a cell and a row number, all columns present."""
    names = dict.fromkeys(name for row in rows for name in row)
    full = [
        {"cell": f"{index:04d}", "row": 0} | {name: row.get(name) for name in names} for index, row in enumerate(rows)
    ]
    return pl.DataFrame(full, infer_schema_length=None)


def paired(ours: list[Any], rival: list[Any], metric: str = "reward") -> pl.DataFrame:
    return frame(
        [
            {"method": method, "seed": seed, metric: value}
            for method, series in (("ours", ours), ("rival", rival))
            for seed, value in enumerate(series)
        ]
    )


def decide(rows: pl.DataFrame, **changes: Any) -> Verdict:
    return verdict(EXPERIMENT, replace(CLAIM, **changes), rows)


def coverage(interval: Callable[[np.random.Generator], tuple[float, float]], truth: float, times: int = 800) -> float:
    rng = np.random.default_rng(8)
    return float(np.mean([low <= truth <= high for low, high in (interval(rng) for _ in range(times))]))


MONTE_CARLO = 3.5 * math.sqrt(0.95 * 0.05 / 800)


def test_t_interval_is_the_paired_t_interval() -> None:
    rng = np.random.default_rng(0)
    ours, rival = rng.normal(1, 1, 9), rng.normal(0, 1, 9)
    low, high = intervals.t_interval(ours - rival, None)
    expected = stats.ttest_rel(ours, rival).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_t_interval_covers() -> None:
    """Five seeds that differ by 1, each with 8 items that differ by 2."""

    def once(rng: np.random.Generator) -> tuple[float, float]:
        items = 0.3 + rng.normal(0, 1, (5, 1)) + rng.normal(0, 2, (5, 8))
        return intervals.t_interval(items.mean(axis=1), None)

    assert coverage(once, 0.3) == pytest.approx(0.95, abs=MONTE_CARLO)


@pytest.mark.parametrize("between", [0.0, 1.0])
def test_bootstrap_covers_nested_replications(between: float) -> None:
    """20 seeds with 6 items each, whether seeds differ or only label independent items."""

    def once(rng: np.random.Generator) -> tuple[float, float]:
        items = 0.3 + rng.normal(0, between, (20, 1)) + rng.normal(0, 2, (20, 6))
        return intervals.bootstrap_interval(items.mean(axis=1), None, rng)

    assert coverage(once, 0.3) == pytest.approx(0.95, abs=MONTE_CARLO)


@pytest.mark.parametrize(("n", "make"), [(12, "t"), (60, "bootstrap")])
def test_relative_effects_cover(n: int, make: str) -> None:
    def once(rng: np.random.Generator) -> tuple[float, float]:
        controls = rng.normal(4, 1, n)
        effects = 0.25 * controls + rng.normal(0, 0.5, n)
        if make == "t":
            return intervals.t_interval(effects, controls)
        return intervals.bootstrap_interval(effects, controls, rng)

    assert coverage(once, 0.25, times=400) == pytest.approx(0.95, abs=1.5 * MONTE_CARLO)


@pytest.mark.parametrize("phi", [0.0, 0.6])
def test_block_bootstrap_covers_autocorrelated_logs(phi: float) -> None:
    """An AR(1) log of 800 entries; the block bootstrap is known to be a little short under dependence."""

    def once(rng: np.random.Generator) -> tuple[float, float]:
        noise = rng.normal(0, 1, 900)
        series = np.empty(900)
        last = 0.0
        for index, shock in enumerate(noise):
            series[index] = last = phi * last + shock
        return intervals.block_interval(series[100:] + 0.3, None, rng)

    found = coverage(once, 0.3, times=100)
    assert 0.87 <= found <= 0.99


def test_bootstrap_agrees_with_a_plain_one() -> None:
    rng = np.random.default_rng(3)
    effects = rng.exponential(1.0, 200)
    means = sorted(float(np.mean([effects[i] for i in rng.integers(200, size=200)])) for _ in range(2000))
    low, high = intervals.bootstrap_interval(effects, None, np.random.default_rng(0))
    width = means[1949] - means[49]
    assert (low, high) == pytest.approx((means[49], means[1949]), abs=0.08 * width)


def test_block_bootstrap_of_single_entries_is_the_bootstrap() -> None:
    effects = np.random.default_rng(3).normal(0, 1, 400)
    blocks = intervals.block_interval(effects, None, np.random.default_rng(0), block=1)
    plain = intervals.bootstrap_interval(effects, None, np.random.default_rng(1))
    assert blocks == pytest.approx(plain, abs=0.05 * (plain[1] - plain[0]))


@pytest.mark.parametrize("phi", [0.3, 0.6])
def test_block_length_nears_the_optimum_of_an_autoregression(phi: float) -> None:
    """For AR(1), the optimum is (1.5 (2 phi / (1 - phi^2))^2)^(1/3) n^(1/3)."""
    n = 20_000
    rng = np.random.default_rng(1)
    lengths = []
    for _ in range(5):
        series, last = np.empty(n), 0.0
        for index, shock in enumerate(rng.normal(0, 1, n)):
            series[index] = last = phi * last + shock
        lengths.append(intervals.block_length(series))
    optimum = (1.5 * (2 * phi / (1 - phi**2)) ** 2 * n) ** (1 / 3)
    assert np.mean(lengths) == pytest.approx(optimum, rel=0.3)


def test_many_rows_are_judged_quickly() -> None:
    """10^5 rows of 50 seeds; the bound is generous, the point is that rows are averaged before resampling.

    Processor time, for a busy machine.
    """
    rng = np.random.default_rng(0)
    items = 1000
    rows = pl.DataFrame(
        {
            "cell": np.repeat(np.arange(100).astype(str), items),
            "row": np.tile(np.arange(items), 100),
            "method": np.repeat(np.tile(["ours", "rival"], 50), items),
            "seed": np.repeat(np.repeat(np.arange(50), 2), items),
            "item": np.tile(np.arange(items), 100),
            "reward": rng.normal(0, 1, 100 * items),
        }
    )
    begun = time.process_time()
    found = decide(rows, unit=("seed", "item"))
    assert found.units == 50
    assert time.process_time() - begun < 5.0


@pytest.mark.parametrize(
    ("rule", "d", "gain", "status"),
    [
        ("superior", 0.5, 2.0, "holds"),
        ("superior", 0.5, 0.5, "inconclusive"),
        ("superior", 0.5, -2.0, "fails"),
        ("noninferior", 0.5, 0.0, "holds"),
        ("noninferior", 0.5, -0.5, "inconclusive"),
        ("noninferior", 0.5, -2.0, "fails"),
        ("tie", 0.5, 0.0, "holds"),
        ("tie", 0.5, 0.5, "inconclusive"),
        ("tie", 0.5, 2.0, "fails"),
        ("tie", 0.5, -2.0, "fails"),
    ],
)
def test_rules(rule: str, d: float, gain: float, status: str) -> None:
    noise = np.random.default_rng(5).normal(0, 0.1, 12)
    noise -= noise.mean()
    found = decide(paired(list(gain + noise), [0.0] * 12), rule=rule, d=d)
    assert found.status == status
    assert found.effect == pytest.approx(gain)
    assert found.low is not None and found.high is not None and found.low < gain < found.high
    assert found.units == 12


@pytest.mark.parametrize(("rule", "status"), [("superior", "fails"), ("noninferior", "holds"), ("tie", "holds")])
@pytest.mark.parametrize("n", [4, 40])
def test_complete_tie_has_a_zero_wide_interval(rule: str, status: str, n: int) -> None:
    found = decide(paired([0.5] * n, [0.5] * n), rule=rule)
    assert (found.effect, found.low, found.high, found.status) == (0.0, 0.0, 0.0, status)


def test_lower_is_better_turns_the_sign() -> None:
    rows = paired([1.0, 1.1, 0.9], [2.0, 2.0, 2.1], "loss")
    assert decide(rows, metric="loss").effect == pytest.approx(3.1 / 3)
    assert decide(rows, metric="loss", relative=True).effect == pytest.approx(3.1 / 6.1)
    assert decide(paired([1.0, 1.1], [2.0, 2.0], "size"), metric="size").effect == pytest.approx(-0.95)


@pytest.mark.parametrize(
    ("column", "wanted", "items"),
    [
        ("share", [0.25, 1], 2),
        ("share", 1, 1),
        ("count", 2.0, 1),
        ("count", [1, 2], 2),
        ("flag", True, 1),
        ("flag", None, 1),
        ("flag", [None, False], 2),
        ("text", ("a", "c"), 2),
        ("text", None, 0),
        ("nothing", None, 3),
        ("nothing", "x", 0),
        ("count", "x", 0),
        ("flag", 1, 1),
    ],
)
def test_conditions_select_rows(column: str, wanted: Any, items: int) -> None:
    columns = {
        "share": [0.25, 0.5, 1.0],
        "count": [1, 2, 3],
        "flag": [True, False, None],
        "text": ["a", "b", "c"],
    }
    rows = pl.DataFrame(columns).with_columns(nothing=None)
    assert len(_select(rows, {column: wanted})) == items


def test_number_as_control() -> None:
    found = decide(paired([2.0, 2.2, 1.8], [9.0, 9.0, 9.0]), control=1.5)
    assert found.effect == pytest.approx(0.5)
    assert decide(paired([2.0, 2.2, 1.8], [9.0, 9.0, 9.0]), control=2.0, relative=True).effect == pytest.approx(0.0)


def test_pairs_are_made_within_shared_columns() -> None:
    """Both sides differ over budgets far more than from each other, and one side lacks a budget."""
    rows = []
    for seed in range(3):
        for budget in (10, 100, 1000):
            rows.append({"method": "rival", "seed": seed, "budget": budget, "reward": float(budget + seed)})
            if budget < 1000:
                rows.append({"method": "ours", "seed": seed, "budget": budget, "reward": budget + seed + 0.25})
    found = decide(frame(rows))
    assert (found.effect, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert "3 unpaired left out" in found.note
    only = decide(frame(rows), where={"budget": [10, 1000]})
    assert only.effect == pytest.approx(0.25) and only.units == 3


def test_column_of_one_side_is_averaged_and_named() -> None:
    rows = [
        {"method": "ours", "seed": seed, "alpha": alpha, "reward": alpha} for seed in range(3) for alpha in (1.0, 2.0)
    ]
    rows += [{"method": "rival", "seed": seed, "reward": 1.0} for seed in range(3)]
    found = decide(frame(rows))
    assert found.effect == pytest.approx(0.5)
    assert "averaged over alpha, which one side alone has" in found.note
    assert decide(frame(rows), treatment={"method": "ours", "alpha": 2.0}).effect == pytest.approx(1.0)


def test_column_that_tells_the_sides_apart_is_named() -> None:
    rows = [
        {"method": method, "seed": seed, "setting": setting, "reward": reward}
        for method, setting, reward in (("ours", "alpha=0.5", 2.0), ("rival", "window=8", 1.0))
        for seed in range(3)
    ]
    found = decide(frame(rows))
    assert found.effect == pytest.approx(1.0)
    assert "the sides differ in setting (alpha=0.5 against window=8)" in found.note
    rows.append({"method": "rival", "seed": 3, "setting": "window=9", "reward": 1.0})
    assert "no paired rows" in decide(frame(rows)).note


def test_missing_and_nan_rows_are_left_out_and_counted() -> None:
    found = decide(paired([1.0, None, 3.0, 4.0], [0.0, 0.0, math.nan, 0.0]))
    assert found.effect == pytest.approx(2.5)
    assert found.units == 2
    assert "1 rows of the treatment do not report" in found.note
    assert "1 rows of the control do not report" in found.note
    assert "2 unpaired left out" in found.note


def test_units_weigh_the_same_from_the_outside_in() -> None:
    rows = [
        {"method": method, "seed": seed, "item": item, "reward": float(seed) if method == "ours" else 0.0}
        for method in ("ours", "rival")
        for seed, items in ((0, 10), (1, 1), (2, 1))
        for item in range(items)
    ]
    found = decide(frame(rows), unit=("seed", "item"))
    assert found.effect == pytest.approx(1.0)
    assert found.units == 3
    assert "t interval over 3 values of seed" in found.note


def test_unit_that_was_not_varied_is_named() -> None:
    rows = [
        {"method": method, "seed": 0, "item": item, "reward": float(item % 2) if method == "ours" else 0.0}
        for method in ("ours", "rival")
        for item in range(30)
    ]
    found = decide(frame(rows), unit=("seed", "item"), fixed="one checkpoint")
    assert found.units == 30
    assert found.note == "bootstrap over 30 values of item; one seed; one checkpoint"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reason": "needs a GPU"}, "needs a GPU"),
        ({"unit": ("seed", "item")}, "no row has the unit column 'item'"),
        ({"treatment": {"method": "theirs"}}, "no rows of the treatment"),
        ({"control": {"methods": "rival"}}, "no row has a column 'methods'"),
        ({"metric": "loss"}, "no row has a column 'loss'"),
        ({"where": {"seed": 0}}, "a single replication"),
        ({"kind": "log"}, "a log of 3 entries is too short"),
    ],
)
def test_not_measured_says_why(changes: dict[str, Any], reason: str) -> None:
    found = decide(paired([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]), **changes)
    assert found.status == "not measured" and reason in found.note
    assert found.effect is found.low is found.high is None


def test_sides_that_share_no_unit_are_not_paired() -> None:
    rows = frame([{"method": method, "seed": seed, "reward": 1.0} for seed, method in enumerate(["ours", "rival"] * 3)])
    assert "no paired rows" in decide(rows).note


def test_share_of_nothing_is_not_measured() -> None:
    assert "control's mean is 0" in decide(paired([1.0, 2.0], [-1.0, 1.0]), relative=True).note


def test_exact_claims_count_violations() -> None:
    exact: dict[str, Any] = {"kind": "exact", "metric": "size"}
    held = decide(paired([0.0, 0.0, None], [5.0, 5.0, 5.0], "size"), **exact)
    assert (held.status, held.effect, held.units, held.low) == ("holds", 0.0, 2, None)
    assert held.note == "0 violations over 2 rows of 3 cells; 1 rows do not report it"
    broken = decide(paired([0.0, 2.0, math.nan], [0.0] * 3, "size"), **exact)
    assert (broken.status, broken.effect, broken.units) == ("fails", 3.0, 3)
    assert decide(paired([None, None], [0.0, 0.0], "size"), **exact).status == "not measured"


def test_log_claims_follow_the_order_of_the_log() -> None:
    rng = np.random.default_rng(2)
    drift = np.cumsum(rng.normal(0, 0.1, 400))
    drift -= drift.mean()
    rows = paired(list(1.0 + drift), [0.0] * 400)
    log = decide(rows, kind="log")
    shuffled = decide(paired(list(1.0 + rng.permutation(drift)), [0.0] * 400), kind="log")
    assert log.low is not None and log.high is not None and shuffled.low is not None and shuffled.high is not None
    assert log.high - log.low > 3 * (shuffled.high - shuffled.low)
    assert log.note.startswith("moving-block bootstrap, blocks of ")
    assert decide(rows.sample(fraction=1.0, shuffle=True, seed=1), kind="log") == log


def test_verdict_does_not_depend_on_the_order_of_rows() -> None:
    rng = np.random.default_rng(0)
    rows = paired(list(rng.normal(1, 1, 50)), list(rng.normal(0, 1, 50)))
    assert decide(rows.sample(fraction=1.0, shuffle=True, seed=1)) == decide(rows)


def test_column_of_mixed_kinds_is_selected_by_the_value_that_was_given() -> None:
    rows = frame(
        [
            {"method": method, "seed": seed, "budget": budget, "reward": 1.0 if method == "ours" else 0.0}
            for method in ("ours", "rival")
            for seed in range(3)
            for budget in ("64", "all")
        ]
    )
    assert decide(rows, where={"budget": 64}).effect == pytest.approx(1.0)
    assert decide(rows, where={"budget": "all"}).units == 3
