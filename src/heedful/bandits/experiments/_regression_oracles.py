"""Regression oracles, measured: generations in made and real worlds, and off-policy estimates of known values."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from heedful.bandits.arms import ArmMethod
from heedful.bandits.exploring import Rule, draw
from heedful.bandits.falcon import Falcon
from heedful.bandits.fee_payments import FeePayments
from heedful.bandits.generations import Generations, calibration_error, oscillation, turning
from heedful.bandits.lints import LinTS
from heedful.bandits.off_policy import Logged
from heedful.bandits.oracle_policies import ContextualEpsilon, EpsilonSplit, Greedy, Softmax
from heedful.bandits.oracles import ORACLES, BoostingOracle, LogisticOracle, Oracle, RidgeOracle
from heedful.bandits.payments import Digits, Payments, World
from heedful.bandits.squarecb import SquareCB
from heedful.lab import Cell, Context, Row, data
from heedful.lab.files import read_parquet

RULES: dict[str, Rule] = {
    "uniform": ContextualEpsilon(epsilon=1.0),
    "contextual-epsilon": ContextualEpsilon(epsilon=0.1),
    "epsilon-split": EpsilonSplit(0.1),
    "softmax": Softmax(),
    "squarecb": SquareCB(),
    "squarecb-50": SquareCB(gamma=50.0),
    "squarecb-300": SquareCB(gamma=300.0),
    "squarecb-2000": SquareCB(gamma=2000.0),
    "falcon": Falcon(scale=1 / 30),
    "greedy": Greedy(),
    "linucb": Greedy(),
}
EARLY = 3
"""The last generation whose model has seen the uniform one, at window 3 and no delay."""


def _rule(cell: Cell) -> Rule:
    tuned = {name: cell[name] for name in ("epsilon", "gamma", "sharpness") if cell.get(name) is not None}
    rule: Any = RULES[cell["policy"]]
    return replace(rule, **tuned)  # type: ignore[no-any-return]


def _oracle(cell: Cell, ctx: Context) -> Oracle:
    if cell["policy"] == "linucb":
        return RidgeOracle(width=cell.get("width", 1.0))
    if cell["oracle"] == "boosting":
        return BoostingOracle(rounds=ctx.params["trees"])
    return ORACLES[cell["oracle"]]()


def _world(cell: Cell) -> World:
    if cell["world"] == "digits":
        return Digits()
    if cell["world"] == "fees":
        return _fees(cell["seed"])
    bent = 1.0 if cell["world"] == "bent" else 0.0
    return Payments(seed=cell["seed"], nonlinearity=bent, base_rate=cell["rate"])


@lru_cache(maxsize=2)
def _fees(seed: int) -> FeePayments:
    tables: dict[str, Any] = {}
    for name in ("fees", "merchants", "merchant_acquirers", "acquirer_countries", "merchant_months"):
        path = data.find(f"dabstep-fees/{name}.parquet")
        assert path is not None
        tables[name] = read_parquet(path)
    volumes = tables.pop("merchant_months").group_by("merchant").agg(pl.col("total_volume").mean())
    return FeePayments(**tables, volumes=dict(volumes.iter_rows()), seed=seed)


def learn(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Generations of one policy; requests and what every action would bring are the same for all of a seed."""
    world, count = _world(cell), ctx.params["generations"]
    n = ctx.params["digits" if cell["world"] == "digits" else "requests"]
    batches = (world.requests(n, np.random.default_rng([cell["seed"], 7, g])) for g in range(count))
    found = list(_lints(world, batches, cell) if cell["policy"] == "lints" else _generations(world, batches, cell, ctx))
    for row in found:
        yield row
    served = [row["regret_now"] for row in found if row["generation"] > cell["delay"]]
    row = {"regret": float(np.mean(served)), "oscillation": oscillation(served)}
    if not math.isnan(swings := turning(served)):
        row["turning"] = swings
    late = [each for each in found if each["generation"] > EARLY and "error_uniform_now" in each]
    if late and cell["delay"] == 0:
        uniform, policy = (float(np.mean([each[f"error_{on}_now"] for each in late])) for on in ("uniform", "policy"))
        row["error_rise"] = uniform / found[EARLY]["error_uniform_now"]
        row["imbalance"] = late[-1]["positive_now"] - found[1]["positive_now"]
        yield {"slice": "uniform", "error": uniform}
        yield {"slice": "policy", "error": policy}
    yield row


def _generations(world: World, batches: Any, cell: Cell, ctx: Context) -> Iterator[dict[str, Any]]:
    served = Generations(
        _oracle(cell, ctx), _rule(cell), world.actions, world.features,
        cell["window"], cell["delay"], cell["seed"],
    )  # fmt: skip
    before, rng = None, np.random.default_rng([cell["seed"], 8])
    trained: list[float] = []
    for asked in batches:
        model, n = served.model, len(asked.contexts)
        log = served.serve(asked.contexts, asked.feasible)
        rows = np.arange(n)
        row = {
            "generation": log.generation,
            "regret_now": float(asked.regret(log.actions).mean()),
            "reward_now": float(asked.means[rows, log.actions].mean()),
            "entropy_now": log.entropy(),
        }
        if model is not None:
            errors, mask = (log.scores - asked.means) ** 2, asked.feasible
            row["error_uniform_now"] = float((np.where(mask, errors, 0).sum(axis=1) / mask.sum(axis=1)).mean())
            row["error_policy_now"] = float(errors[rows, log.actions].mean())
            any_ = draw(mask / mask.sum(axis=1, keepdims=True), rng)
            outcomes = asked.outcomes
            row["calibration_uniform_now"] = calibration_error(log.scores[rows, any_], outcomes[rows, any_])
            row["calibration_policy_now"] = calibration_error(log.predicted, outcomes[rows, log.actions])
            row["positive_now"] = float(np.mean([trained[g] for g in served.trained_on]))
            row["least_expected_now"] = float(log.probabilities.sum(axis=0).min())
            if before is not None:
                some = slice(0, 500)
                best = [
                    np.where(mask[some], scores, -np.inf).argmax(axis=1)
                    for scores in (before.predict(asked.contexts[some]), log.scores[some])
                ]
                row["changed_now"] = float((best[0] != best[1]).mean())
        before = model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a generation of one class is part of what is measured
            log = served.close(asked.outcomes[rows, log.actions])
        trained.append(float(log.rewards[log.trains].mean()) if log.trains.any() else 0.0)
        yield row


def _lints(world: World, batches: Any, cell: Cell) -> Iterator[dict[str, Any]]:
    """Thompson sampling in batches: a fresh learner is told the window, and then decides a generation."""
    method: ArmMethod = LinTS(scale=cell.get("scale", 0.3))
    logs: list[Any] = []
    for g, asked in enumerate(batches):
        x = np.column_stack([np.ones(len(asked.contexts)), asked.contexts])
        learner = method.start(world.actions, x.shape[1], seed=1000 * cell["seed"] + g)
        for contexts, actions, rewards in logs[-cell["window"] :]:
            ones = np.ones(1)
            for i in range(len(contexts)):
                method.learn(learner.state, contexts[i, None, None], actions[i : i + 1], ones, rewards[i : i + 1])
        actions = learner.decide_batch(len(x), x, asked.feasible).actions
        if not logs:
            actions = draw(asked.feasible / asked.feasible.sum(axis=1, keepdims=True), np.random.default_rng(g))
        logs.append((x, actions, asked.outcomes[np.arange(len(x)), actions]))
        yield {
            "generation": g,
            "regret_now": float(asked.regret(actions).mean()),
            "reward_now": float(asked.means[np.arange(len(x)), actions].mean()),
        }


def off_policy(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Many logs of one policy, from each of which the known value of another is estimated."""
    world, n = _world(cell), ctx.params["log"]
    rng = np.random.default_rng([cell["seed"], 9])

    def trained(rows: int) -> Any:
        asked = world.requests(rows, rng)
        actions = draw(asked.feasible / asked.feasible.sum(axis=1, keepdims=True), rng)
        return LogisticOracle().fit(asked.contexts, actions, asked.outcomes[np.arange(rows), actions], world.actions)

    old, new, other = trained(1000), trained(6000), trained(1000)
    logging, target = ContextualEpsilon(epsilon=0.3), SquareCB(gamma=300.0)
    many = world.requests(50_000, rng)
    pi = target.probabilities(new.predict(many.contexts), many.feasible)
    exact = float((pi * many.means).sum(axis=1).mean())
    off: dict[str, list[float]] = {}
    inside: dict[str, list[bool]] = {}
    for _ in range(ctx.params["logs"]):
        asked = world.requests(n, rng)
        p = logging.probabilities(old.predict(asked.contexts), asked.feasible)
        actions, rows = draw(p, rng), np.arange(n)
        log = Logged(actions, asked.outcomes[rows, actions], p[rows, actions], asked.feasible)
        pi = target.probabilities(new.predict(asked.contexts), asked.feasible)
        for name, found in log.estimates(pi, other.predict(asked.contexts)).items():
            low, high = found.interval()
            off.setdefault(name, []).append(found.value - exact)
            inside.setdefault(name, []).append(low <= exact <= high)
    for name, misses in off.items():
        yield {
            "estimator": name,
            "miss": float(np.sqrt(np.mean(np.square(misses)))),
            "bias": float(np.mean(misses)),
            "coverage": float(np.mean(inside[name])),
        }


def open_bandit(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Two logs of one campaign: what random recommendations brought, and what the other log says that they do.

    An estimate that its log does not support is not judged: its interval is too wide for it to be wrong.
    """
    logs = {}
    for policy in ("random", "bts"):
        path = data.find(f"open-bandit-sample/{policy}_{cell['campaign']}.parquet")
        assert path is not None
        logs[policy] = read_parquet(path, columns=["item_id", "click", "propensity_score"])
    items = int(logs["random"]["item_id"].max()) + 1  # type: ignore[arg-type]
    uniform = np.full((logs["bts"].height, items), 1 / items)
    logged = {name: _logged(log, items) for name, log in logs.items()}
    direct = logged["random"].estimates(uniform)["ips"]
    mean = float(logged["random"].rewards.mean())
    stated = np.abs(logged["random"].propensities - 1 / items).max() < 1e-6
    yield {"estimator": "random log", "value": mean, "violations": float(not stated or direct.value != mean)}
    support = logged["bts"].support(uniform)
    low, high = direct.interval()
    error = (high - low) / 3.92
    for name, found in logged["bts"].estimates(uniform).items():
        low, high = found.interval()
        joint = math.hypot(error, (high - low) / 3.92)
        row: dict[str, str | float] = {
            "estimator": name,
            "value": found.value,
            "low": low,
            "high": high,
            "ess": support.ess,
            "mean_weight": support.mean_weight,
        }
        if not support.problems:
            row["violations"] = float(abs(found.value - mean) > 3 * joint)
        yield row


def _logged(log: pl.DataFrame, items: int) -> Logged:
    clicks, propensities = log["click"].cast(pl.Float64).to_numpy(), log["propensity_score"].to_numpy()
    return Logged(log["item_id"].to_numpy(), clicks, propensities, np.ones(items, dtype=np.bool_))


PARTS = {"off-policy": off_policy, "open-bandit": open_bandit}
"""All others are :func:`learn`."""
