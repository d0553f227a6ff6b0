"""Past-Future, measured: packing a queue, goodput under limits, real logs, and a real engine."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from heedful.lab import Cell, Context, Row, data
from heedful.serving import loads
from heedful.serving.experiments._past_future_claims import ENGINE, FAMILIES, TRACES
from heedful.serving.experiments.past_future import OTHERS, PATIENCE, SETTINGS
from heedful.serving.logs import Log, read_log
from heedful.serving.schedulers import make
from heedful.serving.service import Limits, service
from heedful.serving.simulator import Run, Simulator
from heedful.serving.workloads import GENERATORS, Workload

LIMITS = Limits(ttft=10.0, mtpot=1.5)
METHODS = (*OTHERS, *SETTINGS)
SERVED = ("oracle", "peak-with-mean", *SETTINGS)
"""Those that are compared under limits; the oracle first."""
BLOCK = 100
"""Requests of a real log that are one entry of the series that is resampled."""


def _workload(cell: Cell, ctx: Context) -> Workload:
    name = cell["workload"]
    rng = np.random.default_rng([zlib.crc32(name.encode()), cell["seed"]])
    return GENERATORS[name](ctx.params["requests"], rng)


def _packing(cell: Cell, ctx: Context) -> Iterator[Row]:
    """A queue of requests that all wait from the start."""
    workload, capacity, window = _workload(cell, ctx), ctx.params["capacity"], ctx.params["window"]
    simulator = Simulator(capacity, prefill_tokens=32_768)
    for method in METHODS:
        run = simulator.run(make(method), workload, clients=len(workload), window=window, seed=cell["seed"])
        row: dict[str, float | str] = {
            "method": method,
            "steps": float(run.steps),
            "seconds": run.seconds,
            "utilisation": run.utilisation,
            "future_peak": run.future_peak,
            "evictions": run.evictions_per_100,
        }
        if method == "oracle":
            row["violations"] = float(run.evictions.sum() > 0 or run.most_held > capacity)
        if cell["workload"] == "shifted":
            half = len(workload) // 2
            row["transient"] = 100 * float(run.evictions[half : half + 1000].mean())
        yield row


def _loads(simulator: Simulator, workload: Workload, ctx: Context) -> list[float]:
    full = loads.saturation(simulator, workload, LIMITS)
    return [float(n) for n in sorted({max(round(full * factor), 1) for factor in ctx.params["loads"]})]


def _outcomes(method: str, workload: Workload, clients: list[float], cell: Cell, ctx: Context) -> list[loads.Outcome]:
    simulator, scheduler = Simulator(ctx.params["capacity"]), make(method)
    window, seed = ctx.params["window"], cell["seed"]
    return [loads.under(simulator, scheduler, workload, n, LIMITS, window, seed) for n in clients]


def _areas(oracle: list[loads.Outcome], outcomes: list[loads.Outcome]) -> dict[str, float]:
    """Mean goodput over loads, as far as the oracle has any to speak of."""

    def goodput(which: list[loads.Outcome], whole: bool) -> list[float]:
        return [(outcome.whole if whole else outcome.settled).goodput for outcome in which]

    at = [outcome.load for outcome in outcomes]
    ours, best = _mean_goodput(at, goodput(oracle, False), goodput(outcomes, False))
    return {
        "goodput_area": ours,
        "goodput_share": ours / best,
        "area_whole": _area_share(at, goodput(oracle, True), goodput(outcomes, True)),
        "sustained": float(loads.sustained(outcomes) or 0),
    }


def _mean_goodput(at: list[float], oracle: list[float], goodput: list[float]) -> tuple[float, float]:
    """Mean goodput over loads, of a method and of the oracle, up to where the oracle's falls below 10 % of its peak."""
    last = max(i for i, best in enumerate(oracle) if best >= 0.1 * max(oracle))
    far = slice(0, last + 2)
    return loads.area(at[far], goodput[far]), loads.area(at[far], oracle[far])


def _area_share(at: list[float], oracle: list[float], goodput: list[float]) -> float:
    """A method's mean goodput over loads as a share of the oracle's."""
    ours, best = _mean_goodput(at, oracle, goodput)
    return ours / best


def _patient(outcomes: list[loads.Outcome], ttft: float) -> list[float]:
    """Goodput of the same runs under another limit on the time to the first token."""
    limits = Limits(ttft, LIMITS.mtpot)
    return [service(outcome.run, limits, outcome.window).goodput for outcome in outcomes]


def _service(cell: Cell, ctx: Context) -> Iterator[Row]:
    """The same requests from more and more clients."""
    workload = _workload(cell, ctx)
    clients = _loads(Simulator(ctx.params["capacity"]), workload, ctx)
    oracle: list[loads.Outcome] = []
    summaries: dict[str, dict[str, float]] = {}
    for method in SERVED:
        outcomes = _outcomes(method, workload, clients, cell, ctx)
        oracle = oracle or outcomes
        for outcome in outcomes:
            yield {
                "method": method,
                "load": int(outcome.load),
                "goodput": outcome.settled.goodput,
                "goodput_whole": outcome.whole.goodput,
                "met": outcome.settled.met,
                "ttft": outcome.settled.ttft,
                "mtpot": outcome.settled.mtpot,
                "evictions": outcome.run.evictions_per_100,
                "utilisation": outcome.run.utilisation,
            }
        summaries[method] = _areas(oracle, outcomes)
        for ttft in PATIENCE:
            share = _area_share(clients, _patient(oracle, ttft), _patient(outcomes, ttft))
            yield {"method": method, "patience": ttft, "patient_share": share}
    for family in FAMILIES:
        summaries[f"{family}, tuned"] = summaries[str(ctx.tuned[family]["setting"])]
    for method, summary in summaries.items():
        yield {"method": method, **summary}


def _tuning(cell: Cell, ctx: Context) -> Iterator[Row]:
    workload = _workload(cell, ctx)
    clients = _loads(Simulator(ctx.params["capacity"]), workload, ctx)
    oracle = _outcomes("oracle", workload, clients, cell, ctx)
    outcomes = _outcomes(cell["candidate"], workload, clients, cell, ctx)
    yield {"method": cell["candidate"], **_areas(oracle, outcomes)}


@lru_cache(maxsize=4)
def _read(trace: str, cap: int | None) -> Log:
    path = data.find(TRACES[trace][0])
    assert path is not None
    return read_log(path, cap=cap)


def _log(cell: Cell, ctx: Context) -> Iterator[Row]:
    """A real log, arriving faster or slower, about the speed that the oracle sustains."""
    trace, capacity = cell["workload"], TRACES[cell["workload"]][1]
    longest = int(_read(trace, None).workload.cap.max())
    workload = _read(trace, longest * cell["cap_factor"]).workload
    simulator = Simulator(capacity)
    speed = cell["factor"] * loads.saturation(simulator, workload, LIMITS)
    for method in METHODS:
        outcome = loads.under(simulator, make(method), workload, speed, LIMITS, ctx.params["window"], 0)
        yield {
            "method": method,
            "load": speed,
            "goodput": outcome.settled.goodput,
            "goodput_whole": outcome.whole.goodput,
            "met": outcome.settled.met,
            "ttft": outcome.settled.ttft,
            "mtpot": outcome.settled.mtpot,
            "evictions": outcome.run.evictions_per_100,
            "utilisation": outcome.run.utilisation,
            "rejected": float(outcome.whole.rejected),
        }
        for block, share in enumerate(_blocks(outcome.run)):
            yield {"method": method, "block": block, "good_share": share}


def _blocks(run: Run) -> list[float]:
    """Of each block of consecutive requests, the share of output tokens that were served within limits."""
    good = (run.first_token - run.arrival <= LIMITS.ttft) & (run.max_gap <= LIMITS.mtpot) & ~run.rejected
    output = run.workload.output
    edges = np.arange(0, len(output) - BLOCK + 1, BLOCK)
    within, of = (np.add.reduceat(values, edges) for values in (output * good, output))
    return (within / of)[: len(edges)].tolist()


def _windows(cell: Cell, ctx: Context) -> Iterator[Row]:
    """How alike the output lengths of adjacent windows are, window by window in steps of a tenth of one."""
    output = _read(cell["workload"], None).workload.output
    bins = np.arange(0, int(output.max()) + 51, 50)
    for block, start in enumerate(range(0, len(output) - 1999, 100)):
        first, second = (np.histogram(output[at : at + 1000], bins)[0].astype(float) for at in (start, start + 1000))
        cosine = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
        yield {"method": "", "block": block, "similarity": float(cosine)}


def _engine(cell: Cell, ctx: Context) -> Iterator[Row]:
    """The same requests in a real engine, under its own rule and under ours."""
    from heedful.serving.experiments._engine import engine_study

    own = None
    for method in ENGINE:
        found = engine_study(method, cell["seed"], hidden=cell["lengths"] == "hidden")
        own = own or found["answers"]
        if cell["part"] == "engine-time":
            yield {"method": method, "wall": found["seconds"]}
            continue
        yield {
            "method": method,
            "engine_evictions": float(found["evictions"]),
            "recomputed": float(found["recomputed_tokens"]),
            "engine_steps": float(found["steps"]),
            "differing": float(found["answers"] != own),
            "margin": found["margin"],
        }


PARTS: dict[str, Any] = {
    "packing": _packing,
    "service": _service,
    "tuning": _tuning,
    "log": _log,
    "windows": _windows,
    "engine": _engine,
    "engine-time": _engine,
}
