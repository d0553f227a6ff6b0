"""``heedful compare bandits``: how it refuses, in one line that says where what is wrong stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from offers import a_log

from heedful.bandits.commands import measuring


def test_rows_are_named_by_their_place_in_the_file_whatever_they_are_sorted_by(compare: Any, tmp_path: Path) -> None:
    shuffled = a_log(200).sample(fraction=1.0, shuffle=True, seed=3)
    row = pl.int_range(pl.len()) == 150
    zero = shuffled.with_columns(propensity=pl.when(row).then(0.0).otherwise("propensity"))
    zero.write_csv(tmp_path / "zero.csv")
    zero.write_parquet(tmp_path / "zero.parquet")
    broken = zero.with_columns(shop=pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("x\n\ny")).otherwise("shop"))
    broken.write_csv(tmp_path / "broken.csv")
    for name, place in (
        ("zero.csv", "line 152"),
        ("zero.parquet", "row 151 (the first is 1)"),
        ("broken.csv", "line 154"),
    ):
        outcome = compare("--log", name, "--time", "at")
        assert outcome[::2] == (2, f"error: --log {name}: 'propensity' must lie in (0, 1], is 0 in {place}\n")
    for column, told in (("reward", "which is not a number"), ("at", "it must hold dates like 2024-11-15 13:00, or")):
        odd = pl.when(row).then(pl.lit("n/a")).otherwise(pl.col(column).cast(pl.String))
        shuffled.with_columns(odd.alias(column)).write_csv(tmp_path / "odd.csv")
        status, _, err = compare("--log", "odd.csv", "--time", "at")
        assert status == 2 and f"{column!r} is 'n/a' in line 152" in err and told in err
    (tmp_path / "gap.csv").write_text("\n\naction,reward,x\na,1,0\n\n")
    assert "'x' is missing in line 5" in compare("--log", "gap.csv")[2]


LOG, PEOPLE = ("--log", "a.csv"), ("--scores", "p.csv")
REFUSED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no log": (("--log", "none.csv"), ("--log none.csv: No such file",)),
    "no format": (("--log", "a.txt"), ("must end in .csv or .parquet",)),
    "missing columns": ((*LOG, "--action", "act", "--reward", "paid"), ("no column 'act', 'paid'; it has: at, shop",)),
    "missing context": ((*LOG, "--context", "shop,colour"), ("no column 'colour'",)),
    "times as context": (("--log", "a.parquet", "--context", "at"), ("'at'", "cannot be a context")),
    "reward as context": ((*LOG, "--context", "shop,reward"), ("'reward' cannot be a context: it is not there",)),
    "reward as place": ((*LOG, "--position", "reward"), ("'reward' is named by --reward and --position",)),
    "action as place": ((*LOG, "--position", "action"), ("'action' is named by --action and --position",)),
    "action as reward": ((*LOG, "--reward", "action"), ("'action' is named by --action and --reward",)),
    "propensity as time": ((*LOG, "--time", "propensity"), ("'propensity' is named by --propensity and --time",)),
    "sets as context": (
        (*LOG, "--context", "shop,there", "--actions-column", "there"),
        ("'there' is named by --context and --actions-column",),
    ),
    "huge reward": (("--log", "huge.csv"), ("'reward' is 1e+300 in line 5; beyond 1e+30",)),
    "least propensity": (("--log", "least.csv"), ("in (0, 1], is 1e-200 in line 5; below 1e-30",)),
    "nan as time": (("--log", "when.csv", "--time", "at"), ("'at' is nan in line 5; it must be a finite number",)),
    "no reward at all": (("--log", "unpaid.csv"), ("'reward' is missing in line 2",)),
    "endless clip": ((*LOG, "--clip", "inf"), ("--clip inf: must be a number above 0",)),
    "no context": ((*LOG, "--context", ","), ("--context is empty",)),
    "lists as actions": (("--log", "lists.parquet"), ("'action' must hold text or numbers, holds List",)),
    "propensity 0": (("--log", "zero.csv"), ("'propensity' must lie in (0, 1], is 0 in line 5",)),
    "propensity 2": (("--log", "two.csv"), ("'propensity' must lie in (0, 1], is 2 in line 5",)),
    "nan context": (("--log", "nan.csv"), ("'basket' is nan in line 5; it must be a finite number",)),
    "missing action": (("--log", "null.csv"), ("'action' is missing in line 5",)),
    "no action there": (("--log", "empty.csv", "--actions-column", "there"), ("'there' has no action in line 5",)),
    "not among them": (
        ("--log", "other.csv", "--actions-column", "there"),
        ("'action' is 'a' in line 5", "not in its 'there'"),
    ),
    "field too many": (("--log", "wide.csv"), ("--log wide.csv: line 4 has 8 fields, and the header 7",)),
    "not text": (("--log", "latin.csv"), ("--log latin.csv: line 3 is not UTF-8",)),
    "open quote": (("--log", "quote.csv"), ("--log quote.csv: line 3: unexpected end of data",)),
    "text as time": ((*LOG, "--time", "shop"), ("'shop' is 'z' in line 2; it must hold dates like",)),
    "text as reward": ((*LOG, "--reward", "shop"), ("'shop' is 'z' in line 2, which is not a number",)),
    "no such policy": ((*LOG, "--policies", "greedi"), ("--policies 'greedi': is not known; there are: uniform",)),
    "another kind": ((*LOG, "--policies", "ofs"), ("'ofs': does not choose one of a log's actions; there are:",)),
    "greedy with": ((*LOG, "--policies", "greedy:gamma=3"), ("greedy has no parameters; leave out ':gamma=3'",)),
    "best with": ((*LOG, "--policies", "best-action:x=1"), ("best-action has no parameters; leave out ':x=1'",)),
    "no number": ((*LOG, "--policies", "squarecb:gamma=x"), ("gamma=x: must be a number or none",)),
    "bad parameter": ((*LOG, "--policies", "squarecb:gamma=-1"), ("gamma=-1", "must be a number in [0, inf)")),
    "shared": ((*LOG, "--policies", "linucb:shared=true"), ("needs features per action",)),
    "no policy": ((*LOG, "--policies", ","), ("--policies is empty",)),
    "no such model": ((*LOG, "--oracle", "net"), ("--oracle 'net': there are ridge, logistic, boosting, mlp",)),
    "no such estimator": ((*LOG, "--estimators", "mean"), ("--estimators 'mean': there are dr",)),
    "no propensities": (("--log", "bare.csv", "--estimators", "snips"), ("--estimate-propensity",)),
    "replay without": (("--log", "bare.csv", "--policies", "ucb1"), ("'ucb1': is replayed, which needs",)),
    "both": ((*LOG, "--estimate-propensity"), ("the log has propensities",)),
    "split": ((*LOG, "--split", "1.0"), ("--split '1.0'", "below 1")),
    "short": ((*LOG, "--split", "1%"), ("both need 50",)),
    "no file": (("--reward", "x"), ("--reward is for your own log; add --log",)),
    "log and scores": ((*LOG, *PEOPLE), ("compare one of the two",)),
    "scores alone": (("--group", "g"), ("--group is for scored people; add --scores",)),
    "log options": ((*PEOPLE, "--oracle", "ridge"), ("--oracle is for logs; leave out --scores",)),
    "no such group": ((*PEOPLE, "--groups", "A,C"), ("group 'C' never appears in 'group'; there are: A, B",)),
    "one group": ((*PEOPLE, "--groups", "A"), ("--groups names one group, 'A'",)),
    "no group": ((*PEOPLE, "--groups", ","), ("--groups is empty",)),
    "few people": ((*PEOPLE, "--split", "5%"), ("thresholds are found on has 15 people; it needs 50",)),
    "no outcome": ((*PEOPLE, "--outcome", "y"), ("no column 'y'",)),
    "odd outcome": ((*PEOPLE, "--outcome", "again"), ("'again' must be 0, 1 or missing",)),
    "score as group": ((*PEOPLE, "--group", "score"), ("'score' is named by --score and --group",)),
    "nothing observed": (("--scores", "unseen.csv"), ("no outcome was observed: 'outcome' is missing in every row",)),
    "infinite outcome": (("--scores", "infinite.csv", "--groups", "A,B"), ("'outcome' is inf in line 252",)),
    "huge gain": ((*PEOPLE, "--gain", "inf"), ("--gain inf: must be a number of at most 1e+30",)),
    "folder": ((*LOG, "--out", "a.csv"), ("cannot write to a.csv",)),
}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory, people: Any) -> Path:
    """A folder with a good log, good scores, and logs with one defect each."""
    folder = tmp_path_factory.mktemp("bad")
    table = a_log(200).with_columns(there=pl.lit("a|b|c"))
    row = pl.int_range(pl.len()) == 3
    changes = {
        "a": (), "zero": (pl.when(row).then(0.0).otherwise("propensity").alias("propensity"),),
        "two": (pl.when(row).then(2.0).otherwise("propensity").alias("propensity"),),
        "nan": (pl.when(row).then(float("nan")).otherwise("basket").alias("basket"),),
        "null": (pl.when(row).then(None).otherwise("action").alias("action"),),
        "empty": (pl.when(row).then(pl.lit("|")).otherwise("there").alias("there"),),
        "huge": (pl.when(row).then(1e300).otherwise("reward").alias("reward"),),
        "least": (pl.when(row).then(1e-200).otherwise("propensity").alias("propensity"),),
        "when": (pl.when(row).then(float("nan")).otherwise("basket").alias("at"),),
        "unpaid": (pl.lit(None).alias("reward"),),
        "other": (pl.when(row).then(pl.lit("z")).otherwise("there").alias("there"),),
    }  # fmt: skip
    for name, change in changes.items():
        table.with_columns(*change).write_csv(folder / f"{name}.csv")
    table.drop("propensity").write_csv(folder / "bare.csv")
    table.with_columns(action=pl.concat_list("action")).write_parquet(folder / "lists.parquet")
    table.write_parquet(folder / "a.parquet")
    (folder / "a.txt").write_text("x")
    lines = table.head(100).write_csv().encode().splitlines(keepends=True)
    for name, line, odd in (("wide", 3, b"1,2,3,4,5,6,7,8\n"), ("latin", 2, b"\xff\xfe,1\n"), ("quote", 2, b'"a,1\n')):
        (folder / f"{name}.csv").write_bytes(b"".join([*lines[:line], odd, *lines[line:]]))
    people(300).with_columns(again="score").write_csv(folder / "p.csv")
    some = people(300)
    some.with_columns(outcome=pl.lit(None)).write_csv(folder / "unseen.csv")
    of_c = pl.when(pl.int_range(300) < 100).then(pl.lit("C")).otherwise("group")
    infinite = pl.when(pl.int_range(300) == 250).then(float("inf")).otherwise("outcome")
    some.with_columns(group=of_c, outcome=infinite).write_csv(folder / "infinite.csv")
    return folder


@pytest.mark.parametrize(("words", "parts"), REFUSED.values(), ids=list(REFUSED))
def test_bad_usage_is_one_line_before_any_work(
    compare: Any, bad_files: Path, monkeypatch: Any, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    monkeypatch.setattr(measuring, "run", lambda *_: pytest.fail("worked"))
    monkeypatch.chdir(bad_files)
    status, out, err = compare(*words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    for part in parts:
        assert part in err
