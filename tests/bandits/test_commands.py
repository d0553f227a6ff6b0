"""``heedful compare bandits``: what is measured, printed and stored, and how it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from offers import a_log

from heedful.bandits.commands import logs, made, measuring, options, page, tables
from heedful.bandits.commands.encoder import Encoder
from heedful.bandits.oracle_policies import ContextualEpsilon
from heedful.bandits.oracles import LogisticOracle
from heedful.lab.report.comparisons import read_comparisons


def rows_of(log: logs.Log, policies: str, oracle: str = "logistic", **changed: Any) -> dict[str, dict[str, Any]]:
    """Rows by policy, of the second half."""
    oracles = options.read_oracles(oracle)
    cut = len(log) // 2
    work = measuring.Work(log.part(0, cut), log.part(cut, len(log)), log.part(cut, len(log)).propensities, None)
    names = changed.get("estimators", options.ESTIMATORS)
    outcomes = measuring.run(work, options.read_policies(policies, oracles), oracles, names, 0, lambda *_: None)
    found = measuring.rows(outcomes, work, measuring.Intervals(work.measured.days, len(work.measured)))
    return {row["policy"]: row for row in found}


A_CSV = tables.Source("--log", Path("a.csv"))
NONE: Any = lambda *_: None  # noqa: E731
COLUMNS = logs.Columns(None, "action", "reward", "propensity", None, None, "at")


def test_a_log_is_read_with_its_types() -> None:
    log = logs.from_table(a_log(), COLUMNS, A_CSV)
    assert log.labels == ("a", "b", "c") and log.contexts.columns == ["shop", "basket"]
    assert log.days is not None and len(np.unique(log.days)) == 40
    encode = Encoder.of(log.contexts)
    x = encode(log.contexts)
    assert x.shape == (1200, 5) and x[:, :4].sum() == 1200 and x[:, 3].sum() == 0
    assert x[:, 4].mean() == pytest.approx(0, abs=1e-12) and x[:, 4].std(ddof=1) == pytest.approx(1)
    fresh = encode(pl.DataFrame({"shop": ["w", "x"], "basket": [0.0, 0.0]}))
    assert fresh[:, :4].tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]


def test_rows_are_put_in_the_order_of_time_and_numbered_actions_in_theirs() -> None:
    table = a_log().with_columns(action=pl.col("action").replace_strict({"a": 10, "b": 9, "c": 100}))
    log = logs.from_table(table.sample(fraction=1.0, shuffle=True, seed=1), COLUMNS, A_CSV)
    assert log.labels == ("9", "10", "100") and (np.diff(log.days) >= 0).all()  # type: ignore[arg-type]


def test_times_as_text_are_times() -> None:
    table = a_log().with_columns(pl.col("at").dt.to_string("%Y-%m-%d"))
    plain, text = (logs.from_table(each, COLUMNS, A_CSV) for each in (a_log(), table))
    assert np.array_equal(plain.days, text.days) and plain.contexts.equals(text.contexts)  # type: ignore[arg-type]


@pytest.mark.parametrize("oracle", ["ridge", "logistic"])
def test_policies_are_trained_on_the_scale_of_the_first_part(oracle: str) -> None:
    """A reward out of all proportion in the second half changes no policy, and no learner that is replayed."""
    table = a_log()
    late = table.with_columns(reward=pl.when(pl.int_range(pl.len()) == 1100).then(50).otherwise("reward"))
    found = []
    for each in (table, late):
        log = logs.from_table(each, COLUMNS, A_CSV)
        work = measuring.Work(log.part(0, 600), log.part(600, 1200), log.part(600, 1200).propensities, None)
        oracles = options.read_oracles(oracle)
        rules = options.read_policies("squarecb,softmax,greedy", oracles)
        (learner,) = options.read_policies("thompson", oracles)
        found.append([work.policy(rule, oracles[oracle]) for rule in rules])
        found[-1].append(work.replay(learner.learner, 0)[1][:500])  # type: ignore[arg-type]
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_estimates_know_the_truth_and_policies_only_the_first_half() -> None:
    log = made.payments(1)
    found = rows_of(log, "uniform,greedy,squarecb:gamma=300,ucb1,linucb")
    for name in ("uniform", "greedy", "squarecb:gamma=300"):
        row = found[name]
        error = (row["dr_high"] - row["dr_low"]) / 3.92
        assert abs(row["dr"] - row["truth"]) < 4 * error and row["dr_low"] < row["dr"] < row["dr_high"]
        assert abs(row["snips"] - row["truth"]) < 4 * (row["snips_high"] - row["snips_low"]) / 3.92
        assert row["problems"] == "" and row["unlogged"] == 0.0 and row["replay"] is None
    half = len(log) // 2
    before, after = log.part(0, half), log.part(half, len(log))
    encode = Encoder.of(before.contexts)
    model = LogisticOracle().fit(encode(before.contexts), before.actions, before.rewards, 8)
    scores_ = np.where(after.feasible, model.predict(encode(after.contexts)), -1)
    exact = after.truth[np.arange(half), scores_.argmax(axis=1)].mean()  # type: ignore[index]
    assert found["greedy"]["truth"] == pytest.approx(exact)
    assert found["linucb"]["replay"] > found["ucb1"]["replay"] > found["uniform"]["truth"]
    assert found["greedy"]["gain"] == pytest.approx(found["greedy"]["dr"] - after.rewards.mean())
    assert found["ucb1"]["gain"] == pytest.approx(found["ucb1"]["replay"] - after.rewards.mean())


def test_replay_on_a_uniform_log_is_the_mean_of_the_rows_that_match() -> None:
    table = a_log(seed=4)
    rng = np.random.default_rng(0)
    table = table.with_columns(action=pl.Series(rng.choice(["a", "b", "c"], 1200)), propensity=pl.lit(1 / 3))
    log = logs.from_table(table, COLUMNS, A_CSV)
    row = rows_of(log, "round-robin")["round-robin"]
    after = log.part(600, 1200)
    matches = after.actions == np.arange(600) % 3
    assert row["replay"] == pytest.approx(after.rewards[matches].mean()) and row["matched"] == matches.sum()


def lopsided(n: int = 6000, rare: float = 0.8, seed: int = 0) -> pl.DataFrame:
    """Offer b is logged in a tenth of the rows, wherever, and brings ``rare`` against 0.5."""
    rng = np.random.default_rng(seed)
    taken = rng.random(n) < 0.1
    return pl.DataFrame(
        {
            "x": rng.normal(size=n), "action": np.where(taken, "b", "a"),
            "reward": (rng.random(n) < np.where(taken, rare, 0.5)).astype(int), "propensity": np.where(taken, 0.1, 0.9),
        }
    )  # fmt: skip


@pytest.mark.parametrize("policy", ["exp3", "batched-exp3"])
def test_learners_are_told_the_first_half_with_estimated_propensities_too(policy: str) -> None:
    columns = logs.Columns(("x",), "action", "reward", "propensity", None, None, None)
    log = logs.from_table(lopsided(), columns, A_CSV)
    stated = rows_of(log, policy)[policy]
    before, after = (replace(part, propensities=None) for part in (log.part(0, 3000), log.part(3000, 6000)))
    work = measuring.Work(before, after, None, None)
    work.propensities = measuring.estimated_propensities(after, work.contexts)
    estimate, _ = work.replay(options.read_policies(policy, ["ridge"])[0].learner, 0)  # type: ignore[arg-type]
    assert estimate.value == pytest.approx(stated["replay"], abs=0.1) and estimate.value > 0.7
    assert work.before.propensities == pytest.approx(log.propensities[:3000], rel=0.4)  # type: ignore[index]


def test_a_replayed_ucb1_goes_on_exploring_as_it_would_have() -> None:
    columns = logs.Columns(("x",), "action", "reward", "propensity", None, None, None)
    found = rows_of(logs.from_table(lopsided(2000, rare=0.4), columns, A_CSV), "ucb1,best-action")
    # 0.4 of about 100 rows lies below 0.5 of 900, and its upper bound far above: the rare offer is tried.
    assert found["best-action"]["matched"] is None and found["best-action"]["snips"] == pytest.approx(0.5, abs=0.05)
    assert found["ucb1"]["replay"] == pytest.approx(0.4, abs=0.08) and found["ucb1"]["matched"] < 150


def test_clipping_holds_for_replayed_learners_and_support_is_of_the_weights_as_they_are() -> None:
    columns = logs.Columns(("x",), "action", "reward", "propensity", None, None, None)
    log = logs.from_table(lopsided(1000), columns, A_CSV)
    work = measuring.Work(log.part(0, 500), log.part(500, 1000), log.propensities[500:], 2.0)  # type: ignore[index]
    oracles = options.read_oracles("ridge")
    for out in measuring.run(work, options.read_policies("round-robin,uniform", oracles), oracles, ("snips",), 0, NONE):
        (estimate,) = out.estimates.values()
        assert estimate.denominators.max() == 2.0
        assert out.support is not None and out.support.max_weight > 2.0


def test_rewards_of_any_scale_come_back_in_it() -> None:
    table = a_log()
    plain = rows_of(logs.from_table(table, COLUMNS, A_CSV), "greedy,uniform")
    scaled = rows_of(logs.from_table(table.with_columns(pl.col("reward") * 50 - 20), COLUMNS, A_CSV), "greedy,uniform")
    for name in plain:
        for key in ("dr", "snips", "direct"):
            assert scaled[name][key] == pytest.approx(50 * plain[name][key] - 20, abs=1e-6)


def test_estimated_propensities_are_close_to_the_true_ones_and_never_0() -> None:
    log = made.payments(0).part(0, 4000)
    encode = Encoder.of(log.contexts)
    found = measuring.estimated_propensities(log, encode(log.contexts))
    assert found.min() > 0 and found.max() <= 1
    assert log.propensities is not None
    assert np.corrcoef(found, log.propensities)[0, 1] > 0.7
    assert (1 / found).mean() == pytest.approx(log.feasible.sum(axis=1).mean(), rel=0.25)


def test_intervals_by_days_are_wide_where_days_differ() -> None:
    rng = np.random.default_rng(0)
    days = np.repeat(np.arange(30), 40)
    rewards = (rng.random(1200) < rng.random(30)[days]).astype(float)
    ones = np.ones(1200)
    low, high = measuring.Intervals(days, 1200)(rewards, ones)
    alone = 3.92 * rewards.std() / np.sqrt(1200)
    assert high - low > 2 * alone and low < rewards.mean() < high
    assert not measuring.Intervals(days // 3, 1200).by_days


def test_what_a_log_cannot_carry_is_said() -> None:
    log = made.payments(0)
    few = rows_of(log.part(0, 300), "greedy,uniform")
    assert "effective sample size" in few["greedy"]["problems"]
    work = measuring.Work(log.part(0, 5000), log.part(5000, 9000), log.propensities[5000:9000], None)  # type: ignore[index]
    assert measuring.odd_propensities(work) == ""
    work.propensities = work.propensities * 0.5  # type: ignore[operator]
    assert "do not fit the log" in measuring.odd_propensities(work)


def test_rare_rewards_give_no_interval() -> None:
    table = a_log().with_columns(reward=pl.when(pl.int_range(pl.len()) % 400 == 7).then(1).otherwise(0))
    row = rows_of(logs.from_table(table, COLUMNS, A_CSV), "uniform")["uniform"]
    assert row["snips_low"] is None and row["snips"] is not None and row["problems"].endswith("is not 0: 1")


def test_printed_stored_and_published(compare: Any, tmp_path: Path) -> None:
    a_log().write_parquet(tmp_path / "offers.parquet")
    words = ("--log", "offers.parquet", "--time", "at", "--policies", "uniform,greedy,ucb1", "--context", "shop,basket")
    status, out, err = compare(*words)
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("offers.parquet: 600 of 1,200 decisions measured, ")
    assert lines[1].split()[:4] == ["policy", "model", "doubly", "robust"] and "ESS" in lines[1]
    assert [line.split()[0] for line in lines[2:5]] == ["uniform", "greedy", "ucb1"]
    assert "drawing days again" in out
    assert Path(lines[-1].partition("report: ")[2]).parent == tmp_path / "site" / "comparisons"
    (stored,), problems = read_comparisons(tmp_path / "runs")
    assert problems == []
    assert stored.command == (
        "heedful compare bandits --log offers.parquet --time at --policies uniform,greedy,ucb1 --context shop,basket"
    )
    (frame,) = stored.tables.values()
    assert frame["policy"].to_list() == ["uniform", "greedy", "ucb1"] and frame["dr"][1] > frame["dr"][0] + 0.1
    assert [title for title, *_ in stored.figures] == [
        "What policies would have brought", "How far the log carries each policy",
    ]  # fmt: skip


def test_json_and_a_csv_without_propensities(compare: Any, tmp_path: Path) -> None:
    a_log().drop("propensity", "at").write_csv(tmp_path / "a.csv")
    status, out, err = compare("--log", "a.csv", "--policies", "uniform,greedy", "--json")
    assert status == 0, err
    ((_, table),) = json.loads(out)["tables"].items()
    assert [row["dr"] for row in table["rows"]] == [None, None] and table["rows"][0]["direct"] is not None
    assert "no more than this" in table["note"] and table["rows"][0]["ess"] is None
    status, out, err = compare("--log", "a.csv", "--policies", "uniform,greedy", "--estimate-propensity")
    assert status == 0 and "SNIPS (estimated p)" in out and "Propensities are estimated" in out


def test_sets_of_actions_from_lists_and_from_text(compare: Any, tmp_path: Path) -> None:
    table = a_log().with_columns(there=pl.when(pl.col("action") == "c").then(pl.lit("b|c")).otherwise(pl.lit("a|b")))
    table.write_csv(tmp_path / "a.csv")
    columns = logs.Columns(("shop",), "action", "reward", "propensity", "there", None, None)
    source = tables.Source("--log", tmp_path / "a.csv")
    log = logs.from_table(tables.read_table(source), columns, source)
    lists = logs.from_table(table.with_columns(pl.col("there").str.split("|")), columns, A_CSV)
    assert np.array_equal(log.feasible, lists.feasible) and log.feasible.sum(axis=1).tolist() == [2] * 1200
    flags = table.with_columns(action=pl.col("action") == "a", there=pl.lit([True, False]))
    assert logs.from_table(flags, columns, A_CSV).labels == ("false", "true")
    uniform = rows_of(log, "uniform")["uniform"]
    assert uniform["max_weight"] == pytest.approx(0.5 / 0.2)


def test_without_options_a_log_is_made(compare: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(made, "ROWS", 2000)
    status, out, err = compare("--policies", "uniform,squarecb")
    assert status == 0 and out.startswith("Made payments: 1,000 of 2,000 decisions measured") and "true value" in out


def test_rounded_propensities_are_not_taken_for_wrong_ones(compare: Any, tmp_path: Path) -> None:
    a_log(400).with_columns(propensity=pl.lit(0.333333)).write_csv(tmp_path / "thirds.csv")
    assert "do not fit the log" not in compare("--log", "thirds.csv", "--policies", "uniform")[2]
    a_log(400).with_columns(propensity=pl.lit(0.3)).write_csv(tmp_path / "wrong.csv")
    assert "do not fit the log" in compare("--log", "wrong.csv", "--policies", "uniform")[2]


def test_columns_taken_as_context_are_named_and_those_like_propensities(compare: Any, tmp_path: Path) -> None:
    a_log(400).rename({"propensity": "p"}).write_csv(tmp_path / "p.csv")
    assert compare("--log", "p.csv", "--policies", "uniform")[2].endswith("was done with, add --propensity p\n")
    table = a_log(400).rename({"propensity": "Action_Prob"})
    table.with_columns(problem=pl.lit(0.5)).write_csv(tmp_path / "a.csv")
    status, _, err = compare("--log", "a.csv", "--policies", "uniform")
    told = "taken as context: shop, basket, Action_Prob, problem; --context names others"
    like = "if 'Action_Prob' is the probability that the action was done with, add --propensity Action_Prob"
    assert status == 0 and err == f"notice: {told}; {like}\n"
    stored, _ = read_comparisons(tmp_path / "runs")
    assert any(f"{told}; {like}" in each.facts.values() for each in stored)
    table.with_columns(pl.col("Action_Prob") * 2).write_csv(tmp_path / "b.csv")
    assert compare("--log", "b.csv", "--policies", "uniform")[2].endswith("--context names others\n")
    for words in (("--context", "shop"), ("--propensity", "Action_Prob")):
        assert "context" not in compare("--log", "a.csv", "--policies", "uniform", *words)[2]


def test_a_column_of_numbers_but_for_a_few_values_is_said_to_be_text(compare: Any, tmp_path: Path) -> None:
    row = pl.int_range(pl.len())
    text = pl.col("basket").cast(pl.String)
    table = a_log(200).sample(fraction=1.0, shuffle=True, seed=1)
    one = table.with_columns(basket=pl.when(row == 9).then(pl.lit("n/a")).otherwise(text))
    one.write_csv(tmp_path / "one.csv")
    told = "'basket' is taken as text: it is 'n/a' in line 11, though 99.5 % of its values are numbers"
    words = ("--policies", "uniform", "--time", "at")
    assert compare("--log", "one.csv", *words, "--context", "shop,basket")[2].count(f"notice: {told}\n") == 1
    (stored,), _ = read_comparisons(tmp_path / "runs")
    assert any(told in fact for fact in stored.facts.values())
    assert "as text" not in compare("--log", "one.csv", *words, "--context", "shop")[2]
    table.with_columns(basket=pl.when(row % 5 == 0).then(pl.lit("n/a")).otherwise(text)).write_csv(
        tmp_path / "many.csv"
    )
    assert "as text" not in compare("--log", "many.csv", *words)[2]


def test_names_of_actions_that_look_a_little_like_numbers_are_text() -> None:
    table = a_log().with_columns(action=pl.col("action").replace_strict({"a": "--1", "b": "-2", "c": "10"}))
    assert logs.from_table(table, COLUMNS, A_CSV).labels == ("-2", "10", "--1")


def test_the_largest_numbers_that_are_read_are_computed_with(compare: Any, tmp_path: Path, recwarn: Any) -> None:
    sign = pl.when(pl.col("reward") > 0).then(1e30).otherwise(-1e30)
    a_log(300).with_columns(reward=sign, propensity=pl.lit(1e-30), basket=sign).write_csv(tmp_path / "a.csv")
    assert compare("--log", "a.csv", "--policies", "uniform,greedy,ucb1,linucb,gaussian-thompson")[0] == 0
    assert [str(each.message) for each in recwarn if each.category is RuntimeWarning] == []


def test_policies_with_commas_inside() -> None:
    found = options.read_policies("squarecb:scale=1,exponent=0.3,ucb1,uniform", ["ridge", "logistic"])
    assert [(c.spec, c.oracle) for c in found] == [
        ("squarecb:scale=1,exponent=0.3", "ridge"), ("squarecb:scale=1,exponent=0.3", "logistic"),
        ("ucb1", ""), ("uniform", ""),
    ]  # fmt: skip
    assert found[3].rule == ContextualEpsilon(epsilon=1.0)


def test_the_page_draws_what_it_is_given() -> None:
    rows = list(rows_of(made.payments(0).part(0, 1000), "uniform,greedy,ucb1").values())
    table = page.policies("t", "n", rows, options.ESTIMATORS, False)
    values, support = page.figures(table, 0.5, options.ESTIMATORS)
    assert set(values.table["estimator"]) == {"doubly robust", "SNIPS", "IPS", "direct", "replay", "true value"}
    assert support.table.height == 3 and values.chart.to_dict() and support.chart.to_dict()
