"""Past-Future: admit a request if the most memory that will ever be held stays below the capacity, with the lengths
of answers drawn from those of the requests that finished last.

Gong et al., "Past-Future Scheduler for LLM Serving under SLA Guarantees", ASPLOS 2025, arXiv 2507.10150.

Lengths L of running requests are drawn from history above what they have generated already, anew at every decision;
r = L - d steps remain, h = p + d slots are held, and with r_1 >= r_2 >= ...

    M* = max_i ( sum_{j <= i} h_j + i r_i ),    admit while M* < (1 - rho) C
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from heedful.serving.base import Batch, Scheduler
from heedful.serving.history import History
from heedful.serving.peak import INTERPOLATED, SIMPLE, admitted_below


@dataclass(frozen=True)
class PastFuture(Scheduler):
    """Admission by predicted peak memory (the paper, section 4).

    Args:
        rho: share of the capacity that is kept free, in [0, 1). The paper studies 0.03, 0.05 and 0.10; its code has
            0.05.
        sampling: ``"simple"``, the paper's rule: one of the lengths in history above what is there, each equally
            likely; the cap if there is none. ``"interpolated"``, its code's: linear between neighbouring lengths.
        draws: K, independent draws of all lengths, of which the largest peak counts, at least 1; 0 for the paper's
            own number, ``min(5, floor(200 / running) + 1)``: one draw is noisy when few requests run.

    >>> from heedful.serving import Batch, History
    >>> rng = np.random.default_rng(0)
    >>> waiting = Batch.of(prompt=[300, 300, 300], cap=[1000] * 3)
    >>> running = Batch.of(prompt=[100, 200], generated=[50, 10], cap=[1000] * 2)
    >>> answers = History(window=4, lengths=[60, 60, 60, 60])
    >>> PastFuture(rho=0.0).admit(waiting, running, 1200, answers, rng)
    2
    """

    name: ClassVar[str] = "past-future"
    needs_history: ClassVar[bool] = True

    rho: float = 0.05
    sampling: Literal["simple", "interpolated"] = "simple"
    draws: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rho < 1:
            raise ValueError(f"rho={self.rho}: must lie in [0, 1)")
        if self.sampling not in ("simple", "interpolated"):
            raise ValueError(f"sampling={self.sampling!r}: must be 'simple' or 'interpolated'")
        if self.draws < 0:
            raise ValueError(f"draws={self.draws}: must be at least 1, or 0 for the paper's own number")

    def _admit(
        self,
        waiting: Batch,
        running: Batch,
        capacity: int,
        history: History | None,
        rng: np.random.Generator | None,
        page: int,
    ) -> int:
        assert history is not None and rng is not None
        draws = self.draws or min(5, 200 // max(running.size, 1) + 1)
        rule = SIMPLE if self.sampling == "simple" else INTERPOLATED
        limit = (1 - self.rho) * capacity
        uniform = rng.random((draws, running.size + waiting.size))
        return admitted_below(limit, rule, uniform, waiting, running, history.ordered, history.mean, page)
