"""The room's experiments run, and their declarations hold together."""

import pytest

from heedful.lab import discover, results
from heedful.lab.run import run

EXPERIMENTS = discover.catalog().of_room("kv")


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.slug)
def test_smoke_scale_measures_every_cell_and_reports(experiment, tmp_path):
    result = run(experiment, "smoke", workers=2, out=tmp_path)
    assert result.complete and not result.failed
    rows = results.read(result.run_dir)
    assert {cell.id for cell in experiment.cells(experiment.scales["smoke"].params, result.tuned)} == set(rows["cell"])
    if experiment.figures is not None:
        assert all(len(figure.table) for figure in experiment.figures(rows))
    again = run(experiment, "smoke", workers=1, out=tmp_path)
    assert again.done == 0


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.slug)
def test_claims_speak_of_cells_that_are_measured(experiment):
    params = experiment.scales["small"].params
    tuned = {method: grid[0] for method, grid in experiment.tuning.grids(params).items()} if experiment.tuning else {}
    cells = [cell.dict for cell in experiment.cells(params, tuned)]
    for claim in experiment.claims:
        if claim.reason:
            continue
        for side in (claim.treatment, claim.control):
            if not isinstance(side, float | int):
                wanted = {k: v for k, v in {**claim.where, **side}.items() if k not in experiment.dimensions}
                matches = [
                    c for c in cells if all(c.get(k) in (v if isinstance(v, list) else [v]) for k, v in wanted.items())
                ]
                assert matches, (claim.id, wanted)


def test_tuning_gives_every_method_the_same_number_of_settings():
    for experiment in EXPERIMENTS:
        if experiment.tuning:
            grids = experiment.tuning.grids(experiment.scales["small"].params)
            assert len({len(set(str(s) for s in grid)) for grid in grids.values()}) == 1


@pytest.mark.parametrize("experiment", [e for e in EXPERIMENTS if e.example], ids=lambda e: e.slug)
def test_example_runs(experiment, capsys):
    exec(experiment.example, {})
    assert "(" in capsys.readouterr().out
