"""Runs survive kills, and their values do not depend on how they were measured."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import toy_stages
import toy_sweep

import heedful.lab as lab
from heedful.lab import results
from heedful.lab.identity import identify
from heedful.lab.parts import list_parts
from heedful.lab.run import Progress, resolve_params, run

TOYS = Path(__file__).parent / "toys"


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def executions(log: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in log.read_text().splitlines()) if log.exists() else Counter()


def pids(log: Path) -> set[int]:
    return {int(line.split()[1]) for line in log.read_text().splitlines()}


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def drive(out: Path, workers: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(TOYS / "drive.py"), str(out), str(workers)], stdout=subprocess.PIPE, text=True
    )


def small_run(out: Path) -> Path:
    return next((out / "toy-sweep" / "small").iterdir())


def values_bytes(run_dir: Path) -> bytes:
    (part,) = list_parts(run_dir)
    return part.values.read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(toy_sweep.experiment, "small", workers=1, out=tmp_path_factory.mktemp("whole")).run_dir


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "log"
    monkeypatch.setenv("TOY_LOG", str(path))
    return path


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file exists, one cell in the middle of the run does not end."""
    path = tmp_path / "gate"
    path.touch()
    monkeypatch.setenv("TOY_GATE", str(path))
    monkeypatch.setenv("TOY_GATED", "ours-12")
    return path


def test_killed_driver_loses_only_cells_in_flight(tmp_path: Path, log: Path, gate: Path, uninterrupted: Path) -> None:
    driver = drive(tmp_path, workers=2)
    wait_until(lambda: "ours-12" in executions(log) and list_parts(small_run(tmp_path)))
    driver.kill()
    driver.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids(log)))
    stored = set(results.values(small_run(tmp_path))["cell"])
    assert 0 < len(stored) < 60

    log.unlink()
    gate.unlink()
    again = drive(tmp_path, workers=3)
    report = json.loads(again.communicate(timeout=120)[0])
    assert report == {"done": 60 - len(stored), "resumed": len(stored), "failed": {}}
    expected = {f"{c['method']}-{c['seed']}" for c in all_cells() if c.id not in stored}
    assert executions(log) == Counter(expected)
    assert values_bytes(small_run(tmp_path)) == values_bytes(uninterrupted)
    assert results.meta(small_run(tmp_path))["values_sha256"] == results.meta(uninterrupted)["values_sha256"]


def all_cells() -> list[lab.Cell]:
    return list(toy_sweep.cells(toy_sweep.experiment.scales["small"].params, {}))


def test_killed_worker_fails_its_cell_only(tmp_path: Path, log: Path, gate: Path, uninterrupted: Path) -> None:
    found: list[lab.RunResult] = []
    thread = threading.Thread(target=lambda: found.append(run(toy_sweep.experiment, "small", workers=2, out=tmp_path)))
    thread.start()
    wait_until(lambda: "ours-12" in executions(log))
    victim = next(int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("ours-12 "))
    os.kill(victim, signal.SIGKILL)
    thread.join()
    (result,) = found
    assert result.done == 59
    assert [reason for reason in result.failed.values() if "killed (signal 9)" in reason] == list(
        result.failed.values()
    )
    assert not result.complete
    assert max(executions(log).values()) == 1
    assert "1 of 60 cells failed" in result.verdicts[0].note

    gate.unlink()
    again = run(toy_sweep.experiment, "small", workers=2, out=tmp_path)
    assert (again.done, again.resumed, again.failed, again.complete) == (1, 59, {}, True)
    assert executions(log)["ours-12"] == 2
    assert values_bytes(again.run_dir) == values_bytes(uninterrupted)
    assert json.loads((again.run_dir / "failures.json").read_text()) == {}


def test_ctrl_c_stores_what_has_ended(tmp_path: Path, log: Path, gate: Path, uninterrupted: Path) -> None:
    driver = drive(tmp_path, workers=2)
    wait_until(lambda: "ours-12" in executions(log) and list_parts(small_run(tmp_path)))
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=60) == 130
    assert not any(alive(pid) for pid in pids(log))
    stored = len(set(results.values(small_run(tmp_path))["cell"]))
    meta = results.meta(small_run(tmp_path))
    assert not meta["complete"] and meta["finished"] and meta["cells"] == {"total": 60, "done": stored, "failed": 0}
    gate.unlink()
    again = run(toy_sweep.experiment, "small", workers=2, out=tmp_path)
    assert (again.resumed, again.done, again.notices) == (stored, 60 - stored, ())
    assert values_bytes(again.run_dir) == values_bytes(uninterrupted)


def test_damaged_part_is_measured_again(tmp_path: Path, log: Path, uninterrupted: Path) -> None:
    first = run(toy_sweep.experiment, "small", workers=2, out=tmp_path)
    (part,) = list_parts(first.run_dir)
    damaged = bytearray(part.values.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    part.values.write_bytes(damaged)
    with pytest.raises(lab.LabError, match="damaged part"):
        results.values(first.run_dir)
    again = run(toy_sweep.experiment, "small", workers=2, out=tmp_path)
    assert again.done == 60 and again.resumed == 0
    assert len(again.notices) == 1 and part.values.name in again.notices[0]
    assert len(list((first.run_dir / "damaged").iterdir())) == 2
    assert values_bytes(again.run_dir) == values_bytes(uninterrupted)


def test_complete_run_measures_nothing_again(tmp_path: Path, log: Path) -> None:
    first = run(toy_sweep.experiment, "smoke", workers=1, out=tmp_path)
    before, meta = executions(log), results.meta(first.run_dir)
    again = run(toy_sweep.experiment, "smoke", workers=2, out=tmp_path)
    assert (again.done, again.resumed) == (0, 6)
    assert executions(log) == before
    assert again.verdicts == first.verdicts
    assert results.meta(first.run_dir) == meta
    assert [invocation["measured"] for invocation in meta["invocations"]] == [6]
    assert results.list_runs(tmp_path) == [first.run_dir]


def test_verdicts_and_rows_of_a_run(tmp_path: Path, uninterrupted: Path) -> None:
    verdicts = {verdict["claim"]: verdict for verdict in results.meta(uninterrupted)["verdicts"]}
    assert {claim: verdict["status"] for claim, verdict in verdicts.items()} == {
        "beats": "holds",
        "sound": "holds",
        "boundary": "holds",
        "noisy": "not measured",
    }
    rows = results.read(uninterrupted)
    assert rows.columns[:2] == ["cell", "row"]
    assert set(rows.columns) == {
        "cell", "row", "method", "seed", "item", "reward", "violations", "noise", "wall_s",
    }  # fmt: skip
    assert len(rows) == 30 * 2 * 4
    assert rows["noise"].null_count() == len(rows)
    ours = rows.filter(method="ours")["reward"].mean()
    rival = rows.filter(method="rival")["reward"].mean()
    assert verdicts["beats"]["effect"] == pytest.approx(ours - rival)


def test_declaring_an_experiment_imports_nothing_heavy() -> None:
    code = "import sys, heedful.lab; print([m for m in ('numpy', 'polars', 'scipy', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    seen: list[Progress] = []
    run(toy_sweep.experiment, "smoke", workers=1, out=tmp_path, progress=seen.append)
    assert (seen[-1].done, seen[-1].total, seen[-1].failed, seen[-1].eta_s) == (6, 6, 0, 0.0)


def test_tuning_chooses_the_best_and_keeps_its_rows_apart(tmp_path: Path, log: Path) -> None:
    result = run(toy_stages.experiment, "smoke", workers=2, out=tmp_path)
    assert result.tuned == {"ours": {"alpha": 0.5}, "rival": {"alpha": 0.5}}
    assert json.loads((result.run_dir / "tuned.json").read_text()) == result.tuned
    measured, tuning = results.values(result.run_dir), results.values(result.run_dir, "tune")
    assert set(measured["alpha"].drop_nulls()) == {0.5}
    assert tuning["seed"].max() == -1 and len(tuning) == 12
    assert [verdict.status for verdict in result.verdicts] == ["holds"]
    lines = log.read_text().splitlines()
    assert lines.count("build") == 1
    assert lines.count("cell") == 12 + 8


def test_exclusive_cells_run_alone_and_repeatedly(tmp_path: Path, log: Path) -> None:
    result = run(toy_stages.experiment, "smoke", workers=2, out=tmp_path)
    lines = log.read_text().splitlines()
    timed = [line for line in lines if line.startswith("timed")]
    assert lines[-8:] == timed, "after all other cells"
    assert len({line.split()[2] for line in timed}) == 1, "in one worker"
    assert [line.split()[1] for line in timed] == ["ours"] * 4 + ["rival"] * 4, "a warm-up and three repeats each"
    rows = results.read(result.run_dir).filter(timed=True, method="rival")
    assert rows.select("seconds", "seconds_lower", "seconds_upper").row(0) == (0.75, 0.75, 0.75)
    assert "seconds" not in results.values(result.run_dir).columns
    assert rows["loss"].to_list() == [0.0], "scratch is empty for each repeat"
    assert not list((result.run_dir / "scratch").iterdir())


def test_exclusive_cell_must_repeat_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_DRIFT", "1")
    result = run(toy_stages.experiment, "smoke", workers=2, out=tmp_path)
    assert len(result.failed) == 2
    assert all("other values than the first" in reason for reason in result.failed.values())


def test_unequal_tuning_effort_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = toy_stages.experiment.tuning
    assert tuning is not None
    unequal = replace(
        tuning, grids=lambda params: {"ours": [{"alpha": 0.1}, {"alpha": 0.2}], "rival": [{"alpha": 0.1}]}
    )
    monkeypatch.setattr(toy_stages, "experiment", replace(toy_stages.experiment, tuning=unequal))
    with pytest.raises(lab.LabError, match="equal effort"):
        run(toy_stages.experiment, "smoke", workers=1, out=tmp_path)
    padded = replace(tuning, grids=lambda params: {"ours": [{"alpha": 0.1}, {"alpha": 0.1}]})
    monkeypatch.setattr(toy_stages, "experiment", replace(toy_stages.experiment, tuning=padded))
    with pytest.raises(lab.LabError, match="repeats a setting"):
        run(toy_stages.experiment, "smoke", workers=1, out=tmp_path)


def test_second_driver_is_turned_away(tmp_path: Path, log: Path, gate: Path) -> None:
    driver = drive(tmp_path, workers=2)
    wait_until(lambda: "ours-12" in executions(log))
    with pytest.raises(lab.LabError, match="another process is at work"):
        run(toy_sweep.experiment, "small", workers=1, out=tmp_path)
    gate.unlink()
    assert json.loads(driver.communicate(timeout=60)[0])["done"] == 60


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(lab.LabError, match=re.escape(f"cannot write to {tmp_path}/file/toy-sweep")):
        run(toy_sweep.experiment, "smoke", workers=1, out=tmp_path / "file")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "huge"}, "no scale 'huge'"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"overrides": {"budget": 3}}, "no parameter 'budget'"),
        ({"overrides": {"items": "many"}}, "cannot read 'many'"),
        ({"overrides": {"items": "[1]"}}, "is not like the scale's own value"),
    ],
)
def test_bad_settings_are_one_line(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(lab.LabError, match=message) as caught:
        run(toy_sweep.experiment, **({"scale": "smoke", "out": tmp_path} | settings))
    assert "\n" not in str(caught.value)


def test_overrides_take_the_declared_type() -> None:
    params = resolve_params(toy_sweep.experiment, "smoke", seeds=7, overrides={"items": "5", "pause_s": "1"})
    assert params == {"seeds": 7, "items": 5, "pause_s": 1.0, "limit_s": 60.0}
    assert type(params["pause_s"]) is float


def test_run_id_changes_with_what_results_depend_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, params = toy_sweep.experiment, dict(toy_sweep.experiment.scales["smoke"].params)
    base = identify(experiment, params).run_id
    assert identify(experiment, dict(reversed(params.items()))).run_id == base
    assert identify(experiment, params | {"seeds": 4}).run_id != base
    assert identify(experiment, params, "cuda:1").run_id == identify(experiment, params, "cuda:0").run_id != base
    package = tmp_path / "toy_policy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text("import torch.nn\nAMOUNT = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    variants = [
        {"version": 2},
        {"inputs": lambda params: {"checkpoint": "abc"}},
        {"modules": ("toy_policy",)},
        {"modules": ("toy_policy.method",)},
    ]
    found = {base}
    for variant in variants:
        monkeypatch.setattr(toy_sweep, "experiment", replace(experiment, **variant))
        found.add(identify(toy_sweep.experiment, params).run_id)
    assert len(found) == 5
    before = identify(toy_sweep.experiment, params)
    assert "torch" in before.versions and "toy_policy" not in sys.modules
    (package / "other.py").write_text("")
    assert identify(toy_sweep.experiment, params).run_id == before.run_id
    (package / "method.py").write_text("import torch.nn\nAMOUNT = 2\n")
    assert identify(toy_sweep.experiment, params).run_id != before.run_id
    monkeypatch.setattr(toy_sweep, "experiment", replace(experiment, modules=("toy_policy.absent",)))
    with pytest.raises(lab.LabError, match=r"'toy_policy\.absent', which the experiment declares"):
        identify(toy_sweep.experiment, params)
