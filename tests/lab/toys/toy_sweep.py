"""A toy experiment: a noisy method beats its rival by one, ties with itself; cells can be made to misbehave.

Each execution of a cell leaves a line in ``$TOY_LOG``; ``$TOY_FAULTS`` maps a seed to what its cell does.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import heedful.lab as lab


def log(cell: lab.Cell) -> None:
    if path := os.environ.get("TOY_LOG"):
        with open(path, "a") as file:
            file.write(f"{cell['method']}-{cell['seed']}\n")


def fault(cell: lab.Cell) -> None:
    faults = json.loads(os.environ.get("TOY_FAULTS", "{}"))
    match faults.get(f"{cell['method']}-{cell['seed']}"):
        case "raise":
            raise RuntimeError("the toy\nbroke")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            raise SystemExit(3)
        case "hang":
            time.sleep(600)
        case "memory":
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
            bytearray(1 << 33)


def cells(
    params: Mapping[str, Any], tuned: Mapping[str, Mapping[str, lab.declare.Scalar]]
) -> Iterable[lab.Cell]:
    for seed in range(params["seeds"]):
        for method in ("ours", "rival"):
            yield lab.Cell.of(method=method, seed=seed)


def measure(cell: lab.Cell, ctx: lab.Context) -> list[dict[str, Any]]:
    log(cell)
    fault(cell)
    time.sleep(ctx.params["pause_s"])
    if stop := os.environ.get("TOY_STOP"):
        while Path(stop).exists():
            time.sleep(0.01)
    bonus = 1.0 if cell["method"] == "ours" else 0.0
    return [
        {"item": item, "reward": bonus + float(ctx.rng.normal()), "violations": 0.0, "noise": None}
        for item in range(ctx.params["items"])
    ]


experiment = lab.Experiment(
    slug="toy-sweep",
    room="toys",
    title="Toy sweep",
    question="Does one more beat one less?",
    summary="Adds one.",
    paper=lab.Paper("On Toys", "A. Toymaker", 2024),
    metrics=(
        lab.Metric("reward", "1", "higher", "what was earned"),
        lab.Metric("violations", "1", "lower", "bounds that were broken"),
        lab.Metric("noise", "1", "neither", "never measured"),
    ),
    dimensions=("item",),
    scales={
        "smoke": lab.Scale({"seeds": 3, "items": 2, "pause_s": 0.0}, limit_s=20.0),
        "small": lab.Scale({"seeds": 30, "items": 4, "pause_s": 0.0}, limit_s=20.0),
    },
    cells=cells,
    measure=measure,
    claims=(
        lab.Claim(
            "beats",
            "The method beats its rival.",
            "reward",
            d=0.1,
            treatment={"method": "ours"},
            control={"method": "rival"},
        ),
        lab.Claim("sound", "No bound is broken.", "violations", kind="exact", treatment={"method": "ours"}),
        lab.Claim(
            "boundary",
            "The rival earns nothing.",
            "reward",
            rule="tie",
            d=0.5,
            treatment={"method": "rival"},
            control=0.0,
            boundary=True,
        ),
        lab.Claim(
            "noisy", "Noise is noise.", "noise", treatment={"method": "ours"}, control={"method": "rival"}
        ),
    ),
)
