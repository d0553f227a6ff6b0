"""The content hash of a table: the same whatever file it lies in, however that was compressed or cut into groups."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from heedful.lab.errors import LabError
from heedful.lab.files import read_parquet

_PLAIN: dict[Any, str] = {
    pl.Boolean: "bool",
    pl.Int8: "int8",
    pl.Int16: "int16",
    pl.Int32: "int32",
    pl.Int64: "int64",
    pl.UInt8: "uint8",
    pl.UInt16: "uint16",
    pl.UInt32: "uint32",
    pl.UInt64: "uint64",
    pl.Float32: "float32",
    pl.Float64: "float64",
    pl.String: "string",
    pl.Categorical: "string",
    pl.Enum: "string",
    pl.Date: "date",
    pl.Time: "time",
}


def content_hash(table: pl.DataFrame) -> str:
    """A digest of a table's column names, types and values, rows and columns in their order; 64 hex digits.

    It is the SHA-256 of the following bytes. All numbers are little-endian.

    1. ``heedful table 1``, a line feed, the JSON text ``[rows,[[name,type],...]]`` without blanks and in ASCII, a
       line feed. Types are ``bool``, ``int8`` to ``int64``, ``uint8`` to ``uint64``, ``float32``, ``float64``,
       ``string`` (categories and enumerations too), ``date``, ``time``, ``datetime[UNIT,ZONE]``, ``duration[UNIT]``
       and ``list<TYPE>``.
    2. For each column its *body*: first one bit per value, 1 for a value and 0 for null, lowest bit first, filled up
       to whole bytes with 0; then

       - numbers: the values in their own width, 0 for null, one and the same NaN for all; ``bool`` takes a byte;
         dates and times are the integers that they are stored as;
       - strings: their lengths in bytes (uint64, 0 for null), then the UTF-8 bytes of all of them;
       - lists: their lengths (uint64, 0 for null), then the body of their entries, one list after the other.

    Raises LabError for a column of any other type.
    """
    columns = [[name, _type(dtype, name)] for name, dtype in table.schema.items()]
    digest = hashlib.sha256(b"heedful table 1\n")
    digest.update(json.dumps([table.height, columns], separators=(",", ":")).encode() + b"\n")
    for column in table:
        _body(column, digest.update)
    return digest.hexdigest()


def read_table(path: Path) -> pl.DataFrame | None:
    """The table in a Parquet file; None if it is not one, or a damaged one. Raises OSError if it cannot be read."""
    try:
        return read_parquet(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None


def _type(dtype: pl.DataType, name: str) -> str:
    if isinstance(dtype, pl.List):
        return f"list<{_type(dtype.inner, name)}>"  # type: ignore[arg-type]
    if isinstance(dtype, pl.Datetime):
        return f"datetime[{dtype.time_unit},{dtype.time_zone or ''}]"
    if isinstance(dtype, pl.Duration):
        return f"duration[{dtype.time_unit}]"
    plain = _PLAIN.get(dtype.base_type())
    if plain is None:
        raise LabError(f"column {name!r}: no content hash is defined for type {dtype}")
    return plain


def _body(values: pl.Series, write: Callable[[Any], None]) -> None:
    write(np.packbits(values.is_not_null().to_numpy(), bitorder="little"))
    if isinstance(values.dtype, pl.List):
        lengths = values.list.len().fill_null(0)
        write(_numbers(lengths.cast(pl.UInt64)))
        # Of an empty list and of null, ``explode`` would make a null entry.
        _body(values.filter(lengths > 0).explode(), write)
    elif values.dtype in (pl.String, pl.Categorical, pl.Enum):
        strings = values.cast(pl.String).fill_null("")
        write(_numbers(strings.str.len_bytes().cast(pl.UInt64)))
        write("".join(strings.to_list()).encode())
    elif values.dtype == pl.Boolean:
        write(_numbers(values.fill_null(False).cast(pl.UInt8)))
    else:
        write(_numbers(values.to_physical().fill_null(0)))


def _numbers(values: pl.Series) -> np.ndarray:
    numbers = values.to_numpy()
    if numbers.dtype.kind == "f":
        numbers = np.where(np.isnan(numbers), numbers.dtype.type(np.nan), numbers)
    return np.ascontiguousarray(numbers, dtype=numbers.dtype.newbyteorder("<"))
