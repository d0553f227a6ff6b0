"""The request logs' originals become the tables that are declared."""

from __future__ import annotations

import datetime as dt
import hashlib
import json

import polars as pl
import pytest

from heedful.lab.data.content import content_hash
from heedful.lab.discover import data_catalog
from heedful.serving.data import datasets

FILES = {file.name.removeprefix("llm-traces/"): file for dataset in datasets for file in dataset.files}
BEGINS = {
    "azure2023_conv.parquet": dt.datetime(2023, 11, 16, 18, 15, 46, 680590),
    "azure2023_code.parquet": dt.datetime(2023, 11, 16, 18, 17, 3, 979960),
}


def azure_csv(table, begins):
    """The log as Azure publishes it: a header, ticks of 100 ns, lines that end in CR LF."""
    rows = (
        f"{begins + dt.timedelta(microseconds=arrival):%Y-%m-%d %H:%M:%S.%f}0,{asked},{answered}"
        for arrival, asked, answered in table.iter_rows()
    )
    return "\r\n".join(("TIMESTAMP,ContextTokens,GeneratedTokens", *rows)).encode()


def mooncake_jsonl(table):
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in table.iter_rows()).encode()


def test_azure_csv_becomes_a_table(tmp_path):
    original = tmp_path / "a.csv"
    original.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 23:59:59.9999990,374,44\n"
        "2023-11-17 00:00:00.0000000,4808,10\n"
        "2023-11-17 01:00:00.5000000,2,1000"
    )
    table = FILES["azure2023_conv.parquet"].convert(original)
    assert dict(table.schema) == {"arrival_us": pl.Int64, "input_tokens": pl.Int32, "output_tokens": pl.Int32}
    assert table.rows() == [(0, 374, 44), (1, 4808, 10), (3_600_500_001, 2, 1000)]


def test_mooncake_jsonl_becomes_a_table(tmp_path):
    original = tmp_path / "a.jsonl"
    original.write_text(
        '{"timestamp": 27, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}\n'
        '{"timestamp": 3027, "input_length": 12, "output_length": 1, "hash_ids": []}\n'
    )
    table = FILES["mooncake_conversation.parquet"].convert(original)
    assert table.schema == {
        "arrival_ms": pl.Int64,
        "input_tokens": pl.Int32,
        "output_tokens": pl.Int32,
        "block_ids": pl.List(pl.Int32),
    }
    assert table.rows() == [(0, 600, 5, [0, 1]), (3000, 12, 1, [])]


@pytest.mark.parametrize("name", FILES)
def test_original_made_from_the_table_is_the_declared_one_and_converts_back(name, data_file, tmp_path):
    file = FILES[name]
    table = pl.read_parquet(data_file(file.name))
    content = azure_csv(table, BEGINS[name]) if name in BEGINS else mooncake_jsonl(table)
    assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)
    original = tmp_path / file.basename
    original.write_bytes(content)
    made = file.convert(original)
    assert made.equals(table) and made.height == file.rows
    assert content_hash(made) == file.content


def test_logs_are_declared_where_they_are_looked_for():
    found = data_catalog().files
    assert all(found[file.name] == file for file in FILES.values())
