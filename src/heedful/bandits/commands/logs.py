"""A user's log of decisions: read from a file, checked, and turned into numbers."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from heedful.bandits.commands.tables import Floats, Source, check_columns, check_roles, first, numbers, texts
from heedful.bandits.off_policy import LEAST_PROPENSITY
from heedful.lab.errors import LabError

MOST_ACTIONS = 2000
"""A log may have so many."""
ODD_SHARE = 0.9
"""Of a text column so many values are numbers before it is said which one is none."""
ACTIONS_SEPARATOR = "|"
"""Between the actions that were there, where a CSV file has them in one column."""

_PROPENSITY_WORDS = {"propensity", "propensities", "pscore", "prob", "probability", "p"}


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
        notices: what somebody may not have meant in how it was read.
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
    notices: tuple[str, ...] = ()

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


def from_table(table: pl.DataFrame, columns: Columns, source: Source) -> Log:
    """A log from a table, whose rows are as they stand in ``source``.

    Raises LabError for everything that is not as it should be, naming column and row.
    """
    told = (("--action", columns.action), ("--reward", columns.reward), ("--propensity", columns.propensity))
    roles = (
        *told, ("--actions-column", columns.available), ("--position", columns.position), ("--time", columns.time),
    )  # fmt: skip
    named = [column for _, column in roles]
    check_columns(table, [each for each in (*named, *(columns.context or ())) if each is not None], source)
    check_roles(roles, source)
    for option, column in told:
        if column in (columns.context or ()):
            raise LabError(
                f"{source}: {column!r} cannot be a context: it is not there before the decision; it is named by "
                f"--context and {option}"
            )
    # A place and a time are known before the decision, and may be contexts too.
    check_roles(
        [*[("--context", each) for each in columns.context or ()], ("--actions-column", columns.available)], source
    )
    context = columns.context or tuple(
        name for name, dtype in table.schema.items() if name not in named and not _unusable(dtype)
    )
    if columns.position is not None and columns.position not in context:
        context = (*context, columns.position)
    if not context:
        raise LabError(f"{source}: no column is left for --context")
    # Rows are put in order of time when all of them have been checked, so that each is named by its place in the file.
    times = None if columns.time is None else _times(table[columns.time])
    order = np.arange(len(table)) if times is None else _order(times, source)
    frame = _contexts(table.select(context), source, columns.position)
    chosen = texts(table, columns.action, source)
    sets = _available(table, columns.available, source) if columns.available else None
    labels = tuple(sorted(set(chosen) | {each for row in sets or () for each in row}, key=_natural))
    if len(labels) > MOST_ACTIONS:
        raise LabError(f"{source}: {columns.action!r} has {len(labels)} actions; at most {MOST_ACTIONS} are compared")
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
            raise LabError(
                f"{source}: {columns.action!r} is {chosen[row]!r} in {source.place(row)}, which is not in its "
                f"{columns.available!r}"
            )
        feasible = feasible[order]
    rewards = numbers(table, columns.reward, source)
    propensities = None if columns.propensity is None else numbers(table, columns.propensity, source)
    if propensities is not None and (bad := (propensities < LEAST_PROPENSITY) | (propensities > 1)).any():
        row = int(bad.argmax())
        why = f"; below {LEAST_PROPENSITY:g} weights are too large to be summed" if 0 < propensities[row] < 1 else ""
        raise LabError(
            f"{source}: {columns.propensity!r} must lie in (0, 1], is {propensities[row]:g} in {source.place(row)}{why}"
        )
    places = np.zeros(len(table), dtype=np.int64)
    if columns.position is not None:
        places = np.unique(np.array(texts(table, columns.position, source)), return_inverse=True)[1]
    days = None
    if times is not None and times.dtype in (pl.Date, pl.Datetime):
        days = times.cast(pl.Date).cast(pl.Int32).to_numpy().astype(np.int64)[order]
    return Log(
        source.path.name,
        frame[order],
        actions[order],
        labels,
        rewards[order],
        None if propensities is None else propensities[order],
        feasible,
        places[order],
        days,
        notices=_nearly_numbers(table.select(each for each in context if each != columns.position), source),
    )


def like_propensities(contexts: pl.DataFrame) -> list[str]:
    """The columns that are called what propensities are called, and lie in (0, 1] as they do."""
    return [
        column.name
        for column in contexts
        if column.dtype == pl.Float64
        and _PROPENSITY_WORDS & set(re.findall("[a-z]+", column.name.lower()))
        and bool(((column > 0) & (column <= 1)).all())
    ]


def _times(column: pl.Series) -> pl.Series:
    """Text that is dates throughout, as Parquet files may hold it, as dates; all else as it is."""
    if column.dtype == pl.String:
        with suppress(pl.exceptions.ComputeError):  # nothing in it looks like a date
            parsed = column.str.to_datetime(strict=False)
            return column if parsed.null_count() else parsed
    return column


def _order(times: pl.Series, source: Source) -> NDArray[np.int64]:
    """The rows in the order of time, equal ones as they stand. Raises LabError for what is no time, and for none."""
    if times.null_count():
        raise LabError(f"{source}: {times.name!r} is missing in {source.place(first(times.is_null()))}")
    if not (times.dtype.is_temporal() or times.dtype.is_numeric()):
        row = _odd_time(times) if times.dtype == pl.String else 0
        raise LabError(
            f"{source}: {times.name!r} is {str(times[row])!r} in {source.place(row)}; it must hold dates like "
            "2024-11-15 13:00, or numbers, in every row"
        )
    if times.dtype.is_float() and not times.is_finite().all():
        row = first(~times.is_finite())
        raise LabError(f"{source}: {times.name!r} is {times[row]:g} in {source.place(row)}; it must be a finite number")
    return times.to_frame().select(pl.arg_sort_by(times.name, maintain_order=True)).to_series().to_numpy()


def _odd_time(times: pl.Series) -> int:
    """The first row that is no number where the first one is, or no date where that is; 0 if it is neither."""
    found = [times.cast(pl.Float64, strict=False)]
    with suppress(pl.exceptions.ComputeError):  # nothing in it looks like a date
        found.append(times.str.to_datetime(strict=False))
    return next((first(each.is_null()) for each in found if each[0] is not None and each.null_count()), 0)


def _natural(label: str) -> tuple[int, float, str]:
    """Numbers in their order, then text."""
    return (0, float(label), label) if re.fullmatch(r"-?\d+", label) else (1, 0.0, label)


def _available(table: pl.DataFrame, column: str, source: Source) -> list[list[str]]:
    values = table[column]
    if values.dtype == pl.String:
        values = values.str.split(ACTIONS_SEPARATOR)
    if not isinstance(values.dtype, pl.List):
        raise LabError(
            f"{source}: {column!r} must hold lists of actions, or text with {ACTIONS_SEPARATOR!r} between them"
        )
    rows = values.cast(pl.List(pl.String)).to_list()  # as the actions themselves are made text
    sets = [[each.strip() for each in row or () if each and each.strip()] for row in rows]
    for row, some in enumerate(sets):
        if not some:
            raise LabError(f"{source}: {column!r} has no action in {source.place(row)}")
    return sets


def _unusable(dtype: pl.DataType) -> bool:
    """Whether a column of that type says nothing that could be learned from as it stands."""
    return dtype.is_temporal() or dtype.is_nested() or dtype == pl.Binary


def _contexts(frame: pl.DataFrame, source: Source, position: str | None) -> pl.DataFrame:
    """Numbers as float64, everything else as text; NaN and missing numbers are refused."""
    found = []
    for column in frame:
        if column.name != position and (column.dtype.is_numeric() or column.dtype == pl.Boolean):
            found.append(pl.Series(column.name, numbers(frame, column.name, source)))
        elif _unusable(column.dtype):
            raise LabError(f"{source}: {column.name!r} ({column.dtype}) cannot be a context; name those that can")
        else:
            found.append(column.cast(pl.String).fill_null("(missing)"))
    return pl.DataFrame(found)


def _nearly_numbers(frame: pl.DataFrame, source: Source) -> tuple[str, ...]:
    """What is said of text columns whose values are numbers but for few, which are named."""
    found = []
    for column in frame.select(pl.selectors.string()):
        read = column.str.strip_chars().cast(pl.Float64, strict=False)
        odd = read.is_null() & column.is_not_null()
        share = 1 - odd.sum() / max(1, column.count())
        if odd.any() and share >= ODD_SHARE:
            row = first(odd)
            found.append(
                f"{column.name!r} is taken as text: it is {column[row]!r} in {source.place(row)}, though "
                f"{100 * share:.1f} % of its values are numbers"
            )
    return tuple(found)
