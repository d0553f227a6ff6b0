"""The originals of the tables of people become the tables that are declared."""

from __future__ import annotations

import hashlib

import polars as pl
import pytest

from heedful.bandits.data import datasets
from heedful.lab.data.content import content_hash
from heedful.lab.discover import data_catalog

NAMES = ("german-credit", "compas-deidentified", "fico-transrisk")
FILES = {file.name: file for dataset in datasets if dataset.name in NAMES for file in dataset.files}
SEPARATOR = {"german-credit/german.parquet": " "}


@pytest.mark.parametrize("name", FILES)
def test_original_made_from_the_table_converts_back(name, data_file, tmp_path):
    file = FILES[name]
    table = pl.read_parquet(data_file(name))
    original = tmp_path / file.basename
    if name in SEPARATOR:
        table.write_csv(original, include_header=False, separator=SEPARATOR[name])
    else:
        table.write_csv(original)
    made = file.convert(original)
    assert made.equals(table) and made.schema == table.schema and made.height == file.rows
    assert content_hash(made) == file.content


@pytest.mark.parametrize("name", ["german-credit/german.parquet", "compas-deidentified/compas.parquet"])
def test_the_original_has_the_declared_digest(name, data_file):
    """Of the two whose numbers are all whole, so that the table gives the original byte for byte."""
    file, table = FILES[name], pl.read_parquet(data_file(name))
    text = table.write_csv(include_header=name not in SEPARATOR, separator=SEPARATOR.get(name, ",")).encode()
    assert len(text) == file.size and hashlib.sha256(text).hexdigest() == file.sha256


def test_tables_are_declared_where_they_are_looked_for():
    found = data_catalog().files
    assert all(found[file.name] == file for file in FILES.values())
