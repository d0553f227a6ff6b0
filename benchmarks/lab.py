"""What the workbench costs per cell, on cells that do nothing: ``python benchmarks/lab.py [--cells N]``.

The time is that of the whole command, less start-up (a run of four cells): listing the cells, dispatching,
checking and storing their rows, compacting, and reading them back to judge a claim. The yardstick is the same
work on ``concurrent.futures.ProcessPoolExecutor`` in chunks, which keeps nothing and survives nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import heedful.lab as lab


def cells(params: Mapping[str, Any], tuned: Mapping[str, Any]) -> Iterable[lab.Cell]:
    return (lab.Cell.of(method=method, seed=seed) for seed in range(params["seeds"]) for method in ("a", "b"))


def measure(cell: lab.Cell, ctx: lab.Context) -> list[dict[str, float]]:
    return [{"value": float(cell["seed"] % 7)}]


def bare(cell: lab.Cell) -> list[dict[str, float]]:
    return [{"value": float(cell["seed"] % 7)}]


experiment = lab.Experiment(
    slug="cheap-cells",
    room="lab",
    title="Cheap cells",
    question="What does the workbench cost?",
    summary="Does nothing.",
    paper=lab.Paper("None", "None", 2025),
    metrics=(lab.Metric("value", "1", "higher", "nothing"),),
    scales={"smoke": lab.Scale({"seeds": 1}), "small": lab.Scale({"seeds": 50_000})},
    cells=cells,
    measure=measure,
    claims=(
        lab.Claim(
            "tie",
            "Nothing is nothing.",
            "value",
            rule="tie",
            d=0.1,
            unit=("seed",),
            treatment={"method": "a"},
            control={"method": "b"},
            boundary=True,
        ),
    ),
)


def seconds(seeds: int, workers: int) -> float:
    """Wall-clock seconds of a run of ``2 * seeds`` cells in a fresh folder."""
    from heedful.lab.run import run

    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        result = run(experiment, "small", seeds=seeds, workers=workers, out=Path(folder))
        elapsed = time.perf_counter() - begun
        if not result.complete or result.verdicts[0].status != "holds":
            raise RuntimeError(f"the run went wrong: {result}")
    return elapsed


def bare_seconds(seeds: int, workers: int) -> float:
    """The same cells on a process pool, including its start."""
    begun = time.perf_counter()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        total = sum(len(rows) for rows in pool.map(bare, cells({"seeds": seeds}, {}), chunksize=500))
    if total != 2 * seeds:
        raise RuntimeError("the pool lost cells")
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    seeds = arguments.cells // 2
    start_up, bare_start_up = seconds(2, arguments.workers), bare_seconds(2, arguments.workers)
    ours = (seconds(seeds, arguments.workers) - start_up) / (2 * seeds - 4)
    pool = (bare_seconds(seeds, arguments.workers) - bare_start_up) / (2 * seeds - 4)
    print(f"{2 * seeds} cells on {arguments.workers} workers; start-up {start_up:.2f} s")
    print(f"workbench     {1e3 * ours:.4f} ms per cell (the design allows 0.2)")
    print(f"process pool  {1e3 * pool:.4f} ms per cell, nothing stored")
    print(f"ratio         {ours / pool:.2f}")


if __name__ == "__main__":
    main()
