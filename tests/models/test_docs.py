"""The examples of the models page run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_examples_of_the_models_page_run(capsys) -> None:
    scope: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(block, scope)
    assert capsys.readouterr().out.splitlines()[-1] == "True"
