"""Traces from files.

=================  ========================================================================================
format             what a file holds
=================  ========================================================================================
``csv``            a header line, and a column of page ids or page names
``parquet``        the same; the entries of a column of lists are requests one after the other
``txt``            one integer per line
``oracleGeneral``  libCacheSim's binary records of 24 bytes, little-endian: time (u32), id (u64), size (u32),
                   next access (i64); only the id is used
=================  ========================================================================================

Any of them but Parquet may be compressed with zstd. Ids are integers of up to 64 bits, signed or unsigned.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from heedful.paging.base import Trace

Format = Literal["csv", "parquet", "txt", "oracleGeneral"]
FORMATS: tuple[Format, ...] = get_args(Format)
COLUMNS = ("page", "id", "key", "obj_id")
"""Where the pages are looked for in a file that has several columns."""

RECORD = np.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])
"""A record of an oracleGeneral file."""

_SAMPLE = 1000
"""If so many rows of a CSV file begin it with integers, all must be integers."""
_CHUNK = RECORD.itemsize << 16
_ZSTD = b"\x28\xb5\x2f\xfd"
_INTEGER = "^[+-]?[0-9]+$"


def read_trace(path: str | os.PathLike[str], column: str | None = None, format: Format | None = None) -> Trace:
    """The requests in a file.

    Args:
        path: the file.
        column: of a CSV or Parquet file, where the pages are; by default its only column, or the one of
            :data:`COLUMNS` that it has.
        format: see above; by default the last part of the file's name that is one, as in ``a.csv`` and
            ``b.oracleGeneral.bin.zst``.

    Raises ValueError, in one line, for a file that cannot be read, is damaged, or holds no request; a row or line that
    holds no page, with its number; a record that is cut off, with its offset; an id of more than 64 bits; and a column
    that is not there, naming those that are.
    """
    return Trace.of(read_ids(path, COLUMNS if column is None else column, format), Path(path).name)


def read_ids(
    path: str | os.PathLike[str], column: str | tuple[str, ...], format: Format | None = None, *, names: bool = True
) -> NDArray[np.integer]:
    """As :func:`read_trace`, but the ids as the file has them; page names as numbers that tell them apart.

    Args:
        path: the file.
        column: the column, or the names that it may have where there are several.
        format: as for :func:`read_trace`.
        names: whether a column may hold names.
    """
    source = Path(path)
    what = format_of(source, format)
    if what in ("txt", "oracleGeneral") and isinstance(column, str):
        raise ValueError(f"{source}: column {column!r}: a file of format {what} has no columns")
    try:
        ids = _READERS[what](source, column, names)
    except OSError as error:
        raise ValueError(f"{source}: {error.strerror or error}") from error
    if not len(ids):
        raise ValueError(f"{source}: holds no request")
    return ids


def format_of(path: str | os.PathLike[str], format: str | None = None) -> Format:
    """The format that was given, or the one in the file's name. Raises ValueError if neither says it."""
    for known in FORMATS:
        if format == known:
            return known
    if format is not None:
        raise ValueError(f"format={format!r}: must be one of {', '.join(FORMATS)}")
    named: dict[str, Format] = {known.lower(): known for known in FORMATS}
    for part in reversed(Path(path).name.lower().split(".")[1:]):
        if part in named:
            return named[part]
    raise ValueError(f"{path}: its name does not say its format; give one of {', '.join(FORMATS)}")


def _content(path: Path) -> bytes:
    return b"".join(_parts(path))


def _parts(path: Path) -> Iterator[bytes]:
    """What is in a file, in parts, decompressed if it is compressed with zstd."""
    with open(path, "rb") as file:
        packed = file.read(len(_ZSTD)) == _ZSTD
        file.seek(0)
        if not packed:
            while part := file.read(_CHUNK):
                yield part
            return
        yield from _unpacked(file, path)


def _unpacked(file: io.BufferedReader, path: Path) -> Iterator[bytes]:
    import zstandard

    frame = zstandard.ZstdDecompressor().decompressobj()
    rest = b""
    try:
        while part := rest or file.read(_CHUNK):
            if frame.eof:
                frame = zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(part)
            rest = frame.unused_data if frame.eof else b""
    except zstandard.ZstdError as error:
        raise ValueError(f"{path}: damaged zstd data before byte {file.tell()} ({error})") from error
    if not frame.eof:
        raise ValueError(f"{path}: the zstd data is cut off at byte {file.tell()}")


def _read_oracle_general(path: Path, column: object, names: object) -> NDArray[np.integer]:
    ids, rest, offset = [], b"", 0
    for part in _parts(path):
        held = rest + part
        whole = len(held) // RECORD.itemsize
        ids.append(np.frombuffer(held, RECORD, whole)["id"].copy())
        offset += whole * RECORD.itemsize
        rest = held[whole * RECORD.itemsize :]
    if rest:
        raise ValueError(
            f"{path}: the record at byte offset {offset} is cut off: {len(rest)} of {RECORD.itemsize} bytes"
        )
    return np.concatenate(ids) if ids else np.zeros(0, dtype=np.uint64)


def _read_txt(path: Path, column: object, names: object) -> NDArray[np.integer]:
    data = _text(path)
    if not data:
        return np.zeros(0, dtype=np.int64)
    lines = pl.read_csv(data.encode(), has_header=False, separator="\0", quote_char=None, schema={"line": pl.String})
    return _integers(lines["line"].str.strip_chars(), lambda row: f"{path}, line {row + 1}")


def _read_csv(path: Path, column: str | tuple[str, ...], names: bool) -> NDArray[np.integer]:
    data = _text(path)
    if "\n" not in data:
        return np.zeros(0, dtype=np.int64)
    header = [name.strip() for name in next(csv.reader(io.StringIO(data)), [])]
    if len(header) == 1 and header[0].lstrip("+-").isdecimal():
        raise ValueError(f"{path}: has no header line, its first line is {header[0]!r}; give the format txt")
    at = header.index(_column(path, header, column))
    try:
        schema = {str(place): pl.String for place in range(len(header))}
        frame = pl.read_csv(data.encode(), has_header=False, skip_rows=1, schema=schema)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path}, {_malformed(data, len(header)) or _first_line(error)}") from error

    def where(row: int) -> str:
        return f"{path}, line {_line_of(data, row)}"

    values = frame[str(at)].str.strip_chars()
    sample = values[:_SAMPLE]
    if not names or sample.str.contains(_INTEGER).all():
        return _integers(values, where)
    return _names(values, where)


def _text(path: Path) -> str:
    """A text file without what says that it is UTF-8, and without empty lines at the end."""
    data = _content(path)
    try:
        return data.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n").decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text") from error


def _rows(data: str) -> Iterator[tuple[int, list[str]]]:
    """Every row of a CSV text with the number of its first line, the header included."""
    lines = csv.reader(io.StringIO(data, newline=""), strict=True)
    begins = 1
    for row in lines:
        yield begins, row
        begins = lines.line_num + 1


def _line_of(data: str, row: int) -> int:
    """The line on which a row begins, the first one after the header being row 0."""
    return next(begins for number, (begins, _) in enumerate(_rows(data)) if number == row + 1)


def _malformed(data: str, width: int) -> str:
    """What is wrong with the first row that has more fields than the header, or quotes that do not end."""
    begins = 1
    try:
        for begins, row in _rows(data):
            if len(row) > width:
                return f"line {begins}: has {len(row)} fields where the header has {width}"
    except csv.Error as error:
        return f"the row after line {begins}: {error}"
    return ""


def _read_parquet(path: Path, column: str | tuple[str, ...], names: bool) -> NDArray[np.integer]:
    try:
        with path.open("rb") as file:  # by its path polars would read all files that a [ or * in it may mean
            name = _column(path, list(pl.read_parquet_schema(file)), column)
            file.seek(0)
            values = pl.read_parquet(file, columns=[name])[name]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({_first_line(error)})") from error

    def where(row: int) -> str:
        return f"{path}, row {row + 1}"

    if isinstance(values.dtype, pl.List | pl.Array):
        _no_gaps(values, where)
        values = values.cast(pl.List(values.dtype.inner))
        values = values.filter(values.list.len() > 0).explode()

        def where(row: int) -> str:
            return f"{path}, entry {row + 1} of all lists"

    if values.dtype.is_integer():
        return _integers(values, where)
    if names and values.dtype in (pl.String, pl.Binary, pl.Categorical, pl.Enum):
        return _names(values, where)
    wanted = "integers or strings" if names else "integers"
    raise ValueError(f"{path}: column {name!r} holds {values.dtype}, not {wanted}")


def _column(path: Path, there: list[str], wanted: str | tuple[str, ...]) -> str:
    """The column to read."""
    names = ", ".join(there)
    if isinstance(wanted, str):
        if wanted not in there:
            raise ValueError(f"{path}: has no column {wanted!r}; it has: {names}")
        return wanted
    if len(there) == 1:
        return there[0]
    known = [name for name in there if name in wanted]
    if len(known) != 1:
        which = "none of its columns is" if not known else "several of its columns are"
        raise ValueError(f"{path}: {which} called {', '.join(wanted)}; name the column, one of: {names}")
    return known[0]


def _integers(values: pl.Series, where: Callable[[int], str]) -> NDArray[np.integer]:
    """Integers, or texts that are some, in 64 bits; ``where`` says where a row stands, for errors."""
    _no_gaps(values, where)
    signed = values.cast(pl.Int64, strict=False)
    if not signed.null_count():
        return signed.to_numpy()
    unsigned = values.cast(pl.UInt64, strict=False)
    neither = unsigned.is_null() & signed.is_null()
    if neither.any():
        row = int(neither.arg_max() or 0)
        beyond = values.dtype != pl.String or values[row : row + 1].str.contains(_INTEGER).all()
        problem = "an id beyond 64 bits" if beyond else "not an integer"
        raise ValueError(f"{where(row)}: {str(values[row])[:40]!r} is {problem}")
    if unsigned.null_count():
        row = int(unsigned.is_null().arg_max() or 0)
        raise ValueError(f"{where(row)}: a negative id, where others are above {2**63 - 1}; together beyond 64 bits")
    return unsigned.to_numpy()


def _names(values: pl.Series, where: Callable[[int], str]) -> NDArray[np.integer]:
    """For every page name the row in which it first stands."""
    _no_gaps(values, where)
    rows = pl.DataFrame({"name": values}).with_row_index("row")
    first: NDArray[np.integer] = rows.select(pl.col("row").min().over("name"))["row"].to_numpy()
    return first


def _no_gaps(values: pl.Series, where: Callable[[int], str]) -> None:
    gaps = values.is_null() | (values == "") if values.dtype == pl.String else values.is_null()
    if gaps.any():
        raise ValueError(f"{where(int(gaps.fill_null(True).arg_max() or 0))}: holds no page")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


_READERS: dict[Format, Callable[[Path, Any, bool], NDArray[np.integer]]] = {
    "csv": _read_csv,
    "parquet": _read_parquet,
    "txt": _read_txt,
    "oracleGeneral": _read_oracle_general,
}
