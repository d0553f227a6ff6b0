"""One round of each closed loop, compiled: a cohort comes, some are accepted, and the population moves.

Of every round there is what :class:`~heedful.bandits.lending.ClosedLoop` says, lane by lane: ``population`` float64
``[lanes, 3]`` and ``words`` uint64 ``[lanes, 4]`` change in place, ``cuts`` float64 ``[lanes]`` are thresholds, ``n``
is the size of the cohort, ``gain`` and ``loss`` are what good and bad accepted people bring and cost, and ``out``
float64 ``[lanes, 8]`` is filled in.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from heedful.bandits.streams import normal, uniform

_ROOT2, _ROOT2PI = np.sqrt(2.0), np.sqrt(2.0 * np.pi)


@numba.njit(cache=True, nogil=True)
def _report(out, reward, accepted, members, n, share, worth, chances):  # type: ignore[no-untyped-def]
    """Fills in a row: reward, rates, rate, and the expected ones. ``worth`` and ``chances``: of each group."""
    out[0] = reward / n
    for g in range(2):
        out[1 + g] = accepted[g] / members[g] if members[g] > 0 else np.nan
        out[5 + g] = chances[g]
    out[3] = (accepted[0] + accepted[1]) / n
    out[4] = (1.0 - share) * worth[0] + share * worth[1]
    out[7] = (1.0 - share) * chances[0] + share * chances[1]


@numba.njit(cache=True, nogil=True)
def synthetic_round(population, words, cuts, n, eta, beta, harm, base, gain, loss, nodes, weights, out):  # type: ignore[no-untyped-def]
    """Normal logits: ``cuts`` are logits too; ``nodes`` and ``weights`` are a quadrature rule on [-1, 1]."""
    accepted, members = np.zeros(2), np.zeros(2)
    worth, chances = np.zeros(2), np.zeros(2)
    for s in range(len(cuts)):
        state, cut = population[s], cuts[s]
        accepted[:] = 0.0
        members[:] = 0.0
        reward = 0.0
        for _ in range(n):
            g = 1 if uniform(words, s) < state[2] else 0
            z = state[g] + normal(words, s)
            luck = uniform(words, s)
            members[g] += 1.0
            if z >= cut:
                accepted[g] += 1.0
                reward += gain if luck * (1.0 + np.exp(-z)) < 1.0 else -loss
        for g in range(2):
            chances[g] = 0.5 * math.erfc((cut - state[g]) / _ROOT2)
            low, high = max(cut, state[g] - 8.0), state[g] + 8.0
            worth[g] = 0.0
            if low < high:
                for i in range(len(nodes)):
                    z = low + 0.5 * (high - low) * (nodes[i] + 1.0)
                    density = np.exp(-0.5 * (z - state[g]) ** 2) / _ROOT2PI
                    worth[g] += weights[i] * density * ((gain + loss) / (1.0 + np.exp(-z)) - loss)
                worth[g] *= 0.5 * (high - low)
        _report(out[s], reward, accepted, members, n, state[2], worth, chances)
        if members[0] > 0 and members[1] > 0:
            a, b = out[s, 1], out[s, 2]
            hurt = harm * abs(a - b)
            state[0] += eta * (base[0] + beta * (a - 0.5) - hurt - state[0])
            state[1] += eta * (base[1] + beta * (b - 0.5) - hurt - state[1])
            state[2] = min(0.95, max(0.05, state[2] + eta * (0.5 + 0.3 * (b - a) - state[2])))


@numba.njit(cache=True, nogil=True)
def pool_round(population, words, cuts, n, eta, kappa, base, gain, loss, scores, good, start, after, out):  # type: ignore[no-untyped-def]
    """``scores``: increasing within each group, which begins at ``start``; ``after``: how many good ones follow."""
    accepted, members = np.zeros(2), np.zeros(2)
    worth, chances = np.zeros(2), np.zeros(2)
    for s in range(len(cuts)):
        state, cut = population[s], cuts[s]
        accepted[:] = 0.0
        members[:] = 0.0
        reward = 0.0
        for _ in range(n):
            g = 1 if uniform(words, s) < state[2] else 0
            i = start[g] + int(uniform(words, s) * (start[g + 1] - start[g]))
            members[g] += 1.0
            if scores[i] >= cut:
                accepted[g] += 1.0
                reward += gain if good[i] else -loss
        for g in range(2):
            size, first = start[g + 1] - start[g], start[g] + np.searchsorted(scores[start[g] : start[g + 1]], cut)
            above, fine = start[g + 1] - first, after[first + g]
            chances[g] = above / size
            worth[g] = (gain * fine - loss * (above - fine)) / size
        _report(out[s], reward, accepted, members, n, state[2], worth, chances)
        if members[0] > 0 and members[1] > 0:
            state[2] += eta * (base + kappa * (out[s, 2] - out[s, 1]) - state[2])
            state[2] = min(0.95, max(0.05, state[2]))


@numba.njit(cache=True, nogil=True)
def fico_round(population, words, cuts, n, eta, gain, loss, table, shares, ends, repaid, out):  # type: ignore[no-untyped-def]
    """``ends``: cumulative shares; ``repaid``: chances at scores 0, 0.05, ... 100."""
    accepted, members, moved = np.zeros(2), np.zeros(2), np.zeros(2)
    worth, chances = np.zeros(2), np.zeros(2)
    for s in range(len(cuts)):
        state, cut = population[s], cuts[s]
        accepted[:] = 0.0
        members[:] = 0.0
        moved[:] = 0.0
        reward = 0.0
        for _ in range(n):
            g = 1 if uniform(words, s) < state[2] else 0
            i = min(np.searchsorted(ends[g], uniform(words, s), side="right"), len(table) - 1)
            score = min(100.0, max(0.0, table[i] + state[g] / 5.5))
            luck = uniform(words, s)
            members[g] += 1.0
            if score / 100.0 >= cut:
                accepted[g] += 1.0
                if luck < repaid[g, int(score * 20.0 + 0.5)]:
                    reward += gain
                    moved[g] += 75.0
                else:
                    reward -= loss
                    moved[g] -= 150.0
        for g in range(2):
            worth[g] = chances[g] = 0.0
            for i in range(len(table)):
                score = min(100.0, max(0.0, table[i] + state[g] / 5.5))
                if score / 100.0 >= cut:
                    chances[g] += shares[g, i]
                    worth[g] += shares[g, i] * ((gain + loss) * repaid[g, int(score * 20.0 + 0.5)] - loss)
        _report(out[s], reward, accepted, members, n, state[2], worth, chances)
        for g in range(2):
            if members[g] > 0:
                state[g] += eta * (moved[g] / members[g] - state[g])
