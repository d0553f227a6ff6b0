"""Writing files so that a kill, however hard, leaves either the old content or the new one; and locks."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from heedful.lab.errors import LabError

if TYPE_CHECKING:
    import polars as pl

TEMPORARY = ".tmp"


def check_writable(folder: Path) -> None:
    """Raises LabError if files cannot be written to the folder, or to one that is made there. Leaves nothing behind."""
    try:
        there = folder.absolute()
        while not (there.exists() or there.is_symlink()):  # a link to nowhere stands in the way
            there = there.parent
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise LabError(f"cannot write to {folder}: {error.strerror}") from error


def read_parquet(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """The table in exactly that Parquet file, or some columns of it.

    Given the path, polars would take ``[``, ``*`` and ``?`` in it for a pattern, and a folder for the files in it.

    Raises OSError if it is not a file that can be read, and polars' errors if it is not a table.
    """
    import polars as pl

    with path.open("rb") as file:
        return pl.read_parquet(file, columns=columns)


@contextmanager
def locked(path: Path, waiting: Callable[[bool], None]) -> Iterator[None]:
    """Hold the lock file's lock; the kernel releases it when the holder dies, however it dies.

    ``waiting`` is told True before this call waits for another process, and False after.
    """
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting(True)
            fcntl.flock(file, fcntl.LOCK_EX)
            waiting(False)
        yield


def fsync_folder(folder: Path) -> None:
    """Make the folder's own entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Make every file and folder under ``folder`` durable."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        fsync_folder(Path(parent))


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``; whoever reads it, at any time, sees all of it or nothing of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # a full disk is left as it was
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
