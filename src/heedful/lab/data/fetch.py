"""Bring a data file into the data folder: from its origin, from a mirror, or from what somebody already has.

What is fetched is an original, known by its SHA-256, which is then converted, or a table that was converted before,
known by its content hash. A table that is placed has its declared content, whichever way it came.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from heedful.lab.data.declare import DataFile
from heedful.lab.data.download import Patience, download, sha256_of
from heedful.lab.data.store import content_of, state, told
from heedful.lab.errors import LabError, WorkError
from heedful.lab.files import check_writable, locked, write_atomic


@dataclass(frozen=True)
class Supplied:
    """A file that somebody has: an original, a converted table, or something else."""

    path: Path

    @cached_property
    def sha256(self) -> str:
        return sha256_of(self.path)

    @cached_property
    def content(self) -> str | None:
        return content_of(self.path)

    def is_of(self, file: DataFile) -> bool:
        """Whether it is the original of ``file``, or its table."""
        return self.sha256 == file.sha256 or self.content == file.content

    def table_of(self, file: DataFile) -> bytes:
        """The Parquet file for ``file``. Raises LabError if this is neither its original nor its table."""
        if self.sha256 == file.sha256:
            return converted(file, self.path)
        if self.content == file.content:
            return self.path.read_bytes()
        raise LabError(
            f"{self.path}: is neither the original of {file.name} (sha256 {self.sha256}, expected {file.sha256}) "
            f"nor the table ({told(self.content)}, expected {file.content[:12]}...)"
        )


def converted(file: DataFile, original: Path) -> bytes:
    """A verified original as Parquet (zstd). Raises WorkError if that does not give the declared table."""
    from heedful.lab.data.content import content_hash

    try:
        table = file.convert(original)
    except Exception as error:  # a room's converter may raise anything
        raise WorkError(f"{original}: cannot be converted to {file.name}: {type(error).__name__}: {error}") from error
    found = content_hash(table)
    if found != file.content:
        raise WorkError(
            f"{original}: is the right original, but converting it gave another table than {file.name} "
            f"(content hash {found}, expected {file.content})"
        )
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def mirrored(file: DataFile, base: str) -> str:
    """Where a mirror has a file's original: under its own name, directly below ``base``."""
    return f"{base.rstrip('/')}/{quote(file.basename)}"


def supplied(file: DataFile, folder: Path) -> Supplied:
    """What a folder has for ``file``: its table under its name, or its original under any end of its address's path.

    So a data folder will do, a folder of downloads, or a checkout of the repository that the original is from.
    Raises LabError, naming what was looked for, if nothing is there, and if all that is there is something else.
    """
    path = PurePosixPath(unquote(urlsplit(file.origin).path).lstrip("/"))
    ends = [PurePosixPath(*path.parts[start:]) for start in range(len(path.parts))]
    names = dict.fromkeys(map(str, (file.name, PurePosixPath(file.name).name, *ends)))
    found = [Supplied(folder / name) for name in names if (folder / name).is_file()]
    if not found:
        raise LabError(f"{folder}: has neither {file.name} nor {file.basename}")
    return next((one for one in found if one.is_of(file)), found[0])


def fetch(
    file: DataFile,
    source: str | Path | None = None,
    *,
    within: Path,
    force: bool = False,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    notice: Callable[[str], None] = lambda line: None,
    patience: Patience | None = None,
) -> bool:
    """Place ``file`` in the folder ``within``.

    Args:
        file: what to fetch.
        source: the address of a mirror (a text that begins with ``http://`` or ``https://``), a folder or a file that
            has it; None for its origin.
        within: the data folder; made if it is not there.
        force: place it even if a file is there, whatever that is.
        progress, notice, patience: as for :func:`heedful.lab.data.download.download`.

    Returns whether it was placed: False if it was there already.

    Raises LabError if something else is there and not ``force``, if ``source`` does not have it, or if ``within``
    cannot be written to; UnreachableError if the server cannot be reached; WorkError if the work failed.
    """
    target = within / file.name
    if not _wanted(file, within, force):
        return False
    check_place(file, within)
    table = None
    if isinstance(source, Path):  # before a folder is made for what it may not have
        table = (supplied(file, source) if source.is_dir() else Supplied(source)).table_of(file)
    target.parent.mkdir(parents=True, exist_ok=True)

    def waiting(begins: bool) -> None:
        if begins:
            notice(f"{within}: another process is fetching; waiting for it")

    with locked(within / ".lock", waiting):
        if not _wanted(file, within, force):  # another process was faster
            return False
        if table is not None:
            _write(target, table)
            return True
        part = target.with_name(f"{target.name}.part")
        url = mirrored(file, source) if isinstance(source, str) else file.origin
        download(url, part, file.sha256, file.size, progress=progress, notice=notice, patience=patience)
        _write(target, converted(file, part))
        part.unlink()
    return True


def check_place(file: DataFile, within: Path) -> None:
    """Raises LabError if ``file`` cannot be written to its place in the folder, or the lock beside it."""
    check_writable((within / file.name).parent)
    check_writable(within)


def _wanted(file: DataFile, within: Path, force: bool) -> bool:
    """Whether the file is still to be placed. Raises LabError if something else is in its place, unless forced."""
    if force:
        return True
    there = state(file, within)
    if there == "altered":
        target = within / file.name
        raise LabError(
            f"{target}: its content is another one ({told(content_of(target))}, expected {file.content[:12]}...); "
            "--force replaces it"
        )
    return there == "missing"


def _write(target: Path, content: bytes) -> None:
    try:
        write_atomic(target, content)
    except OSError as error:
        raise WorkError(f"{target}: {error.strerror or error}") from error
