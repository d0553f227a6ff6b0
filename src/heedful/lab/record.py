"""A run's ``meta.json``: what was measured, where, when and by what, and what came out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from heedful.lab import results
from heedful.lab.declare import Experiment
from heedful.lab.errors import LabError
from heedful.lab.identity import Identity, Reference
from heedful.lab.machine import commit, machine, versions
from heedful.lab.store import META, write_json


class Record:
    """Written when an invocation begins, and again when it ends; ``content`` is what is written."""

    def __init__(
        self,
        experiment: Experiment,
        scale: str,
        identity: Identity,
        reference: Reference,
        workers: int,
        run_dir: Path,
    ) -> None:
        self._path = run_dir / META
        self._begun = time.monotonic()
        try:
            self._earlier = results.meta(run_dir)
        except LabError:
            self._earlier = {}
        self.content: dict[str, Any] = {
            "slug": experiment.slug,
            "room": experiment.room,
            "title": experiment.title,
            "scale": scale,
            "run_id": identity.run_id,
            "params": dict(identity.params),
            "device": identity.device,
            "inputs": dict(identity.inputs),
            "sources": dict(identity.sources),
            "version": experiment.version,
            "versions": versions(),
            "machine": machine(),
            "commit": commit(reference.folder),
            "workers": workers,
            "metrics": [asdict(metric) for metric in experiment.metrics],
            "dimensions": list(experiment.dimensions),
            "started": _now(),
            "finished": None,
            "seconds": self._earlier.get("seconds", 0.0),
            "invocations": self._earlier.get("invocations", []),
            "complete": False,
            "cells": {},
            "tuned": {},
            "verdicts": [],
            "values_sha256": "",
        }
        write_json(self._path, self.content)

    def close(self, cells: Mapping[str, int], measured: int) -> None:
        """Add this invocation to the earlier ones; one with nothing to measure changes the verdicts only."""
        if self._earlier.get("complete") and self.content["complete"] and not measured:
            self.content = self._earlier | {"verdicts": self.content["verdicts"]}
        else:
            seconds = time.monotonic() - self._begun
            invocation = {
                "started": self.content["started"],
                "seconds": seconds,
                "measured": measured,
                "workers": self.content["workers"],
                "commit": self.content["commit"],
            }
            self.content["invocations"] = [*self.content["invocations"], invocation]
            self.content["seconds"] += seconds
            self.content |= {"finished": _now(), "cells": dict(cells)}
        write_json(self._path, self.content)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
