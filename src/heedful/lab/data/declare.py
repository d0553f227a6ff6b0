"""What a data set is: a declaration of its files, where they come from, under which licence, and how to know them.

A room declares its data sets in a module that ends in ``datasets = (Dataset(...), ...)`` and is named by an entry
point of group ``heedful.data``; its top level imports only :mod:`heedful.lab` and the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import polars as pl

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class DataFile:
    """A table of a data set, and the public file that it is made from.

    Attributes:
        name: the Parquet file's path within the data folder, as ``"llm-traces/azure2023_conv.parquet"``.
        origin: the http or https address of the original, of one fixed state of it (a commit, a version).
        sha256: SHA-256 of the original, 64 hex digits.
        content: :func:`heedful.lab.data.content.content_hash` of the table, 64 hex digits.
        rows: rows of the table.
        convert: makes the table from the original. The content hash says what it has to give, so two declarations
            are equal whatever their converters are.
        size: bytes of the original; None if it is not known.

    Raises ValueError for a name, an address or a digest that is none, and for negative counts.
    """

    name: str
    origin: str
    sha256: str
    content: str
    rows: int
    convert: Callable[[Path], pl.DataFrame] = field(compare=False)
    size: int | None = None

    def __post_init__(self) -> None:
        parts = self.name.split("/")
        if not (all(map(_NAME.fullmatch, parts)) and self.name.endswith(".parquet")):
            raise ValueError(f"data file {self.name!r}: name must be a lower-case relative path that ends in .parquet")
        if urlsplit(self.origin).scheme not in ("http", "https") or not self.basename:
            raise ValueError(f"data file {self.name!r}: origin={self.origin!r} is not the http(s) address of a file")
        for which in ("sha256", "content"):
            if not _SHA256.fullmatch(getattr(self, which)):
                raise ValueError(f"data file {self.name!r}: {which} must be 64 hex digits, lower-case")
        if self.rows < 0 or (self.size is not None and self.size < 0):
            raise ValueError(f"data file {self.name!r}: rows and size must be at least 0")

    @property
    def basename(self) -> str:
        """The original's own name, as ``"AzureLLMInferenceTrace_conv.csv"``."""
        return PurePosixPath(unquote(urlsplit(self.origin).path)).name


@dataclass(frozen=True)
class Dataset:
    """Files that were published together, under one licence.

    Attributes:
        name: its name on the command line, as ``"azure-llm-2023"``.
        title: what it is, in a few words.
        licence: as its publisher states it, as ``"CC BY 4.0"``.
        citation: whom to name when it is used.
        files: its tables, at least one.
        changes: what the converters change, as several licences want to see stated.

    Raises ValueError for a name that is not lower-case, for no files, and for a file that is named twice.
    """

    name: str
    title: str
    licence: str
    citation: str
    files: tuple[DataFile, ...]
    changes: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == "all":
            raise ValueError(f"data set {self.name!r}: name must be a lower-case name other than 'all'")
        if not self.files:
            raise ValueError(f"data set {self.name!r}: files must be at least one")
        if len({file.name for file in self.files}) != len(self.files):
            raise ValueError(f"data set {self.name!r}: a file is declared twice")
