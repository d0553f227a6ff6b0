"""``heedful data``: from the origin, from mirrors and from copies, over HTTP from a server of the test's own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import polars as pl
import pytest
from file_server import FileServer, Served

from heedful.lab import DataFile, Dataset, console, data, discover
from heedful.lab.data import download as downloads
from heedful.lab.data import fetch as fetching
from heedful.lab.data.content import content_hash
from heedful.lab.data.download import Patience
from heedful.lab.errors import LabError, WorkError

ORIGINAL = b"n,text\n" + b"".join(b"%d,%d\n" % (n, n * n) for n in range(5000))
SHA256 = hashlib.sha256(ORIGINAL).hexdigest()
ALTERED = ORIGINAL.replace(b"7,49\n", b"7,50\n", 1)
SOON = Patience(attempts=3, wait_s=0.0, timeout_s=5.0)


@pytest.fixture
def server():
    with FileServer() as running:
        running.files["/set/a.csv"] = Served(ORIGINAL)
        yield running


@pytest.fixture
def within(tmp_path, monkeypatch):
    """The data folder, empty; nobody waits before a second attempt."""
    monkeypatch.setenv("HEEDFUL_DATA", str(tmp_path / "home"))
    monkeypatch.setattr(downloads, "Patience", lambda: SOON)
    return tmp_path / "home"


def read(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, schema={"n": pl.Int32, "text": pl.String})


@pytest.fixture
def table(tmp_path):
    (tmp_path / "source.csv").write_bytes(ORIGINAL)
    return read(tmp_path / "source.csv")


@pytest.fixture
def file(server, table):
    """A file that the server has."""
    return DataFile("set/a.parquet", f"{server.url}/set/a.csv", SHA256, content_hash(table), 5000, read, len(ORIGINAL))


@pytest.fixture
def datasets(monkeypatch, server, file, table):
    """Two data sets, the only ones that are declared: one of one file, and one of two that the server lacks."""
    others = tuple(
        DataFile(
            f"pair/{name}.parquet", f"{server.url}/pair/{name}.csv", "0" * 64, content_hash(table[:rows]), rows, read
        )
        for name, rows in (("b", 10), ("c", 20))
    )
    declared = (
        Dataset("one", "One table", "CC BY 4.0", "A. Author, 2020", (file,), "CSV to Parquet"),
        Dataset("pair", "Two tables", "CC0", "B. Author, 2021", others),
    )
    monkeypatch.setattr(discover, "data_catalog", lambda: discover.DataCatalog(declared))
    return declared


def test_fetch_converts_and_verifies(file, within, table):
    assert fetching.fetch(file, within=within) is True
    assert pl.read_parquet(within / "set/a.parquet").equals(table)
    assert sorted(path.name for path in within.rglob("*") if path.is_file()) == [".lock", "a.parquet"]
    assert fetching.fetch(file, within=within) is False


def test_converter_that_gives_another_table_is_refused_and_the_original_kept(file, within):
    wrong = DataFile(**{**vars(file), "convert": lambda path: read(path).head(3)})
    with pytest.raises(WorkError, match=f"is the right original, but converting .*, expected {file.content}"):
        fetching.fetch(wrong, within=within)
    broken = DataFile(**{**vars(file), "convert": lambda path: 1 // 0})
    with pytest.raises(WorkError, match=r"cannot be converted to set/a\.parquet: ZeroDivisionError"):
        fetching.fetch(broken, within=within)
    assert (within / "set/a.parquet.part").read_bytes() == ORIGINAL and not (within / "set/a.parquet").exists()
    assert fetching.fetch(file, within=within)


def test_what_is_there_and_altered_is_not_replaced_unless_forced(file, within, table):
    target = within / "set/a.parquet"
    target.parent.mkdir(parents=True)
    table.head(3).write_parquet(target)
    with pytest.raises(LabError, match=r"its content is another one \(content hash .*; --force replaces it"):
        fetching.fetch(file, within=within)
    assert pl.read_parquet(target).height == 3
    assert fetching.fetch(file, within=within, force=True) and pl.read_parquet(target).equals(table)


def test_two_at_once_download_once(file, within, server, table):
    placed = []
    threads = [threading.Thread(target=lambda: placed.append(fetching.fetch(file, within=within))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(placed) == [False, False, False, True] and len(server.requests) == 1
    assert pl.read_parquet(within / "set/a.parquet").equals(table)


def test_two_processes_at_once_do_no_harm(file, within, server, table):
    program = f"""
import sys
from pathlib import Path
import polars as pl
from heedful.lab import DataFile
from heedful.lab.data.fetch import fetch
read = lambda path: pl.read_csv(path, schema={{"n": pl.Int32, "text": pl.String}})
file = DataFile({file.name!r}, {file.origin!r}, {file.sha256!r}, {file.content!r}, 5000, read)
print(fetch(file, within=Path({str(within)!r})))
"""
    started = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate()[0] for process in started) == ["False\n", "True\n"]
    assert len(server.requests) == 1 and pl.read_parquet(within / "set/a.parquet").equals(table)


def copies(tmp_path, table):
    """What somebody may have: folders and files with the original or the table."""
    names = {
        "data": "set/a.parquet",
        "flat": "a.parquet",
        "downloads": "a.csv",
        "checkout": "set/a.csv",
    }
    for folder, name in names.items():
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True)
        if name.endswith(".csv"):
            path.write_bytes(ORIGINAL)
        else:
            table.write_parquet(path, compression="uncompressed", row_group_size=500)
    return {folder: tmp_path / folder / name for folder, name in names.items()}


@pytest.mark.parametrize("which", ["data", "flat", "downloads", "checkout"])
@pytest.mark.parametrize("whole", [True, False])
def test_from_a_copy(heedful, datasets, within, tmp_path, table, server, which, whole):
    source = copies(tmp_path, table)[which]
    source = tmp_path / which if whole else source
    status, out, err = heedful("data", "fetch", "one", "--from", source)
    assert (status, err) == (0, "")
    assert f"  set/a.parquet: from {source}\n" in out
    assert f"{within / 'set/a.parquet'}: verified, 5,000 rows" in out
    assert pl.read_parquet(within / "set/a.parquet").equals(table) and not server.requests


def test_from_a_folder_takes_what_is_right_among_what_is_not(file, within, tmp_path, table):
    have = copies(tmp_path, table)
    table.head(3).write_parquet(tmp_path / "downloads" / "a.parquet")
    assert fetching.fetch(file, tmp_path / "downloads", within=within)
    have["downloads"].write_bytes(ALTERED)
    (tmp_path / "downloads" / "a.parquet").unlink()
    with pytest.raises(LabError) as error:
        fetching.fetch(file, tmp_path / "downloads", within=within, force=True)
    assert str(error.value) == (
        f"{have['downloads']}: is neither the original of set/a.parquet (sha256 {hashlib.sha256(ALTERED).hexdigest()}, "
        f"expected {SHA256}) nor the table (not a readable table, expected {file.content[:12]}...)"
    )


@pytest.mark.parametrize("source", ["empty", "other", "other/a.csv"])
def test_copy_that_is_not_it_leaves_no_folder_behind(heedful, datasets, within, tmp_path, source):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.csv").write_bytes(ALTERED)
    status, _, err = heedful("data", "fetch", "one", "--from", tmp_path / source)
    assert status == 2 and err.startswith(f"error: {tmp_path / source}") and err.count("\n") == 1
    assert not within.exists()


def test_from_a_mirror(heedful, datasets, within, server, table):
    server.files["/mirror/a.csv"] = server.files.pop("/set/a.csv")
    status, out, _ = heedful("data", "fetch", "one", "--from", f"{server.url}/mirror/")
    assert status == 0 and f"  set/a.parquet: from {server.url}/mirror/a.csv (" in out
    assert pl.read_parquet(within / "set/a.parquet").equals(table)


def test_fetch_says_what_it_downloads_before_it_does(heedful, datasets, within, server):
    server.files["/set/a.csv"] = Served(ORIGINAL, refusals=[404])
    status, out, err = heedful("data", "fetch", "one")
    assert status == 1 and out.splitlines() == [
        "one: One table",
        "  licence: CC BY 4.0",
        "  cite: A. Author, 2020",
        "  changes: CSV to Parquet",
        f"  set/a.parquet: from {server.url}/set/a.csv ({len(ORIGINAL) / 1000:.1f} kB)",
    ]
    assert err == f"error: {server.url}/set/a.csv: 404 Not Found; --from PATH takes a copy from elsewhere\n"
    status, out, err = heedful("data", "fetch", "one")
    assert (status, err) == (0, "") and out.splitlines()[-1] == f"  {within / 'set/a.parquet'}: verified, 5,000 rows"
    asked = len(server.requests)
    _, out, _ = heedful("data", "fetch", "set/a.parquet")
    assert out.splitlines()[-1] == f"  {within / 'set/a.parquet'}: is there, verified, 5,000 rows"
    assert len(server.requests) == asked
    heedful("data", "fetch", "one", "--force")
    assert len(server.requests) == asked + 1


def test_what_fails_does_not_stop_the_others(heedful, datasets, within, server):
    status, out, err = heedful("data", "fetch", "all")
    assert status == 1
    assert "set/a.parquet: verified" in out
    assert re.findall(r"^error: \S+/pair/(.)\.csv: 404", err, re.MULTILINE) == ["b", "c"]
    assert err.count("\n") == 2


def test_host_that_does_not_answer_is_not_asked_for_its_other_files(
    heedful, datasets, within, server, table, nobody, monkeypatch
):
    one, pair = datasets
    url, host = nobody, nobody.removeprefix("http://")
    b, c = pair.files
    files = tuple(
        dataclasses.replace(like, name=f"pair/{name}.parquet", origin=f"{url}/{name}.csv")
        for name, like in (("b", b), ("c", c), ("d", b), ("e", c))
    )
    catalog = discover.DataCatalog((dataclasses.replace(pair, files=files), one))
    monkeypatch.setattr(discover, "data_catalog", lambda: catalog)
    (within / "pair").mkdir(parents=True)
    table[:10].write_parquet(within / "pair/d.parquet")
    status, out, err = heedful("data", "fetch", "all")
    assert status == 1
    again, failed, skipped = err.splitlines()
    assert again == f"{url}/b.csv: cannot be reached: Connection refused; trying again in 0 s"
    assert failed.startswith(f"error: {url}/b.csv: cannot be reached: Connection refused (2 attempts)")
    assert skipped == (
        f"error: {host} does not answer and was not tried for pair/c.parquet, pair/e.parquet; "
        "what was fetched stays, and the same command fetches the rest"
    )
    assert f"  pair/c.parquet: not tried, {host} does not answer\n" in out
    assert "pair/d.parquet: is there, verified" in out and "set/a.parquet: verified" in out
    assert pl.read_parquet(within / "set/a.parquet").equals(table)


def test_mirror_that_does_not_answer_is_asked_once(heedful, datasets, within, nobody):
    status, _, err = heedful("data", "fetch", "all", "--from", nobody)
    assert status == 1 and err.count("cannot be reached") == 2  # the second time as the error
    assert "was not tried for pair/b.parquet, pair/c.parquet" in err


def test_one_file_of_several(heedful, datasets, within, tmp_path, table):
    table[:20].write_parquet(tmp_path / "mine.parquet")
    status, out, _ = heedful("data", "fetch", "pair", "--from", tmp_path / "mine.parquet")
    assert status == 0 and "pair/c.parquet: verified, 20 rows" in out and "pair/b.parquet" not in out
    table[:21].write_parquet(tmp_path / "mine.parquet")
    status, out, err = heedful("data", "fetch", "pair", "--from", tmp_path / "mine.parquet")
    assert (status, out) == (2, "") and "is none of pair/b.parquet, pair/c.parquet (sha256 " in err


def test_list_says_what_is_here(heedful, datasets, within, table, server):
    def states():
        _, out, _ = heedful("data", "list")
        return [re.split(r"  +", line)[-1] for line in out.splitlines()]

    _, out, err = heedful("data", "list")
    header, one, pair = (re.split(r"  +", line.strip()) for line in out.splitlines())
    assert header == ["data set", "files", "rows", "download", "licence", "origin", "state"]
    host = server.url.removeprefix("http://")
    assert one[:5] == ["one", "1", "5,000", f"{len(ORIGINAL) / 1000:.1f} kB", "CC BY 4.0"]
    assert one[5:] == [f"{host}/set/a.csv", "missing"]
    assert pair[:5] == ["pair", "2", "30", "–", "CC0"] and pair[-1] == "missing"
    assert str(within) in err
    (within / "pair").mkdir(parents=True)
    table[:10].write_parquet(within / "pair/b.parquet")
    assert states() == ["state", "missing", "1 of 2 present"]
    table[:20].write_parquet(within / "pair/c.parquet", compression="uncompressed")
    assert states() == ["state", "missing", "present"]
    (within / "pair/c.parquet").write_bytes(b"no table")
    assert states() == ["state", "missing", "altered"]
    _, out, _ = heedful("data", "list", "pair")
    assert out.splitlines()[0] == "pair: Two tables"
    assert [line.split()[3] for line in out.splitlines()[-2:]] == ["present", "altered"]
    _, out, _ = heedful("data", "list", "--json")
    first, second = json.loads(out)
    assert first["files"][0]["sha256"] == SHA256 and first["files"][0]["size"] == len(ORIGINAL)
    assert [found["state"] for found in second["files"]] == ["present", "altered"]
    assert second["files"][0]["path"] == str(within / "pair/b.parquet")
    assert not server.requests


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["list", "onne"], "unknown data set or file 'onne'; did you mean one?"),
        (["fetch", "xyzzy"], "unknown data set or file 'xyzzy'; known: one, pair, set/a.parquet"),
        (["fetch", "one", "--from", "/no/such/place"], "--from /no/such/place: there is no such file or folder"),
        (["fetch", "one", "--from", ""], "--from is empty"),
        (["fetch", "one", "--from", "/"], "/: has neither set/a.parquet nor a.csv"),
        (["fetch"], "Missing argument"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(heedful, datasets, within, server, words, part):
    status, _, err = heedful("data", *words)
    assert status == 2 and part in err and err.count("\n") == 1 and err.startswith("error: ")
    assert not server.requests and not within.exists()


def test_folder_that_cannot_be_written_to_is_one_line(heedful, datasets, tmp_path, monkeypatch, server):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEEDFUL_DATA", str(tmp_path / "file"))
    status, _, err = heedful("data", "fetch", "one")
    assert status == 2 and not server.requests
    assert err == f"error: cannot write to {tmp_path / 'file' / 'set'}: Not a directory\n"


def test_full_disk_when_the_table_is_written_is_one_line(heedful, datasets, within, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(fetching, "write_atomic", full)
    status, _, err = heedful("data", "fetch", "one")
    assert (status, err) == (1, f"error: {within / 'set/a.parquet'}: No space left on device\n")
    assert (within / "set/a.parquet.part").read_bytes() == ORIGINAL


def test_interrupted_download_is_kept(heedful, datasets, within, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(console.Progress, "__call__", interrupt)
    status, _, err = heedful("data", "fetch", "one")
    assert status == 130
    assert err == "interrupted; what arrived is kept, and the same command goes on from there\n"
    assert (within / "set/a.parquet.part").stat().st_size > 0


def test_data_without_a_command_is_its_help(heedful):
    status, out, _ = heedful("data")
    assert status == 0 and "\n  list " in out and "\n  fetch " in out


def test_state_of_a_fetched_file(file, within):
    assert data.state(file) == "missing"
    fetching.fetch(file, within=within)
    assert data.state(file) == "present"


@pytest.mark.parametrize("names", [("one",), ("one", "pair"), ("all",)])
def test_folder_that_cannot_be_written_to_is_bad_usage_for_any_number_of_sets(heedful, datasets, within, names, server):
    within.write_text("")
    status, out, err = heedful("data", "fetch", *names)
    assert (status, out) == (2, "") and not server.requests
    assert err == f"error: cannot write to {within / 'set'}: Not a directory\n"


def test_read_only_folder_is_bad_usage_unless_all_is_there(heedful, datasets, within, monkeypatch, server):
    real = tempfile.TemporaryFile

    def read_only(dir):
        if Path(dir) == within:
            raise PermissionError(13, os.strerror(13))
        return real(dir=dir)

    (within / "set").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    for names in (("one",), ("all",)):
        status, out, err = heedful("data", "fetch", *names)
        assert (status, out, err) == (2, "", f"error: cannot write to {within}: Permission denied\n")
    assert not server.requests and list(within.rglob("*")) == [within / "set"]
    monkeypatch.setattr(tempfile, "TemporaryFile", real)
    assert heedful("data", "fetch", "one")[0] == 0
    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    status, out, _ = heedful("data", "fetch", "one")
    assert status == 0 and "is there, verified" in out
