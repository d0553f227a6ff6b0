"""What is asked for on the command line, checked before any work: schedulers, loads, workloads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heedful.lab import data
from heedful.lab.errors import LabError
from heedful.serving import schedulers
from heedful.serving.base import Scheduler
from heedful.serving.logs import UNITS, Columns, Log, read_log
from heedful.serving.workloads import GENERATORS, Workload

DEFAULT = (
    "past-future:rho=0.03, aggressive:watermark=0.95, aggressive:watermark=0.9, "
    "conservative:overcommit=1.0, conservative:overcommit=1.5, peak-with-mean"
)
"""Besides the oracle."""
GENERATED = ("distribution-1", "distribution-2", "distribution-3")
SHARED = ("llm-traces/azure2023_conv.parquet", "llm-traces/azure2023_code.parquet")
"""Public logs that are compared as well, where they lie in the data folder."""


@dataclass(frozen=True, eq=False)
class Work:
    """A workload to compare on.

    Attributes:
        workload: its requests.
        caps: what their caps are, in words.
        notes: what was left out or changed.
    """

    workload: Workload
    caps: str
    notes: tuple[str, ...] = ()


def read_schedulers(text: str) -> dict[str, Scheduler]:
    """The schedulers in a comma-separated list, by description; the oracle always comes first.

    A part like ``sampling=interpolated`` belongs to the scheduler before it. Raises LabError for one that is not
    known, or is given what it does not have.

    >>> list(read_schedulers("past-future:rho=0.1,draws=3, aggressive"))
    ['oracle', 'past-future:rho=0.1,draws=3', 'aggressive']
    """
    specs: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if specs and "=" in part and ":" not in part:
            specs[-1] += f",{part}"
        elif part:
            specs.append(part)
    if not specs:
        raise LabError("--schedulers is empty")
    found = {}
    for spec in ("oracle", *specs):
        try:
            found[spec] = schedulers.make(spec)
        except ValueError as error:
            raise LabError(f"--schedulers: {error}") from error
    return found


def read_numbers(option: str, text: str, whole: bool) -> list[float]:
    """The positive numbers in a comma-separated list, ascending. Raises LabError for anything else.

    >>> read_numbers("--speed", "2, 0.5", whole=False)
    [0.5, 2.0]
    """
    if not text.strip(", "):
        raise LabError(f"{option} is empty")
    found = set()
    for part in (part.strip() for part in text.split(",")):
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not (0 < value < math.inf) or (whole and value != int(value)):
            kind = "whole numbers of at least 1" if whole else "numbers above 0"
            raise LabError(f"{option} {text!r}: {part!r} is none of the {kind} that it lists")
        found.add(value)
    return sorted(found)


def generated(names: str, requests: int, seed: int) -> list[Work]:
    """Generated workloads by name, comma-separated."""
    if not names.strip(", "):
        raise LabError("--workload is empty")
    found = []
    for name in (name.strip() for name in names.split(",")):
        if name not in GENERATORS:
            raise LabError(f"--workload {name!r}: there are: {', '.join(GENERATORS)}")
        workload = GENERATORS[name](requests, np.random.default_rng(seed))
        caps = sorted({int(cap) for cap in workload.cap})
        found.append(Work(workload, " and ".join(map(str, caps)) + ", the longest output of the distribution"))
    return found


def log(path: Path, columns: Columns, cap: str | None, requests: int | None, skip_bad: bool, sort: bool) -> Work:
    """A log, of which only the first requests are taken if a number is given."""
    if columns.unit is not None and columns.unit not in UNITS:
        raise LabError(f"--unit {columns.unit!r}: must be one of {', '.join(UNITS)}")
    if cap == "":
        raise LabError("--cap is empty")
    fixed = int(cap) if cap is not None and cap.isdecimal() else None
    if fixed == 0:
        raise LabError("--cap 0: must be at least 1")
    if cap is not None and fixed is None:
        columns = Columns(columns.arrival, columns.prompt, columns.output, cap, columns.unit)
    try:
        found = read_log(path, columns, fixed, skip_bad=skip_bad, sort=sort)
    except ValueError as error:
        hint = (
            ", or leave it out with --skip-bad" if "line" in str(error) and "arrives before" not in str(error) else ""
        )
        raise LabError(f"--trace {str(error).replace('sort the log', 'add --sort')}{hint}") from error
    return _shortened(found, requests)


def _shortened(log: Log, requests: int | None) -> Work:
    workload = log.workload
    notes = []
    if log.guessed:
        notes.append(f"numbers in {log.guessed!r} are taken as seconds, as neither its name nor --unit says otherwise")
    if log.skipped:
        notes.append(f"{log.skipped} malformed rows left out, the first: {log.first_skipped}")
    if log.shortened:
        notes.append(f"{log.shortened} outputs cut down to their caps")
    if requests is not None and requests < len(workload):
        notes.append(f"the first {requests:,} of {len(workload):,} requests")
        workload = workload.part(0, requests)
    return Work(workload, log.cap, tuple(notes))


def shared(requests: int) -> Sequence[Work]:
    """The first requests of the public logs that lie in the data folder."""
    found = []
    for name in SHARED:
        if (path := data.find(name)) is not None:
            found.append(_shortened(read_log(path), requests))
    return found
