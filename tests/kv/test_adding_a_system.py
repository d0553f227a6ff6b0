"""Who follows ``docs/adding-a-system.md`` to the letter, in a copy of the project, ends with tests that pass."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-system.md").read_text()
METHOD, EXPERIMENT = Path("src/heedful/kv/key_norm.py"), Path("src/heedful/kv/experiments/sinks.py")
CORE = "plain_cache or smallest or bad_input or two_runs or immutable or from_its_text"


def code(containing: str) -> str:
    """The page's one Python block that contains these words."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if containing in block]
    return found


@pytest.fixture(scope="module")
def follow(tmp_path_factory):
    """``follow(*words)``: ``python words`` in a copy of the project that has the page's files; its output."""
    copy = tmp_path_factory.mktemp("copy")
    leave_out = shutil.ignore_patterns("__pycache__", "shipped")
    shutil.copytree(ROOT / "src", copy / "src", ignore=leave_out)
    (copy / "src/heedful/models/shipped").symlink_to(ROOT / "src/heedful/models/shipped")
    (copy / "tests/kv").mkdir(parents=True)
    for file in ("conftest.py", "kv/conftest.py", "kv/test_contract.py", "kv/test_experiments.py"):
        shutil.copy(ROOT / "tests" / file, copy / "tests" / file)
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / METHOD).write_text(code("class KeyNorm(Budgeted)"))
    (copy / EXPERIMENT).write_text(code('slug="sinks"'))
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}

    def call(*words):
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=copy, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


def test_the_policy_is_found_and_keeps_what_every_policy_promises(follow):
    chosen = f"key-norm and ({CORE})"
    follow("-m", "pytest", "tests/kv/test_contract.py", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", chosen)


def test_the_experiment_runs_and_is_accepted_by_the_rooms_tests(follow):
    follow("-m", "pytest", "tests/kv/test_experiments.py", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "sinks")
    words = ["run", "sinks", "--scale", "smoke", "--workers", "1"]
    assert "full cache" in follow("-c", f"from heedful.cli import main; main({words})")


def test_the_files_are_clean(follow):
    follow("-m", "ruff", "check", METHOD, EXPERIMENT)
