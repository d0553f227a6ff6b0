"""A file's name means that file: ``[``, ``*`` and ``?`` are letters of it, and a folder is no file."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from heedful.bandits import data as bandit_data
from heedful.bandits.commands import tables
from heedful.lab import DataFile, Figure, data, results
from heedful.lab.data.content import content_hash
from heedful.lab.report import write_comparison
from heedful.lab.report.comparisons import read_comparisons
from heedful.paging import read_trace
from heedful.serving import data as serving_data
from heedful.serving import read_log
from heedful.serving.commands import calibrate

NAMES = ("q[1]", "q*", "q?", "[q]1", "q[1] of a day")
ROWS = 30


@pytest.fixture
def beside(tmp_path):
    """``beside(name, table)``: a file of that name with that table, and others that its name would match."""

    def write(name, table):
        path = tmp_path / name
        store = pl.DataFrame.write_csv if path.suffix == ".csv" else pl.DataFrame.write_parquet
        for other in ("q1", "q2", "q1 of a day"):
            store(pl.concat([table, table]), tmp_path / f"{other}{path.suffix}")
        store(table, path)
        return path

    return write


@pytest.fixture
def heedful(heedful, tmp_path, monkeypatch):
    """The command, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return heedful


def numbers(*columns):
    return pl.DataFrame({name: np.arange(1, ROWS + 1) for name in columns})


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
@pytest.mark.parametrize("name", NAMES)
def test_every_room_reads_the_file_that_is_named(beside, name, kind):
    log = beside(f"{name}{kind}", numbers("action", "reward"))
    assert tables.read_table(tables.Source("--log", log)).height == ROWS
    assert len(read_trace(beside(f"{name}{kind}", numbers("page")))) == ROWS
    requests = read_log(beside(f"{name}{kind}", numbers("input_tokens", "output_tokens")))
    assert len(requests.workload) == ROWS
    assert calibrate._read(beside(f"{name}{kind}", numbers(*calibrate.COLUMNS))).height == ROWS


@pytest.mark.parametrize("name", NAMES)
def test_originals_are_converted_from_the_file_that_is_named(beside, name):
    path = beside(f"{name}.csv", numbers("", "item_id", "n"))
    assert bandit_data._from_open_bandit(path).height == ROWS
    assert bandit_data._from_csv(path).height == ROWS
    german = path.with_suffix(".data")
    german.write_text(ROWS * (20 * "A11 " + "1\n"))
    german.with_stem("q1").write_text((ROWS + 1) * (20 * "A11 " + "1\n"))
    assert bandit_data._from_german(german).height == ROWS
    assert bandit_data._as_it_is(beside(f"{name}.parquet", numbers("n"))).height == ROWS
    azure = numbers("ContextTokens", "GeneratedTokens")
    azure.insert_column(0, pl.Series("TIMESTAMP", [f"2023-11-16 18:00:{second:02}.0" for second in range(ROWS)]))
    assert serving_data._from_azure(beside(f"{name}.csv", azure)).height == ROWS
    line = json.dumps({"timestamp": 0, "input_length": 1, "output_length": 2, "hash_ids": [3]}) + "\n"
    path.with_name("q1.jsonl").write_text(2 * line)
    path.with_name(f"{name}.jsonl").write_text(line)
    assert serving_data._from_mooncake(path.with_name(f"{name}.jsonl")).height == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_data_folder_may_have_any_name(tmp_path, monkeypatch, name):
    table, other = numbers("n"), numbers("m")
    file = DataFile("set/a.parquet", "http://nowhere.invalid/a.csv", "0" * 64, content_hash(table), ROWS, pl.read_csv)
    for folder, content in (("q1", other), ("q1 of a day", other), (name, table)):
        (tmp_path / folder / "set").mkdir(parents=True)
        content.write_parquet(tmp_path / folder / "set/a.parquet")
    monkeypatch.setenv("HEEDFUL_DATA", str(tmp_path / name))
    assert data.store.state(file) == "present"


@pytest.mark.parametrize("name", NAMES)
def test_runs_and_comparisons_may_lie_in_a_folder_of_any_name(toy_runs, tmp_path, name):
    runs = shutil.copytree(toy_runs, tmp_path / name / "runs")
    for place in ("q1", "q1 of a day"):
        shutil.copytree(toy_runs, tmp_path / place / "runs")
    (folder,) = results.list_runs(tmp_path / "q1" / "runs")
    results.cells(folder).clear().write_parquet(folder / "cells.parquet")
    (folder,) = results.list_runs(runs)
    (at_home,) = results.list_runs(toy_runs)
    assert results.cells(folder).equals(results.cells(at_home)) and results.cells(folder).height == 16
    import altair as alt

    table = numbers("n")
    figure = Figure("A line", alt.Chart(table).mark_line().encode(x="n:Q"), table)
    write_comparison(runs, "toy", "Title", "heedful compare toy", {"Table": table}, [figure])
    (stored,), problems = read_comparisons(runs)
    assert problems == [] and stored.tables["Table"].equals(table) and stored.figures[0][3].equals(table)


def test_a_run_in_a_folder_of_any_name_is_resumed(heedful, toy_room, tmp_path):
    words = ("run", "coin", "--scale", "smoke", "--workers", "1", "--out", tmp_path / "my[1] dir")
    assert "cells: 16 measured" in heedful(*words)[1]
    status, out, err = heedful(*words)
    assert (status, err) == (0, "") and "cells: 0 measured, 16 stored before" in out


READERS = (
    ("compare", "bandits", "--log"),
    ("compare", "paging", "--trace"),
    ("compare", "serving", "--trace"),
    ("serving", "calibrate"),
)


@pytest.mark.parametrize("words", READERS, ids=lambda words: " ".join(words))
def test_a_folder_is_no_file(heedful, words):
    for name in ("d.csv", "d.parquet", "empty.parquet"):
        Path(name).mkdir()
        if name != "empty.parquet":
            numbers("page", "action").write_parquet(Path(name) / f"part.{name[2:]}")
        status, out, err = heedful(*words, name)
        assert (status, out) == (2, "") and err.count("\n") == 1 and err.endswith(f"{name}: Is a directory\n")


@pytest.mark.parametrize("words", READERS, ids=lambda words: " ".join(words))
def test_files_that_a_pattern_would_match_are_not_joined(heedful, words):
    Path("g").mkdir()
    for kind in ("csv", "parquet"):
        for number in range(2):
            store = pl.DataFrame.write_csv if kind == "csv" else pl.DataFrame.write_parquet
            store(numbers("page", "action"), Path("g") / f"{number}.{kind}")
        status, out, err = heedful(*words, f"g/*.{kind}")
        assert (status, out) == (2, "") and err.endswith(f"g/*.{kind}: No such file or directory\n")
