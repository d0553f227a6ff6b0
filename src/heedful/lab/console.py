"""What the command line prints: tables, JSON, notices and progress, for ``cli.py`` and for rooms' commands.

Results go to standard output, everything else to standard error. On a terminal tables are drawn and progress
is a bar with an estimate; what is piped is plain text, one row per line, nothing cut off.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from heedful.lab import text

if TYPE_CHECKING:
    import polars as pl

STYLES = {"holds": "green", "fails": "red", "inconclusive": "yellow", "not measured": "dim", "failed": "red"}


@dataclass(frozen=True)
class Column:
    """A column of a printed table.

    Attributes:
        name: the key of its values in a row.
        header: its heading; ``name`` if empty.
        align: ``"right"`` for numbers.
        digits: significant digits of floating-point values.
    """

    name: str
    header: str = ""
    align: Literal["left", "right"] = "left"
    digits: int = 4


def show_table(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[Column | str],
    *,
    title: str = "",
    as_json: bool = False,
) -> None:
    """Print rows to standard output: a drawn table on a terminal, aligned plain text in a pipe, or JSON.

    Args:
        rows: one mapping per row; a missing key prints as ``–``.
        columns: which values to print and how. With ``as_json`` every key of a row is written.
        title: a heading; not written as JSON.
        as_json: write one JSON array of objects instead.
    """
    rows = list(rows)
    if as_json:
        show_json(rows)
        return
    shown = [Column(column) if isinstance(column, str) else column for column in columns]
    headers = [column.header or column.name for column in shown]
    cells = [[text.number(row.get(column.name), column.digits) for column in shown] for row in rows]
    if sys.stdout.isatty():
        _draw(headers, cells, [column.align for column in shown], title)
        return
    if title:
        print(title)
    aligns = [column.align for column in shown]
    cells = [[text.one_line(cell) for cell in row] for row in cells]
    widths = [max([len(header), *(len(row[i]) for row in cells)]) for i, header in enumerate(headers)]
    for row in [headers, *cells]:
        padded = (
            cell.rjust(width) if align == "right" else cell.ljust(width)
            for cell, width, align in zip(row, widths, aligns, strict=True)
        )
        print("  ".join(padded).rstrip())


def show_frame(frame: pl.DataFrame, *, title: str = "", as_json: bool = False, digits: int = 4) -> None:
    """Print a polars frame like :func:`show_table`; numbers to the right."""
    columns = [
        Column(name, align="right" if dtype.is_numeric() else "left", digits=digits)
        for name, dtype in frame.schema.items()
    ]
    show_table(frame.to_dicts(), columns, title=title, as_json=as_json)


def show_json(value: Any) -> None:
    """Print a value as JSON to standard output; NaN and infinities, which JSON does not know, become null."""
    print(json.dumps(_finite(value), ensure_ascii=False, indent=2, default=str))


def notice(message: str) -> None:
    """Print one line to standard error."""
    print(message, file=sys.stderr, flush=True)


def warn_of(problems: Iterable[object]) -> None:
    """Print a warning per problem, one line each, to standard error."""
    for problem in problems:
        notice(f"warning: {problem}")


class Progress:
    """Progress of long work on standard error: a bar on a terminal, a line now and then elsewhere.

    >>> with Progress("h2o, small") as progress:  # doctest: +SKIP
    ...     progress(3, 40, left_s=75.0)

    Attributes:
        title: what is being done; may be changed on the way.
        every_s: seconds between two lines where there is no terminal.
    """

    def __init__(self, title: str, *, every_s: float = 10.0) -> None:
        self.title = title
        self.every_s = every_s
        self._bar: Any = None
        self._task: Any = None
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            columns = (
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("{task.fields[note]}"),
            )
            self._bar = progress.Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=None, note="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int, *, left_s: float | None = None, note: str = "") -> None:
        """Tell that ``done`` of ``total`` pieces are finished.

        Args:
            done: pieces that are finished.
            total: pieces there are.
            left_s: estimated seconds until the end, if there is an estimate.
            note: what else there is to know, as ``"2 failed"``.
        """
        left = f"about {text.duration(left_s)} left" if left_s is not None and done < total else ""
        words = ", ".join(filter(None, [left, note]))
        if self._bar is not None:
            self._bar.update(self._task, description=self.title, completed=done, total=total, note=words)
            return
        now = time.monotonic()
        if now - self._said >= self.every_s:
            self._said = now
            notice(f"{self.title}: {done} of {total}{f', {words}' if words else ''}")


def _draw(headers: list[str], cells: list[list[str]], aligns: Sequence[Literal["left", "right"]], title: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for header, align in zip(headers, aligns, strict=True):
        table.add_column(header, justify=align, overflow="fold", no_wrap=align == "right")
    for row in cells:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console().print(table)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_finite(item) for item in value]
    return value
