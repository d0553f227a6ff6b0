"""What all benchmarks do at their end: print a table, and write it to ``results/`` with what it was measured on."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parents[1] / "results"
ONE_CORE = f"one core of {os.cpu_count()}, processor time"


def processor() -> str:
    """The CPU's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def report(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    name: str,
    versions: Mapping[str, str],
    quick: bool,
    device: str = ONE_CORE,
    note: str = "",
) -> None:
    """Prints the rows as a table and, unless ``quick``, writes them to ``results/<name>.json``.

    Args:
        title: the table's.
        rows: all with the same keys.
        name: of the file.
        versions: of the packages that matter, beside Python's.
        quick: whether it was only to see that it runs.
        device: how much of the machine was used.
        note: printed below the table.
    """
    table = Table(title=title, caption=note or None)
    for column, value in rows[0].items():
        table.add_column(column, justify="left" if isinstance(value, str) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 180).print(table)
    if quick:
        return
    record = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "title": title,
        "note": note,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{processor()}, {device}",
        "load": [round(value, 1) for value in os.getloadavg()],
        "versions": {"python": platform.python_version(), **versions},
        "rows": [
            {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}
            for row in rows
        ],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
