"""Planners for last-switch-dependent arms whose payoffs are known: a practical one, yardsticks, and the optimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heedful.bandits.checks import whole
from heedful.bandits.lsd import Payoffs
from heedful.bandits.lsd_relaxation import Relaxation, cycle_payoffs, relax
from heedful.bandits.lsd_rounding import Rule, Schedule, averages, rounded

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Plan:
    """A schedule to follow.

    Attributes:
        schedule: which arm is played when.
        value: what it earns per round, measured over 200 W rounds; at most ``bound``, which the part of a cycle with
            which such a stretch ends may exceed.
        bound: what no schedule earns more than, in the long run.
    """

    schedule: Schedule
    value: float
    bound: float


def check_planner(name: str, method: str) -> None:
    """Raises ValueError, naming the parameter, for what is no method of :func:`plan`."""
    if method not in ("practical", "lp-round"):
        raise ValueError(f"{name}={method!r}: must be practical or lp-round")


def greedy(arms: int) -> Schedule:
    """Plays the arm that pays most now."""
    nothing = np.zeros(arms, dtype=np.int64)
    return Schedule(nothing, nothing, nothing, "real", fill=True)


def best_cycle(payoffs: Payoffs) -> Schedule:
    """The one arm in the one cycle that earns most per round."""
    window, nothing = payoffs.window, np.zeros(payoffs.arms, dtype=np.int64)
    rests, plays = (part.ravel() for part in np.meshgrid(np.arange(1, window + 1), np.arange(1, window + 1)))
    rests, plays = np.append(rests, 0), np.append(plays, 1)
    out, best = np.empty(len(rests)), (-1.0, 0, 0)
    for arm, row in enumerate(payoffs.table):
        cycle_payoffs(row, rests, plays, out)
        rates = out / (rests + plays)
        if rates.max() > best[0]:
            best = (float(rates.max()), arm, int(rates.argmax()))
    x, y = nothing.copy(), nothing.copy()
    x[best[1]], y[best[1]] = rests[best[2]], plays[best[2]]
    return Schedule(x, y, nothing, "virtual")


def round_robin(payoffs: Payoffs) -> Schedule:
    """Every arm in turn."""
    k = payoffs.arms
    x, offsets = np.full(k, k - 1), (-np.arange(k) - 1) % k
    return Schedule(x, np.ones(k, dtype=np.int64), offsets, "virtual" if k > 1 else "real")


def plan(
    payoffs: Payoffs, rng: np.random.Generator, draws: int = 32, method: str = "practical",
    relaxation: Relaxation | None = None,
) -> Plan:  # fmt: skip
    """A schedule to follow.

    Args:
        payoffs: known, or estimated.
        rng: of the draws.
        draws: how many schedules are drawn, and tried.
        method: ``lp-round``: one draw, with the guarantee of the payoffs' shape. ``practical``: the best of many draws,
            of greedy and of the best single cycle; never below these two. Draws of monotone arms are tried with and
            without filling idle rounds, those of half-monotone ones as whole runs, and those of arms of any shape in
            all three ways. All are tried over 20 W rounds, and the best of each kind are compared over 200 W.
        relaxation: of the payoffs, if it is at hand.

    Raises ValueError for another method, or no draws.
    """
    bound, burn = relaxation or relax(payoffs), 2 * payoffs.window
    best = _best(payoffs, rng, draws, method, bound, 20 * payoffs.window)
    values = [float(averages([schedule], payoffs, 200 * payoffs.window, burn)[0]) for schedule, _ in best]
    value = max(values)
    return Plan(best[values.index(value)][0], min(value, bound.value), bound.value)


def quick_plan(payoffs: Payoffs, rng: np.random.Generator, draws: int, method: str) -> Schedule:
    """As :func:`plan`, for learners, whose estimates are worth no more: what earns most over 10 W rounds."""
    best = _best(payoffs, rng, draws, method, relax(payoffs), 10 * payoffs.window)
    return max(best, key=lambda pair: pair[1])[0]


def _best(
    payoffs: Payoffs, rng: np.random.Generator, draws: int, method: str, relaxation: Relaxation, rounds: int
) -> list[tuple[Schedule, float]]:
    """The best schedule of each kind, and what it earns per round over so many rounds."""
    check_planner("method", method)
    whole("draws", draws)
    rule: Rule = "real" if payoffs.shape == "monotone" else "whole-runs"
    if method == "lp-round":
        groups = [rounded(relaxation, payoffs, 1, rng, rule)]
    else:
        groups = [rounded(relaxation, payoffs, draws, rng, rule, scale=1.0)]
        if payoffs.shape == "any":
            groups.append(rounded(relaxation, payoffs, draws, rng, "real"))
        if payoffs.shape != "half-monotone":
            groups.append([Schedule(s.rests, s.plays, s.offsets, s.rule, fill=True) for s in groups[-1]])
        groups += [[greedy(payoffs.arms)], [best_cycle(payoffs)]]
    best = []
    for group in groups:
        earned = averages(group, payoffs, rounds, 2 * payoffs.window)
        best.append((group[int(earned.argmax())], float(earned.max())))
    return best


def optimum(payoffs: Payoffs, tolerance: float = 1e-6, most: int = 2_000_000) -> float:
    """The largest average that any schedule earns, to ``tolerance``: relative value iteration on ``(2 W)^k`` states.

    Half of every step stays where it was: the chain is periodic, and undamped iteration would never settle.

    Raises ValueError for more than ``most`` states.
    """
    k, w, table = payoffs.arms, payoffs.window, payoffs.table
    size = 2 * w
    if size**k > most:
        raise ValueError(f"payoffs: {size}^{k} joint states are too many, at most {most}")
    places = np.indices((size,) * k).reshape(k, -1)
    # Not played: a run ends in state +1, rest grows by one. Played: rest ends in -1, a run grows by one.
    rested = np.where(places < w, w, np.minimum(places + 1, size - 1))
    played = np.where(places < w, np.maximum(places - 1, 0), w - 1)
    powers = size ** np.arange(k - 1, -1, -1)
    idle = powers @ rested
    nexts = np.stack([idle + powers[i] * (played[i] - rested[i]) for i in range(k)] + [idle])
    gains = np.vstack([np.stack([table[i, places[i]] for i in range(k)]), np.zeros(size**k)])
    values = np.zeros(size**k)
    while True:
        better = (gains + values[nexts]).max(axis=0)
        change = better - values
        if change.max() - change.min() < tolerance:
            return float(change.max() + change.min()) / 2
        values += 0.5 * (change - change[0])
