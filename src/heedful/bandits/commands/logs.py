"""A user's log of decisions: read from a file, checked, and turned into numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from heedful.lab.errors import LabError

Floats = NDArray[np.float64]
MOST_ACTIONS, MOST_LEVELS = 2000, 50
"""A log may have so many actions; a text column becomes so many columns and one for everything else."""
ACTIONS_SEPARATOR = "|"
"""Between the actions that were there, where a CSV file has them in one column."""


@dataclass(frozen=True)
class Columns:
    """Which column is what.

    Attributes:
        context: what decisions may depend on; None: all columns of numbers and of text that are nothing else.
        action: what was done.
        reward: what it brought.
        propensity: with which probability it was done; None if that is not known.
        available: what could have been done, a list; None: every action of the log, always.
        position: the place that was decided about, where places have probabilities of their own; None: one place.
        time: what rows are in order of; None: as they stand.
    """

    context: tuple[str, ...] | None
    action: str
    reward: str
    propensity: str | None
    available: str | None
    position: str | None
    time: str | None


@dataclass(frozen=True, eq=False)
class Log:
    """A log in the order of time.

    Attributes:
        name: what it is called.
        contexts: the columns that decisions may depend on, the position's among them.
        actions: int64 ``[n]``, numbers of ``labels``.
        labels: what actions are called, K of them.
        rewards: float64 ``[n]``, as in the log.
        propensities: float64 ``[n]``; None if they are not known.
        feasible: bool ``[n, K]``, or ``[1, K]`` if every action always is.
        places: int64 ``[n]``: numbers of positions; 0 for all if there is one.
        days: ``[n]``: numbers of days; None if the log has no times.
        truth: float64 ``[n, K]``: expected rewards, of a made log; None for any other.
    """

    name: str
    contexts: pl.DataFrame
    actions: NDArray[np.int64]
    labels: tuple[str, ...]
    rewards: Floats
    propensities: Floats | None
    feasible: NDArray[np.bool_]
    places: NDArray[np.int64]
    days: NDArray[np.int64] | None
    truth: Floats | None = None

    def __len__(self) -> int:
        return len(self.actions)

    def part(self, start: int, stop: int) -> Log:
        """The rows ``[start, stop)``."""
        rows = slice(start, stop)
        return replace(
            self,
            contexts=self.contexts[rows],
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            propensities=None if self.propensities is None else self.propensities[rows],
            feasible=self.feasible if len(self.feasible) == 1 else self.feasible[rows],
            places=self.places[rows],
            days=None if self.days is None else self.days[rows],
            truth=None if self.truth is None else self.truth[rows],
        )


def read_table(path: Path, option: str) -> pl.DataFrame:
    """The table in a CSV or Parquet file. Raises LabError, naming the option, if there is none, or no row in it."""
    if path.suffix not in (".csv", ".parquet", ".pq"):
        raise LabError(f"{option} {path}: its name must end in .csv or .parquet")
    try:
        table = (
            pl.read_csv(path, infer_schema_length=None, try_parse_dates=True)
            if path.suffix == ".csv"
            else pl.read_parquet(path)
        )
    except OSError as error:
        raise LabError(f"{option} {path}: {error.strerror or 'No such file'}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise LabError(f"{option} {path}: {str(error).splitlines()[0]}") from error
    if not table.height:
        raise LabError(f"{option} {path}: has no rows")
    return table


def check_columns(table: pl.DataFrame, wanted: Sequence[str], where: str) -> None:
    """Raises LabError if columns are missing, naming them and what there is."""
    if lost := [name for name in wanted if name not in table.columns]:
        there = ", ".join(table.columns[:20]) + (", ..." if table.width > 20 else "")
        raise LabError(f"{where}: has no column {', '.join(map(repr, lost))}; it has: {there}")


def read_log(path: Path, columns: Columns) -> Log:
    """A log from a file. Raises LabError for everything that is not as it should be, naming column and row."""
    return from_table(read_table(path, "--log"), columns, f"--log {path}", path.name)


def from_table(table: pl.DataFrame, columns: Columns, where: str, name: str) -> Log:
    """A log from a table; ``where`` begins the messages of errors."""
    named = [columns.action, columns.reward, columns.propensity, columns.available, columns.position, columns.time]
    check_columns(table, [each for each in (*named, *(columns.context or ())) if each is not None], where)
    if columns.time is not None:
        if table[columns.time].null_count():
            raise LabError(f"{where}: {columns.time!r} is missing in row {_first(table[columns.time].is_null())}")
        kind = table[columns.time].dtype
        if not (kind.is_temporal() or kind.is_numeric()):
            first = str(table[columns.time][0])
            raise LabError(
                f"{where}: {columns.time!r} holds neither dates like 2024-11-15 13:00 nor numbers in every row; it "
                f"begins with {first!r}"
            )
        table = table.sort(columns.time, maintain_order=True)
    told = (columns.action, columns.reward, columns.propensity)
    if leaks := [each for each in columns.context or () if each in told]:
        raise LabError(f"{where}: {leaks[0]!r} cannot be a context: it is not there before the decision")
    context = columns.context or tuple(
        name for name, dtype in table.schema.items() if name not in named and not _unusable(dtype)
    )
    if columns.position is not None and columns.position not in context:
        context = (*context, columns.position)
    if not context:
        raise LabError(f"{where}: no column is left for --context")
    frame = _contexts(table.select(context), where, columns.position)
    chosen = texts(table, columns.action, where)
    sets = _available(table, columns.available, where) if columns.available else None
    labels = tuple(sorted(set(chosen) | {each for row in sets or () for each in row}, key=_natural))
    if len(labels) > MOST_ACTIONS:
        raise LabError(f"{where}: {columns.action!r} has {len(labels)} actions; at most {MOST_ACTIONS} are compared")
    number = {label: place for place, label in enumerate(labels)}
    actions = np.array([number[label] for label in chosen], dtype=np.int64)
    feasible = np.ones((1, len(labels)), dtype=np.bool_)
    if sets is not None:
        feasible = np.zeros((len(table), len(labels)), dtype=np.bool_)
        for row, some in enumerate(sets):
            feasible[row, [number[label] for label in some]] = True
        lost = ~feasible[np.arange(len(table)), actions]
        if lost.any():
            row = int(lost.argmax())
            raise LabError(f"{where}: row {row} did {chosen[row]!r}, which is not in its {columns.available!r}")
    rewards = numbers(table, columns.reward, where)
    propensities = None if columns.propensity is None else numbers(table, columns.propensity, where)
    if propensities is not None and (bad := (propensities <= 0) | (propensities > 1)).any():
        row = int(bad.argmax())
        raise LabError(f"{where}: {columns.propensity!r} must lie in (0, 1], is {propensities[row]:g} in row {row}")
    places = np.zeros(len(table), dtype=np.int64)
    if columns.position is not None:
        places = np.unique(np.array(texts(table, columns.position, where)), return_inverse=True)[1]
    days = None
    if columns.time is not None and table[columns.time].dtype in (pl.Date, pl.Datetime):
        days = table[columns.time].cast(pl.Date).cast(pl.Int32).to_numpy().astype(np.int64)
    return Log(name, frame, actions, labels, rewards, propensities, feasible, places, days)


def _first(mask: pl.Series) -> int:
    return int(mask.arg_true()[0])


def _natural(label: str) -> tuple[int, float, str]:
    """Numbers in their order, then text."""
    return (0, float(label), label) if label.lstrip("-").isdecimal() else (1, 0.0, label)


def texts(table: pl.DataFrame, column: str, where: str) -> list[str]:
    """A column as text. Raises LabError for a type that is none, and for a row where it is missing."""
    values = table[column]
    if values.dtype.is_nested() or values.dtype == pl.Binary:
        raise LabError(f"{where}: {column!r} must hold text or numbers, holds {values.dtype}")
    if values.null_count():
        raise LabError(f"{where}: {column!r} is missing in row {_first(values.is_null())}")
    return values.cast(pl.String).to_list()


def numbers(table: pl.DataFrame, column: str, where: str) -> Floats:
    """A column as float64. Raises LabError for another type, and for a row where it is missing or not finite."""
    values = table[column]
    if not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        raise LabError(f"{where}: {column!r} must hold numbers, holds {values.dtype}")
    array = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    if (bad := ~np.isfinite(array)).any():
        raise LabError(f"{where}: {column!r} is not a finite number in row {int(bad.argmax())}")
    return array


def _available(table: pl.DataFrame, column: str, where: str) -> list[list[str]]:
    values = table[column]
    if values.dtype == pl.String:
        values = values.str.split(ACTIONS_SEPARATOR)
    if not isinstance(values.dtype, pl.List):
        raise LabError(
            f"{where}: {column!r} must hold lists of actions, or text with {ACTIONS_SEPARATOR!r} between them"
        )
    rows = values.cast(pl.List(pl.String)).to_list()  # as the actions themselves are made text
    sets = [[each.strip() for each in row or () if each and each.strip()] for row in rows]
    for row, some in enumerate(sets):
        if not some:
            raise LabError(f"{where}: {column!r} has no action in row {row}")
    return sets


def _unusable(dtype: pl.DataType) -> bool:
    """Whether a column of that type says nothing that could be learned from as it stands."""
    return dtype.is_temporal() or dtype.is_nested() or dtype == pl.Binary


def _contexts(frame: pl.DataFrame, where: str, position: str | None) -> pl.DataFrame:
    """Numbers as float64, everything else as text; NaN and missing numbers are refused."""
    found = []
    for column in frame:
        if column.name != position and (column.dtype.is_numeric() or column.dtype == pl.Boolean):
            found.append(pl.Series(column.name, numbers(frame, column.name, where)))
        elif _unusable(column.dtype):
            raise LabError(f"{where}: {column.name!r} ({column.dtype}) cannot be a context; name those that can")
        else:
            found.append(column.cast(pl.String).fill_null("(missing)"))
    return pl.DataFrame(found)


@dataclass(frozen=True, eq=False)
class Encoder:
    """Contexts as numbers, by what the rows that it was made from hold.

    Attributes:
        means, scales: column -> mean and standard deviation, of numbers.
        levels: column -> the values that have a column of their own; all others share one.
    """

    means: dict[str, float]
    scales: dict[str, float]
    levels: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, contexts: pl.DataFrame) -> Encoder:
        """From the rows that policies are trained on."""
        means, scales, levels = {}, {}, {}
        for column in contexts:
            if column.dtype == pl.String:
                counts = column.value_counts(sort=True)
                levels[column.name] = tuple(sorted(counts[column.name][:MOST_LEVELS].to_list()))
            else:
                spread: Any = column.std()
                means[column.name] = float(column.mean())  # type: ignore[arg-type]
                scales[column.name] = float(spread) if spread else 1.0
        return cls(means, scales, levels)

    def __call__(self, contexts: pl.DataFrame) -> Floats:
        """float64 ``[n, d]``: standardised numbers, and for each text column one column per level and one for what is
        none of them."""
        parts = []
        for column in contexts:
            if column.name in self.means:
                parts.append(((column.to_numpy() - self.means[column.name]) / self.scales[column.name])[:, None])
                continue
            known = np.array(self.levels[column.name])
            values = column.to_numpy().astype(str)
            place = np.minimum(np.searchsorted(known, values), len(known) - 1)
            place = np.where(known[place] == values, place, len(known))
            parts.append(np.eye(len(known) + 1)[place])
        return np.concatenate(parts, axis=1)
