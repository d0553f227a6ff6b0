"""Dynamical linear bandits, measured: two systems and random ones, rivals, wrong beliefs, and no dynamics at all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from heedful.bandits.ar2 import AR2
from heedful.bandits.batched_exp3 import BatchedEXP3
from heedful.bandits.dlinucb import DLinUCB
from heedful.bandits.dynamical import LinearSystem, budgeted_actions, plain_regret, play, regret
from heedful.bandits.dynlin_ucb import DynLinUCB, epoch_length
from heedful.bandits.experiments import _dynlin_ucb_rounds
from heedful.bandits.oful import OFUL
from heedful.bandits.ucb1 import UCB1
from heedful.lab import Cell, Context, Row

ACTIONS = budgeted_actions(3, budget=1.5)
_SYNTHETIC = (
    np.diag([0.2, 0.0, 0.1]), np.diag([0.45, 0.0, 0.1]), np.diag([1.0, 0.0, 0.1]), np.diag([0.0, 0.5, 0.1]),
)  # fmt: skip
_REAL = (
    [[0.38, 0.33, 0.60], [0.07, 0.76, -0.54], [0.18, 0.34, 0.05]],
    [[0.14, 0.34, -0.05], [-0.17, 0.03, -0.01], [0.04, -0.09, 0.17]],
    [[0.25, -0.14, 0.01], [-0.55, 0.20, -0.13], [-0.31, -0.10, -0.01]],
    [[0.11, 0.10, 0.01], [0.01, 0.36, 0.01], [0.01, -0.05, 0.0]],
)
_SPENT = np.array([1641952.0, 259591273.0, 716354611.0])
"""What the human expert spent on the three campaigns."""


def system_of(setting: str) -> LinearSystem:
    """The paper's systems; of the real one also what is left when its state is not seen, or forgets at once."""
    real = LinearSystem.of_outputs(*_REAL, sigma=0.01)
    if setting == "no-output":
        return LinearSystem(real.a, real.b, 0 * real.omega, real.theta, real.sigma, real.outputs)
    if setting == "no-memory":
        return LinearSystem(0 * real.a, real.b, real.omega, real.theta, real.sigma, real.outputs)
    if setting == "real":
        return real
    return LinearSystem.of_outputs(*_SYNTHETIC, sigma=float(setting.partition("-")[2]))


@lru_cache(maxsize=24)
def _unit_noise(setting: str, rounds: int, seed: int) -> Any:
    system = system_of(setting)
    return LinearSystem(system.a, system.b, system.omega, system.theta, 1.0, system.outputs).noise(rounds, seed)


def _noise(setting: str, rounds: int, seed: int) -> Any:
    """Of all noise levels of a system the same draws, so that each is drawn once."""
    base = "synthetic-1" if setting.startswith("synthetic") else setting
    return _unit_noise(base, rounds, seed) * system_of(setting).sigma


def expert_split() -> Any:
    """The expert's split of the budget of 1.5, at most 1 each; what is cut goes to the others in proportion."""
    shares = _SPENT / _SPENT.sum()
    over = shares > 1 / 1.5
    shares[over] = 1 / 1.5
    shares[~over] *= (1 - shares[over].sum()) / shares[~over].sum()
    return 1.5 * shares


def epochs(stretch: float, rounds: int) -> int:
    """How many epochs DynLin-UCB begins in so many rounds."""
    begun = spent = 0
    while spent < rounds:
        begun += 1
        spent += epoch_length(begun, stretch)
    return begun


def method_of(name: str, system: LinearSystem, rounds: int, radius: float, believed: LinearSystem | None = None) -> Any:
    """A method that knows a system's bounds, or those of the one that it believes in."""
    known = DynLinUCB.knowing(believed or system, rounds, scale=radius)
    k = len(ACTIONS)
    if name == "dynlin-ucb":
        return known
    if name == "dynlin-ucb-0.99":
        return DynLinUCB.knowing(system, rounds, rho=0.99, scale=radius)
    if name == "oful":
        return OFUL(known.size, known.deviation, rounds, scale=radius)
    if name == "oful-tight":
        return OFUL(known.theta, known.noise, rounds, scale=radius)
    if name in ("d-linucb", "d-linucb-slow"):
        return DLinUCB(1 - (1e-6 if name == "d-linucb" else 1e-9), known.size, known.deviation, rounds, scale=radius)
    if name == "ucb1":
        return UCB1(radius)
    if name == "ar2":
        return AR2(known.rho, known.noise)
    batch = 1 if name == "exp3" else math.ceil(math.log(epochs(known.stretch, rounds)) * known.stretch)
    return BatchedEXP3(batch, min(1.0, math.sqrt(k * math.log(k) / ((math.e - 1) * 2 * rounds / batch / 3))))


def chosen_by(name: str, setting: str, rounds: int, seed: int, method: Any) -> Any:
    """What a method plays on one seed: int16 ``[rounds]``."""
    system = system_of(setting)
    if name == "clairvoyant":
        return np.full(rounds, system.steady(ACTIONS).argmax(), dtype=np.int16)
    if name == "round-robin":
        return (np.arange(rounds) % len(ACTIONS)).astype(np.int16)
    if name == "uniform":
        return np.random.default_rng([seed, 23]).integers(0, len(ACTIONS), rounds).astype(np.int16)
    noise = _noise(setting, rounds, seed)
    if isinstance(method, UCB1 | BatchedEXP3 | AR2):
        known = DynLinUCB.knowing(system, rounds)
        largest = (known.theta + known.omega * known.push / (1 - known.rho)) * np.linalg.norm(ACTIONS, axis=1).max()
        chosen = np.empty(rounds, dtype=np.int16)
        _dynlin_ucb_rounds.run(method, system.world(ACTIONS, noise), seed, chosen, -2 * largest, 2 * largest)
        return chosen
    return play(system, ACTIONS, method, noise[None], [seed])[0]


def _at(rounds: int) -> list[int]:
    """Rounds at which regret is reported: four a decade, and a fifth of all."""
    marks = {round(rounds * 10 ** (-step / 4)) for step in range(13)} | {rounds // 5}
    return sorted(mark for mark in marks if mark >= 1)


def _runs(cell: Cell, rounds: int, seeds: Any, curve: bool = False, believed: LinearSystem | None = None,
          rho: float | None = None) -> Iterator[Row]:  # fmt: skip
    name, setting = cell["method"], cell["setting"]
    system = system_of(setting)
    values = system.steady(ACTIONS)
    uniform = rounds * float(values.max() - values.mean())
    method = None
    if name not in ("clairvoyant", "round-robin", "uniform", "expert"):
        method = method_of(name, system, rounds, cell.get("radius", 1.0), believed)
        if rho is not None:
            method = DynLinUCB.knowing(system, rounds, rho=rho)
    for seed in seeds:
        if name == "expert":
            so_far = np.arange(1, rounds + 1) * (values.max() - system.markov @ expert_split())
            plain = None
        else:
            chosen = chosen_by(name, setting, rounds, seed, method)
            so_far, plain = regret(system, ACTIONS, chosen), plain_regret(system, ACTIONS, chosen) / uniform
        end, tenth = float(so_far[-1]), float(so_far[rounds // 10 - 1])
        slope = math.log10(end / tenth) if tenth > 0 else None
        yield {"seed": seed, "regret": end, "share": end / uniform, "slope": slope, "plain": plain}
        for mark in _at(rounds) if curve else ():
            yield {"seed": seed, "round": mark, "so_far": float(so_far[mark - 1]) / uniform}


def _rivals(cell: Cell, ctx: Context) -> Iterator[Row]:
    yield from _runs(cell, ctx.params["rounds"], ctx.params["seeds"], curve=True)


def _tuning(cell: Cell, ctx: Context) -> Iterator[Row]:
    """On seeds of its own, and a tenth of the rounds."""
    yield from _runs(cell, ctx.params["rounds"] // 10, [1000 + seed for seed in ctx.params["seeds"]])


def _belief(cell: Cell, ctx: Context) -> Iterator[Row]:
    rho = min(0.95, cell["ratio"] * system_of(cell["setting"]).spectral_radius)
    yield from _runs(cell, ctx.params["rounds"], ctx.params["seeds"], curve=True, rho=rho)


def _still(cell: Cell, ctx: Context) -> Iterator[Row]:
    """DynLin-UCB believes in the real system's dynamics; Lin-UCB knows that there are none."""
    believed = system_of("real") if cell["method"] == "dynlin-ucb" else None
    yield from _runs(cell, ctx.params["rounds"] // 10, ctx.params["seeds"], believed=believed)


def _short(cell: Cell, ctx: Context) -> Iterator[Row]:
    yield from _runs(cell, ctx.params["short"], ctx.params["seeds"])


def random_system(rng: np.random.Generator, n: int, d: int, k: int) -> tuple[LinearSystem, Any]:
    """A stable system with Gaussian entries, its spectral radius uniform in [0.3, 0.9], and k actions of length 1."""
    a = rng.standard_normal((n, n))
    a *= rng.uniform(0.3, 0.9) / np.abs(np.linalg.eigvals(a)).max()
    b, omega, theta = rng.standard_normal((n, d)), rng.standard_normal(n), rng.standard_normal(d)
    actions = rng.standard_normal((k, d))
    actions /= np.linalg.norm(actions, axis=1, keepdims=True)
    return LinearSystem(a, b / np.sqrt(n), omega / np.sqrt(n), theta / np.sqrt(d), 0.01), actions


def _random(cell: Cell, ctx: Context) -> Iterator[Row]:
    rounds = ctx.params["random_rounds"]
    for index in range(ctx.params["systems"]):
        number = cell["group"] * ctx.params["systems"] + index
        system, actions = random_system(np.random.default_rng([number, 29]), 4, 4, 16)
        known, values = DynLinUCB.knowing(system, rounds), system.steady(actions)
        rivals = {"dynlin-ucb": known, "oful": OFUL(known.size, known.deviation, rounds)}
        noise, gap = system.noise(rounds, number)[None], float(values.max() - values.mean())
        ends = {
            name: float(regret(system, actions, play(system, actions, method, noise, [0]))[0, -1])
            for name, method in rivals.items()
        }
        myopic = float(values.max() - values[int((actions @ system.theta).argmax())]) / gap
        yield {
            "system": number, "myopic_gap": myopic, "win": float(ends["dynlin-ucb"] < ends["oful"]),
            "share": ends["dynlin-ucb"] / (rounds * gap), "rival_share": ends["oful"] / (rounds * gap),
        }  # fmt: skip


PARTS = {
    "rivals": _rivals, "tuning": _tuning, "belief": _belief, "still": _still, "short": _short, "random": _random,
}  # fmt: skip
