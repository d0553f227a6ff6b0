"""Cells that do nothing, so that all that a run of them costs is the workbench's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import heedful.lab as lab


def cells(params: Mapping[str, Any], tuned: Mapping[str, Any]) -> Iterable[lab.Cell]:
    return (lab.Cell.of(method=method, seed=seed) for seed in range(params["seeds"]) for method in ("a", "b"))


def measure(cell: lab.Cell, ctx: lab.Context) -> list[dict[str, float]]:
    return [{"value": 1.0}]


experiment = lab.Experiment(
    slug="toy-cheap",
    room="toys",
    title="Toy cheap",
    question="What does the workbench cost?",
    summary="Does nothing.",
    paper=lab.Paper("On Nothing", "A. Toymaker", 2024),
    metrics=(lab.Metric("value", "1", "higher", "nothing"),),
    scales={"smoke": lab.Scale({"seeds": 2}), "small": lab.Scale({"seeds": 10_000})},
    cells=cells,
    measure=measure,
    claims=(lab.Claim("one", "One is one.", "value", unit=("seed",), treatment={"method": "a"}, boundary=True),),
)
