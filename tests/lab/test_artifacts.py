"""An artifact is built once, by whoever asks first, and a killed build leaves nothing that counts."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from heedful.lab.artifacts import artifact

BUILDER = Path(__file__).parent / "toys" / "toy_builder.py"


def builder(folder: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(BUILDER), str(folder), str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_concurrent_processes_build_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    builders = [builder(tmp_path / "artifacts", log, 0.3) for _ in range(3)]
    folders = {process.communicate(timeout=60)[0].strip() for process in builders}
    assert len(folders) == 1
    assert names(Path(folders.pop())) == {"half", "whole"}
    assert len(log.read_text().splitlines()) == 1


def test_killed_build_is_built_again(tmp_path: Path) -> None:
    log, folder = tmp_path / "log", tmp_path / "artifacts"
    killed = builder(folder, log, 600)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.tmp/half")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    waiting = builder(folder, log, 0)
    killed.kill()
    killed.wait()
    finished = Path(waiting.communicate(timeout=60)[0].strip())
    assert names(finished) == {"half", "whole"}
    assert len(log.read_text().splitlines()) == 2
    assert names(folder) == {finished.name, f"{finished.name}.lock"}


def test_failed_build_keeps_nothing(tmp_path: Path) -> None:
    def fail(unfinished: Path) -> None:
        (unfinished / "half").write_text("half")
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        artifact(tmp_path, "code", "key", fail)
    assert {name.rpartition(".")[2] for name in names(tmp_path)} == {"lock"}


def test_address_follows_code_and_key(tmp_path: Path) -> None:
    def build(unfinished: Path) -> None:
        (unfinished / "empty").touch()

    addresses = {
        artifact(tmp_path, code, key, build)
        for code, key in (("a", "k"), ("b", "k"), ("a", {"k": 1}), ("a", {"k": 2}), ("a", "k"))
    }
    assert len(addresses) == 4
    assert artifact(tmp_path, "a", {"x": 1, "y": 2}, build) == artifact(tmp_path, "a", {"y": 2, "x": 1}, build)
