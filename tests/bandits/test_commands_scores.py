"""``heedful compare bandits --scores``: thresholds for people with scores, and a limit on groups' rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from heedful.bandits.commands import scores
from heedful.lab.errors import LabError
from heedful.lab.report.comparisons import read_comparisons


def test_thresholds_by_hand() -> None:
    some = scores.People(
        np.array([0.9, 0.6, 0.2, 0.8, 0.4]), np.array([0, 0, 0, 1, 1]), ("A", "B"), np.array([1.0, 0, np.nan, 1, 0])
    )
    assert some.rates(0.5).tolist() == [2 / 3, 1 / 2] and some.gap(0.5) == pytest.approx(1 / 6)
    assert some.rewards(0.5, scores.Terms(0.1, 2.0, 3.0)).tolist() == [2.0, -3.0, 2.0, 0.0]
    assert some.rates(0.9).tolist() == [1 / 3, 0.0]


def test_parity_keeps_the_tolerance_and_pays_for_it(tmp_path: Path, people: Any) -> None:
    people().write_parquet(tmp_path / "p.parquet")
    read = scores.read_people(tmp_path / "p.parquet", "score", "group", "outcome", None)
    before, measured = scores.check_parts(read, 2000)
    terms = scores.Terms(0.1, 1.0, 1.0)
    found = {row["policy"]: row for row in scores.rows(before, measured, terms)}
    assert before.gap(found["parity"]["threshold"]) <= 0.1 < before.gap(found["unconstrained"]["threshold"])
    tried = [at for at in before.candidates() if before.gap(at) <= 0.1]
    assert found["parity"]["threshold"] == max(tried, key=lambda at: before.rewards(at, terms).mean())
    assert found["unconstrained"]["reward"] > found["parity"]["reward"]
    for row in found.values():
        assert row["gap"] == pytest.approx(measured.gap(row["threshold"]))
        assert row["gap_low"] < row["gap"] < row["gap_high"] and row["unobserved"] == pytest.approx(0.1, abs=0.05)
    none = scores.rows(before, measured, scores.Terms(0.0, 1.0, 1.0))[-1]
    assert none["threshold"] == min(before.candidates(), key=before.gap)


def test_scores_printed_and_published(compare: Any, tmp_path: Path, people: Any) -> None:
    people().rename({"score": "s"}).write_csv(tmp_path / "p.csv")
    status, out, err = compare("--scores", "p.csv", "--score", "s", "--tolerance", "0.1", "--loss", "2", "--rounds", 60)
    assert status == 0, err
    assert err.startswith("notice: 10.") and "never observed" in err
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["fixed-0.5", "unconstrained", "parity"]
    assert lines[2].split()[1] == "0.5" and "-2 for an accepted 0" in " ".join(lines)
    second = lines[lines.index("Learning the threshold online") + 2 :]
    learners = ["ofs", "primal-dual-ucb", "pessimistic-search", "threshold-ucb"]
    assert second[0].startswith("best fixed ") and [line.split()[0] for line in second[1:5]] == learners
    (stored,), _ = read_comparisons(tmp_path / "runs")
    assert stored.command == "heedful compare bandits --scores p.csv --score s --tolerance 0.1 --loss 2.0 --rounds 60"
    assert list(stored.tables) == ["p.csv: 2,000 of 4,000 people measured", "Learning the threshold online"]
    assert [title for title, *_ in stored.figures] == ["Reward and gap", "Learning the threshold online"]


def test_scores_on_another_scale_in_three_groups_with_nan_for_the_unobserved(
    compare: Any, tmp_path: Path, people: Any
) -> None:
    table = people().with_columns(
        score=300 + 550 * pl.col("score"), outcome=pl.col("outcome").cast(pl.Float64).fill_null(float("nan")),
        group=pl.when(pl.int_range(pl.len()) % 5 == 0).then(pl.lit("C")).otherwise("group"),
    )  # fmt: skip
    table.write_parquet(tmp_path / "p.parquet")
    status, out, err = compare("--scores", "p.parquet", "--json")
    assert status == 0 and "10.4 % of outcomes were never observed" in err and "there are 3 groups" in err
    ((_, found),) = json.loads(out)["tables"].items()
    assert [row["policy"] for row in found["rows"]] == ["unconstrained", "parity"]
    assert 300 < found["rows"][0]["threshold"] < 850


def test_outcomes_are_named_by_their_place_in_the_file(compare: Any, tmp_path: Path, people: Any) -> None:
    row = pl.int_range(pl.len()) == 150
    for odd, told in ((pl.lit("0.5"), "must be 0, 1 or missing, is 0.5"), (pl.lit("yes"), "is 'yes'")):
        table = people(300).with_columns(outcome=pl.when(row).then(odd).otherwise(pl.col("outcome").cast(pl.String)))
        assert table["outcome"][:150].null_count()
        table.write_csv(tmp_path / "odd.csv")
        status, _, err = compare("--scores", "odd.csv")
        assert status == 2 and f"'outcome' {told} in line 152" in err


def test_a_group_must_be_in_both_parts() -> None:
    some = scores.People(np.linspace(0, 1, 100), np.repeat([0, 1], 50), ("A", "B"), np.ones(100))
    with pytest.raises(LabError, match="'B' does not appear in the part that thresholds are found on"):
        scores.check_parts(some, 40)
