"""The workbench: what an experiment is, how it is run, stored, judged and reported. It knows no room.

Importing it is cheap: what runs experiments, and the libraries that this needs, is imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from heedful.lab import declare
from heedful.lab.data.declare import DataFile, Dataset
from heedful.lab.declare import Cell, Claim, Experiment, Figure, Metric, Paper, Row, Scale, Tuning
from heedful.lab.errors import LabError

if TYPE_CHECKING:
    from heedful.lab.context import Context
    from heedful.lab.judge import Verdict
    from heedful.lab.run import Progress, RunResult

__all__ = [
    "Cell",
    "Claim",
    "Context",
    "DataFile",
    "Dataset",
    "Experiment",
    "Figure",
    "LabError",
    "Metric",
    "Paper",
    "Progress",
    "Row",
    "RunResult",
    "Scale",
    "Tuning",
    "Verdict",
    "declare",
]

_LATER = {
    "Context": "heedful.lab.context",
    "Progress": "heedful.lab.run",
    "RunResult": "heedful.lab.run",
    "Verdict": "heedful.lab.judge",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
