"""Machine code on disk, after what it calls was edited."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from heedful.lab.compiled import forget_stale

CALLER = """
import numba
from callee import step

@numba.njit(cache=True)
def run(n):
    total = 0
    for _ in range(n):
        total += step()
    return total
"""
CALLEE = """
import numba

@numba.njit(cache=True)
def step():
    return {}
"""


def total_of_five(folder: Path) -> int:
    """What a fresh Python makes of it."""
    done = subprocess.run(
        [sys.executable, "-c", "from caller import run; print(run(5))"],
        cwd=folder, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(folder)},
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_edit_of_what_a_compiled_function_calls_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    pytest.importorskip("numba")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    if elsewhere:
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "code"
    folder.mkdir()
    files = [folder / "caller.py", folder / "callee.py", folder / "plain.py"]
    for path, text in zip(files, (CALLER, CALLEE.format(1), "x = 1"), strict=True):
        path.write_text(text)
    assert total_of_five(folder) == 5
    assert forget_stale(files) == []
    files[2].write_text("x = 2")
    assert forget_stale(files) == []  # nothing of it is compiled
    files[1].write_text(CALLEE.format(2))
    assert {path.name.partition(".")[0] for path in forget_stale(files)} == {"caller", "callee"}
    assert total_of_five(folder) == 10
    assert forget_stale(files) == []
