"""Arms whose payoff depends on how long they have been played in a row, or left alone: last-switch-dependent bandits.

Laforgue, Clerici, Cesa-Bianchi, Gilad-Bachrach, "A Last Switch Dependent Analysis of Satiation and Seasonality in
Bandits", AISTATS 2022; Foussoul, Goyal, Papadigenopoulos, Zeevi, "Last Switch Dependent Bandits with Monotone Payoff
Functions", ICML 2023. In each round one arm is played, or none. An arm's state is the number of rounds since it was
last played, or minus the length of the run of plays that it is in:

    played:     tau > 0 -> -1,         tau < 0 -> tau - 1
    not played: tau > 0 -> tau + 1,    tau < 0 -> +1

Payoffs are the same from W on, in both directions. In the order -W, ..., -1, 1, ..., W a monotone arm's never fall, a
half-monotone arm's never fall with rest, and others may do either: those that fall again after long rest, for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from heedful.bandits.checks import between, numbers_of, whole

Floats = NDArray[np.float64]
Family = Literal["rand", "step", "sticky", "trap", "flat"]
Shape = Literal["monotone", "half-monotone", "any"]
LONG_AGO = -(2**40)
"""When an arm was last played that was never."""


def check_shape(shape: str) -> None:
    """Raises ValueError for one that is none of :data:`Shape`."""
    if shape not in get_args(Shape):
        raise ValueError(f"shape={shape!r}: must be one of {', '.join(get_args(Shape))}")


def ordered_from(shape: Shape, window: int) -> int:
    """The place in a row of :attr:`Payoffs.table` from which on payoffs never fall; 2 W: nowhere."""
    return {"monotone": 0, "half-monotone": window, "any": 2 * window}[shape]


@dataclass(frozen=True, eq=False)
class Payoffs:
    """Mean payoffs of k arms.

    Attributes:
        rested: float64 ``[k, W]``: ``rested[i, x - 1]`` after x rounds of rest.
        running: float64 ``[k, W]``: ``running[i, j - 1]`` after a run of j plays.
        shape: ``monotone``: the payoffs of every arm never fall in the order of states; ``half-monotone``: they never
            fall with rest; ``any``: they may fall anywhere, and no schedule has a guarantee.

    Raises ValueError, naming arm and state, for payoffs that are negative, not finite, or fall where they may not; and
    for arrays of other shapes, or an unknown ``shape``.
    """

    rested: Floats
    running: Floats
    shape: Shape = "monotone"

    def __post_init__(self) -> None:
        check_shape(self.shape)
        for name in ("rested", "running"):
            array = numbers_of(name, getattr(self, name)).copy()
            if array.ndim != 2 or array.size == 0:
                raise ValueError(f"{name}: must have shape [k, W], has {list(array.shape)}")
            object.__setattr__(self, name, array)
        if self.rested.shape != self.running.shape:
            raise ValueError(
                f"running: must have the shape of rested, {list(self.rested.shape)}, has {list(self.running.shape)}"
            )
        self._refuse(~np.isfinite(self.table) | (self.table < 0), "must be a finite number of at least 0")
        falls = np.diff(self.table, axis=1, prepend=-np.inf) < -1e-12
        falls[:, : ordered_from(self.shape, self.window) + 1] = False
        self._refuse(falls, f"must not be lower than in the state before if shape={self.shape!r}")

    def _refuse(self, bad: NDArray[np.bool_], why: str) -> None:
        if bad.any():
            arm, place = (int(index[0]) for index in np.nonzero(bad))
            state = place - self.window if place < self.window else place - self.window + 1
            raise ValueError(f"payoff of arm {arm} in state {state:+d} is {self.table[arm, place]}: {why}")

    @property
    def arms(self) -> int:
        return len(self.rested)

    @property
    def window(self) -> int:
        """W."""
        return self.rested.shape[1]

    @property
    def table(self) -> Floats:
        """float64 ``[k, 2 W]``: payoffs in the order of states, -W, ..., -1, 1, ..., W."""
        return np.ascontiguousarray(np.hstack([self.running[:, ::-1], self.rested]))

    @classmethod
    def of_table(cls, table: ArrayLike, shape: Shape = "monotone") -> Payoffs:
        """From payoffs in the order of states, float64 ``[k, 2 W]``. Raises as the class does."""
        array = numbers_of("table", table)
        if array.ndim != 2 or array.shape[1] % 2:
            raise ValueError(f"table: must have shape [k, 2 W], has {list(array.shape)}")
        half = array.shape[1] // 2
        return cls(array[:, half:], array[:, :half][:, ::-1], shape)

    def learnable(self) -> Payoffs:
        """Itself. Raises ValueError, naming arm and state, for payoffs above 1: rewards are drawn from [0, 1]."""
        self._refuse(self.table > 1, "must be in [0, 1] to be learned")
        return self


@numba.njit(cache=True, nogil=True)
def place(last, run, now, window):  # type: ignore[no-untyped-def]
    """Where in a row of :attr:`Payoffs.table` an arm is that was last played in round ``last``, in a run of ``run``."""
    if last == now - 1:
        return window - min(run, window)
    return window - 1 + min(now - 1 - last, window)


@numba.njit(cache=True, nogil=True)
def mark_played(last, run, arm, now):  # type: ignore[no-untyped-def]
    """An arm is played."""
    run[arm] = run[arm] + 1 if last[arm] == now - 1 else 1
    last[arm] = now


def unplayed(arms: int, rested: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``last`` and ``run`` before round 0: long rested (state W), or in state +rested if that is above 0."""
    return np.full(arms, -1 - rested if rested else LONG_AGO), np.zeros(arms, dtype=np.int64)


def generate(family: Family, arms: int, window: int, rng: np.random.Generator, recovery: int = 3) -> Payoffs:
    """An instance.

    Args:
        family: ``rand`` (2 W sorted uniforms times the arm's scale), ``step`` (low, and high from a recovery time on),
            ``sticky`` (a run pays high for some rounds, starting it pays little: half-monotone), ``trap`` (one arm pays
            0.05 always; others 0.06, and 0.95 from ``recovery`` rounds of rest on), ``flat`` (constants).
        arms, window: k and W.
        rng: of what is drawn.
        recovery: of ``trap``, in 1..W.

    Raises ValueError for an unknown family or numbers out of range.
    """
    if family not in get_args(Family):
        raise ValueError(f"family={family!r}: must be one of {', '.join(get_args(Family))}")
    k, w = whole("arms", arms), whole("window", window)
    if family == "rand":
        return Payoffs.of_table(np.sort(rng.random((k, 2 * w)), axis=1) * rng.uniform(0.2, 1.0, (k, 1)))
    if family == "step":
        high, low = rng.uniform(0.5, 1.0, (k, 1)), rng.uniform(0.0, 0.1, (k, 1))
        recovers = rng.integers(1, w + 1, (k, 1))
        return Payoffs(np.where(np.arange(1, w + 1) >= recovers, high, low), np.repeat(low, w, axis=1))
    if family == "sticky":
        high, low = rng.uniform(0.5, 1.0, (k, 1)), rng.uniform(0.0, 0.1, (k, 1))
        lasts = rng.integers(min(2, w), w + 1, (k, 1))
        running = np.where(np.arange(1, w + 1) < lasts, high, low)
        return Payoffs(np.repeat(low, w, axis=1), running, "half-monotone")
    if family == "flat":
        return Payoffs.of_table(np.repeat(rng.random((k, 1)), 2 * w, axis=1))
    between("recovery", recovery, 1, w)
    rested, running = np.full((k, w), 0.06), np.full((k, w), 0.06)
    rested[:, recovery - 1 :] = 0.95
    rested[0], running[0] = 0.05, 0.05
    return Payoffs(rested, running)
