"""Last-switch-dependent bandits, measured: planners on families of instances, and learners."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numba
import numpy as np

from heedful.bandits.arms import ArmMethod
from heedful.bandits.block_ucb import BlockUCB
from heedful.bandits.experiments.lsd_bandits import CALIBRATION, YARDSTICKS
from heedful.bandits.lsd import Payoffs, generate, mark_played, place, unplayed
from heedful.bandits.lsd_explore import LSDExploreCommit
from heedful.bandits.lsd_learner import SwitchMethod
from heedful.bandits.lsd_optimistic import LSDOptimistic
from heedful.bandits.lsd_planning import best_cycle, greedy, optimum, plan, round_robin
from heedful.bandits.lsd_relaxation import Relaxation, relax
from heedful.bandits.lsd_rounding import averages, rounded
from heedful.bandits.sliding_window_ucb import SlidingWindowUCB
from heedful.bandits.streams import streams
from heedful.bandits.ucb1 import UCB1
from heedful.lab import Cell, Context, Row

SHARE = 1 - math.exp(-1)
LONG = 2000
"""Rounds over which one schedule is measured."""
LEARNED = (8, 8)
"""Arms and window of the instances that are learned."""


def quarter(relaxation: Relaxation, window: int) -> float:
    """What whole runs are guaranteed of LP*: runs of an arm that always plays end after 10 W rounds."""
    always = bool((relaxation.rests == 0).any())
    return 0.25 - (window + 1) / (10 * window) * always


def _plan(cell: Cell, ctx: Context) -> Iterator[Row]:
    k, w, draws = cell["arms"], cell["window"], ctx.params["draws"]
    for number in range(ctx.params["instances"]):
        item = f"{cell['family']}-{k}-{w}-{number}"
        rng = np.random.default_rng([zlib.crc32(cell["family"].encode()), k, w, number])
        payoffs = generate(cell["family"], k, w, rng, cell["recovery"])
        relaxation = relax(payoffs)
        bound, burn = relaxation.value, 2 * w
        rule, least = ("real", SHARE) if payoffs.shape == "monotone" else ("whole-runs", quarter(relaxation, w))
        schedules = rounded(relaxation, payoffs, draws, rng, rule)  # type: ignore[arg-type]
        ratios = averages(schedules, payoffs, ctx.params["rounds"], burn) / bound
        mean, spread = float(ratios.mean()), float(ratios.std(ddof=1))
        broken = float(mean < least - 3 * spread / math.sqrt(draws) - 1e-9)
        yield {"planner": "rounding", "item": item, "ratio": mean, "spread": spread, "broken": broken}
        if payoffs.shape != "monotone":
            unscaled = rounded(relaxation, payoffs, draws, rng, "whole-runs", scale=1.0)
            ratio = float(averages(unscaled, payoffs, ctx.params["rounds"], burn).mean()) / bound
            yield {"planner": "rounding, unscaled", "item": item, "ratio": ratio}
        others = {
            "practical": plan(payoffs, rng, relaxation=relaxation).schedule, "greedy": greedy(k),
            "best cycle": best_cycle(payoffs), "round robin": round_robin(payoffs),
        }  # fmt: skip
        for planner, schedule in others.items():
            ratio = float(averages([schedule], payoffs, LONG, burn)[0]) / bound
            yield {"planner": planner, "item": item, "ratio": ratio}
        yield {"planner": "bound", "item": item, "ratio": 1.0}
        yield {"planner": "recharging bound", "item": item, "ratio": relax(payoffs, longest=1).value / bound}
        if (2 * w) ** k <= 10_000:
            best = optimum(payoffs)
            yield {"planner": "exact", "item": item, "ratio": best / bound, "over": float(best > bound + 1e-5)}


@numba.njit(cache=True, nogil=True)
def _pay(truth, last, run, uniforms, now, actions, rewards, totals):  # type: ignore[no-untyped-def]
    """One round of every lane, each with payoffs of its own."""
    for s in range(len(actions)):
        at = place(last[s, actions[s]], run[s, actions[s]], now, truth.shape[2] // 2)
        mean = truth[s, actions[s], at]
        rewards[s] = 1.0 if uniforms[s] < mean else 0.0
        totals[s] += mean
        mark_played(last[s], run[s], actions[s], now)


def ignorant(method: ArmMethod, instances: list[Payoffs], horizon: int, seeds: list[int]) -> Any:
    """What a method that knows nothing of states earns, float64 ``[instances]``: one lane for each."""
    k, lanes = instances[0].arms, len(instances)
    state, truth = method.begin(streams(seeds), k, 0), np.stack([payoffs.learnable().table for payoffs in instances])
    last, run = (np.tile(part, (lanes, 1)) for part in unplayed(k))
    actions, chances, rewards, totals = (
        np.empty(lanes, dtype=np.int64),
        np.ones(lanes),
        np.empty(lanes),
        np.zeros(lanes),
    )
    rng, contexts, feasible = np.random.default_rng(seeds), np.zeros((lanes, 0, 0)), np.ones((1, k), dtype=np.bool_)
    for now in range(horizon):
        if now % 1000 == 0:
            uniforms = rng.random((1000, lanes))
        method.choose(state, contexts, feasible, 1, actions, chances)
        _pay(truth, last, run, uniforms[now % 1000], now, actions, rewards, totals)
        method.learn(state, contexts, actions, chances, rewards)
    return totals


def _instance(seed: int) -> Payoffs:
    return generate("rand", *LEARNED, np.random.default_rng([seed, 31]))


@lru_cache(maxsize=128)
def _known(seed: int) -> tuple[float, float]:
    """LP*, and what the practical planner with known payoffs earns per round, mean over 20 of its plans."""
    payoffs = _instance(seed)
    relaxation = relax(payoffs)
    schedules = [plan(payoffs, np.random.default_rng([seed, 37, n]), relaxation=relaxation).schedule for n in range(20)]
    earned = [float(averages([schedule], payoffs, LONG, 2 * payoffs.window)[0]) for schedule in schedules]
    return relaxation.value, float(np.mean(earned))


def _yardstick(name: str, seed: int) -> float:
    """What one of :data:`YARDSTICKS` earns per round."""
    if name == "planner":
        return _known(seed)[1]
    payoffs = _instance(seed)
    schedule = greedy(payoffs.arms) if name == "greedy" else round_robin(payoffs)
    return float(averages([schedule], payoffs, LONG, 2 * payoffs.window)[0])


def learner(name: str, horizon: int, setting: Mapping[str, Any]) -> SwitchMethod | ArmMethod:
    """A learner by the name that it has in the experiment; what the setting does not say is untuned."""
    if name == "optimistic":
        return LSDOptimistic(horizon, scale=setting.get("scale", 1.0))
    if name == "explore-commit":
        return LSDExploreCommit(horizon, share=setting.get("exploration", 0.05))
    if name == "block-ucb":
        return BlockUCB(setting["variant"], setting["length"])
    if name == "ucb1":
        return UCB1(setting.get("scale", 1.0))
    if name == "sliding-window-ucb":
        window = round(setting.get("memory", 1.0) * 2 * math.sqrt(horizon * math.log(horizon)))
        return SlidingWindowUCB(window, scale=setting.get("scale", 1.0))
    return BlockUCB({"comb-ucb1": "comb", "isi-comb-ucb1": "isi", "calibrated": "calibrated"}[name])


def _learn(cell: Cell, ctx: Context) -> Iterator[Row]:
    first = CALIBRATION if cell["part"] == "tuning" else 0
    horizon, seeds = ctx.params["horizon"], [first + seed for seed in ctx.params["seeds"]]
    if cell["method"] in YARDSTICKS:
        earned = [horizon * _yardstick(cell["method"], seed) for seed in seeds]
    else:
        instances, method = [_instance(seed) for seed in seeds], learner(cell["method"], horizon, cell.dict)
        if isinstance(method, SwitchMethod):
            earned = [float(method.run(payoffs, [horizon], seed)[-1]) for payoffs, seed in zip(instances, seeds)]
        else:
            earned = ignorant(method, instances, horizon, seeds)
    for seed, sum_ in zip(seeds, earned):
        bound, known = _known(seed)
        yield {
            "seed": seed, "share": sum_ / (bound * horizon), "target_regret": SHARE * bound * horizon - sum_,
            "plan_regret": known * horizon - sum_,
        }  # fmt: skip


def _grow(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Regret as the horizon grows, summed over some instances so that a lucky last schedule does not decide."""
    members = [1000 + cell["group"] * ctx.params["members"] + n for n in range(ctx.params["members"])]
    growing = {"optimistic": 1.0, "optimistic, tuned": cell["scale"], "explore-commit": None}
    for name, scale in growing.items():
        regrets = []
        for horizon in ctx.params["horizons"]:
            method = LSDExploreCommit(horizon) if scale is None else LSDOptimistic(horizon, scale=scale)
            total = 0.0
            for seed in members:
                total += _known(seed)[1] * horizon - float(method.run(_instance(seed), [horizon], seed)[-1])
            explored = method.exploration(*LEARNED) / horizon if isinstance(method, LSDExploreCommit) else None
            regrets.append(total / len(members))
            yield {"learner": name, "horizon": horizon, "plan_regret": regrets[-1], "explored": explored}
        lucky = min(regrets) <= 0  # then there is no slope
        logs = np.log(np.array([ctx.params["horizons"], regrets])) if not lucky else None
        yield {"learner": name, "slope": None if logs is None else float(np.polyfit(logs[0], logs[1], 1)[0])}


PARTS = {"plan": _plan, "learn": _learn, "tuned": _learn, "tuning": _learn, "grow": _grow}
