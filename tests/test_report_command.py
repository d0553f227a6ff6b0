"""``heedful report``, and the site that comparisons write: what it is made of, and what it says that it leaves out."""

import dataclasses
import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from heedful.lab import comparing, discover, results
from heedful.lab.discover import Catalog
from heedful.lab.report import write_comparison
from heedful.lab.report.site import write_site


@pytest.fixture
def heedful(heedful, tmp_path, monkeypatch):
    """The command, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return heedful


def files(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("option", ["--out", "--runs"])
def test_a_good_report_is_not_replaced_by_that_of_no_folder(heedful, toy_runs, option):
    assert heedful("report", option, toy_runs)[0] == 0
    before = files("site")
    Path("plain").touch()
    assert heedful("report", option, "TYPO") == (2, "", "error: --out TYPO: there is no such folder\n")
    assert heedful("report", option, "plain") == (2, "", "error: --out plain: is not a folder\n")
    assert files("site") == before


def test_a_default_folder_that_is_not_there_is_a_first_use(heedful, toy_room):
    status, out, err = heedful("report")
    assert (status, err) == (0, "") and ": 0 of " in out
    shutil.rmtree("site")
    Path("runs").touch()
    assert heedful("report")[::2] == (2, "error: --out runs: is not a folder\n")


def test_a_report_of_another_folder_says_what_it_leaves_out(heedful, toy_runs):
    table = {"Table": pl.DataFrame({"n": [1]})}
    shutil.copytree(toy_runs, "a")
    stored = write_comparison("a", "toy", "Title", "heedful compare toy", table)
    assert heedful("report", "--out", "a")[::2] == heedful("report", "--out", "a")[::2] == (0, "")
    Path("b").mkdir()
    status, _, err = heedful("report", "--out", "b")
    site = Path("site").absolute()
    told = f"warning: {site} now shows what is stored in b, and no longer coin, toy-{stored.name}; "
    assert status == 0 and err == told + "a --site for each folder of runs keeps both\n"


def test_a_comparison_in_another_folder_says_what_the_report_no_longer_shows(heedful, toy_room, capsys):
    pages = []
    for out in ("a", "a", "b"):
        tables = {"Table": pl.DataFrame({"n": [1]})}
        said = capsys.readouterr().err
        pages.append(comparing.publish("toy", "Title", "heedful compare toy", tables, (), {}, Path(out), Path("site")))
    assert said == ""
    said = capsys.readouterr().err
    assert said.startswith("warning: ") and "shows what is stored in b, and no longer toy-" in said
    assert all(page.stem in said for page in pages[:2]) and said.count("\n") == 1
    assert [page.exists() for page in pages] == [False, False, True]


def unfinished(runs, stage, measured):
    """The toy room's run as an interrupt leaves it: all its cells are of one stage, and the first few are measured."""
    (folder,) = results.list_runs(runs)
    cells = results.cells(folder).sort("cell")
    cells.with_columns(stage=pl.lit(stage)).write_parquet(folder / "cells.parquet")
    for kind in ("parts", "timings"):
        (part,) = (folder / kind).iterdir()
        if not measured:
            part.unlink()
    meta = json.loads((folder / "meta.json").read_text())
    meta |= {"complete": False, "verdicts": [], "cells": {"total": 16, "done": measured, "failed": 0}}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize(
    ("stage", "measured", "told"),
    [
        ("tune", 16, "nothing but tuning has been measured yet"),
        ("tune", 0, "no cell has been measured yet"),
        ("measure", 0, "no cell has been measured yet"),
        ("", 0, "no cell has been measured yet"),
    ],
)
def test_charts_of_a_run_that_has_measured_nothing_say_so(toy_runs, tmp_path, stage, measured, told):
    coin = discover.catalog().find("coin")
    broken = dataclasses.replace(coin, figures=lambda rows: rows["no such column"])
    runs = shutil.copytree(toy_runs, tmp_path / "runs")
    folder = unfinished(runs, stage or "measure", measured)
    if not stage:
        (folder / "cells.parquet").unlink()
    written = write_site(Catalog((broken,)), runs, tmp_path / "site")
    assert written.problems == (f"the charts of coin cannot be drawn: {told}",)
    assert told in (tmp_path / "site/systems/coin.html").read_text()


def test_charts_that_lack_the_cells_that_failed_say_so_in_our_words(toy_runs, tmp_path):
    coin = discover.catalog().find("coin")
    broken = dataclasses.replace(coin, figures=lambda rows: rows["no such column"])
    runs = shutil.copytree(toy_runs, tmp_path / "runs")
    unfinished(runs, "measure", 16)
    written = write_site(Catalog((broken,)), runs, tmp_path / "site")
    assert written.problems == ("the charts of coin cannot be drawn: what they show is not all measured yet",)
