"""A toy experiment: a noisy method beats its rival by one; cells can be made to misbehave.

Each execution of a cell leaves a line ``METHOD-SEED PID`` in ``$TOY_LOG``. ``$TOY_FAULTS`` maps
``METHOD-SEED`` to what that cell does instead of measuring; the cell named by ``$TOY_GATED`` waits while the
file ``$TOY_GATE`` exists.
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
            file.write(f"{cell['method']}-{cell['seed']} {os.getpid()}\n")


def fault(method: str, seed: int) -> str:
    return str(json.loads(os.environ.get("TOY_FAULTS", "{}")).get(f"{method}-{seed}"))


def misbehave(cell: lab.Cell, ctx: lab.Context) -> None:
    match fault(cell["method"], cell["seed"]):
        case "raise":
            raise RuntimeError("the toy\nbroke")
        case "resume" if not (ctx.scratch / "checkpoint").exists():
            (ctx.scratch / "checkpoint").write_text("half way")
            os.kill(os.getpid(), signal.SIGKILL)
        case "build":
            ctx.artifact("slow", lambda folder: time.sleep(4.0))
        case "wait for build":
            while not list(Path(os.environ["TOY_RUNS"]).glob("*/artifacts/*.tmp")):
                time.sleep(0.01)
            ctx.artifact("slow", lambda folder: None)
        case "slow cell":
            for step in range(6):
                ctx.progress(step / 6)
                time.sleep(0.2)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            raise SystemExit(3)
        case "leave":
            os._exit(4)
        case "hang":
            time.sleep(600)
        case "memory":
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
            bytearray(1 << 34)


def cells(params: Mapping[str, Any], tuned: Mapping[str, Any]) -> Iterable[lab.Cell]:
    for seed in range(params["seeds"]):
        for method in ("ours", "rival"):
            limit_s = 60.0 if fault(method, seed) == "build" else params["limit_s"]
            yield lab.Cell.of(method=method, seed=seed, limit_s=limit_s)


def measure(cell: lab.Cell, ctx: lab.Context) -> list[dict[str, Any]]:
    log(cell)
    misbehave(cell, ctx)
    time.sleep(ctx.params["pause_s"])
    gated = os.environ.get("TOY_GATED") == f"{cell['method']}-{cell['seed']}"
    while gated and Path(os.environ["TOY_GATE"]).exists():
        time.sleep(0.01)
    bonus = 1.0 if cell["method"] == "ours" else 0.0
    return [
        {"item": item, "reward": bonus + float(ctx.rng.normal()), "violations": 0.0}
        for item in range(ctx.params["items"])
    ]


def claim(name: str, **settings: Any) -> lab.Claim:
    settings = {"treatment": {"method": "ours"}, "control": {"method": "rival"}} | settings
    return lab.Claim(name, f"The claim {name}.", **settings)


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
        "smoke": lab.Scale({"seeds": 3, "items": 2, "pause_s": 0.0, "limit_s": 60.0}),
        "small": lab.Scale({"seeds": 30, "items": 4, "pause_s": 0.005, "limit_s": 60.0}),
    },
    cells=cells,
    measure=measure,
    claims=(
        claim("beats", metric="reward", d=0.1),
        claim("sound", metric="violations", kind="exact"),
        claim(
            "boundary",
            metric="reward",
            rule="tie",
            d=0.6,
            treatment={"method": "rival"},
            control=0.0,
            boundary=True,
        ),
        claim("noisy", metric="noise"),
    ),
)
