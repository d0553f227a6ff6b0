"""The stage that chooses hyper-parameters, with the same number of evaluations for every method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from heedful.lab.declare import Cell, Experiment, Scalar, canonical
from heedful.lab.errors import LabError

Tuned = Mapping[str, Mapping[str, Scalar]]


@dataclass(frozen=True)
class Candidate:
    """One method's candidate setting and the cells that measure it on calibration items."""

    method: str
    setting: Mapping[str, Scalar]
    cells: tuple[Cell, ...]


def candidates(experiment: Experiment, params: Mapping[str, Any]) -> list[Candidate]:
    """All candidates of all methods. Raises LabError if a method would get more evaluations than another."""
    tuning = experiment.tuning
    if tuning is None:
        return []
    if tuning.metric not in {metric.name for metric in experiment.metrics if metric.better != "neither"}:
        raise LabError(f"{experiment.slug}: tuning needs a declared metric with a direction, not {tuning.metric!r}")
    grids = tuning.grids(params)
    lengths = {method: len(grid) for method, grid in grids.items()}
    if len(set(lengths.values())) > 1:
        raise LabError(f"{experiment.slug}: tuning grids differ in length: {lengths}; rivals get equal effort")
    listed = []
    for method, grid in grids.items():
        if len({canonical(dict(setting)) for setting in grid}) < len(grid):
            raise LabError(f"{experiment.slug}: the tuning grid of {method!r} repeats a setting")
        for setting in grid:
            listed.append(Candidate(method, setting, tuple(tuning.cells(params, method, setting))))
    counts = {len(candidate.cells) for candidate in listed}
    if len(counts) > 1 or 0 in counts:
        raise LabError(f"{experiment.slug}: tuning candidates differ in their number of cells: {sorted(counts)}")
    return listed


def choose(experiment: Experiment, listed: list[Candidate], rows: pl.DataFrame) -> Tuned:
    """Method -> the setting with the best mean of the tuning metric; ties go to the earlier.

    Raises LabError if a candidate reports no number.
    """
    if experiment.tuning is None:
        return {}
    metric = experiment.metric(experiment.tuning.metric)
    sign = -1.0 if metric.better == "lower" else 1.0
    chosen: dict[str, Mapping[str, Scalar]] = {}
    best: dict[str, float] = {}
    for candidate in listed:
        ids = [cell.id for cell in candidate.cells]
        mean = rows.filter(pl.col("cell").is_in(ids))[metric.name].fill_nan(None).mean()
        if not isinstance(mean, float):
            raise LabError(f"{experiment.slug}: {candidate.method!r}, {dict(candidate.setting)} gave no {metric.name}")
        if candidate.method not in best or sign * mean > best[candidate.method]:
            best[candidate.method], chosen[candidate.method] = sign * mean, dict(candidate.setting)
    return chosen
