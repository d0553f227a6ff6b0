"""Tables in files that somebody names: read, and spoken of by their lines."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from heedful.lab.errors import LabError

Floats = NDArray[np.float64]
LARGEST = 1e30
"""Numbers may be as large: fourth powers of weighted rewards are summed."""


@dataclass(frozen=True)
class Source:
    """A file as it was given, for what is said about it.

    Attributes:
        option: the option that named it.
        path: the file.
    """

    option: str
    path: Path

    def __str__(self) -> str:
        return f"{self.option} {self.path}"

    def place(self, row: int) -> str:
        """Where a row of the table is found, numbered from 0: its line in a CSV file, its number in a Parquet file."""
        if self.path.suffix != ".csv":
            return f"row {row + 1} (the first is 1)"
        # A record takes several lines where line breaks are quoted, and ends where its quotes are even in number.
        quotes, record, begins = 0, -1, 1
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                begins = begins if quotes % 2 else number
                quotes += line.count(b'"')
                if quotes % 2 == 0 and (record >= 0 or line.strip()):  # empty lines above the header are not read
                    record += 1
                    if record == row + 1:
                        break
        return f"line {begins}"


def read_table(source: Source) -> pl.DataFrame:
    """The table in a CSV or Parquet file. Raises LabError, naming the option, if there is none, or no row in it."""
    path = source.path
    if path.suffix not in (".csv", ".parquet", ".pq"):
        raise LabError(f"{source}: its name must end in .csv or .parquet")
    try:
        with path.open("rb") as file:  # by its path polars would read all files that a [ or * in it may mean
            table = (
                pl.read_csv(file, infer_schema_length=None, try_parse_dates=True)
                if path.suffix == ".csv"
                else pl.read_parquet(file)
            )
    except OSError as error:
        raise LabError(f"{source}: {error.strerror or error}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        why = _malformed(path) if path.suffix == ".csv" else None
        raise LabError(f"{source}: {why or str(error).splitlines()[0]}") from error
    if not table.height:
        raise LabError(f"{source}: has no rows")
    return table


def check_columns(table: pl.DataFrame, wanted: Sequence[str], source: Source) -> None:
    """Raises LabError if columns are missing, naming them and what there is."""
    if lost := [name for name in wanted if name not in table.columns]:
        there = ", ".join(table.columns[:20]) + (", ..." if table.width > 20 else "")
        raise LabError(f"{source}: has no column {', '.join(map(repr, lost))}; it has: {there}")


def check_roles(roles: Sequence[tuple[str, str | None]], source: Source) -> None:
    """Raises LabError if one column is named by two options, ``(option, column)``, naming both."""
    options: dict[str, str] = {}
    for option, column in roles:
        if column is not None and column in options:
            raise LabError(f"{source}: {column!r} is named by {options[column]} and {option}; a column is one of them")
        if column is not None:
            options[column] = option


def _malformed(path: Path) -> str | None:
    """What is wrong with a CSV file, and in which line; None if nothing is found."""
    data = path.read_bytes()
    try:
        lines = data.decode().splitlines(keepends=True)
    except UnicodeDecodeError as error:
        above = data.count(b"\n", 0, error.start)
        return f"line {above + 1} is not UTF-8"
    reader, begins, width = csv.reader(lines, strict=True), 1, 0
    try:
        for row in reader:
            width = width or len(row)
            if len(row) > width:
                return f"line {begins} has {len(row)} fields, and the header {width}"
            begins = reader.line_num + 1
    except csv.Error as error:
        return f"line {begins}: {error}"
    return None


def first(mask: pl.Series) -> int:
    return int(mask.arg_true()[0])


def texts(table: pl.DataFrame, column: str, source: Source) -> list[str]:
    """A column as text. Raises LabError for a type that is none, and for a row where it is missing."""
    values = table[column]
    if values.dtype.is_nested() or values.dtype == pl.Binary:
        raise LabError(f"{source}: {column!r} must hold text or numbers, holds {values.dtype}")
    if values.null_count():
        raise LabError(f"{source}: {column!r} is missing in {source.place(first(values.is_null()))}")
    return values.cast(pl.String).to_list()


def numbers(table: pl.DataFrame, column: str, source: Source, missing: bool = False) -> Floats:
    """A column as float64; what is missing, null or NaN, is NaN if it may be.

    Raises LabError for another type, and, naming the row, for what is no finite number, is beyond 1e30, or is missing
    and may not be.
    """
    values = table[column]
    if values.null_count() == len(values):  # of which a file cannot say what it would hold
        values = values.cast(pl.Float64)
    if values.dtype == pl.String:
        odd = values.cast(pl.Float64, strict=False).is_null() & values.is_not_null()
        if odd.any():
            row = first(odd)
            raise LabError(f"{source}: {column!r} is {values[row]!r} in {source.place(row)}, which is not a number")
    if not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        raise LabError(f"{source}: {column!r} must hold numbers, holds {values.dtype}")
    array = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    bad = np.isinf(array) if missing else ~np.isfinite(array)
    if bad.any():
        row = int(bad.argmax())
        what = "missing" if values[row] is None else f"{array[row]:g}"
        raise LabError(f"{source}: {column!r} is {what} in {source.place(row)}; it must be a finite number")
    if (large := np.abs(array) > LARGEST).any():
        row = int(large.argmax())
        raise LabError(
            f"{source}: {column!r} is {array[row]:g} in {source.place(row)}; beyond {LARGEST:g} numbers are too large "
            "to be summed"
        )
    return array
