"""What numba has compiled and keeps on disk, where it is older than what it was compiled from.

Numba files machine code under the file of the function that was called, and looks at that file alone to see whether it
is still good. Functions of other files that it calls were compiled into it; an edit of those goes unnoticed, and a run
would be filed under code that it did not use.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def forget_stale(sources: Iterable[Path]) -> list[Path]:
    """Removes the compiled functions of these files that are older than any of the files with compiled functions.

    Args:
        sources: Python files that may call each other.

    Returns:
        The index files that were removed; numba compiles anew what has none.
    """
    files = [path for path in sources if path.suffix == ".py" and b"numba" in path.read_bytes()]
    newest = max((path.stat().st_mtime_ns for path in files), default=0)
    elsewhere, stems = os.environ.get("NUMBA_CACHE_DIR"), {path.stem for path in files}
    folders = [Path(elsewhere)] if elsewhere else sorted({path.parent / "__pycache__" for path in files})
    removed = []
    for index in (index for folder in folders for index in folder.rglob("*.nbi")):
        with suppress(FileNotFoundError, PermissionError):  # gone with a run beside this one, or somebody else's
            if index.name.partition(".")[0] in stems and index.stat().st_mtime_ns < newest:
                index.unlink()
                removed.append(index)
    return removed
