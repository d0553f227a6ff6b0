"""Data sets are declared, found, and known by what is in them."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import struct

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.lab import DataFile, Dataset, LabError, data, discover
from heedful.lab.data.content import content_hash
from heedful.lab.doctor import examine

NUMBERS = {"int32": "<i", "int64": "<q", "uint8": "<B", "float64": "<d"}
DTYPES = {"int32": pl.Int32, "int64": pl.Int64, "uint8": pl.UInt8, "float64": pl.Float64, "string": pl.String}
DECLARED = """
from heedful.lab import DataFile, Dataset

datasets = (
    Dataset(
        name="{name}", title="T", licence="CC0", citation="C",
        files=(DataFile("{name}/a.parquet", "https://example.org/a.csv", "{digest}", "{content}", 3, print),),
    ),
)
"""


def plain_body(values, kind):
    """The body of a column as the definition has it, value by value."""
    bits = "".join("01"[value is not None] for value in values)
    out = b"".join(int(bits[at : at + 8][::-1], 2).to_bytes(1, "little") for at in range(0, len(bits), 8))
    if kind.startswith("list<"):
        lists = [value or [] for value in values]
        out += b"".join(struct.pack("<Q", len(entries)) for entries in lists)
        return out + plain_body([entry for entries in lists for entry in entries], kind[5:-1])
    if kind == "string":
        texts = [(value or "").encode() for value in values]
        return out + b"".join(struct.pack("<Q", len(text)) for text in texts) + b"".join(texts)
    return out + b"".join(struct.pack(NUMBERS[kind], 0 if value is None else value) for value in values)


def plain_hash(rows, columns):
    head = json.dumps([rows, [[name, kind] for name, kind, _ in columns]], separators=(",", ":"))
    body = b"".join(plain_body(values, kind) for _, kind, values in columns)
    return hashlib.sha256(b"heedful table 1\n" + head.encode() + b"\n" + body).hexdigest()


def values_of(kind):
    if kind.startswith("list<"):
        return st.none() | st.lists(values_of(kind[5:-1]), max_size=4)
    plain = {
        "int32": st.integers(-(2**31), 2**31 - 1),
        "int64": st.integers(-(2**63), 2**63 - 1),
        "uint8": st.integers(0, 255),
        "float64": st.floats(allow_nan=False),
        "string": st.text(st.characters(codec="utf-8"), max_size=5),
    }
    return st.none() | plain[kind]


def dtype_of(kind):
    return pl.List(dtype_of(kind[5:-1])) if kind.startswith("list<") else DTYPES[kind]


@st.composite
def columns_of_a_table(draw):
    rows = draw(st.integers(0, 20))
    kinds = draw(st.lists(st.sampled_from([*DTYPES, "list<int32>", "list<list<string>>"]), max_size=3))
    columns = []
    for number, kind in enumerate(kinds):
        values = draw(st.lists(values_of(kind), min_size=rows, max_size=rows))
        columns.append((f"c{number}é", kind, values))
    return columns


@given(columns_of_a_table())
def test_content_hash_is_the_digest_that_is_defined(columns):
    table = pl.DataFrame([pl.Series(name, values, dtype_of(kind)) for name, kind, values in columns])
    assert content_hash(table) == plain_hash(table.height, columns)


def test_content_hash_of_a_known_table_never_changes():
    table = pl.DataFrame(
        {
            "n": pl.Series([1, None, -3], dtype=pl.Int32),
            "ids": pl.Series([[1, 2], [], None], dtype=pl.List(pl.Int32)),
            "text": ["a", None, "é"],
            "yes": [True, False, None],
            "x": [0.5, float("nan"), None],
            "day": [dt.date(2023, 11, 16), None, dt.date(1969, 1, 1)],
            "when": pl.Series([dt.datetime(2023, 11, 16, 18, 15, 46), None, None], dtype=pl.Datetime("us", "UTC")),
            "long": pl.Series([dt.timedelta(seconds=1), None, None], dtype=pl.Duration("ms")),
        }
    )
    assert content_hash(table) == "b063cc39e62e8e9a20170588c445d88a9fb5e4bd3d14545dbbcccfdd65d07ba0"


def test_content_hash_does_not_depend_on_the_file(tmp_path):
    rng = np.random.default_rng(0)
    table = pl.DataFrame(
        {
            "n": rng.integers(0, 1000, 5000).astype(np.int32),
            "ids": pl.Series([[int(i)] * (i % 4) for i in rng.integers(0, 9, 5000)], dtype=pl.List(pl.Int32)),
            "kind": pl.Series([None if i % 7 == 0 else f"k{i % 5}" for i in range(5000)]),
        }
    )
    expected = content_hash(table)
    for name, options in {
        "zstd": {"compression": "zstd", "row_group_size": 100},
        "none": {"compression": "uncompressed", "statistics": False},
        "snappy": {"compression": "snappy", "row_group_size": 4999},
    }.items():
        table.write_parquet(tmp_path / f"{name}.parquet", **options)
        assert data.store.content_of(tmp_path / f"{name}.parquet") == expected
    assert len({(tmp_path / f"{name}.parquet").stat().st_size for name in ("zstd", "none", "snappy")}) == 3
    assert content_hash(table.with_columns(pl.col("kind").cast(pl.Categorical))) == expected
    assert content_hash(pl.concat([table[:17], table[17:]], rechunk=False)) == expected


@pytest.mark.parametrize(
    "other",
    [
        pl.DataFrame({"m": [1, 2, 3]}),
        pl.DataFrame({"n": [1, 3, 2]}),
        pl.DataFrame({"n": [1, 2]}),
        pl.DataFrame({"n": [1, 2, None]}),
        pl.DataFrame({"n": pl.Series([1, 2, 3], dtype=pl.Int32)}),
        pl.DataFrame({"n": [1, 2, 3], "o": [1, 2, 3]}),
        pl.DataFrame({"n": [1.0, 2.0, 3.0]}),
    ],
)
def test_content_hash_tells_names_types_values_and_order_apart(other):
    assert content_hash(other) != content_hash(pl.DataFrame({"n": [1, 2, 3]}))


def test_null_zero_and_empty_are_three_things():
    lists = [pl.Series("a", values, dtype=pl.List(pl.Int32)) for values in ([None], [[]], [[None]], [[0]])]
    texts = [pl.Series("a", values, dtype=pl.String) for values in ([None], [""])]
    ints = [pl.Series("a", values, dtype=pl.Int32) for values in ([None], [0])]
    assert len({content_hash(pl.DataFrame(series)) for series in (*lists, *texts, *ints)}) == 8
    nans = [struct.unpack("<d", bits.to_bytes(8, "little"))[0] for bits in (0x7FF8 << 48, 0xFFF8 << 48 | 7)]
    assert len({content_hash(pl.DataFrame({"a": [nan]})) for nan in nans}) == 1


def test_type_without_a_definition_is_refused():
    with pytest.raises(LabError, match=r"^column 'o': no content hash is defined for type Object"):
        content_hash(pl.DataFrame({"o": [object()]}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "/a.parquet"}, "name must be a lower-case relative path"),
        ({"name": "../a.parquet"}, "name must be a lower-case relative path"),
        ({"name": "a.csv"}, "that ends in .parquet"),
        ({"origin": "ftp://example.org/a"}, "is not the http"),
        ({"origin": "https://example.org/"}, "is not the http"),
        ({"sha256": "abc"}, "sha256 must be 64 hex digits"),
        ({"content": "G" * 64}, "content must be 64 hex digits"),
        ({"rows": -1}, "rows and size must be at least 0"),
        ({"size": -1}, "rows and size must be at least 0"),
    ],
)
def test_bad_declaration_is_refused(changed, message):
    fine = {"name": "a/b.parquet", "origin": "https://example.org/b%20c.csv", "sha256": "0" * 64, "content": "1" * 64}
    assert DataFile(**fine, rows=1, convert=print).basename == "b c.csv"
    with pytest.raises(ValueError, match=message) as error:
        DataFile(**{**fine, "rows": 1, "convert": print, **changed})
    assert str(error.value).startswith("data file '") and "\n" not in str(error.value)


def test_bad_dataset_is_refused():
    file = DataFile("a.parquet", "https://example.org/a", "0" * 64, "1" * 64, 1, print)
    for name, files, message in (
        ("all", (file,), "name must be a lower-case name other than 'all'"),
        ("A", (file,), "name must be"),
        ("a", (), "files must be at least one"),
        ("a", (file, file), "declared twice"),
    ):
        with pytest.raises(ValueError, match=message):
            Dataset(name, "T", "CC0", "C", files)


def declaring(name, dataset=None, **changed):
    """The files and the entry point of a package that declares a data set."""
    fields = {"name": dataset or name, "digest": "0" * 64, "content": "1" * 64, **changed}
    files = {"__init__.py": "", "data.py": DECLARED.format(**fields)}
    return name, files, f"[heedful.data]\n{name} = {name}.data\n"


def test_data_sets_of_other_packages_are_found(install):
    install(*declaring("shelf"))
    catalog = discover.data_catalog()
    names = [dataset.name for dataset in catalog.datasets]
    assert "shelf" in names and names == sorted(names)
    assert catalog.file("shelf/a.parquet").rows == 3
    ((dataset, files),) = catalog.select("shelf/a.parquet")
    assert (dataset.name, files) == ("shelf", dataset.files)
    assert catalog.select("shelf") == ((dataset, files),)
    assert {chosen.name for chosen, _ in catalog.select("all")} == set(names)
    with pytest.raises(LabError, match=r"^unknown data set or file 'shelv'; did you mean shelf"):
        catalog.select("shelv")
    with pytest.raises(LabError, match=r"^unknown data file 'shelf/b.parquet'; did you mean shelf/a.parquet"):
        data.declared("shelf/b.parquet")


def test_the_same_data_set_may_be_declared_by_two_packages(install):
    install(*declaring("one", "shared"))
    install(*declaring("two", "shared"))
    install(*declaring("three", "shared", content="2" * 64))
    catalog = discover.data_catalog()
    (shared,) = [dataset for dataset in catalog.datasets if dataset.name == "shared"]
    assert shared.files[0].content == "1" * 64
    found = {problem.where.split(".")[0]: problem.what for problem in catalog.problems}
    assert found == {"three": "declares 'shared' otherwise than another package"}


def test_broken_declarations_are_reported_and_hide_nothing(install):
    install("raises", {"__init__.py": "", "data.py": "1/0"}, "[heedful.data]\nraises = raises.data\n")
    install("empty", {"__init__.py": "", "data.py": ""}, "[heedful.data]\nempty = empty.data\n")
    install(*declaring("right"))
    thief = DECLARED.format(name="right", digest="3" * 64, content="4" * 64).replace('name="right",', 'name="thief",')
    install("thief", {"__init__.py": "", "data.py": thief}, "[heedful.data]\nthief = thief.data\n")
    catalog = discover.data_catalog()
    assert "right" in {dataset.name for dataset in catalog.datasets}
    assert {str(problem) for problem in catalog.problems} == {
        "raises.data (from raises 1.0): cannot be imported: ZeroDivisionError: division by zero",
        "empty.data (from empty 1.0): has no module-level 'datasets = (Dataset(...), ...)'",
        "thief.data (from thief 1.0): declares 'right/a.parquet' otherwise than another data set",
    }
    assert {"raises.data (from raises 1.0)", "thief.data (from thief 1.0)"} <= {finding.what for finding in examine()}


def test_find_verifies_by_content(install, tmp_path, monkeypatch):
    table = pl.DataFrame({"n": [1, 2, 3]})
    install(*declaring("cellar", content=content_hash(table)))
    monkeypatch.setenv("HEEDFUL_DATA", str(tmp_path / "data"))
    assert data.folder() == tmp_path / "data"
    file = data.declared("cellar/a.parquet")
    assert data.find("cellar/a.parquet") is None and data.state(file) == "missing"
    path = tmp_path / "data" / "cellar" / "a.parquet"
    path.parent.mkdir(parents=True)
    for compression in ("zstd", "uncompressed"):
        table.write_parquet(path, compression=compression)
        assert data.find("cellar/a.parquet") == path and data.state(file) == "present"
    assert data.find("cellar/a.parquet", tmp_path) is None
    for altered, what in ((pl.DataFrame({"n": [1, 2, 4]}), "content hash "), (None, "not a readable table")):
        path.write_bytes(b"PAR1") if altered is None else altered.write_parquet(path)
        assert data.state(file) == "altered"
        with pytest.raises(LabError, match=f"another one \\({what}.*expected {file.content[:12]}") as error:
            data.find("cellar/a.parquet")
        assert "\n" not in str(error.value)
    (finding,) = [finding for finding in examine() if finding.what == "data: cellar/a.parquet"]
    assert (finding.state, finding.fix) == ("altered", "move it away, or heedful data fetch cellar/a.parquet --force")


def test_missing_data_are_no_fault(monkeypatch, tmp_path):
    monkeypatch.setenv("HEEDFUL_DATA", str(tmp_path))
    (finding,) = [finding for finding in examine() if finding.what.startswith("data")]
    assert finding.fix == "" and finding.detail.startswith("0 of ") and f"files in {tmp_path}" in finding.detail
