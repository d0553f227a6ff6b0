"""The experiment on dynamical linear bandits runs, and its declarations hold together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from heedful.lab import discover, results
from heedful.lab.run import run

EXPERIMENT = discover.catalog().find("dynlin-ucb")


def test_smoke_scale_measures_every_cell_and_reports(tmp_path: Path) -> None:
    result = run(EXPERIMENT, "smoke", workers=1, out=tmp_path)
    assert result.complete and not result.failed
    rows = results.read(result.run_dir)
    assert {cell.id for cell in EXPERIMENT.cells(EXPERIMENT.scales["smoke"].params, result.tuned)} <= set(rows["cell"])
    assert EXPERIMENT.figures is not None
    assert all(len(figure.table) for figure in EXPERIMENT.figures(rows))
    assert all(verdict.status != "not measured" for verdict in result.verdicts)


def test_claims_speak_of_cells_that_are_measured() -> None:
    params = EXPERIMENT.scales["small"].params
    assert EXPERIMENT.tuning is not None
    tuned = {method: grid[0] for method, grid in EXPERIMENT.tuning.grids(params).items()}
    cells = [cell.dict for cell in EXPERIMENT.cells(params, tuned)]
    for claim in EXPERIMENT.claims:
        for side in (claim.treatment, claim.control):
            if not isinstance(side, float | int):
                wanted: dict[str, Any] = {**claim.where, **side}
                assert any(
                    all(c.get(k) in (v if isinstance(v, list) else [v]) for k, v in wanted.items()) for c in cells
                ), claim.id


def test_example_runs(capsys: Any) -> None:
    exec(EXPERIMENT.example, {})
    assert "long run" in capsys.readouterr().out
