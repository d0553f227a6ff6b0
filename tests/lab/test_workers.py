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
from heedful.lab.run import run


def reasons(result: lab.RunResult) -> dict[str, str]:
    cells = {
        row["cell"]: f"{row['method']}-{row['seed']}" for row in results.cells(result.run_dir).to_dicts()
    }
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
    settings = {"workers": 2, "out": tmp_path, "seeds": 20, "overrides": {"limit_s": 3}}
    result = run(toy_sweep.experiment, "smoke", **settings)
    found = reasons(result)
    assert found.keys() == faults.keys()
    assert found["ours-0"] == "RuntimeError: the toy broke"
    assert "killed (signal 9)" in found["rival-1"]
    assert "signal 11" in found["ours-2"]
    assert found["rival-2"] == "SystemExit: 3"
    assert found["ours-3"] == "its worker exited with status 4"
    assert found["ours-1"] == "MemoryError"
    assert found["ours-9"] == "it ran past its limit of 3 s"
    assert (result.done, result.complete) == (33, False)
    assert json.loads((result.run_dir / "failures.json").read_text()) == result.failed
    assert "RuntimeError: the toy\nbroke" in (result.run_dir / "workers.log").read_text()

    monkeypatch.delenv("TOY_FAULTS")
    again = run(toy_sweep.experiment, "smoke", **settings)
    assert (again.done, again.resumed, again.failed, again.complete) == (7, 33, {}, True)


def test_experiment_in_a_script_runs(tmp_path: Path) -> None:
    """Without a main guard being imported again: workers take the experiment from the script's file."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import dataclasses, pathlib, sys
            import toy_sweep
            from heedful.lab.run import run

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


def test_experiment_that_workers_cannot_import_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
