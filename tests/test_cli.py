"""The command line: what it prints, how it fails in one line, and with which exit status."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from heedful import __version__
from heedful.cli import main
from heedful.lab import console
from heedful.lab.errors import LabError
from heedful.lab.files import check_writable

FLAWED = """
from heedful.lab import Cell, Claim, Experiment, Metric, Paper, Scale


def measure(cell, ctx):
    if cell["seed"] == 1:
        raise RuntimeError("the dog ate it")
    return [{"score": 1.0}]


experiment = Experiment(
    slug="flawed-one", room="flawed", title="Flawed", question="Q?", summary="S",
    paper=Paper("P", "A", 2000), metrics=(Metric("score", "1", "higher", "m"),),
    scales={"smoke": Scale({}, limit_s=30), "small": Scale({})},
    cells=lambda params, tuned: [Cell.of(seed=seed) for seed in range(3)], measure=measure,
    claims=(Claim("c", "Scores", "score", unit=("seed",), boundary=True),),
)
"""


def assert_one_line(outcome, status, *parts):
    """The command failed with this status and with one line on standard error that has these parts."""
    code, out, err = outcome
    assert (code, out) == (status, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    for part in parts:
        assert part in err


def test_version(heedful):
    assert heedful("--version") == (0, f"heedful {__version__}\n", "")


def test_help_without_a_command(heedful):
    status, out, _ = heedful()
    assert status == 0
    for command in ("list", "show", "run", "compare", "data", "report", "doctor"):
        assert f"\n  {command} " in out


def test_help_lists_the_commands_of_rooms(heedful, toy_room, install):
    files = {"__init__.py": "", "commands.py": "1/0", "barren.py": "import typer\n\napp = typer.Typer()\n"}
    install("wrong", files, "[heedful.commands]\nwrong = wrong.commands\nbarren = wrong.barren\n")
    status, out, err = heedful("--help")
    rows = [tuple(line.strip().split("  ", 1)) for line in out[out.index("Commands of rooms:") :].splitlines()[1:]]
    offered = {name: about.strip() for name, about in rows}
    assert (status, err) == (0, "")
    assert offered["toy flip"] == "Flip the coin." and offered["toy land"] == "Say where it landed."
    assert offered["kv train ..."].startswith("Train the parts")
    assert offered["serving calibrate"].startswith("Fit the step-time model")
    assert offered["serve"].startswith("Serve a model")
    assert offered["wrong"] == "see 'heedful wrong --help'" and offered["barren"] == "see 'heedful barren --help'"
    assert not {"bandits", "paging", "kv", "toy"} & {name.split(" ")[0] for name in offered if " " not in name}


def test_compare_suggests_what_can_be_compared(heedful, toy_room):
    assert_one_line(heedful("compare", "serv"), 2, "unknown room 'serv'; did you mean serving?")
    outcome = heedful("compare", "nosuch")
    assert_one_line(outcome, 2, "unknown room 'nosuch'; known: bandits, kv, paging, serving, toy")
    assert_one_line(heedful("compare", "serve"), 2, "'serve' has nothing to compare; rooms that have: bandits, kv,")


def test_list_has_a_row_per_system(heedful, toy_room):
    status, out, _ = heedful("list", "toy")
    assert status == 0
    header, row = out.splitlines()
    assert header.split() == ["room", "system", "question", "paper"]
    assert row.split()[:2] == ["toy", "coin"]
    assert row.endswith("On Coins & Dice (1654)")
    _, out, _ = heedful("list", "--json")
    (coin,) = [row for row in json.loads(out) if row["system"] == "coin"]
    assert coin["question"] == "Does calling the likelier side win <more often> than calling at random?"


def test_show_says_everything_that_is_declared(heedful, toy_room):
    status, out, _ = heedful("show", "coin")
    assert status == 0
    for words in (
        "The biased coin (toy)",
        "Does calling the likelier side win",
        "A. Gambler (1654). On Coins & Dice. Letters.",
        "biased: Wins more often on a biased coin",
        "score of method=majority better than that of method=random by more than 0.1 where bias=0.8",
        "the paper: 0.30",
        "not varied: one bias",
        "fair (boundary): Does not win on a fair coin",
        "not measured: there are no dice",
        "smoke: seeds=4",
        "leaves out: most of the seeds",
        "score: share of calls that were right; higher is better",
        "from toy_room.experiments.coin import experiment",
        "heedful run coin",
    ):
        assert words in out
    _, out, _ = heedful("show", "coin", "--json")
    about = json.loads(out)
    assert about["scales"]["small"]["params"] == {"seeds": 12}
    assert [claim["d"] for claim in about["claims"]] == [0.1, 0.1, 0.0]


def test_third_party_system_end_to_end(heedful, toy_room, tmp_path):
    runs, site = tmp_path / "runs", tmp_path / "site"
    words = ("run", "coin", "--scale", "smoke", "--seeds", 3, "--workers", 1, "--out", runs)
    status, out, _ = heedful(*words)
    assert status == 0
    assert out.splitlines()[0] == "The biased coin, smoke"
    biased = next(line for line in out.splitlines() if line.startswith("Wins more often"))
    for words_ in (" holds ", "[+0.", " 3  0.30", "one bias"):
        assert words_ in biased
    assert "cells: 12 measured, 0 stored before, 0 failed" in out
    status, out, _ = heedful(*words, "--json")
    (result,) = json.loads(out)
    assert (status, result["done"], result["resumed"], result["complete"]) == (0, 0, 12, True)
    assert result["verdicts"][0]["status"] == "holds"
    assert result["verdicts"][0]["unit"] == "1"
    status, out, _ = heedful("report", "--runs", runs, "--site", site)
    assert status == 0
    assert out.startswith(f"{site / 'index.html'}: 1 of ")
    assert "Wins more often on a biased coin" in (site / "systems/coin.html").read_text()


def test_room_commands_are_found(heedful, toy_room, tmp_path):
    status, out, _ = heedful("compare", "toy", "--sides", 3, "--out", tmp_path)
    assert status == 0
    assert [line.split() for line in out.splitlines()[2:]] == [["0", "0.5"], ["1", "0.5"], ["2", "0.5"]]
    assert len(list((tmp_path / "compare/toy").iterdir())) == 1
    _, out, _ = heedful("compare", "toy", "--json", "--out", tmp_path)
    assert json.loads(out) == [{"side": 0, "wins": 0.5}, {"side": 1, "wins": 0.5}]
    assert heedful("toy", "flip", "--times", 2)[1] == "heads heads \n"
    assert "toy" in heedful("compare", "--help")[1]
    assert "--sides" in heedful("compare", "toy", "--help")[1]


def test_failed_cells_are_named_and_fail_the_work(heedful, install, tmp_path):
    files = {"__init__.py": "", "experiments/__init__.py": "", "experiments/one.py": FLAWED}
    install("flawed", files, "[heedful.experiments]\nflawed = flawed.experiments\n")
    words = ("run", "flawed-one", "--scale", "smoke", "--workers", 1, "--out", tmp_path / "runs")
    status, out, err = heedful(*words)
    assert status == 1
    assert "cells: 2 measured, 0 stored before, 1 failed" in out
    assert "failed: seed=1: " in err and "the dog ate it" in err
    assert "the same command tries them again" in err
    status, out, _ = heedful(*words, "--json")
    (result,) = json.loads(out)
    assert (status, result["resumed"], len(result["failed"])) == (1, 2, 1)


def test_system_that_refuses_does_not_stop_its_room(heedful, install, tmp_path):
    fine = FLAWED.replace('cell["seed"] == 1', "False").replace("flawed", "mixed")
    refuses = fine.replace("mixed-one", "mixed-a").replace("measure=measure", "measure=measure, inputs=missing")
    refuses = refuses.replace(
        "experiment = ", "def missing(params):\n    raise ValueError('no such checkpoint')\n\n\nexperiment = "
    )
    files = {"__init__.py": "", "experiments/__init__.py": ""}
    files |= {"experiments/a.py": refuses, "experiments/one.py": fine, "experiments/broken.py": "1/0"}
    install("mixed", files, "[heedful.experiments]\nmixed = mixed.experiments\n")
    status, out, err = heedful("run", "mixed", "--scale", "smoke", "--workers", 1, "--out", tmp_path / "runs")
    assert status == 1
    assert "cells: 3 measured, 0 stored before, 0 failed" in out
    assert "error: mixed-a: no such checkpoint" in err
    assert "warning: mixed.experiments.broken" in err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["show", "cion"], ["unknown system 'cion'", "did you mean coin"]),
        (["run", "cion"], ["unknown system or room 'cion'", "did you mean coin"]),
        (["list", "toi"], ["unknown room 'toi'", "did you mean toy"]),
        (["compare", "toi"], ["unknown room 'toi'", "did you mean toy"]),
        (["lst"], ["'lst'", "heedful --help"]),
        (["show"], ["Missing argument", "heedful show --help"]),
        (["run", "coin", "--scale", "huge"], ["no scale 'huge'", "smoke, small"]),
        (["run", "coin", "--set", "seeds"], ["--set 'seeds' is not KEY=VALUE"]),
        (["run", "coin", "--set", "=3"], ["--set '=3' is not KEY=VALUE"]),
        (["run", "coin", "--set", "sides=3"], ["no parameter 'sides'", "it has seeds"]),
        (["run", "coin", "--set", "seeds=many"], ["parameter 'seeds'", "'many'"]),
        (["run", "coin", "--seeds", "0"], ["seeds must be at least 1"]),
        (["run", "coin", "--seeds", "x"], ["--seeds", "heedful run --help"]),
        (["run", "coin", "--workers", "0"], ["workers must be at least 1"]),
    ],
)
def test_bad_usage_is_one_line_and_status_2(heedful, toy_room, tmp_path, monkeypatch, words, parts):
    monkeypatch.chdir(tmp_path)
    assert_one_line(heedful(*words), 2, *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def twins(install):
    """A room of two systems, of which only the second one has a parameter; neither may be run."""
    idle = FLAWED.replace("flawed", "twins").replace("return [", "raise SystemExit('was run')\n    return [")
    files = {"__init__.py": "", "experiments/__init__.py": "", "experiments/one.py": idle}
    files["experiments/two.py"] = idle.replace("twins-one", "twins-two").replace("Scale({}", 'Scale({"items": 3}')
    install("twins", files, "[heedful.experiments]\ntwins = twins.experiments\n")


@pytest.mark.parametrize("name", ["twins", "all"])
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--scale", "nope"], ["has no scale 'nope'; choose from smoke, small"]),
        (["--workers", "0"], ["error: workers must be at least 1, got 0"]),
        (["--seeds", "0"], ["error: seeds must be at least 1, got 0"]),
        (["--set", "nothing=4"], ["has no parameter 'nothing' at scale 'small'"]),
    ],
)
def test_bad_usage_over_several_systems_is_one_line_and_runs_none(
    heedful, twins, tmp_path, monkeypatch, name, words, parts
):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    outcome = heedful("run", name, *words)
    assert_one_line(outcome, 2, *parts)
    assert list(work.iterdir()) == []


def test_a_parameter_that_only_one_of_the_systems_has_runs_none(heedful, twins, tmp_path):
    runs = tmp_path / "runs"
    outcome = heedful("run", "twins", "--set", "items=4", "--out", runs)
    assert_one_line(outcome, 2, "error: twins-one has no parameter 'items'")
    assert not runs.exists()


def test_unwritable_folders_are_one_line(heedful, toy_room, twins, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for name in ("coin", "twins", "all"):
        for out in (file, file / "below"):
            outcome = heedful("run", name, "--scale", "smoke", "--out", out)
            assert_one_line(outcome, 2, f"error: cannot write to {out}: ")
    assert_one_line(heedful("report", "--runs", tmp_path, "--site", file), 2, str(file), "is not a report")
    assert_one_line(heedful("report", "--runs", tmp_path, "--site", file / "site"), 2, f"cannot write to {file}: ")


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "kv", "--tasks", "nosuch"),
        ("compare", "kv", "--prompts", "none.jsonl"),
        ("kv", "show", "--prompt", "none.txt"),
        ("compare", "paging", "--trace", "none.csv"),
        ("compare", "serving", "--trace", "none.csv"),
        ("compare", "bandits", "--log", "none.csv"),
        ("compare", "bandits", "--scores", "none.csv"),
    ],
)
def test_bad_input_leaves_nothing_behind(heedful, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    for folders in ((), ("--out", "a/b", "--site", "c/d")):
        assert_one_line(heedful(*words, *folders), 2)
        assert list(tmp_path.iterdir()) == []


def test_writability_is_checked_where_the_folder_would_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_writable(Path("a/b/c"))
    (tmp_path / "file").touch()
    for folder in (Path("file"), tmp_path / "file" / "a" / "b", tmp_path / ("x" * 300)):
        with pytest.raises(LabError, match=f"^cannot write to {folder}: "):
            check_writable(folder)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(LabError, match=r"^cannot write to link: "):
        check_writable(Path("link"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_room_that_lacks_something_says_how_to_mend_it(heedful, install, tmp_path):
    files = {
        "__init__.py": "",
        "experiments/__init__.py": "",
        "experiments/one.py": FLAWED.replace("flawed", "poor"),
    }
    metadata = 'Provides-Extra: poor\nRequires-Dist: surely-not-installed>=3; extra == "poor"\n'
    install("poor", files, "[heedful.experiments]\npoor = poor.experiments\n", metadata)
    parts = ("surely-not-installed>=3", "pip install 'poor[poor]'")
    assert_one_line(heedful("run", "poor-one", "--out", tmp_path / "runs"), 2, *parts)
    status, out, _ = heedful("doctor")
    assert status == 1
    (line,) = [line for line in out.splitlines() if "pip install 'poor[poor]'" in line]
    assert line == "room poor: surely-not-installed>=3: not installed; pip install 'poor[poor]'"
    assert heedful("show", "poor-one")[0] == 0


def test_broken_room_does_not_hide_the_others(heedful, install, toy_room):
    files = {"__init__.py": "", "experiments/__init__.py": "", "experiments/one.py": "import nothing_like_it"}
    install("wreck", files, "[heedful.experiments]\nwreck = wreck.experiments\n")
    status, out, err = heedful("list", "toy")
    assert (status, out.splitlines()[1].split()[1]) == (0, "coin")
    (line,) = [line for line in err.splitlines() if "wreck" in line]
    assert line.startswith("warning: wreck.experiments.one (from wreck 1.0): cannot be imported: ModuleNotFound")


@pytest.mark.parametrize("place", [0, 2])
def test_debug_shows_the_traceback(heedful, place):
    words = ["show", "cion"]
    words.insert(place, "--debug")
    status, _, err = heedful(*words)
    assert status == 2
    assert "Traceback" in err and err.splitlines()[-1].startswith("error: unknown system 'cion'")


def test_unexpected_error_is_one_line_too(heedful, monkeypatch):
    monkeypatch.setattr("heedful.lab.discover.catalog", lambda: {}["gone"])
    assert_one_line(heedful("list"), 1, "unexpected KeyError: 'gone'", "--debug shows where")


@pytest.mark.parametrize("words", [["list"], ["show", "h2o"], ["--help"]])
def test_list_show_and_help_need_neither_torch_nor_half_a_second(words, tmp_path):
    # CPU seconds: they are wall seconds on an idle machine, and other work does not stretch them.
    blocked = ("torch", "transformers", "polars", "altair", "rich", "scipy", "numpy", "jinja2")
    blocking = f"import sys; sys.modules.update(dict.fromkeys({blocked}))"
    program = f"{blocking}; from heedful.cli import main; main({words})"
    environment = {**os.environ, "PYTHONPATH": ""}
    for _ in range(3):  # the first may have bytecode to write
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert ended.returncode == 0, ended.stderr
        assert ("kv show" if words == ["--help"] else "h2o") in ended.stdout.lower()
        spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        if spent < 0.5:
            break
    assert spent < 0.5


def test_piped_table_is_plain_and_cuts_nothing_off(capsys):
    rows = [{"name": "a" * 300, "value": 1234567.0}, {"name": "two\nlines", "value": None}]
    console.show_table(rows, ["name", console.Column("value", "how much", "right")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"{'a' * 300}  1,234,567"
    assert lines[2].split("  ")[0] == "two lines" and lines[2].endswith("–")
    assert {len(line) for line in lines} == {300 + 2 + 9}


def test_table_on_a_terminal_shows_every_cell(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    rows = [{"claim": "word " * 30, "verdict": "holds"}, {"claim": "[b]markup[/b]", "verdict": "fails"}]
    console.show_table(rows, ["claim", "verdict"], title="Claims")
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert printed.count("word") == 30
    for part in ("Claims", "[b]markup[/b]", "holds", "fails"):
        assert part in printed
    assert all(len(line) <= 60 for line in printed.splitlines())


def test_json_has_null_for_what_json_does_not_know(capsys):
    console.show_json({"a": float("nan"), "b": [float("inf"), 1.5]})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5]}


def test_piped_progress_is_a_line_now_and_then(capsys):
    with console.Progress("h2o, small", every_s=0.0) as progress:
        progress(3, 40, left_s=75.0, note="1 failed")
        progress(40, 40)
    with console.Progress("h2o, small", every_s=100.0) as progress:
        progress(3, 40)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "h2o, small: 3 of 40, about 1 min 15 s left, 1 failed",
        "h2o, small: 40 of 40",
    ]


def test_a_group_without_a_command_shows_its_help(capsys):
    with pytest.raises(SystemExit) as end:
        main(["serving"])
    printed = capsys.readouterr()
    assert end.value.code == 2 and "calibrate" in printed.out and not printed.err
