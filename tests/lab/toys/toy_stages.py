"""A toy experiment with a tuning stage, a shared artifact, scratch and cells that time something."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import heedful.lab as lab


def log(word: str) -> None:
    if path := os.environ.get("TOY_LOG"):
        with open(path, "a") as file:
            file.write(f"{word}\n")


def grids(params: Mapping[str, Any]) -> Mapping[str, list[dict[str, float]]]:
    return {
        "ours": [{"alpha": 0.1}, {"alpha": 0.5}, {"alpha": 0.9}],
        "rival": [{"alpha": 0.5}, {"alpha": 2.0}, {"alpha": 3.0}],
    }


def candidate(params: Mapping[str, Any], method: str, setting: Mapping[str, Any]) -> list[lab.Cell]:
    return [lab.Cell.of(method=method, seed=-1 - seed, **setting) for seed in range(2)]


def cells(params: Mapping[str, Any], tuned: Mapping[str, Mapping[str, Any]]) -> Iterable[lab.Cell]:
    for method in ("ours", "rival"):
        for seed in range(params["seeds"]):
            yield lab.Cell.of(method=method, seed=seed, **tuned[method])
        yield lab.Cell.of(method=method, timed=True, exclusive=True)


def build(folder: Path) -> None:
    log("build")
    time.sleep(0.2)
    (folder / "offset.txt").write_text("0.25")


def measure(cell: lab.Cell, ctx: lab.Context) -> list[dict[str, Any]]:
    if cell.get("timed"):
        log(f"timed {cell['method']} {os.getpid()}")
        count = len(list(ctx.scratch.iterdir()))
        (ctx.scratch / "checkpoint").write_text("half way")
        drift = time.monotonic() if os.environ.get("TOY_DRIFT") else 0.0
        return [{"loss": count + drift, "seconds": 0.5 if cell["method"] == "ours" else 0.75}]
    log("cell")
    offset = float((ctx.artifact({"made": "offset"}, build) / "offset.txt").read_text())
    return [{"loss": offset + abs(cell["alpha"] - 0.5), "seconds": None}]


experiment = lab.Experiment(
    slug="toy-stages",
    room="toys",
    title="Toy stages",
    question="Which alpha is best?",
    summary="Knows that it is one half.",
    paper=lab.Paper("On Stages", "A. Toymaker", 2024),
    metrics=(
        lab.Metric("loss", "1", "lower", "distance from the best"),
        lab.Metric("seconds", "s", "lower", "how long it took", timing=True),
    ),
    scales={"smoke": lab.Scale({"seeds": 4}, repeats=3), "small": lab.Scale({"seeds": 8})},
    cells=cells,
    measure=measure,
    tuning=lab.Tuning(grids, candidate, "loss"),
    claims=(
        lab.Claim(
            "tie",
            "Tuned, both are the same.",
            "loss",
            rule="tie",
            d=0.01,
            unit=("seed",),
            treatment={"method": "ours"},
            control={"method": "rival"},
            where={"timed": None},
            boundary=True,
        ),
    ),
)
