"""Traces from files: every format says the same, ids keep their 64 bits, and what is wrong is said in one line."""

import struct

import numpy as np
import polars as pl
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.paging import Trace
from heedful.paging.traces import RECORD, read_trace
from heedful.paging.work import zipf_with_scans

IDS = [7, 3, 7, 2**63 - 1, 0, 3]
PAGES = [0, 1, 0, 2, 3, 1]


def records(ids):
    """The bytes of an oracleGeneral file, written field by field."""
    return b"".join(struct.pack("<IQIq", t, page, 100 + t, -1) for t, page in enumerate(ids))


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def forms(folder, ids):
    """The same ids in every format."""
    lines = "".join(f"{page}\n" for page in ids)
    plain = {
        "a.txt": lines,
        "b.csv": f"page\n{lines}",
        "c.csv": "time,page\n" + "".join(f"{t},{page}\n" for t, page in enumerate(ids)),
        "d.oracleGeneral": records(page % 2**64 for page in ids),
        "e.oracleGeneral.bin": records(page % 2**64 for page in ids),
    }
    paths = [write(folder, name, content) for name, content in plain.items()]
    for path in list(paths):
        paths.append(write(folder, f"{path.name}.zst", zstandard.compress(path.read_bytes())))
    table = pl.DataFrame({"page": ids, "time": range(len(ids))})
    for name, frame in {
        "f.parquet": table,
        "g.parquet": table.select(key=pl.col("page").cast(pl.String)),
        "h.parquet": table.select(block_ids=pl.concat_list("page")),
    }.items():
        frame.write_parquet(folder / name)
        paths.append(folder / name)
    return paths


def test_every_format_reads_the_same(tmp_path):
    for path in forms(tmp_path, IDS):
        trace = read_trace(path)
        assert (trace.pages.tolist(), trace.distinct, trace.name) == (PAGES, 4, path.name), path


@settings(max_examples=25)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1) | st.lists(st.integers(0, 2**64 - 1), min_size=1))
def test_ids_of_64_bits_signed_or_unsigned(tmp_path_factory, ids):
    folder = tmp_path_factory.mktemp("ids")
    expected = Trace.of(np.unique(np.array(ids, dtype=object), return_inverse=True)[1]).pages.tolist()
    for path in forms(folder, ids):
        assert read_trace(path).pages.tolist() == expected, path


def test_names_are_pages_too(tmp_path):
    names = ["/cart", "/home", "/cart", "naïve, or not", "7"]
    frame = pl.DataFrame({"obj_id": names, "size": 1})
    frame.write_csv(tmp_path / "a.csv")
    for number, dtype in enumerate((pl.String, pl.Categorical, pl.Binary)):
        frame.with_columns(pl.col("obj_id").cast(dtype)).write_parquet(tmp_path / f"{number}.parquet")
    for path in tmp_path.iterdir():
        assert read_trace(path).pages.tolist() == [0, 1, 0, 2, 3], path


def test_lists_are_concatenated(tmp_path):
    blocks = pl.DataFrame({"block_ids": [[5, 6], [], [5, 6, 7], [8]], "time": [0, 1, 2, 3]})
    blocks.write_parquet(tmp_path / "a.parquet")
    assert read_trace(tmp_path / "a.parquet", "block_ids").pages.tolist() == [0, 1, 0, 1, 2, 3]


def test_columns_are_found_or_named(tmp_path):
    path = write(tmp_path, "a.csv", "time, key\n1, 5\n2, 6\n3, 5\n")
    assert read_trace(path).pages.tolist() == read_trace(path, "key").pages.tolist() == [0, 1, 0]
    assert read_trace(path, column="time").distinct == 3


def test_names_of_files_say_their_format_unless_it_is_given(tmp_path):
    for name in ("cluster52.oracleGeneral.sample10.zst", "w.ORACLEGENERAL.bin"):
        assert read_trace(write(tmp_path, name, records(IDS))).pages.tolist() == PAGES
    assert read_trace(write(tmp_path, "ids.log", "7\r\n3\r\n7\r\n\r\n"), format="txt").pages.tolist() == [0, 1, 0]


def test_records_have_24_bytes_and_only_their_id_counts(tmp_path):
    assert RECORD.itemsize == 24
    one = write(tmp_path, "a.oracleGeneral", records(IDS))
    other = write(tmp_path, "b.oracleGeneral", b"".join(struct.pack("<IQIq", 9, page, 1, 4) for page in IDS))
    assert read_trace(one).pages.tolist() == read_trace(other).pages.tolist()


def test_long_compressed_files_of_several_frames(tmp_path):
    ids = np.random.default_rng(0).integers(2**64, size=200_000, dtype=np.uint64)
    data = np.zeros(len(ids), dtype=RECORD)
    data["id"] = ids
    cut = 24 * 70_000 + 5  # within a record
    frames = [zstandard.compress(data.tobytes()[:cut]), zstandard.compress(data.tobytes()[cut:])]
    trace = read_trace(write(tmp_path, "a.oracleGeneral.zst", b"".join(frames)))
    assert np.array_equal(trace.pages, Trace.of(ids).pages)


BROKEN = {
    "no such file": ("a.csv", None, "No such file"),
    "empty txt": ("a.txt", "", "holds no request"),
    "empty csv": ("a.csv", "", "holds no request"),
    "header only": ("a.csv", "page\n", "holds no request"),
    "empty oracleGeneral": ("a.oracleGeneral", b"", "holds no request"),
    "record cut off": ("a.oracleGeneral", records(IDS)[:-7], "the record at byte offset 120 is cut off: 17 of 24"),
    "zstd cut off": ("a.oracleGeneral.zst", zstandard.compress(records(IDS))[:-3], "is cut off at byte"),
    "zstd damaged": ("a.txt.zst", b"\x28\xb5\x2f\xfd" + 40 * b"\xff", "damaged zstd data"),
    "not parquet": ("a.parquet", "page\n1\n", "not a readable Parquet file"),
    "parquet cut off": ("a.parquet", b"PAR1" + 40 * b"\0" + b"PAR1", "not a readable Parquet file"),
    "unknown format": ("a.dat", "1\n", "its name does not say its format"),
    "not an integer": ("a.txt", "1\n2\nx3\n", "line 3: 'x3' is not an integer"),
    "empty line": ("a.txt", "1\n\n3\n", "line 2: holds no page"),
    "65 bits": ("a.txt", f"1\n{2**64}\n", "line 2: '18446744073709551616' is an id beyond 64 bits"),
    "65 bits in csv": ("a.csv", f"page\n{-(2**63) - 1}\n", "line 2: '-9223372036854775809' is an id beyond 64 bits"),
    "both signs": ("a.txt", f"{2**64 - 1}\n-1\n", "line 2: a negative id"),
    "too many fields": ("a.csv", "page,b\n1,2\n1,2,3\n", "line 3: has 3 fields where the header has 2"),
    "no page in a row": ("a.csv", "a,page\n1,2\n1\n", "line 3: holds no page"),
    "empty name": ("a.csv", 'a,page\n"two\nlines",x\n1,""\n', "line 4: holds no page"),
    "quotes": ("a.csv", 'page,b\n1,2\n"3,4\n5,6\n', "the row after line 2"),
    "header again": ("a.csv", "page\n" + 1500 * "1\n" + "page\n", "line 1502: 'page' is not an integer"),
    "not utf-8": ("a.csv", b"page\n1\n\xff\n", "line 3: not UTF-8"),
    "no header": ("a.csv", "1\n2\n", "has no header line"),
    "columns": ("a.csv", "time,who\n1,2\n", "none of its columns is called page, id, key, obj_id", "one of: time, who"),
    "two columns": ("a.csv", "id,key\n1,2\n", "several of its columns are called", "one of: id, key"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "parts"), [(a, b, c) for a, b, *c in BROKEN.values()], ids=BROKEN)
def test_what_is_wrong_is_said_in_one_line(tmp_path, name, content, parts):
    path = tmp_path / name if content is None else write(tmp_path, name, content)
    with pytest.raises(ValueError) as refused:
        read_trace(path)
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)
    for part in parts:
        assert part in str(refused.value)


def test_parquet_rows_without_a_page_and_pages_of_another_kind(tmp_path):
    path = tmp_path / "a.parquet"
    for frame, problem in (
        (pl.DataFrame({"page": [1, None]}), "row 2: holds no page"),
        (pl.DataFrame({"page": [[1], None]}), "row 2: holds no page"),
        (pl.DataFrame({"page": [[1], [2, None]]}), "entry 3 of all lists: holds no page"),
        (pl.DataFrame({"page": [0.5]}), "column 'page' holds Float64"),
        (pl.DataFrame({"page": [[[1]]]}), "column 'page' holds List"),
        (pl.DataFrame({"page": pl.Series([], dtype=pl.Int64)}), "holds no request"),
        (pl.DataFrame({"page": [2**70]}, schema={"page": pl.Int128}), "an id beyond 64 bits"),
    ):
        frame.write_parquet(path)
        with pytest.raises(ValueError, match=problem.replace("[", r"\[")):
            read_trace(path)


def test_wrong_parameters(tmp_path):
    path = write(tmp_path, "a.txt", "1\n")
    with pytest.raises(ValueError, match="format='json': must be one of csv, parquet, txt, oracleGeneral"):
        read_trace(path, format="json")
    with pytest.raises(ValueError, match="column 'page': a file of format txt has no columns"):
        read_trace(path, column="page")
    with pytest.raises(ValueError, match="has no column 'b'; it has: a"):
        read_trace(write(tmp_path, "a.csv", "a\n1\n"), column="b")
    with pytest.raises(ValueError):
        read_trace(tmp_path, format="csv")


def test_made_trace_has_the_asked_share_of_scans_and_is_fixed_by_its_seed():
    trace = zipf_with_scans(200_000, 2000, np.random.default_rng(1), scanned=0.4, length=250)
    again = zipf_with_scans(200_000, 2000, np.random.default_rng(1), scanned=0.4, length=250)
    assert np.array_equal(trace.pages, again.pages)
    assert trace.distinct <= 4000
    # A scanned page follows the one that it follows everywhere, so its predecessor is nearly always the same.
    before = np.full(trace.distinct, -1)
    before[trace.pages[1:]] = trace.pages[:-1]
    in_order = np.mean(before[trace.pages[1:]] == trace.pages[:-1])
    assert 0.35 < in_order < 0.5
    for wrong in ({"scanned": 1.0}, {"length": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            zipf_with_scans(10, 10, np.random.default_rng(0), **wrong)
