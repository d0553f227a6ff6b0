"""Output lengths of finished requests, kept in a file from one start of the server to the next."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

FORMAT = "heedful-output-lengths-1"


class DamagedHistoryError(ValueError):
    """The file is there and is no history."""


def read(path: Path) -> tuple[int, ...]:
    """The lengths in a file, oldest first; empty if there is no such file.

    Raises DamagedHistoryError for anything but what :func:`write` wrote, OSError for a file that cannot be read.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return ()
    try:
        content = json.loads(text)
        lengths = content["lengths"]
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
        if not isinstance(lengths, list) or any(type(length) is not int or length < 1 for length in lengths):
            raise ValueError("its lengths are not integers of at least 1")
    except (ValueError, KeyError, TypeError) as error:
        what = str(error) if type(error) is ValueError else "it is not the JSON that this server writes"
        raise DamagedHistoryError(what) from error
    return tuple(lengths)


def set_aside(path: Path) -> Path:
    """Renames a damaged file, to a name that is free, and returns that. Raises OSError if it cannot be renamed."""
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return path.rename(target)


def write(path: Path, lengths: Sequence[int]) -> None:
    """Writes the lengths, oldest first; whoever reads the file, at any time, sees all of it or the former one.

    Raises OSError if it cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        unfinished.write_text(json.dumps({"format": FORMAT, "lengths": list(lengths)}))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
