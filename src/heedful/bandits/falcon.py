"""FALCON explores by inverse gaps in epochs: the model is fitted at an epoch's start, to the epoch before alone.

Simchi-Levi, Xu, "Bypassing the Monster: A Faster and Simpler Optimal Algorithm for Contextual Bandits under
Realizability", Mathematics of Operations Research 2022 (arXiv 2003.12699), algorithm 1. Epochs end at ``tau_m = 2^m``,
``p(a) = 1 / (K + gamma_m (f(b) - f(a)))`` as in SquareCB, and
``gamma_m = scale sqrt(K (tau_{m-1} - tau_{m-2}) / log(|F| tau_{m-1} / delta))``, 1 in the first epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.blocks import corner
from heedful.bandits.checks import between
from heedful.bandits.exploring import INVERSE_GAP, Floats, OracleMethod, decide_rows
from heedful.bandits.ridge import add_rows, no_rows


class _Epochs(NamedTuple):
    """``inverse``, ``estimate``: of the running epoch; ``frozen``: float64 ``[lanes, M, D]``, the estimate at its
    start; ``told``: int64 ``[lanes]``, rewards learned; ``words``: random streams."""

    inverse: Floats
    estimate: Floats
    words: NDArray[np.uint64]
    frozen: Floats
    told: NDArray[np.int64]


@numba.njit(cache=True, nogil=True)
def _learn(inverse, estimate, frozen, told, ridge, contexts, actions, rewards):  # type: ignore[no-untyped-def]
    add_rows(inverse, estimate, contexts, actions, rewards)
    for s in range(len(told)):
        told[s] += 1
        if told[s] & (told[s] - 1) == 0:  # an epoch ends at each power of two
            frozen[s], estimate[s], inverse[s] = estimate[s], 0.0, 0.0
            for m in range(inverse.shape[1]):
                for j in range(contexts.shape[2]):
                    inverse[s, m, corner(j)] = 0.5 / ridge


@dataclass(frozen=True)
class Falcon(OracleMethod):
    """Inverse-gap weighting in epochs; rewards in [0, 1].

    On its own it counts epochs in rewards learned, so that late ones do not leave it without a model. In batches an
    epoch is a generation, and ``rows`` the size of its training window.

    Attributes:
        scale: of gamma, above 0; 1/30 in the paper, where the proof needs it. At that scale it stays close to uniform
            for millions of rounds; the default is SquareCB's.
        log_size: log |F|, the logarithm of the number of functions that the model chooses among, at least 0.
        delta: probability with which the theorem may fail, in (0, 1].
        ridge: of the regression that it uses on its own, above 0.
        shared: one regression for all actions; contexts are float64 ``[K, d]``, as many actions as there are rows.
    """

    name: ClassVar[str] = "falcon"
    way: ClassVar[int] = INVERSE_GAP
    unit_rewards: ClassVar[bool] = True
    scale: float = 10.0
    log_size: float = 10.0
    delta: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        between("scale", self.scale, 0.0, open_low=True)
        between("log_size", self.log_size, 0.0)
        between("delta", self.delta, 0.0, 1.0, open_low=True)

    def strength(self, rows: int, actions: int) -> float:
        """gamma after an epoch of so many rows, the tau of whose end is taken to be twice that."""
        if rows < 1:
            return 1.0
        return self.scale * math.sqrt(actions * rows / (self.log_size + math.log(2 * rows / self.delta)))

    def begin(self, words: NDArray[np.uint64], actions: int, features: int) -> _Epochs:
        models = no_rows(words, 1 if self.shared else actions, features, self.ridge)
        return _Epochs(*models, np.zeros_like(models.estimate), np.zeros(len(words), dtype=np.int64))

    def choose(self, state: Any, contexts: Any, feasible: Any, step: int, actions: Any, chances: Any) -> Any:
        # After n rewards the last whole epoch ended at the largest power of two in n, and was half as long.
        told = int(state.told[0])  # lanes are told together
        strength = self.strength((1 << told.bit_length() - 1) // 2 if told else 0, feasible.shape[1])
        code = decide_rows(state.frozen, state.words, contexts, feasible, self.way, strength, step, actions, chances)
        return code, None

    def learn(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        inverse, estimate, _, frozen, told = state
        _learn(inverse, estimate, frozen, told, float(self.ridge), contexts, actions, rewards)
