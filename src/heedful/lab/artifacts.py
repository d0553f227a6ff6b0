"""Costly products that cells share, built once and found again by what they were built from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from heedful.lab.declare import digest
from heedful.lab.files import TEMPORARY, fsync_folder, fsync_tree, locked


def artifact(
    folder: Path,
    code: str,
    key: str | Mapping[str, Any],
    build: Callable[[Path], None],
    waiting: Callable[[bool], None] = lambda _: None,
) -> Path:
    """The folder that ``build`` filled for this code and key, now or earlier, in this process or another.

    Args:
        folder: where artifacts are kept.
        code: digest of the code and inputs that ``build`` depends on.
        key: what is built, in words or as parameters; with ``code`` it is the artifact's address.
        build: fills the empty folder that it is given. If it raises or is killed, nothing is kept.
        waiting: told True before this call waits for another process that builds the same, and False after.
    """
    folder.mkdir(parents=True, exist_ok=True)
    address = digest(code, key if isinstance(key, str) else dict(key))
    finished = folder / address
    if finished.is_dir():
        return finished
    with locked(folder / f"{address}.lock", waiting):
        if finished.is_dir():
            return finished
        unfinished = folder / f"{address}{TEMPORARY}"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir()
        try:
            build(unfinished)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        fsync_tree(unfinished)
        os.replace(unfinished, finished)
        fsync_folder(folder)
    return finished
