"""Data files that lie on this machine: where they are looked for, and that they are what they should be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from heedful.lab.data.declare import DataFile
from heedful.lab.errors import LabError

State = Literal["present", "missing", "altered"]


def folder() -> Path:
    """Where data files are kept: ``$HEEDFUL_DATA``, or ``~/.cache/heedful/data``."""
    given = os.environ.get("HEEDFUL_DATA")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "heedful" / "data"


def declared(name: str) -> DataFile:
    """The declaration of a data file, by an installed package; LabError, with close matches, if there is none."""
    from heedful.lab import discover

    return discover.data_catalog().file(name)


def find(name: str, within: Path | None = None) -> Path | None:
    """The data file ``name``, its content verified; None if it is not there.

    Args:
        name: of a declared file, as ``"cache-traces/web07.parquet"``.
        within: the folder to look in; :func:`folder` by default.

    Raises LabError if no file of that name is declared, or if its content is not the declared one.
    """
    file = declared(name)
    path = (within or folder()) / name
    if not path.is_file():
        return None
    found = content_of(path)
    if found != file.content:
        raise LabError(f"{path}: its content is another one ({told(found)}, expected {file.content[:12]}...)")
    return path


def state(file: DataFile, within: Path | None = None) -> State:
    """Whether a file is in a folder (:func:`folder` by default), and whether its content is the declared one."""
    path = (within or folder()) / file.name
    if not path.is_file():
        return "missing"
    return "present" if content_of(path) == file.content else "altered"


def content_of(path: Path) -> str | None:
    """The content hash of a Parquet file; None if it is not one, or has a column of a type without a hash."""
    from heedful.lab.data.content import content_hash, read_table

    table = read_table(path)
    try:
        return None if table is None else content_hash(table)
    except LabError:
        return None


def told(content: str | None) -> str:
    """A content hash as errors give it."""
    return "not a readable table" if content is None else f"content hash {content[:12]}..."
