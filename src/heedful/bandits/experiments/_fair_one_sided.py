"""Individually fair learning with one-sided feedback, measured: every cell is one method, seed after seed.

A seed draws the rules, the panel, who arrives and what the learner does; the first three are the same for all methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from heedful.bandits.admissions import (
    Applicants,
    History,
    arrivals_of,
    compas_applicants,
    german_applicants,
    play,
)
from heedful.bandits.auditors import Panel
from heedful.bandits.context_semi_bandit_ftpl import ContextSemiBanditFTPL
from heedful.bandits.exp2 import Exp2, ExponentialWeights
from heedful.bandits.experiments.fair_one_sided import ETA, FILES
from heedful.bandits.fair_comparator import Comparator, best_fair
from heedful.bandits.learners import classes, make
from heedful.bandits.linear_rules import LinearRules
from heedful.lab import Cell, Context, Row, data
from heedful.lab.files import read_parquet

PEOPLE, SLACK = 4, 0.05
_GOOD = {"pessimistic": 0.3, "easy": 0.9}
_WIDE, _USUAL = (0.9, 1.0), (0.05, 0.15)
_PESSIMISM = 500.0
"""Loss at first of a rule that accepts everybody."""


_USUAL_PANEL = Cell.of(regime="plain", members=5, gamma=0.5)
"""What :func:`panel_of` reads of a cell under the usual panel."""


@lru_cache(maxsize=8)
def pool_of(name: str, good_rate: float | None) -> Applicants:
    if name == "made":
        rng = np.random.default_rng(7)
        features = rng.uniform(size=(1000, 7))
        features[:, -1] = features[:, -1] < 0.6
        chance = 1 / (1 + np.exp(-4 * (features[:, :3].mean(axis=1) - 0.4) - features[:, 3]))
        return Applicants(features, (rng.uniform(size=1000) < chance).astype(int), good_rate)
    path = data.find(FILES[name][0])
    assert path is not None
    return (german_applicants if name == "german" else compas_applicants)(read_parquet(path), good_rate)


def _rules(cell: Cell, pool: Applicants, seed: int) -> LinearRules:
    return LinearRules.random(pool.features, cell["rules"], np.random.default_rng([seed, 2]))


def panel_of(cell: Cell, pool: Applicants, seed: int) -> Any:
    features, regime = pool.features.shape[1], cell["regime"]
    slack = _WIDE if regime == "wide" else _USUAL

    def drawn(*words: int) -> Panel:
        rng, group = np.random.default_rng([seed, 3, *words]), 1.0 if regime == "biased" else 0.0
        return Panel.random(features, cell["members"], rng, gamma=cell["gamma"], slack=slack, group=group)

    return drawn if regime == "changing" else drawn()


def _method(cell: Cell, rounds: int) -> Any:
    """As the cell wants it; a cell without a price leaves everything to the theory."""
    cls = classes()[cell["method"]]
    if cell["price"] is None:
        return cls(rounds=rounds)  # type: ignore[call-arg]
    given: dict[str, Any] = {}
    if issubclass(cls, ExponentialWeights):
        given = {"rounds": rounds, "penalty": cell["price"], "eta": cell.get("eta") or ETA}
        if issubclass(cls, Exp2):
            given |= {"mix": cell["mix"]} | ({"explore": cell["explore"]} if cell.get("explore") else {})
    elif issubclass(cls, ContextSemiBanditFTPL):
        given = {"rounds": rounds, "penalty": cell["price"]} | ({"noise": cell["noise"]} if cell.get("noise") else {})
    elif cell["method"] == "bank-rule":
        given = {"every": max(10, rounds // 10)}
    return cls(**given) if given else make(cell["method"])


@lru_cache(maxsize=64)
def _fair(name: str, cell_rules: int, members: int, gamma: float, seed: int, rounds: int) -> Comparator:
    """The best fair policy on the arrivals of a seed, the same for all methods."""
    cell = Cell.of(rules=cell_rules, members=members, gamma=gamma, regime="plain")
    pool = pool_of(name, None)
    panel = panel_of(cell, pool, seed)
    arrivals = arrivals_of(pool, rounds, PEOPLE, seed)
    limits = np.stack([panel.tolerances(pool.features[row]) for row in arrivals]) + panel.alpha - SLACK
    return best_fair(_rules(cell, pool, seed).predict(pool.features), pool.labels, arrivals, limits)


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    horizons = ctx.params["horizons"] if cell["part"] == "exponents" else [cell["rounds"]]
    seeds = ctx.params["seeds"][:3] if cell["part"] == "tuning" else ctx.params["seeds"]
    found: dict[int, list[dict[str, Any]]] = {}
    for rounds in horizons:
        found[rounds] = [_one(cell, cell["first_seed"] + seed, rounds) for seed in seeds]
        for row in found[rounds]:
            row["horizon"] = rounds
    if cell["part"] == "exponents":
        for rows in found.values():
            late = np.mean([row["lagrangian"] for row in rows]) > rows[0]["bound"]
            for row in rows:
                row["beyond"] = float(late)
        yield from _exponents(found)
    for rows in found.values():
        yield from rows


def _one(cell: Cell, seed: int, rounds: int) -> dict[str, Any]:
    pool = pool_of(cell["people"], _GOOD.get(cell["regime"]))
    rules, panel, method = _rules(cell, pool, seed), panel_of(cell, pool, seed), _method(cell, rounds)
    pessimistic = cell["regime"] == "pessimistic" and method.takes_prior
    prior = _PESSIMISM * rules.predict(pool.features).mean(axis=1) if pessimistic else None
    learner = method.start(rules, PEOPLE, seed, prior)
    history = play(learner, pool, panel, arrivals_of(pool, rounds, PEOPLE, seed))
    row = summary(history) | {"seed": seed - cell["first_seed"]}
    if cell["part"] == "biased":
        row["panel_rate"] = _would_report(history, pool, panel_of(_USUAL_PANEL, pool, seed))
    if isinstance(method, ContextSemiBanditFTPL):
        row["calls"] = float(learner.state.calls[0] / rounds)
    if cell["part"] in ("main", "exponents"):
        fair = _fair(cell["people"], cell["rules"], cell["members"], cell["gamma"], seed, rounds)
        row |= _against(history, pool, rules, fair, method)
    return row


def _would_report(history: History, pool: Applicants, panel: Panel) -> float:
    """In which share of the last quarter of rounds a panel would report the policy that was played."""
    last = range(len(history.errors) - max(1, len(history.errors) // 4), len(history.errors))
    found = [panel.report(pool.features[history.arrivals[t]], history.treatment[t]) is not None for t in last]
    return float(np.mean(found))


def summary(history: History) -> dict[str, Any]:
    """What is reported of every run."""
    last = slice(-max(1, len(history.errors) // 4), None)
    return {
        "error": float(history.errors[last].mean() / PEOPLE),
        "violation_rate": float(history.violations[last].mean()),
        "cost": float((history.errors + history.violations).mean() / PEOPLE),
        "accepted": float(history.accepted[last].mean()),
        "violations": float(history.violations.sum()),
    }


def _against(history: History, pool: Applicants, rules: LinearRules, fair: Comparator, method: Any) -> dict[str, Any]:
    """Regret against the best fair policy, and whether it bounds what it must."""
    treated = (fair.policy @ rules.predict(pool.features))[history.arrivals]
    regret = float(history.errors.sum() - fair.error * history.arrivals.size)
    row = {"regret": regret, "fair_error": fair.error}
    if isinstance(method, ExponentialWeights):
        price, count = method.price, int(history.violations.sum())
        times = np.flatnonzero(history.violations)
        a, b = history.reported[times].T
        ours = history.treatment[times, a] - history.treatment[times, b]
        theirs = treated[times, a] - treated[times, b]
        lagrangian = regret + price * float((ours - theirs).sum())
        row["lagrangian"] = lagrangian
        if isinstance(method, Exp2) and np.isfinite(bound := method.bound(len(rules), PEOPLE)):
            row["bound"] = bound
        if price > 0:
            most = (lagrangian + history.arrivals.size) / (price * SLACK)
            least = regret + price * (SLACK - 1e-6) * count
            row["broken"] = float(least > lagrangian + 1e-6 or count > most * (1 + 1e-4) + 1e-6)
    return row


def _exponents(found: dict[int, list[dict[str, Any]]]) -> Iterator[Row]:
    """Slopes over horizons, one per seed; a regret below 0 counts as 0."""
    logs = np.log(list(found))
    for rows in zip(*found.values()):
        slopes = {
            name: np.polyfit(logs, np.log([1 + max(0.0, row[metric]) for row in rows]), 1)[0]
            for name, metric in (("regret_exponent", "regret"), ("violation_exponent", "violations"))
        }
        yield {"seed": rows[0]["seed"]} | {name: float(slope) for name, slope in slopes.items()}
