"""The experiment on fair acceptance runs, its claims speak of what is measured, and its example runs."""

from __future__ import annotations

from typing import Any

import pytest

from heedful.lab import discover, results
from heedful.lab.run import run

EXPERIMENT = discover.catalog().find("fair-one-sided")


def test_smoke_scale_measures_every_cell_and_reports(tmp_path: Any) -> None:
    result = run(EXPERIMENT, "smoke", workers=1, out=tmp_path)
    assert result.complete and not result.failed
    rows = results.read(result.run_dir)
    assert {cell.id for cell in EXPERIMENT.cells(EXPERIMENT.scales["smoke"].params, result.tuned)} == set(rows["cell"])
    assert EXPERIMENT.figures is not None
    for figure in EXPERIMENT.figures(rows):
        assert len(figure.table) and figure.chart.to_dict()
    assert run(EXPERIMENT, "smoke", workers=1, out=tmp_path).done == 0


def test_claims_speak_of_cells_that_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from heedful.bandits.experiments import fair_one_sided

    monkeypatch.setattr(fair_one_sided, "there", lambda people: True)
    params = EXPERIMENT.scales["small"].params
    tuned = {method: grid[0] for method, grid in fair_one_sided.GRIDS.items()}
    cells = [cell.dict for cell in EXPERIMENT.cells(params, tuned)]
    for claim in EXPERIMENT.claims:
        for side in (claim.treatment, claim.control):
            if not isinstance(side, float | int):
                wanted = {**claim.where, **side}
                assert any(
                    all(cell.get(k) in (v if isinstance(v, list) else [v]) for k, v in wanted.items()) for cell in cells
                ), claim.id
    assert len({len({str(s) for s in grid}) for grid in fair_one_sided.GRIDS.values()}) == 1


def test_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(EXPERIMENT.example, {})
    errors, reports, accepted = map(float, capsys.readouterr().out.split())
    assert 0 <= errors <= 4 and 0 <= reports <= 100 and 0 <= accepted <= 1
