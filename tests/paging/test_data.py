"""The page traces' originals become the tables that are declared."""

from __future__ import annotations

import hashlib
import lzma

import numpy as np
import polars as pl
import pytest

from heedful.lab.data.content import content_hash
from heedful.lab.discover import data_catalog
from heedful.paging.data import datasets

FILES = {file.name.removeprefix("cache-traces/"): file for dataset in datasets for file in dataset.files}
DECOMPRESSED = {
    "web07.parquet": "6959eddd318157e012862ba6c87f32d5a878c6c08dddbf999a42d2d378294ab1",
    "web12.parquet": "89f9312922a952ee2d6746b43e39519a90d8649c9d26eeb4f5816beddf288f01",
}
"""Of the two originals whose pages are numbered in order of first appearance already, and which are taken whole."""


def test_pages_are_numbered_in_order_of_first_appearance(tmp_path):
    original = tmp_path / "a.trace.xz"
    original.write_bytes(lzma.compress(np.array([7, 300_000, 7, -5, 0, 300_000], ">i4").tobytes()))
    table = FILES["web07.parquet"].convert(original)
    assert dict(table.schema) == {"page": pl.Int32}
    assert table["page"].to_list() == [0, 1, 0, 2, 3, 1]


@pytest.mark.parametrize("name", ["orm-busy-1m.parquet", "orm-night-1m.parquet"])
def test_the_first_million_requests_are_taken(name, tmp_path):
    pages = np.random.default_rng(0).integers(0, 1000, 1_000_100)
    original = tmp_path / "a.trace.xz"
    original.write_bytes(lzma.compress((pages + 5).astype(">i4").tobytes(), preset=0))
    table = FILES[name].convert(original)
    assert table.height == FILES[name].rows == 1_000_000
    first = list(dict.fromkeys(pages[:1_000_000].tolist()))
    assert np.array_equal(np.array(first)[table["page"].to_numpy()], pages[:1_000_000])


@pytest.mark.parametrize("name", FILES)
def test_original_made_from_the_table_converts_back(name, data_file, tmp_path):
    file = FILES[name]
    table = pl.read_parquet(data_file(file.name))
    raw = (table["page"].to_numpy()).astype(">i4").tobytes()
    assert name not in DECOMPRESSED or hashlib.sha256(raw).hexdigest() == DECOMPRESSED[name]
    original = tmp_path / file.basename
    original.write_bytes(lzma.compress(raw, preset=0))
    made = file.convert(original)
    assert made.equals(table) and made.height == file.rows
    assert content_hash(made) == file.content


def test_traces_are_declared_where_they_are_looked_for():
    found = data_catalog().files
    assert all(found[file.name] == file for file in FILES.values())
