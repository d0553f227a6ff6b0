"""Optimistic feasible search, measured: every cell is one method in one loop, all its seeds together."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from heedful.bandits.experiments.ofs import FILES, METHODS, OPTIONS
from heedful.bandits.learners import classes, make
from heedful.bandits.lending import ClosedLoop, CreditBureau, History, Pool, Sweep, Synthetic, run, sweep
from heedful.bandits.populations import compas, fico, german_credit
from heedful.bandits.threshold_averages import Constrained
from heedful.bandits.thresholds import thresholds_of
from heedful.lab import Cell, Context, Row, data
from heedful.lab.files import read_parquet

_SETTINGS = ("width", "step", "epsilon")
_SWEEP_SEEDS = range(2000, 2003)


@lru_cache(maxsize=8)
def _loop(env: str, eta: float, harm: float) -> ClosedLoop:
    if env == "synthetic":
        return Synthetic(eta=eta, harm=harm)
    tables = []
    for file in FILES[env]:
        path = data.find(file)
        assert path is not None
        tables.append(read_parquet(path))
    if env == "german":
        return Pool(people=german_credit(*tables), u_minus=2.0, eta=eta)
    return Pool(people=compas(*tables), eta=eta) if env == "compas" else CreditBureau(table=fico(*tables), eta=eta)


@lru_cache(maxsize=64)
def _sweep(env: str, eta: float, harm: float, points: int, rounds: int) -> Sweep:
    return sweep(_loop(env, eta, harm), thresholds_of(points), _SWEEP_SEEDS, rounds)


def _method(cell: Cell) -> Any:
    """The method as the cell wants it, told of the constraints if it knows any."""
    spec = (METHODS | OPTIONS)[cell["method"]]
    given = [f"{name}={cell[name]}" for name in _SETTINGS if cell.get(name) is not None]
    if issubclass(classes()[spec.partition(":")[0]], Constrained):
        given += [f"eps={cell['eps']}", f"rho_min={cell['rho_min']}"]
    base, _, rest = spec.partition(":")
    wanted = [part for part in (rest, *given) if part]
    return make(f"{base}:{','.join(wanted)}" if wanted else base)


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    env, eta, harm, points = cell["env"], cell["eta"], cell["harm"], cell["points"]
    limits = cell["eps"], cell["rho_min"] or None
    grid, seeds = thresholds_of(points), [cell["first_seed"] + seed for seed in ctx.params["seeds"]]
    history = run(_loop(env, eta, harm), _method(cell), grid, cell["rounds"], seeds)
    violation = history.violation(*limits)
    rows = _rows(cell, history, violation)
    if cell["part"] not in ("phase", "tuning", "growth"):
        swept = _sweep(env, eta, harm, points, ctx.params["sweep"])
        best = swept.best(*limits)
        least = max(abs(swept.gap[best]) - cell["eps"], cell["rho_min"] - swept.rate[best], 0.0)
        for row in rows:
            row["to_oracle"] = row["steady_reward"] - float(swept.reward[best])
            row["excess"] = row["steady_violation"] - float(least)
    yield from rows
    if cell["part"] == "loop" and cell["rho_min"] == 0:
        yield from _path(history, violation)


def _rows(cell: Cell, history: History, violation: Any) -> list[dict[str, Any]]:
    rounds, lanes = violation.shape
    seen = np.nan_to_num(np.abs(history.gap) - cell["eps"], nan=0.0)
    seen = np.maximum(np.maximum(seen, cell["rho_min"] - history.rate), 0.0).sum(axis=0)
    total, tail = violation.cumsum(axis=0), slice(-max(1, rounds // 5), None)
    columns = {
        "reward": history.expected_reward.mean(axis=0),
        "charged": history.expected_reward.mean(axis=0) - total[-1] / rounds,
        "violation": total[-1],
        "violation_seen": seen,
        "steady_reward": history.expected_reward[tail].mean(axis=0),
        "steady_gap": history.expected_gap[tail].mean(axis=0),
        "steady_rate": history.expected_rate[tail].mean(axis=0),
        "steady_violation": violation[tail].mean(axis=0),
    }
    if cell["part"] == "growth":
        columns["exponent"] = np.log10(total[-1] / total[rounds // 10 - 1])
    return [{"seed": s} | {name: float(values[s]) for name, values in columns.items()} for s in range(lanes)]


def _path(history: History, violation: Any) -> Iterator[Row]:
    total = violation.cumsum(axis=0).mean(axis=1)
    reward = history.expected_reward.mean(axis=1).cumsum()
    for t in np.unique(np.linspace(1, len(total), 41).astype(int)):
        yield {
            "round": int(t),
            "violation_so_far": float(total[t - 1]),
            "reward_so_far": float(reward[t - 1] / t),
        }
