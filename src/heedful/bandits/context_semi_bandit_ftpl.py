"""Context-Semi-Bandit-FTPL follows the leader among perturbed losses, so that it needs an optimiser and no weights.

Syrgkanis, Krishnamurthy, Schapire, "Efficient Algorithms for Adversarial Contextual Learning", ICML 2016, arXiv
1602.02454; as the oracle-efficient learner of Bechavod, Roth, arXiv 2206.04475. Each round draws Laplace noise for
every point z of a separator, on which any two rules differ somewhere, and plays ``argmin_h L_h + sum_z noise_z h(z)``:
one call of the optimiser. What a label is divided by is estimated by geometric resampling (Neu, Bartok, ALT 2013):
fresh perturbations are drawn until one accepts the person, at most R of them, and their number J has mean ``1/q`` up to
a bias of at most ``(1 - q)^R / q``. What auditors see is the mean of ``draws`` perturbations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.bandits.base import Kept, between, whole
from heedful.bandits.one_sided import Bits, Floats, LinearRules, OneSidedMethod, add_losses

_TOGETHER = 8
"""So many perturbations are tried at a time when resampling."""


class Perturbed(NamedTuple):
    """Losses, float64 ``[1, H]``; what rules say on the separator, ``[D, H]``; optimiser calls, int64 ``[1]``."""

    losses: Floats
    separator: Floats
    calls: NDArray[np.int64]
    rng: np.random.Generator


@dataclass(frozen=True)
class ContextSemiBanditFTPL(OneSidedMethod):
    """Follow the perturbed leader. The optimiser looks through all rules, many perturbations in one matrix product.

    Attributes:
        rounds: T, for which the defaults are set, at least 1.
        penalty: C, the price of a report, at least 0; None: ``T^(4/45)``.
        noise: scale of the Laplace noise, at least 0; with 0 it follows the leader.
        separator: how many random points of [0, 1]^d it has at least, in [1, 10000]; of 10,000 such points those are
            added that tell rules apart which were not told apart before.
        draws: perturbations by which auditors see the policy, at least 1.
        resamples: R; None: ``sqrt(T)``, rounded up.
    """

    name: ClassVar[str] = "context-semi-bandit-ftpl"
    exact: ClassVar[bool] = False
    rounds: int = 2000
    penalty: float | None = None
    noise: float = 10.0
    separator: int = 32
    draws: int = 50
    resamples: int | None = None

    def __post_init__(self) -> None:
        for name in ("rounds", "separator", "draws"):
            whole(name, getattr(self, name))
        between("separator", self.separator, 1, 10_000)
        if self.resamples is not None:
            whole("resamples", self.resamples)
        if self.penalty is not None:
            between("penalty", self.penalty, 0.0)
        between("noise", self.noise, 0.0)

    @property
    def price(self) -> float:
        """C, with its default filled in."""
        return self.rounds ** (4 / 45) if self.penalty is None else float(self.penalty)

    def begin(self, rules: LinearRules, people: int, rng: np.random.Generator, prior: Floats) -> Perturbed:
        points = rng.uniform(size=(10_000, rules.weights.shape[1]))
        bits = rules.predict(points)
        chosen = list(range(self.separator))
        kinds = np.unique(bits[:, chosen], axis=0, return_inverse=True)[1].ravel()
        for z in range(self.separator, len(points)):
            if kinds.max() == len(rules) - 1:
                break
            split = np.unique(2 * kinds + bits[:, z], return_inverse=True)[1]
            if split.max() > kinds.max():
                chosen.append(z)
                kinds = split
        return Perturbed(prior, bits[:, chosen].T.astype(np.float64), np.zeros(1, dtype=np.int64), rng)

    def _leaders(self, state: Perturbed, number: int) -> NDArray[np.int64]:
        """int64 ``[number]``: the leader under each of so many perturbations."""
        state.calls[0] += number
        if self.noise == 0:
            return np.full(number, state.losses[0].argmin())
        noise = state.rng.laplace(scale=self.noise, size=(number, len(state.separator)))
        return (noise @ state.separator + state.losses).argmin(axis=1)

    def act(self, state: Any, bits: Bits, people: Floats) -> tuple[Floats, NDArray[np.bool_], Floats]:
        accepted = bits[self._leaders(state, 1)[0]] == 1
        treatment = bits[self._leaders(state, self.draws)].mean(axis=0, dtype=np.float64)
        most = int(np.ceil(np.sqrt(self.rounds))) if self.resamples is None else self.resamples
        inverse = np.ones(len(accepted))
        waiting, tried = accepted.copy(), 0
        while waiting.any() and tried < most:
            for says in bits[self._leaders(state, min(_TOGETHER, most - tried))]:
                tried += 1
                inverse[waiting] = tried
                waiting &= says == 0
                if not waiting.any():
                    break
        return treatment, accepted, inverse

    def learn(self, state: Any, kept: Kept, labels: Floats, a: int, b: int) -> None:
        _, bits, accepted, inverse = kept
        add_losses(state.losses[0], bits, accepted, inverse, labels, a, b, self.price)
