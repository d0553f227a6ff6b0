"""OFUL plays the vector that may be best under any weights in a confidence ellipsoid, and learns from every reward.

Abbasi-Yadkori, Pal, Szepesvari, "Improved Algorithms for Linear Stochastic Bandits", NIPS 2011, theorem 2: with
weights of norm at most S and noise s, ``argmax <theta, u> + beta_t sqrt(u^T V^-1 u)`` and
``beta_t = sqrt(lam) S + s sqrt(2 log(1/delta) + d log(1 + t U^2 / (d lam)))``. It is what Dynamical Linear Bandits
calls Lin-UCB, and DynLin-UCB with epochs of one round and nothing that fades.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from heedful.bandits.checks import between, whole
from heedful.bandits.dynlin_ucb import Floats, Optimist, decide, learn, optimist, run
from heedful.bandits.vectors import VectorMethod

if TYPE_CHECKING:
    from heedful.bandits.dynamical import World


@dataclass(frozen=True)
class OFUL(VectorMethod):
    """Optimism in the face of uncertainty, for linear rewards without memory.

    Attributes:
        size: upper bound on the norm of the weights, at least 0.
        noise: standard deviation of the noise, at least 0.
        horizon: T; confidence is 1 - 1/T.
        ridge: lambda, above 0; None: log T.
        scale: of the radius, at least 0; 1 is the paper's.
    """

    name: ClassVar[str] = "oful"
    size: float = 1.0
    noise: float = 0.1
    horizon: int = 10_000
    ridge: float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("size", "noise", "scale"):
            between(name, getattr(self, name), 0.0)
        whole("horizon", self.horizon, least=2)
        if self.ridge is not None:
            between("ridge", self.ridge, 0.0, open_low=True)

    def begin(self, vectors: Floats, lanes: int = 1) -> Optimist:
        ridge = math.log(self.horizon) if self.ridge is None else float(self.ridge)
        return optimist(vectors, lanes, ridge, 0.0, self.scale, self.size, 0.0, self.noise**2, self.horizon)

    def decide(self, state: Optimist, actions: Any, counted: Any) -> None:
        decide(state, actions, counted)

    def learn(self, state: Optimist, actions: Any, rewards: Any, counted: Any) -> None:
        learn(state, actions, rewards, counted)

    def run(self, state: Optimist, world: World, chosen: Any) -> None:
        run(state, world, chosen)
