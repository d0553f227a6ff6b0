"""Regression oracles' experiment runs, and its claims speak of what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heedful.bandits.experiments import regression_oracles
from heedful.lab import results
from heedful.lab.judge import judge
from heedful.lab.run import run

EXPERIMENT = regression_oracles.experiment


def test_smoke_scale_measures_every_cell_and_reports(tmp_path: Path) -> None:
    result = run(EXPERIMENT, "smoke", workers=1, out=tmp_path)
    assert result.complete and not result.failed
    rows = results.read(result.run_dir)
    assert {cell.id for cell in EXPERIMENT.cells(EXPERIMENT.scales["smoke"].params, {})} == set(rows["cell"])
    figures = EXPERIMENT.figures(rows)  # type: ignore[misc]
    assert all(len(figure.table) and figure.chart.to_dict() for figure in figures)
    missing = {v.claim for v in judge(EXPERIMENT, rows) if v.status == "not measured"}
    assert missing <= {"long-window-damps", "delay-worsens", "fees-beat-epsilon", "open-bandit"}
    uniform = rows.filter(policy="uniform", world="linear").drop_nulls("entropy_now")
    assert uniform["entropy_now"].min() == pytest.approx(uniform["entropy_now"].max(), rel=0.1)


def test_claims_speak_of_cells_that_are_measured(monkeypatch: Any) -> None:
    monkeypatch.setattr(regression_oracles, "_there", lambda files: True)
    cells = [cell.dict for cell in EXPERIMENT.cells(EXPERIMENT.scales["small"].params, {})]
    for claim in EXPERIMENT.claims:
        for side in (claim.treatment, claim.control):
            if not isinstance(side, float | int):
                wanted = {k: v for k, v in {**claim.where, **side}.items() if k not in EXPERIMENT.dimensions}
                assert any(
                    all(cell.get(k) in (v if isinstance(v, list) else [v]) for k, v in wanted.items()) for cell in cells
                ), (claim.id, wanted)


def test_without_the_data_their_cells_are_left_out(monkeypatch: Any) -> None:
    monkeypatch.setattr(regression_oracles, "_there", lambda files: False)
    params = EXPERIMENT.scales["small"].params
    assert {cell["part"] for cell in EXPERIMENT.cells(params, {})}.isdisjoint({"fees", "open-bandit"})
    assert EXPERIMENT.inputs is not None and EXPERIMENT.inputs(params) == {}


def test_example_runs(capsys: Any) -> None:
    exec(EXPERIMENT.example, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].startswith("3 (0, 1, 2) ")
    assert np.float64(lines[3].split()[-1]) < np.float64(lines[0].split()[-1]) / 3
