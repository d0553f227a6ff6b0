"""All stumps, listed or known through an optimiser alone, measured: what FTPL does, and how long a round takes.

Everybody who will arrive is known beforehand and is the separator. The noise is that of the other parts, with the same
variance in total: 10 on 32 points, and less on each of more.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from heedful.bandits.admissions import History, arrivals_of, play
from heedful.bandits.classification_oracles import ClassificationOracle, ExhaustiveOracle, LinearOracle, StumpOracle
from heedful.bandits.context_semi_bandit_ftpl import ContextSemiBanditFTPL
from heedful.bandits.exp2 import Exp2
from heedful.bandits.experiments._fair_one_sided import PEOPLE, panel_of, pool_of, summary
from heedful.bandits.experiments.fair_one_sided import ETA
from heedful.bandits.linear_rules import Floats, LinearRules
from heedful.lab import Cell, Context, Row

_TIMED_SEEDS = 3


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    if cell["part"] == "oracle-time":
        for seed in ctx.params["seeds"][:_TIMED_SEEDS]:
            _, _, seconds = _play(cell, seed, ctx.params["rounds"] // 4)
            yield {"seed": seed, "horizon": cell["rounds"], "round_s": seconds}
        return
    for seed in ctx.params["seeds"]:
        history, calls, _ = _kept(cell, seed)
        row: dict[str, Any] = {"seed": seed, "horizon": cell["rounds"]} | summary(history)
        if calls is not None:
            row["calls"] = calls
        if cell["oracle"] == "stumps":
            rival = tuple((name, "exhaustive" if name == "oracle" else value) for name, value in cell.params)
            listed, _, _ = _kept(replace(cell, params=rival), seed)
            row["differs"] = float(_differing(history, listed))
        yield row


def _play(cell: Cell, seed: int, known: int) -> tuple[History, float | None, float]:
    """The cell's rounds, calls of an optimiser in a round, and seconds for a round; ``known`` rounds' arrivals are the
    separator."""
    pool = pool_of(cell["people"], None)
    arrivals = arrivals_of(pool, known, PEOPLE, seed)
    points = np.unique(pool.features[arrivals.ravel()], axis=0)
    method: Any
    if cell["method"] == "exp2":
        method = Exp2(rounds=known, penalty=cell["price"], eta=ETA, mix=cell["mix"])
        learner = method.start(LinearRules.stumps(points), PEOPLE, seed)
    else:
        method = ContextSemiBanditFTPL(rounds=known, penalty=cell["price"], noise=10.0 * np.sqrt(32 / len(points)))
        learner = method.start(_oracle(cell["oracle"], points), PEOPLE, seed)
    start = time.perf_counter()
    history = play(learner, pool, panel_of(cell, pool, seed), arrivals[: cell["rounds"]])
    seconds = (time.perf_counter() - start) / cell["rounds"]
    return history, None if cell["method"] == "exp2" else float(learner.state.calls[0] / cell["rounds"]), seconds


@lru_cache(maxsize=64)
def _kept(cell: Cell, seed: int) -> tuple[History, float | None, float]:
    """A run that is also compared with another."""
    return _play(cell, seed, cell["rounds"])


def _oracle(name: str, points: Floats) -> ClassificationOracle:
    if name == "exhaustive":
        return ExhaustiveOracle(points, LinearRules.stumps(points))
    return StumpOracle(points) if name == "stumps" else LinearOracle(points)


def _differing(one: History, other: History) -> int:
    """Rounds in which policies, decisions or reports were not the same."""
    same = (one.treatment == other.treatment).all(axis=1) & (one.accepted == other.accepted).all(axis=1)
    return int((~same | (one.reported != other.reported).any(axis=1)).sum())
