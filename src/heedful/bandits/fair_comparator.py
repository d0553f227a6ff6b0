"""The best policy in hindsight that a panel would never report: a linear program over distributions on rules.

Minimise ``sum_h pi_h error_h`` over the simplex subject to ``pi(x) - pi(x') <= q + alpha - slack`` for every ordered
pair of people who arrived together. Constraints are added as they are violated, the worst first, until none is by more
than ``tolerance``; a program with all of them would have 12 for every round of four people.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Comparator(NamedTuple):
    """The optimum.

    Attributes:
        policy: float64 ``[H]``: weights of rules.
        error: mean errors per person.
        constraints: how many were needed.
    """

    policy: Floats
    error: float
    constraints: int


def best_fair(
    bits: NDArray[np.int8], labels: NDArray[np.int64], arrivals: NDArray[np.int64], limits: Floats,
    tolerance: float = 1e-6, together: int = 200,
) -> Comparator:  # fmt: skip
    """Solves the program.

    Args:
        bits: int8 ``[H, N]``: what each rule says of each person of a pool.
        labels: int64 ``[N]``, 0 or 1.
        arrivals: int64 ``[T, k]``: who arrived in each round.
        limits: float64 ``[T, k, k]``: the most by which the first may be treated better than the second.
        tolerance: by which a constraint may be missed, above 0.
        together: at most so many constraints are added at a time.

    Raises ValueError if no policy satisfies the limits, as can only be where one is negative.
    """
    from scipy.optimize import linprog

    often = np.bincount(arrivals.ravel(), minlength=bits.shape[1])
    says = bits.astype(np.float64)
    errors = (says != labels) @ often / arrivals.size
    rows: list[Floats] = []
    bounds: list[float] = []
    seen: set[tuple[int, int, float]] = set()
    while True:
        found = linprog(
            errors, A_ub=np.array(rows) if rows else None, b_ub=np.array(bounds) if rows else None,
            A_eq=np.ones((1, len(errors))), b_eq=[1.0], bounds=(0, 1), method="highs",
        )  # fmt: skip
        if found.status != 0:
            raise ValueError(f"limits: no policy satisfies them ({found.message})")
        treatment = (found.x @ says)[arrivals]
        excess = treatment[:, :, None] - treatment[:, None, :] - limits
        excess[:, np.arange(excess.shape[1]), np.arange(excess.shape[1])] = -1.0
        worst = np.argsort(excess, axis=None)[::-1]
        worst = worst[excess.ravel()[worst] > tolerance]
        added = 0
        for place in worst.tolist():
            t, a, b = np.unravel_index(place, excess.shape)
            key = (int(arrivals[t, a]), int(arrivals[t, b]), float(limits[t, a, b]))
            if key not in seen:
                seen.add(key)
                rows.append(says[:, arrivals[t, a]] - says[:, arrivals[t, b]])
                bounds.append(key[2])
                added += 1
                if added == together:
                    break
        if added == 0:
            return Comparator(found.x, float(found.fun), len(rows))
