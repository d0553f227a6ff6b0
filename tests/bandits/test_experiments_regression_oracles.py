"""The experiment on regression oracles: what is tuned is tuned equally, and what its log cannot carry is not judged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from heedful.bandits.experiments import _regression_oracles as measuring
from heedful.bandits.experiments import regression_oracles
from heedful.lab import Cell, data
from heedful.lab.tuning import candidates

EXPERIMENT = regression_oracles.experiment
CTX: Any = SimpleNamespace(params=EXPERIMENT.scales["smoke"].params)
UNTUNED = {"squarecb": "squarecb-2000"}


@pytest.mark.parametrize("scale", sorted(EXPERIMENT.scales))
def test_every_method_gets_the_same_number_of_evaluations_on_seeds_of_its_own(scale: str) -> None:
    params = EXPERIMENT.scales[scale].params
    listed = candidates(EXPERIMENT, params)
    assert len(listed) == 5 * 9  # five settings of five policies on the logistic model, of two on each of the others
    assert {len(candidate.cells) for candidate in listed} == {params["calibration"]}
    seeds = {cell["seed"] for candidate in listed for cell in candidate.cells}
    assert seeds.isdisjoint(params["seeds"]) and min(seeds) == regression_oracles.CALIBRATION


def test_tuned_cells_are_the_test_seeds_of_the_worlds_that_were_tuned_in() -> None:
    params = EXPERIMENT.scales["small"].params
    tuned = {method: grid[1] for method, grid in regression_oracles.GRIDS.items()}
    cells = [cell for cell in regression_oracles.cells(params, tuned) if cell["part"] == "tuned"]
    assert len(cells) == len(params["seeds"]) * (2 * 5 + 2 + 2)
    assert {cell["seed"] for cell in cells} == set(params["seeds"])
    chosen = {cell["gamma"] for cell in cells if cell["policy"] == "squarecb"}
    assert chosen == {2e4}


@pytest.mark.parametrize("policy", sorted(regression_oracles.LADDERS))
def test_the_first_candidate_is_the_untuned_policy_and_the_last_explores_less(policy: str) -> None:
    def regret(part: str, named: str, **setting: float) -> float:
        cell = Cell.of(
            part=part, world="linear", oracle="logistic", policy=named, seed=3, window=3, delay=0, rate=None, **setting
        )
        return next(float(row["regret"]) for row in measuring.learn(cell, CTX) if "regret" in row)  # type: ignore[arg-type]

    name, ladder = regression_oracles.LADDERS[policy]
    untuned = regret("main", UNTUNED.get(policy, policy))
    assert regret("tuned", policy, **{name: ladder[0]}) == untuned
    assert regret("tuned", policy, **{name: ladder[-1]}) != untuned
    if policy in ("contextual-epsilon", "squarecb", "softmax"):
        assert regret("tuned", policy, **{name: ladder[-1]}) == pytest.approx(regret("main", "greedy"), abs=0.005)


@pytest.mark.parametrize(("rare", "judged"), [(0.25, 3), (1e-6, 1)])
def test_an_estimate_that_its_log_does_not_support_is_not_judged(
    rare: float, judged: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    items = np.arange(2000) % 4
    for policy, propensity in (("random", np.full(2000, 0.25)), ("bts", np.full(2000, 0.25))):
        if policy == "bts":
            propensity[0] = rare
        clicks = (rng.random(2000) < 0.2).astype(np.int64)
        pl.DataFrame({"item_id": items, "click": clicks, "propensity_score": propensity}).write_parquet(
            tmp_path / f"{policy}_all.parquet"
        )
    monkeypatch.setattr(data, "find", lambda name: tmp_path / Path(name).name)
    rows = list(measuring.open_bandit(Cell.of(part="open-bandit", campaign="all"), CTX))
    assert [row["estimator"] for row in rows] == ["random log", "ips", "snips"]
    assert sum("violations" in row for row in rows) == judged


def test_intervals_are_claimed_of_one_estimator_each() -> None:
    claims = [claim for claim in EXPERIMENT.claims if claim.id.startswith("intervals-cover")]
    assert sorted(str(claim.treatment["estimator"]) for claim in claims) == ["dr", "ips", "snips"]


def test_every_comparison_with_epsilon_greedy_is_claimed_tuned_as_well() -> None:
    ids = {claim.id for claim in EXPERIMENT.claims}
    untuned = {name for name in ids if name.startswith("beats-epsilon-")}
    assert untuned and {f"tuned-{name}" for name in untuned} <= ids
