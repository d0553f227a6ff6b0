"""Other people's rooms: the toy room, really installed, and small ones that a test writes itself; public data files.

And how properties are tried: the same examples each time, however long one takes.
"""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from heedful.cli import main
from heedful.lab import data

TOY_ROOM = Path(__file__).parent / "toy_room"
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

# No example is timed: the first call of a compiled function compiles it, and a busy machine takes its time.
settings.register_profile(
    "steady", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture
def heedful(capsys):
    """``heedful(*words)``: the exit status, standard output and standard error of a command."""

    def call(*words):
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return call


@pytest.fixture(scope="session")
def toy_room(tmp_path_factory):
    """The folder into which pip has installed the toy room; it is on the path, here and in workers."""
    source = tmp_path_factory.mktemp("source") / "toy_room"
    shutil.copytree(TOY_ROOM, source)
    target = tmp_path_factory.mktemp("installed")
    offline = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    pip = [sys.executable, "-m", "pip", "install", *offline, "--target", target, source]
    subprocess.run(pip, check=True, capture_output=True)
    sys.path.insert(0, str(target))
    importlib.invalidate_caches()
    return target


@pytest.fixture(scope="session")
def toy_runs(toy_room, tmp_path_factory):
    """A folder of runs in which the toy room's system is measured at scale smoke."""
    runs = tmp_path_factory.mktemp("toy") / "runs"
    with pytest.raises(SystemExit) as end:
        main(["run", "coin", "--scale", "smoke", "--workers", "1", "--out", str(runs)])
    assert end.value.code == 0
    return runs


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install(name, {path: source}, entry_points, metadata)``: a package on the path, as pip leaves it."""

    def write(name, files, entry_points, metadata=""):
        folder = tmp_path / "site-packages"
        for path, source in files.items():
            target = folder / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source)
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}")
        (info / "entry_points.txt").write_text(entry_points)
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        return folder

    return write


@pytest.fixture
def data_file():
    """``data_file(name)``: where a declared data file lies, verified; skips the test if it is not on this machine."""

    def look(name):
        for folder in (data.folder(), SHARED_DATA):
            if path := data.find(name, folder):
                return path
        pytest.skip(f"{name} is in neither of {data.folder()}, {SHARED_DATA}; 'heedful data fetch {name}' brings it")

    return look
