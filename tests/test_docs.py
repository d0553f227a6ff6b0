"""The pages say what the code says, and their examples run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from heedful.lab import discover

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = ("kv", "paging", "serving", "bandits")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_made_parts_are_up_to_date():
    done = subprocess.run([sys.executable, ROOT / "docs" / "update.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_system_has_a_page():
    catalog = discover.catalog()
    for experiment in (experiment for room in ROOMS for experiment in catalog.of_room(room)):
        assert (ROOT / "docs" / "systems" / f"{experiment.slug}.md").exists()


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=lambda p: p.name)
def test_examples_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "example"}
    for number, code in enumerate(BLOCK.findall(page.read_text())):
        exec(compile(code, f"<{page.name} {number}>", "exec"), namespace)


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"
