"""The room's experiment runs, and its declarations hold together."""

import pytest

from heedful.lab import discover, results
from heedful.lab.run import run

EXPERIMENTS = discover.catalog().of_room("serving")


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.slug)
def test_smoke_scale_measures_every_cell_and_reports(experiment, tmp_path):
    result = run(experiment, "smoke", workers=2, out=tmp_path)
    assert result.complete and not result.failed
    rows = results.read(result.run_dir)
    assert {cell.id for cell in experiment.cells(experiment.scales["smoke"].params, result.tuned)} == set(rows["cell"])
    figures = experiment.figures(rows)
    assert len(figures) >= 3 and all(len(figure.table) for figure in figures)
    verdicts = {verdict.claim: verdict.status for verdict in result.verdicts}
    assert verdicts["oracle-is-safe"] == "holds"


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.slug)
def test_claims_speak_of_cells_that_are_measured(experiment, monkeypatch):
    module = __import__(f"heedful.serving.experiments.{experiment.slug.replace('-', '_')}", fromlist=["_there"])
    monkeypatch.setattr(module, "_there", lambda trace: True)
    params = experiment.scales["small"].params
    tuned = {method: grid[0] for method, grid in experiment.tuning.grids(params).items()}
    cells = [cell.dict for cell in experiment.cells(params, tuned)]
    for claim in experiment.claims:
        for side in (claim.treatment, claim.control):
            if not isinstance(side, float | int):
                wanted = {k: v for k, v in {**claim.where, **side}.items() if k not in experiment.dimensions}
                assert any(
                    all(cell.get(k) in (v if isinstance(v, list) else [v]) for k, v in wanted.items()) for cell in cells
                ), (claim.id, wanted)


def test_example_runs(capsys):
    for experiment in EXPERIMENTS:
        exec(experiment.example, {})
    assert "evictions per 100 requests" in capsys.readouterr().out
