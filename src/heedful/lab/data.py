"""Public data files that lie on this machine: where they are looked for, and that they are what they should be."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from heedful.lab.errors import LabError


def folder() -> Path:
    """Where data files are kept: ``$HEEDFUL_DATA``, or ``~/.cache/heedful/data``."""
    given = os.environ.get("HEEDFUL_DATA")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "heedful" / "data"


def find(name: str, sha256: str) -> Path | None:
    """The file ``name`` (a path within :func:`folder`), or None if it is not there.

    Raises LabError if its content is not what the digest says.
    """
    path = folder() / name
    if not path.is_file():
        return None
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise LabError(f"{path}: its content is another one (sha256 {found[:12]}..., expected {sha256[:12]}...)")
    return path
