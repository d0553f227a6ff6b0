"""Peak resident size of a piece of work. Imports torch alone, so that another environment can use it too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def peak_growth(work: Callable[[], Any]) -> int:
    """Bytes by which the work raises this process's peak resident size over its present size (Linux)."""
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    with torch.inference_mode():
        work()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])
