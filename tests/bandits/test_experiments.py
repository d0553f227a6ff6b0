"""The experiments run, their claims speak of what is measured, and their examples run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import heedful
from heedful.bandits.experiments import regression_oracles
from heedful.lab import discover, results
from heedful.lab.declare import Experiment
from heedful.lab.run import run

SLUGS = ("dynlin-ucb", "lsd-bandits", "regression-oracles")
UNMEASURED = {"regression-oracles": {"long-window-damps", "delay-worsens", "fees-beat-epsilon", "open-bandit"}}
"""Claims that scale smoke has no cells for, or that need data."""


@pytest.fixture(params=SLUGS)
def experiment(request: pytest.FixtureRequest) -> Experiment:
    return discover.catalog().find(request.param)


def test_smoke_scale_measures_every_cell_and_reports(experiment: Experiment, tmp_path: Path) -> None:
    result = run(experiment, "smoke", workers=1, out=tmp_path)
    assert result.complete and not result.failed
    rows = results.read(result.run_dir)
    cells = experiment.cells(experiment.scales["smoke"].params, result.tuned)
    assert {cell.id for cell in cells} <= set(rows["cell"])
    assert experiment.figures is not None
    assert all(len(figure.table) and figure.chart.to_dict() for figure in experiment.figures(rows))
    missing = {verdict.claim for verdict in result.verdicts if verdict.status == "not measured"}
    assert missing <= UNMEASURED.get(experiment.slug, set())
    if experiment.slug == "regression-oracles":
        uniform = rows.filter(policy="uniform", world="linear").drop_nulls("entropy_now")
        assert uniform["entropy_now"].min() == pytest.approx(uniform["entropy_now"].max(), rel=0.1)


def test_claims_speak_of_cells_that_are_measured(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression_oracles, "_there", lambda files: True)
    params = experiment.scales["small"].params
    grids = experiment.tuning.grids(params) if experiment.tuning is not None else {}
    tuned = {method: grid[0] for method, grid in grids.items()}
    assert len({len({str(setting) for setting in grid}) for grid in grids.values()}) <= 1  # the same budget for all
    cells = [cell.dict for cell in experiment.cells(params, tuned)]
    for claim in experiment.claims:
        for side in (claim.treatment, claim.control):
            if not isinstance(side, float | int):
                where = {**claim.where, **side}
                wanted = {k: v for k, v in where.items() if k not in experiment.dimensions}
                assert any(
                    all(cell.get(k) in (v if isinstance(v, list) else [v]) for k, v in wanted.items()) for cell in cells
                ), (claim.id, wanted)


SOURCES = Path(heedful.__file__).parents[1]


def imported(module: str) -> set[str]:
    """The modules of the room that a module needs when it runs."""
    tree = ast.parse(SOURCES.joinpath(*module.split(".")).with_suffix(".py").read_text())
    checked = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    for_types = {id(node) for block in checked for node in ast.walk(block)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types and node.module is not None:
            if node.module == "heedful.bandits":
                found |= {f"heedful.bandits.{name.name}" for name in node.names}
            elif node.module.startswith("heedful.bandits."):
                found.add(node.module)
    return {name for name in found if SOURCES.joinpath(*name.split(".")).with_suffix(".py").exists()}


@pytest.mark.parametrize("slug", [*SLUGS, "ofs", "fair-one-sided"])
def test_all_that_an_experiment_is_made_of_is_part_of_its_identity(slug: str) -> None:
    experiment = discover.catalog().find(slug)
    declared, waiting = set(experiment.modules), list(experiment.modules)
    while waiting:
        for module in imported(waiting.pop()) - declared:
            assert module == f"heedful.bandits.experiments.{slug.replace('-', '_')}", f"{module} is not declared"
            declared.add(module)
            waiting.append(module)


def test_without_the_data_their_cells_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression_oracles, "_there", lambda files: False)
    experiment = regression_oracles.experiment
    params = experiment.scales["small"].params
    assert {cell["part"] for cell in experiment.cells(params, {})}.isdisjoint({"fees", "open-bandit"})
    assert experiment.inputs is not None and experiment.inputs(params) == {}


def test_example_runs(experiment: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    exec(experiment.example, {})
    out = capsys.readouterr().out
    if experiment.slug == "regression-oracles":
        lines = out.splitlines()
        assert lines[3].startswith("3 (0, 1, 2) ")
        assert float(lines[3].split()[-1]) < float(lines[0].split()[-1]) / 3
    elif experiment.slug == "dynlin-ucb":
        first, second, played, others = (float(number) for number in re.findall(r"\d+\.?\d*", out))
        assert first > second and played > 3 * others  # the best in the long run, not the one that pays at once
    else:
        bound, planned, greedy = (float(number) for number in re.findall(r"\d\.\d+", out.splitlines()[0]))
        assert bound + 1e-3 >= planned > 0.9 * bound > greedy
