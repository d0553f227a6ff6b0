"""A cell that misbehaves fails alone and says why."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import toy_sweep

import heedful.lab as lab
from heedful.lab import results
from heedful.lab.run import Progress, run


def reasons(result: lab.RunResult) -> dict[str, str]:
    cells = {row["cell"]: f"{row['method']}-{row['seed']}" for row in results.cells(result.run_dir).to_dicts()}
    return {cells[cell]: reason for cell, reason in result.failed.items()}


def test_each_misbehaving_cell_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {
        "ours-0": "raise",
        "rival-1": "kill",
        "ours-2": "segfault",
        "rival-2": "exit",
        "ours-1": "memory",
        "ours-3": "leave",
        "ours-9": "hang",
    }
    monkeypatch.setenv("TOY_FAULTS", json.dumps(faults))
    settings = {"workers": 2, "out": tmp_path, "seeds": 20, "overrides": {"limit_s": 5}}
    result = run(toy_sweep.experiment, "smoke", **settings)
    found = reasons(result)
    assert found.keys() == faults.keys()
    assert found["ours-0"] == "RuntimeError: the toy broke"
    assert "killed (signal 9)" in found["rival-1"]
    assert "signal 11" in found["ours-2"]
    assert found["rival-2"] == "SystemExit: 3"
    assert found["ours-3"] == "its worker exited with status 4"
    assert found["ours-1"] == "MemoryError"
    assert found["ours-9"] == "it ran past its limit of 5 s"
    assert (result.done, result.complete) == (33, False)
    assert json.loads((result.run_dir / "failures.json").read_text()) == result.failed
    assert "RuntimeError: the toy\nbroke" in (result.run_dir / "workers.log").read_text()

    monkeypatch.delenv("TOY_FAULTS")
    again = run(toy_sweep.experiment, "smoke", **settings)
    assert (again.done, again.resumed, again.failed, again.complete) == (7, 33, {}, True)


def test_scratch_survives_a_kill_until_the_cell_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_FAULTS", json.dumps({"ours-1": "resume"}))
    first = run(toy_sweep.experiment, "smoke", workers=1, out=tmp_path)
    assert reasons(first).keys() == {"ours-1"}
    (cell,) = first.failed
    assert (first.run_dir / "scratch" / cell / "checkpoint").read_text() == "half way"
    again = run(toy_sweep.experiment, "smoke", workers=1, out=tmp_path)
    assert (again.done, again.complete) == (1, True)
    assert not (first.run_dir / "scratch" / cell).exists()


def test_waiting_for_an_artifact_does_not_count_against_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build takes 4 s, which its cell is allowed; the cell that waits for it is allowed 2 s."""
    monkeypatch.setenv("TOY_RUNS", str(tmp_path))
    monkeypatch.setenv("TOY_FAULTS", json.dumps({"ours-0": "build", "ours-1": "wait for build"}))
    result = run(toy_sweep.experiment, "smoke", workers=2, out=tmp_path, overrides={"limit_s": 2.0})
    assert result.failed == {}
    waited = results.read(result.run_dir).filter(method="ours", seed=1)["wall_s"][0]
    assert waited > 2.0


def test_progress_of_a_long_cell_gives_an_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_FAULTS", json.dumps({"ours-0": "slow cell"}))
    seen: list[Progress] = []
    run(toy_sweep.experiment, "smoke", workers=1, out=tmp_path, progress=seen.append)
    early = [progress.eta_s for progress in seen if progress.done == 0]
    assert any(estimate is not None and estimate > 0.0 for estimate in early)


def test_experiment_in_a_script_runs(tmp_path: Path) -> None:
    """Without a main guard being imported again: workers take the experiment from the script's file."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import dataclasses, pathlib, sys
            import toy_sweep
            from heedful.lab.run import Progress, run

            def measure(cell, ctx):
                print("measured in a worker")
                return [{"reward": float(ctx.seed("x") % 2)}]

            experiment = dataclasses.replace(toy_sweep.experiment, slug="scripted", measure=measure)

            if __name__ == "__main__":
                result = run(experiment, "smoke", workers=1, out=pathlib.Path(sys.argv[1]))
                print(result.done, len(result.failed))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parent / "toys"), "PATH": ""},
        timeout=100,
    )
    assert done.stdout == "6 0\n", done.stderr


def test_experiment_that_no_module_holds_is_refused(tmp_path: Path) -> None:
    import dataclasses

    with pytest.raises(lab.LabError, match="attribute of a module"):
        run(dataclasses.replace(toy_sweep.experiment, version=3), "smoke", out=tmp_path)


def test_experiment_that_workers_cannot_import_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_fickle.py").write_text(
        "import os, toy_sweep, dataclasses\n"
        "if os.environ.get('TOY_FICKLE'): raise ImportError('not in a worker')\n"
        "experiment = dataclasses.replace(toy_sweep.experiment, slug='fickle')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import toy_fickle

    monkeypatch.setenv("TOY_FICKLE", "1")
    with pytest.raises(lab.LabError, match="cannot be imported by a worker: ImportError: not in a worker"):
        run(toy_fickle.experiment, "smoke", workers=2, out=tmp_path / "runs")
