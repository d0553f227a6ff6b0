"""``heedful report``, and the site that comparisons write: what it is made of, and what it says that it leaves out."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from heedful.cli import main
from heedful.lab import comparing
from heedful.lab.report import write_comparison


@pytest.fixture
def heedful(capsys, tmp_path, monkeypatch):
    """``heedful(*words)``: exit status, standard output and standard error, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as end:
            main([*map(str, words)])
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return call


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
