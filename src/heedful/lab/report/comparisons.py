"""Comparisons that a room's command made on the user's own work: written here, shown in the report.

A comparison is a folder ``<runs>/compare/<room>/<id>/`` of ``meta.json``, a Parquet file per table, and per
figure its Vega-Lite specification, ``charts/<n>.json``, and the numbers behind it, ``charts/<n>.parquet``.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heedful import __version__
from heedful.lab.declare import Figure
from heedful.lab.files import read_parquet

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Comparison:
    """A stored comparison.

    Attributes:
        id: its folder's name, which begins with the time it was made (UTC).
        facts: what else is known about it, as pairs of names and texts.
        tables: its tables by title.
        figures: per figure its title, caption, Vega-Lite specification and table.
    """

    id: str
    room: str
    title: str
    command: str
    created: str
    facts: Mapping[str, str]
    tables: Mapping[str, pl.DataFrame]
    figures: Sequence[tuple[str, str, Mapping[str, Any], pl.DataFrame]]


def write_comparison(
    out: str | os.PathLike[str],
    room: str,
    title: str,
    command: str,
    tables: Mapping[str, pl.DataFrame],
    figures: Sequence[Figure] = (),
    *,
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Store a comparison so that ``heedful report`` gives it a page. Returns its folder.

    Args:
        out: the folder of runs, as ``run --out`` takes it.
        room: the room that compared.
        title: the page's title.
        command: the command line that does it again.
        tables: title -> table, in the page's order.
        figures: pictures; each chart must carry its data.
        facts: what a reader should know beside (model, device, versions, duration): name -> text.

    Raises OSError if ``out`` cannot be written; a comparison is there whole or not at all.
    """
    from heedful.lab.report.parts import spec_of

    now = datetime.now(UTC)
    parent = Path(out) / "compare" / room
    parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=parent))
    try:
        (draft / "charts").mkdir()
        for number, frame in enumerate(tables.values()):
            frame.write_parquet(draft / f"{number}.parquet")
        for number, figure in enumerate(figures):
            (draft / "charts" / f"{number}.json").write_text(json.dumps(spec_of(figure.chart)))
            figure.table.write_parquet(draft / "charts" / f"{number}.parquet")
        meta = {
            "title": title,
            "room": room,
            "command": command,
            "created": now.isoformat(timespec="seconds"),
            "facts": {"heedful": __version__, **(facts or {})},
            "tables": list(tables),
            "figures": [{"title": figure.title, "caption": figure.caption} for figure in figures],
        }
        (draft / "meta.json").write_text(json.dumps(meta, indent=2))
        draft.chmod(0o755)
        folder = draft.rename(parent / f"{now:%Y%m%d-%H%M%S}-{draft.name[-6:].replace('_', '0')}")
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return folder


def read_comparisons(out: Path) -> tuple[list[Comparison], list[str]]:
    """Every stored comparison, newest first, and one line for each folder that cannot be read."""
    found, problems = [], []
    for meta in sorted((out / "compare").glob("*/[!.]*/meta.json"), reverse=True, key=lambda path: path.parent.name):
        try:
            found.append(_read(meta.parent))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{meta.parent}: not a readable comparison ({text_of(error)}); delete it or make it again")
    return found, problems


def text_of(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read(folder: Path) -> Comparison:
    import polars as pl

    meta = json.loads((folder / "meta.json").read_text())
    try:
        return Comparison(
            id=folder.name,
            room=folder.parent.name,
            title=meta["title"],
            command=meta["command"],
            created=meta["created"],
            facts=meta.get("facts", {}),
            tables={name: read_parquet(folder / f"{i}.parquet") for i, name in enumerate(meta["tables"])},
            figures=[
                (
                    figure["title"],
                    figure["caption"],
                    json.loads((folder / "charts" / f"{i}.json").read_text()),
                    read_parquet(folder / "charts" / f"{i}.parquet"),
                )
                for i, figure in enumerate(meta["figures"])
            ],
        )
    except pl.exceptions.PolarsError as error:
        raise ValueError(str(error)) from error
