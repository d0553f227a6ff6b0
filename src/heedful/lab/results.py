"""Reading what runs have stored, without the experiments that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from heedful.lab.errors import LabError
from heedful.lab.files import read_parquet
from heedful.lab.parts import DamagedPartError, list_parts, merge
from heedful.lab.store import CELLS, META

MEASURE, TUNE = "measure", "tune"
"""The stages that cells belong to."""

_ATTEMPTS = 3


_Tables = tuple[pl.DataFrame, pl.DataFrame]


def _tables(run_dir: Path) -> _Tables | None:
    """All stored values and timings; a run that is being compacted meanwhile is read again."""
    for attempt in range(_ATTEMPTS):
        try:
            parts = [part.read() for part in list_parts(run_dir)]
            return merge(parts) if parts else None
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise
        except (DamagedPartError, pl.exceptions.PolarsError) as error:
            raise LabError(f"damaged part: {error}; running the experiment again repairs it") from error
    return None


def cells(run_dir: Path) -> pl.DataFrame:
    """The run's cells: ``cell`` (id), ``stage``, ``exclusive`` and a column per parameter."""
    try:
        return read_parquet(run_dir / CELLS)
    except FileNotFoundError as error:
        raise LabError(f"{run_dir} holds no run") from error


def values(run_dir: Path, stage: str = MEASURE) -> pl.DataFrame:
    """The stored values in canonical order (cell id, row number): the same however they were measured.

    Columns: ``cell``, ``row``, the cells' parameters by name, the dimensions, the value metrics as float64.
    """
    return _with_params(run_dir, stage, _tables(run_dir))


def _with_params(run_dir: Path, stage: str, tables: _Tables | None) -> pl.DataFrame:
    known = cells(run_dir).filter(pl.col("stage") == stage).drop("stage", "exclusive")
    if tables is None:
        return known.with_columns(row=pl.lit(0, pl.UInt32)).clear()
    stored = tables[0]
    parameters = [name for name in known.columns if name != "cell"]
    rest = [name for name in stored.columns if name not in ("cell", "row")]
    joined = stored.join(known, on="cell", how="inner")
    return joined.select("cell", "row", *parameters, *rest).sort("cell", "row")


def read(run_dir: Path, stage: str = MEASURE) -> pl.DataFrame:
    """Values and timings joined: :func:`values` with ``wall_s`` (the cell's seconds) and the timing metrics.

    A timing metric ``t`` is the median over an exclusive cell's repeats; ``t_lower`` and ``t_upper`` are its
    quartiles.
    """
    tables = _tables(run_dir)
    measured = _with_params(run_dir, stage, tables)
    if tables is None:
        return measured
    return measured.join(tables[1], on=["cell", "row"], how="left", maintain_order="left")


def meta(run_dir: Path) -> dict[str, Any]:
    """The run's ``meta.json``. Raises LabError if it is missing or unreadable."""
    try:
        content: dict[str, Any] = json.loads((run_dir / META).read_bytes())
    except (OSError, json.JSONDecodeError) as error:
        raise LabError(f"{run_dir / META} cannot be read: {error}") from error
    return content


def list_runs(out: Path) -> list[Path]:
    """The folders of all runs under ``out``, newest first by when they last ended or began."""
    runs = []
    for path in out.glob(f"*/*/*/{META}"):
        if not (path.parent / CELLS).exists():
            continue
        content = meta(path.parent)
        runs.append((content.get("finished") or content.get("started") or "", path.parent))
    return [run_dir for _, run_dir in sorted(runs, reverse=True)]
