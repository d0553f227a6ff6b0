"""The logs' originals become the tables that are declared."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from heedful.bandits.data import datasets
from heedful.lab.data.content import content_hash
from heedful.lab.discover import data_catalog

FILES = {file.name: file for dataset in datasets for file in dataset.files}
LOGS = [name for name in FILES if "/random_" in name or "/bts_" in name]


def test_a_log_is_read_with_its_types(tmp_path: Path) -> None:
    original = tmp_path / "men.csv"
    original.write_text(
        ",timestamp,item_id,position,click,propensity_score,user_feature_0,user-item_affinity_0\n"
        "0,2019-11-24 00:00:34.762830+00:00,14,3,0,0.0125,81ce,0.5\n"
    )
    table = FILES["open-bandit-sample/random_men.parquet"].convert(original)
    assert table["timestamp"].to_list() == [datetime(2019, 11, 24, 0, 0, 34, 762830, UTC)]
    assert table.schema["user_feature_0"] == pl.Categorical and table.schema["user-item_affinity_0"] == pl.Float32
    assert table.columns[1:5] == ["item_id", "position", "click", "propensity_score"]
    items = tmp_path / "item_context.csv"
    items.write_text(",item_id,item_feature_0\n0,0,-0.25\n")
    assert FILES["open-bandit-sample/item_context_men.parquet"].convert(items).rows() == [(0, -0.25)]


@pytest.mark.parametrize("name", LOGS)
def test_an_original_made_from_the_table_converts_back(name: str, data_file: Any, tmp_path: Path) -> None:
    file = FILES[name]
    table = pl.read_parquet(data_file(name))
    numbered = table.with_row_index("").with_columns(
        pl.col("timestamp").dt.strftime("%Y-%m-%d %H:%M:%S%.6f+00:00"), pl.col("^user-item.*$").cast(pl.Float64)
    )
    numbered.write_csv(tmp_path / file.basename)
    made = file.convert(tmp_path / file.basename)
    assert content_hash(made) == file.content and made.height == file.rows


@pytest.mark.parametrize("name", [name for name in FILES if name not in LOGS])
def test_tables_are_what_is_declared(name: str, data_file: Any) -> None:
    table = pl.read_parquet(data_file(name))
    assert table.height == FILES[name].rows and content_hash(table) == FILES[name].content


def test_propensities_of_the_random_logs_are_one_over_the_items(data_file: Any) -> None:
    for campaign, items in (("all", 80), ("men", 34), ("women", 46)):
        table = pl.read_parquet(data_file(f"open-bandit-sample/random_{campaign}.parquet"))
        assert table["propensity_score"].to_numpy() == pytest.approx(1 / items, abs=1e-6)
        assert table["item_id"].max() == items - 1


def test_sets_are_declared_where_they_are_looked_for() -> None:
    found = data_catalog().files
    assert all(found[name] == file for name, file in FILES.items())
