"""What a run has measured, on disk: ``<out>/<slug>/<scale>/<run-id>/``.

``parts/`` and ``timings/`` hold the rows, ``cells.parquet`` the cells, ``tuned.json`` what the tuning stage
chose, ``failures.json`` the cells that failed last, ``meta.json`` where, when and by what it was measured and
what came out. One process writes a run at a time; a finished cell is durable within :data:`FLUSH_S`.
"""

from __future__ import annotations

import fcntl
import io
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from heedful.lab.declare import Cell, Scalar, canonical
from heedful.lab.errors import LabError
from heedful.lab.files import write_atomic
from heedful.lab.parts import TIMINGS, VALUES, DamagedPartError, list_parts, merge, sweep, write_part
from heedful.lab.rows import Columns, spread_columns
from heedful.lab.workers import Outcome

FLUSH_S = 0.25
"""Finished cells are gathered for at most this long before they are written."""

SLOW_S = 1.0
"""A cell that took longer than this is written at once."""

_FAILURES_S = 5.0
_MANY_PARTS = 256
CELLS, META, FAILURES, TUNED = "cells.parquet", "meta.json", "failures.json", "tuned.json"


def text(value: Scalar) -> str:
    """How a value is written in a column that holds text for some cells and numbers for others."""
    return value if isinstance(value, str) else canonical(value)


def column(name: str, values: Sequence[Scalar]) -> pl.Series:
    """Scalars as one column: truth values, integers, floats or text, whichever holds all of them."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pl.Series(name, values, dtype=pl.Null)
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    if kinds == {int}:
        return pl.Series(name, values, dtype=pl.Int64)
    if kinds <= {int, float}:
        return pl.Series(name, [None if value is None else float(value) for value in values], dtype=pl.Float64)
    return pl.Series(name, [None if value is None else text(value) for value in values], dtype=pl.String)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` atomically, indented for people."""
    write_atomic(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


class Store:
    """The one writer of a run's folder.

    Attributes:
        done: ids of the cells whose rows are stored.
        failures: id -> why the cell failed last.
        notices: what the user should know about the store's state.

    Raises LabError if the folder cannot be written or another process writes it.
    """

    def __init__(self, run_dir: Path, columns: Columns) -> None:
        self.run_dir, self._columns = run_dir, columns
        self.done: set[str] = set()
        self.failures: dict[str, str] = {}
        self.notices: list[str] = []
        try:
            for folder in (VALUES, TIMINGS):
                (run_dir / folder).mkdir(parents=True, exist_ok=True)
            self._lock = open(run_dir / "lock", "w")  # noqa: SIM115 - held until close()
        except OSError as error:
            raise LabError(f"cannot write to {run_dir}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise LabError(f"another process is at work on this run already ({run_dir})") from None
        sweep(run_dir)
        self._dtypes: dict[str, str] = {}
        self._load()
        self._values: list[tuple[Any, ...]] = []
        self._timings: list[tuple[Any, ...]] = []
        self._gathered: list[str] = []
        self._urgent = False
        self._flushed = time.monotonic()
        self._failures_written = 0.0
        self._failures_changed = False

    def _load(self) -> None:
        parts = list_parts(self.run_dir)
        self._next = max((part.number for part in parts), default=0) + 1
        for part in parts:
            try:
                values, _ = part.read()
            except (DamagedPartError, pl.exceptions.PolarsError) as error:
                part.set_aside(self.run_dir)
                self.notices.append(f"set a damaged part aside ({error}); its cells are measured again")
                continue
            self.done.update(values["cell"].unique().to_list())
            for name in self._columns.dimensions:
                kind = _kind_of(values.schema[name])
                if kind is not None:
                    self._dtypes[name] = kind
        self._parts = len(list_parts(self.run_dir))
        try:
            self.failures = dict(json.loads((self.run_dir / FAILURES).read_bytes()))
        except (FileNotFoundError, json.JSONDecodeError):
            self.failures = {}

    def set_cells(self, stages: Mapping[str, Iterable[Cell]]) -> None:
        """Record the cells of each stage, so that the store can be read without the experiment."""
        listed = sorted(
            ((cell, stage) for stage, cells in stages.items() for cell in cells), key=lambda pair: pair[0].id
        )
        names = sorted({name for cell, _ in listed for name in cell.dict})
        frame = pl.DataFrame(
            [
                pl.Series("cell", [cell.id for cell, _ in listed], dtype=pl.String),
                pl.Series("stage", [stage for _, stage in listed], dtype=pl.String),
                pl.Series("exclusive", [cell.exclusive for cell, _ in listed], dtype=pl.Boolean),
                *(column(name, [cell.get(name) for cell, _ in listed]) for name in names),
            ]
        )
        data = io.BytesIO()
        frame.write_parquet(data)
        write_atomic(self.run_dir / CELLS, data.getvalue())
        known = {cell.id for cell, _ in listed}
        self.failures = {cell: reason for cell, reason in self.failures.items() if cell in known}

    def add(self, outcome: Outcome) -> str:
        """Take a cell's outcome. Returns why it failed, empty if it did not."""
        cell = outcome.cell.id
        error = outcome.error or self._clash(outcome)
        self._failures_changed |= bool(error) or cell in self.failures
        if error or outcome.measured is None:
            self.failures[cell] = error
            return error
        self.failures.pop(cell, None)
        for row, values in enumerate(outcome.measured.values):
            self._values.append((cell, row, *values))
        for row, timings in enumerate(outcome.measured.timings):
            self._timings.append((cell, row, outcome.seconds, *timings))
        self._gathered.append(cell)
        self._urgent |= outcome.seconds > SLOW_S
        return ""

    def _clash(self, outcome: Outcome) -> str:
        """A dimension must hold the same kind of value in all cells."""
        if outcome.measured is None:
            return ""
        for name, kind in zip(self._columns.dimensions, outcome.measured.kinds):
            if kind is not None and self._dtypes.setdefault(name, kind) != kind:
                return f"dimension {name!r} is {kind} here, {self._dtypes[name]} in other cells"
        return ""

    def flush(self, force: bool = False) -> None:
        """Write what has gathered, if it is time to."""
        now = time.monotonic()
        if self._gathered and (force or self._urgent or now - self._flushed >= FLUSH_S):
            write_part(self.run_dir, self._next, self._values_frame(), self._timings_frame())
            self.done.update(self._gathered)
            if self.scratch.exists():
                for cell in self._gathered:
                    shutil.rmtree(self.scratch / cell, ignore_errors=True)
            self._values, self._timings, self._gathered, self._urgent = [], [], [], False
            self._next, self._parts = self._next + 1, self._parts + 1
            self._flushed = time.monotonic()
            if self._parts > _MANY_PARTS:
                self.compact()
        if self._failures_changed and (force or now - self._failures_written >= _FAILURES_S):
            write_json(self.run_dir / FAILURES, self.failures)
            self._failures_written, self._failures_changed = now, False

    @property
    def scratch(self) -> Path:
        """Where cells keep their checkpoints."""
        return self.run_dir / "scratch"

    def _values_frame(self) -> pl.DataFrame:
        columns = list(zip(*self._values))
        dimensions = len(self._columns.dimensions)
        return pl.DataFrame(
            [
                pl.Series("cell", columns[0], dtype=pl.String),
                pl.Series("row", columns[1], dtype=pl.UInt32),
                *(column(name, columns[2 + place]) for place, name in enumerate(self._columns.dimensions)),
                *(
                    pl.Series(name, columns[2 + dimensions + place], dtype=pl.Float64)
                    for place, name in enumerate(self._columns.values)
                ),
            ]
        )

    def _timings_frame(self) -> pl.DataFrame:
        names = [name for timing in self._columns.timings for name in (timing, *spread_columns(timing))]
        width = 3 + len(names)
        rows = [(*row[:3], *([None] * len(names))) if len(row) < width else row for row in self._timings]
        columns = list(zip(*rows))
        return pl.DataFrame(
            [
                pl.Series("cell", columns[0], dtype=pl.String),
                pl.Series("row", columns[1], dtype=pl.UInt32),
                pl.Series("wall_s", columns[2], dtype=pl.Float64),
                *(pl.Series(name, columns[3 + place], dtype=pl.Float64) for place, name in enumerate(names)),
            ]
        )

    def compact(self) -> str:
        """Merge all parts into one, in canonical order. Returns the checksum of the values, empty if none."""
        parts = list_parts(self.run_dir)
        if not parts:
            return ""
        try:
            values, timings = merge([part.read() for part in parts])
        except (DamagedPartError, pl.exceptions.PolarsError) as error:
            raise LabError(f"damaged part: {error}; running the experiment again repairs it") from error
        merged = write_part(self.run_dir, self._next, values, timings)
        for part in parts:
            part.remove()
        self._next, self._parts = self._next + 1, 1
        return merged.values.name.split(".")[1]

    def close(self) -> None:
        """Write what has gathered and let others at the run."""
        try:
            self.flush(force=True)
        finally:
            self._lock.close()


def _kind_of(dtype: pl.DataType) -> str | None:
    if dtype == pl.Null:
        return None
    if dtype == pl.Boolean:
        return "a truth value"
    return "text" if dtype == pl.String else "a number"
