"""Part files: Parquet tables that carry their own checksum in their name.

Values and timings of the same cells lie in two files of the same number, ``parts/000007.<sha256>.parquet``
and ``timings/000007.<sha256>.parquet``; the values are written last, and a cell is done when its values are
there.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from heedful.lab.files import TEMPORARY, write_atomic

VALUES, TIMINGS, DAMAGED = "parts", "timings", "damaged"


class DamagedPartError(Exception):
    """A part file that is not what was written."""


@dataclass(frozen=True)
class Part:
    """One pair of files. ``timings`` is None if that file is missing."""

    number: int
    values: Path
    timings: Path | None

    def read(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Values and timings. Raises DamagedPartError; FileNotFoundError if it was compacted away."""
        if self.timings is None:
            raise DamagedPartError(f"{self.values} has no timings beside it")
        return _read(self.values), _read(self.timings)

    def remove(self) -> None:
        """Delete the values first, so that a kill in between leaves no done cell without its timings."""
        self.values.unlink(missing_ok=True)
        if self.timings is not None:
            self.timings.unlink(missing_ok=True)

    def set_aside(self, run_dir: Path) -> None:
        """Move both files where nobody reads them."""
        aside = run_dir / DAMAGED
        aside.mkdir(exist_ok=True)
        for path in (self.values, self.timings):
            if path is not None:
                os.replace(path, aside / f"{path.parent.name}-{path.name}")


def _read(path: Path) -> pl.DataFrame:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest()[:16] != path.name.split(".")[1]:
        raise DamagedPartError(f"{path} is not what was written to it")
    return pl.read_parquet(io.BytesIO(data))


def _write(folder: Path, number: int, frame: pl.DataFrame) -> Path:
    data = io.BytesIO()
    frame.rechunk().write_parquet(data, compression="zstd")
    checksum = hashlib.sha256(data.getbuffer()).hexdigest()[:16]
    path = folder / f"{number:06d}.{checksum}.parquet"
    write_atomic(path, data.getvalue())
    return path


def write_part(run_dir: Path, number: int, values: pl.DataFrame, timings: pl.DataFrame) -> Part:
    """Write a pair of files durably."""
    written = _write(run_dir / TIMINGS, number, timings)
    return Part(number, _write(run_dir / VALUES, number, values), written)


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in sorted(folder.glob("*.parquet")):
        number, *rest = path.name.split(".")
        if number.isdigit() and len(rest) == 2:
            yield int(number), path


def list_parts(run_dir: Path) -> list[Part]:
    """The parts of a run, oldest first."""
    timings = dict(_numbered(run_dir / TIMINGS))
    return [Part(number, path, timings.get(number)) for number, path in _numbered(run_dir / VALUES)]


def sweep(run_dir: Path) -> None:
    """Remove what a killed writer left: temporary files, and timings without values."""
    known = {part.timings for part in list_parts(run_dir)}
    for folder in (run_dir, run_dir / VALUES, run_dir / TIMINGS):
        for path in folder.glob(f"*{TEMPORARY}"):
            path.unlink()
    for _, path in _numbered(run_dir / TIMINGS):
        if path not in known:
            path.unlink()


def merge(parts: list[tuple[pl.DataFrame, pl.DataFrame]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Several parts' rows as one pair of tables, each cell once, in canonical order."""
    values, timings = (
        pl.concat(frames, how="vertical_relaxed")
        .unique(["cell", "row"], keep="first", maintain_order=True)
        .sort("cell", "row")
        for frames in zip(*parts)
    )
    return values, timings
