"""What every ``heedful compare`` does at its ends: says how it was called, checks where it will write, and publishes.

Kept apart from :mod:`heedful.lab` itself because publishing needs the report's libraries.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from heedful.lab import console, discover, files
from heedful.lab.machine import machine, versions

if TYPE_CHECKING:
    import polars as pl
    import typer

    from heedful.lab.declare import Figure

_WHERE = ("json", "out", "site")
"""Options that say where results go."""


def given(context: typer.Context, name: str) -> bool:
    """Whether an option was given rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def command_line(context: typer.Context, command: str) -> str:
    """The line that does it again, but for where results go; ``command`` as in ``"compare kv"``."""
    words = ["heedful", *command.split()]
    for name, value in context.params.items():
        if given(context, name) and name not in _WHERE:
            option = name.replace("_", "-")
            words.extend([f"--no-{option}"] if value is False else [f"--{option}"])
            words.extend([] if isinstance(value, bool) else [str(value)])
    return shlex.join(words)


def check_writable(room: str, out: Path, site: Path) -> None:
    """Raises LabError, now and not after the work, if :func:`publish` could not write there."""
    from heedful.lab.report.site import site_folder

    files.check_writable(out / "compare" / room)
    site_folder(site)


def publish(
    room: str,
    title: str,
    command: str,
    tables: Mapping[str, pl.DataFrame],
    figures: Sequence[Figure],
    facts: Mapping[str, str],
    out: Path,
    site: Path,
    notes: Iterable[str] = (),
) -> Path:
    """Stores what was compared below ``out``, writes the site anew, and returns the comparison's page.

    Args:
        room: the room that compared.
        title: the page's title.
        command: the line that does it again.
        tables: title -> table, in the page's order.
        figures: pictures; each chart must carry its data.
        facts: what a reader should know beside; the machine and the versions are added.
        out: the folder of runs.
        site: the folder of the report.
        notes: what tables mean, and warnings about them.

    Says so, on standard error, if the site showed something before that is not stored below ``out``.

    Raises OSError or LabError if one of them cannot be written.
    """
    from heedful.lab.report import write_comparison
    from heedful.lab.report.site import write_site

    where = {name: str(value) for name, value in {**machine(), **versions()}.items() if name != "heedful"}
    said = {f"note {number}": note for number, note in enumerate(notes, 1)}
    stored = write_comparison(out, room, title, command, tables, figures, facts={**said, **facts, **where})
    written = write_site(discover.catalog(), out, site)
    console.warn_of(filter(None, [written.left_out]))
    page = written.index.parent / "comparisons" / f"{room}-{stored.name}.html"
    return page if page.is_file() else written.index
