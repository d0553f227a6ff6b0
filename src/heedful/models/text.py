"""Text for the byte-level model: the Python standard library of the running installation, as bytes.

Nothing is shipped: the sources are read where Python is installed. A file is held out if the SHA-256 of its
path inside the library starts with a byte divisible by ten, so that the split is the same everywhere.
"""

from __future__ import annotations

import hashlib
import sysconfig
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "held-out"]

BYTES = 256
"""Ids 0-255 are the byte values."""

PAD, BOS, EOS = 256, 257, 258
SIZE = 260
"""Rows of the byte-level model's embedding; id 259 is unused."""

_SKIPPED = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"})


@cache
def stdlib_files(split: Split) -> tuple[Path, ...]:
    """The source files of one split, sorted by path.

    Raises:
        ValueError: ``split`` is neither "train" nor "held-out".
        FileNotFoundError: this Python installation comes without its library's sources.
    """
    if split not in ("train", "held-out"):
        raise ValueError(f"unknown split {split!r}; known: train, held-out")
    root = Path(sysconfig.get_paths()["stdlib"])
    files = []
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if _SKIPPED.isdisjoint(inside.parts):
            held_out = hashlib.sha256(inside.as_posix().encode()).digest()[0] % 10 == 0
            if held_out == (split == "held-out"):
                files.append(path)
    if not files:
        raise FileNotFoundError(f"no Python sources under {root}: install the standard library's .py files")
    return tuple(files)


@cache
def _contents(split: Split) -> tuple[NDArray[np.uint8], ...]:
    return tuple(np.frombuffer(path.read_bytes(), dtype=np.uint8) for path in stdlib_files(split))


def stdlib_bytes(split: Split, rng: np.random.Generator, count: int, length: int) -> NDArray[np.int64]:
    """Random chunks: ``<bos>`` and ``length - 1`` consecutive bytes of one file.

    Every start in every file that is long enough is equally likely.

    Returns:
        int64 [count, length], token ids of the byte-level model.

    Raises:
        ValueError: ``count`` negative, ``length`` under 2, or longer than every file.
    """
    if count < 0 or length < 2:
        raise ValueError(f"count must be at least 0 and length at least 2, got {count} and {length}")
    files = [content for content in _contents(split) if len(content) >= length - 1]
    if not files:
        raise ValueError(f"no {split} file has {length - 1} bytes")
    starts = np.cumsum([len(content) - length + 2 for content in files])
    chunks = np.full((count, length), BOS, dtype=np.int64)
    for row, draw in enumerate(rng.integers(starts[-1], size=count).tolist()):
        which = int(np.searchsorted(starts, draw, side="right"))
        start = draw - (int(starts[which - 1]) if which else 0)
        chunks[row, 1:] = files[which][start : start + length - 1]
    return chunks
