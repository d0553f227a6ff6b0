"""Request logs: CSV, JSON lines or Parquet files of arrival times and lengths, as workloads.

Columns are found by the names that public logs give them, or named by the caller. Times are numbers or dates; of a
number the unit is told by the end of the column's name (``arrival_us``), or given.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from heedful.serving.workloads import Workload, next_power_of_two

Unit = Literal["s", "ms", "us", "ns"]
UNITS: dict[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds in each."""
KNOWN = {
    "arrival": ("arrival", "arrival_s", "arrival_ms", "arrival_us", "arrival_ns", "timestamp", "time", "arrived_at"),
    "prompt": (
        "prompt_tokens", "input_tokens", "contexttokens", "input_length", "prompt", "num_prefill_tokens",
        "request_tokens",
    ),
    "output": (
        "output_tokens", "completion_tokens", "generatedtokens", "output_length", "output", "num_decode_tokens",
        "response_tokens",
    ),
}  # fmt: skip
"""Names under which a column is looked for, in small letters."""


@dataclass(frozen=True)
class Columns:
    """Which columns to read; None to look for one by the names in :data:`KNOWN`.

    Attributes:
        arrival: when requests arrived; if there is no such column, the log can only be sent by clients.
        prompt: prompt tokens.
        output: output tokens.
        cap: the most tokens that the request asked for; not looked for.
        unit: of arrival times that are numbers.
    """

    arrival: str | None = None
    prompt: str | None = None
    output: str | None = None
    cap: str | None = None
    unit: Unit | None = None


@dataclass(frozen=True, eq=False)
class Log:
    """A log that was read.

    Attributes:
        workload: its requests; the first one arrives at 0.
        cap: what their caps are, in words.
        skipped: rows that were left out because they are malformed.
        first_skipped: why the first of these was.
        shortened: requests whose output was cut down to the cap.
        guessed: the column of arrival times that are numbers of which nothing says the unit, and that are taken as
            seconds; empty if there is none.
    """

    workload: Workload
    cap: str
    skipped: int = 0
    first_skipped: str = ""
    shortened: int = 0
    guessed: str = ""


@dataclass
class _Rows:
    """What has been read so far."""

    arrival: list[float] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)
    cap: list[int] = field(default_factory=list)
    place: list[int] = field(default_factory=list)
    dated: bool = False


def read_log(
    path: str | os.PathLike[str],
    columns: Columns | None = None,
    cap: int | None = None,
    *,
    skip_bad: bool = False,
    sort: bool = False,
) -> Log:
    """The requests in a file.

    Args:
        path: a file that ends in ``.csv``, ``.jsonl``, ``.ndjson`` or ``.parquet``.
        columns: which columns to read.
        cap: the most tokens that any request may generate, if there is no column of caps; longer outputs are cut
            down to it. By default the longest output, rounded up to a power of two.
        skip_bad: leaves out malformed rows, and counts them, instead of refusing the file.
        sort: puts the rows in order of arrival, instead of refusing a file that is not.

    Raises ValueError, in one line that names the line or row, for a file that cannot be read, a column that is not
    there, a row that is malformed or has lengths that are missing or below 1, and times that are out of order.
    """
    source = Path(path)
    wanted = columns or Columns()
    if wanted.unit is not None and wanted.unit not in UNITS:
        raise ValueError(f"unit={wanted.unit!r}: must be one of {', '.join(UNITS)}")
    if cap is not None and (cap < 1 or wanted.cap is not None):
        raise ValueError("cap: must be at least 1" if cap < 1 else f"cap={cap}: the log's column {wanted.cap} has caps")
    rows, skipped, first = _Rows(), 0, ""
    what, lines = _lines(source)
    chosen: dict[str, str] | None = None
    try:
        for place, line in lines:
            try:
                record = _record(line)
                if chosen is None:
                    chosen = _chosen(record, wanted, source)
                _add(rows, record, chosen, _unit(chosen, wanted), place)
            except BadRowError as error:
                if not skip_bad:
                    raise ValueError(f"{source}: {what} {place}: {error}") from error
                skipped, first = skipped + 1, first or f"{what} {place}: {error}"
    except OSError as error:
        raise ValueError(f"{source}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{source}: {error}") from error
    if not rows.prompt:
        also = f"; all {skipped} rows are malformed, the first: {first}" if skipped else ""
        raise ValueError(f"{source}: holds no request{also}")
    column = (chosen or {}).get("arrival", "")
    guessed = "" if wanted.unit is not None or rows.dated or _ending(column) in UNITS else column
    return replace(_log(rows, source, what, cap, sort, skipped, first), guessed=guessed)


class BadRowError(ValueError):
    """A row that cannot be used."""


def _lines(path: Path) -> tuple[str, Iterator[tuple[int, Any]]]:
    """What places in the file are called, and each record with its place."""
    kind = path.suffix.lower()
    if kind == ".csv":
        return "line", _csv(path)
    if kind in (".jsonl", ".ndjson"):
        return "line", _jsonl(path)
    if kind == ".parquet":
        return "row", _parquet(path)
    raise ValueError(f"{path}: its name must end in .csv, .jsonl, .ndjson or .parquet")


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = next(reader, None)
        if header is None:
            return
        if len(set(header)) != len(header):
            raise ValueError(f"{path}: line 1: a column stands there twice")
        for values in reader:
            if values:
                same = len(values) == len(header)
                yield (
                    reader.line_num,
                    (dict(zip(header, values)) if same else f"{len(values)} fields where the header has {len(header)}"),
                )


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    found = json.loads(line)
                except json.JSONDecodeError as error:
                    found = f"not JSON: {error}"
                yield number, found if isinstance(found, dict | str) else "not a JSON object"


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import polars as pl

    try:
        with path.open("rb") as file:  # by its path polars would read all files that a [ or * in it may mean
            frame = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error
    flat = frame.select(name for name, kind in frame.schema.items() if not kind.is_nested())
    yield from enumerate(flat.iter_rows(named=True), 1)


def _record(line: Any) -> Mapping[str, Any]:
    if isinstance(line, str):
        raise BadRowError(line)
    return line


def _chosen(record: Mapping[str, Any], wanted: Columns, path: Path) -> dict[str, str]:
    """The column of each quantity."""
    found = {}
    for quantity in ("arrival", "prompt", "output", "cap"):
        named = getattr(wanted, quantity)
        if named is not None and named not in record:
            raise ValueError(f"{path}: no column {named!r}; it has: {', '.join(record)}")
        known = KNOWN.get(quantity, ())
        column = named or next((name for name in record if name.lower() in known), None)
        if column is not None:
            found[quantity] = column
        elif quantity in ("prompt", "output"):
            raise ValueError(f"{path}: no column of {quantity} tokens was found; name one of: {', '.join(record)}")
    return found


def _unit(chosen: Mapping[str, str], wanted: Columns) -> float:
    """Seconds in a unit of arrival times."""
    return UNITS[wanted.unit] if wanted.unit is not None else UNITS.get(_ending(chosen.get("arrival", "")), UNITS["s"])


def _ending(column: str) -> str:
    """What may say the unit of a column."""
    return column.rpartition("_")[2].lower()


def _add(rows: _Rows, record: Mapping[str, Any], chosen: Mapping[str, str], unit: float, place: int) -> None:
    prompt = _tokens(record, chosen["prompt"])
    output = _tokens(record, chosen["output"])
    cap = _tokens(record, chosen["cap"]) if "cap" in chosen else 0
    arrival, dated = _time(record, chosen["arrival"], unit) if "arrival" in chosen else (0.0, False)
    rows.prompt.append(prompt)
    rows.output.append(output)
    rows.cap.append(cap)
    rows.arrival.append(arrival)
    rows.place.append(place)
    rows.dated = rows.dated or dated


def _tokens(record: Mapping[str, Any], column: str) -> int:
    value = record.get(column)
    if value is None or value == "":
        raise BadRowError(f"{column} is missing")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadRowError(f"{column} is {value!r}, not a number") from None
    if not (number >= 1 and number < 2**31 and number == int(number)):
        raise BadRowError(f"{column} is {value}, not a whole number from 1 to 2147483647")
    return int(number)


def _time(record: Mapping[str, Any], column: str, unit: float) -> tuple[float, bool]:
    """Seconds, and whether they are those of a date."""
    value = record.get(column)
    if value is None or value == "":
        raise BadRowError(f"{column} is missing")
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.timestamp(), True
    try:
        number = float(value) * unit
    except (TypeError, ValueError):
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            raise BadRowError(f"{column} is {value!r}, neither a number nor a date") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), True
    if not np.isfinite(number):
        raise BadRowError(f"{column} is {value}, not a time")
    return number, False


def _log(rows: _Rows, path: Path, what: str, cap: int | None, sort: bool, skipped: int, first: str) -> Log:
    arrival = np.array(rows.arrival)
    prompt, output, caps = (np.array(column, np.int64) for column in (rows.prompt, rows.output, rows.cap))
    if (late := np.flatnonzero(np.diff(arrival) < 0)).size:
        if not sort:
            place = rows.place[int(late[0]) + 1]
            raise ValueError(f"{path}: {what} {place}: arrives before the one above it; sort the log")
        order = np.argsort(arrival, kind="stable")
        arrival, prompt, output, caps = arrival[order], prompt[order], output[order], caps[order]
    if caps.any():
        words, shortened = "each request's own", output > caps
    else:
        value = cap or next_power_of_two(int(output.max()))
        words = f"{value}" if cap else f"{value}, the longest output rounded up to a power of two"
        caps, shortened = np.full_like(output, value), output > value
    workload = Workload(
        prompt,
        np.minimum(output, caps),
        caps,
        arrival - arrival[0] if np.ptp(arrival) > 0 else None,
        path.stem,
    )
    return Log(workload, words, skipped, first, int(shortened.sum()))
