"""What rows may look like, checked where they are made."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heedful.lab.declare import Cell, Experiment, Scalar
from heedful.lab.errors import LabError

RESERVED = frozenset({"cell", "row", "stage", "exclusive", "wall_s"})
"""Columns that the workbench adds."""

_KINDS: dict[type, str] = {bool: "a truth value", int: "a number", float: "a number", str: "text"}


def spread_columns(metric: str) -> tuple[str, str]:
    """The columns that hold a timing's lower and upper quartile over its repeats."""
    return f"{metric}_lower", f"{metric}_upper"


@dataclass(frozen=True)
class Measured:
    """A cell's checked rows, as tuples in the order of the columns.

    Attributes:
        values: per row, the dimensions and then the value metrics.
        timings: per row, the timing metrics.
        kinds: per dimension, what it holds; None if it is empty throughout.
    """

    values: list[tuple[Scalar, ...]]
    timings: list[tuple[float | None, ...]]
    kinds: tuple[str | None, ...]


@dataclass(frozen=True)
class Columns:
    """The columns of an experiment's rows beside its cells' parameters."""

    dimensions: tuple[str, ...]
    values: tuple[str, ...]
    timings: tuple[str, ...]

    @classmethod
    def of(cls, experiment: Experiment) -> Columns:
        """Raises LabError if the declared names collide."""
        values = tuple(metric.name for metric in experiment.metrics if not metric.timing)
        timings = tuple(metric.name for metric in experiment.metrics if metric.timing)
        spreads = tuple(name for timing in timings for name in spread_columns(timing))
        names = [*experiment.dimensions, *values, *timings, *spreads]
        for name in names:
            if name in RESERVED or names.count(name) > 1:
                raise LabError(f"{experiment.slug}: column {name!r} is declared twice or is the workbench's own")
        return cls(tuple(experiment.dimensions), values, timings)

    def check_params(self, cell: Cell) -> None:
        """Raises LabError if a parameter of the cell has the name of another column."""
        for name, _ in cell.params:
            if name in self._all or name in RESERVED:
                raise LabError(f"cell parameter {name!r} has the name of another column")

    @property
    def _all(self) -> tuple[str, ...]:
        return (*self.dimensions, *self.values, *self.timings)

    def check(self, rows: Iterable[Mapping[str, Any]], cell: Cell) -> Measured:
        """The rows as tuples. Raises LabError, naming row and column, for what was not declared.

        A row names any of the dimensions and at least one metric; what it leaves out is empty. Metrics are
        numbers or None. No two rows of a cell have the same dimensions.
        """
        values, timings = [], []
        kinds: list[str | None] = [None] * len(self.dimensions)
        seen = set()
        for index, row in enumerate(rows):
            self._check_names(index, row, cell)
            key = tuple(_plain(row.get(name)) for name in self.dimensions)
            for place, value in enumerate(key):
                if value is None:
                    continue
                kind = _kind(value, index, self.dimensions[place])
                if kinds[place] not in (None, kind):
                    raise LabError(
                        f"row {index}: dimension {self.dimensions[place]!r} is {kind}, {kinds[place]} before"
                    )
                kinds[place] = kind
            if key in seen:
                where = ", ".join(f"{name}={value!r}" for name, value in zip(self.dimensions, key)) or "no dimensions"
                raise LabError(f"row {index}: another row of the cell has the same dimensions ({where})")
            seen.add(key)
            values.append((*key, *(_number(row.get(name), index, name) for name in self.values)))
            timings.append(tuple(_number(row.get(name), index, name) for name in self.timings))
        if not values:
            raise LabError("measure returned no rows")
        return Measured(values, timings, tuple(kinds))

    def _check_names(self, index: int, row: Mapping[str, Any], cell: Cell) -> None:
        if not isinstance(row, Mapping):
            raise LabError(f"row {index} is a {type(row).__name__}, not a mapping of columns to values")
        metric = False
        for name in row:
            if name in self.values:
                metric = True
            elif name in self.timings:
                metric = True
                if not cell.exclusive and row[name] is not None:
                    raise LabError(f"row {index}: timing {name!r} may be reported by exclusive cells only")
            elif name not in self.dimensions:
                if name in cell.dict:
                    raise LabError(f"row {index}: column {name!r} is a parameter of the cell and is added by itself")
                raise LabError(f"row {index}: column {name!r} is neither a declared metric nor a declared dimension")
        if not metric:
            raise LabError(f"row {index} reports no metric; declared are {', '.join((*self.values, *self.timings))}")


def _plain(value: Any) -> Any:
    """A numpy scalar as the Python scalar that it holds."""
    return value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else value


def _kind(value: Any, index: int, name: str) -> str:
    kind = _KINDS.get(type(value))
    if kind is None:
        raise LabError(f"row {index}: dimension {name!r} is a {type(value).__name__}, not a scalar")
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise LabError(f"row {index}: dimension {name!r} is an integer of more than 64 bits")
    return kind


def _number(value: Any, index: int, name: str) -> float | None:
    if type(value) is float or value is None:
        return value
    plain = _plain(value)
    if isinstance(plain, int | float):
        return float(plain)
    raise LabError(f"row {index}: metric {name!r} is {type(value).__name__} {str(value)[:40]!r}, not a number")


def combine_repeats(repeats: Sequence[Measured]) -> Measured:
    """One cell's repeats as one: its values, and per timing the median and quartiles over repeats.

    Raises LabError if the values of two repeats differ.
    """
    first = repeats[0]
    for number, other in enumerate(repeats[1:], start=2):
        if repr(other.values) != repr(first.values):
            raise LabError(f"repeat {number} gave other values than the first: an exclusive cell must be deterministic")
    timings = []
    for rows in zip(*(repeat.timings for repeat in repeats)):
        columns: list[float | None] = []
        for samples in zip(*rows):
            columns.extend(_spread([sample for sample in samples if sample is not None]))
        timings.append(tuple(columns))
    return Measured(first.values, timings, first.kinds)


def _spread(samples: list[float]) -> tuple[float | None, float | None, float | None]:
    """Median, lower and upper quartile."""
    if not samples:
        return None, None, None
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    lower, median, upper = statistics.quantiles(samples, n=4, method="inclusive")
    return median, lower, upper
