"""What methods have in common that compare what thresholds brought on average: widths, memory, and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from heedful.bandits.checks import between, whole
from heedful.bandits.thresholds import ThresholdMethod


@dataclass(frozen=True)
class Averages(ThresholdMethod):
    """Methods that compare means with confidence widths.

    The width of point k at decision t, with n_k outcomes, is
    ``width * scale * sqrt(log(2 K (t + 1)^2 / delta) / (2 n_k))``, infinite before the first.

    Attributes:
        width: factor of all widths, at least 0.
        delta: confidence parameter, above 0.
        scale: standard deviation of one cohort's numbers, at least 0 (0.2 does for 200 people), or ``"auto"``: pooled
            within points, for rewards, gaps and rates each.
        discount: what the past weighs after each outcome, in (0, 1].
        window: only so many outcomes are remembered; None: all.
    """

    width: float = 0.5
    delta: float = 1.0
    scale: float | Literal["auto"] = 0.2
    discount: float = 1.0
    window: int | None = None

    def __post_init__(self) -> None:
        between("width", self.width, 0.0)
        between("delta", self.delta, 0.0, open_low=True)
        if self.scale != "auto":
            between("scale", self.scale, 0.0)
        between("discount", self.discount, 0.0, 1.0, open_low=True)
        if self.window is not None:
            whole("window", self.window)
            if self.discount < 1:
                raise ValueError(f"window={self.window}: must be None with discount={self.discount} below 1")

    @property
    def memory(self) -> tuple[float, int]:
        return float(self.discount), self.window or 0

    @property
    def widths(self) -> tuple[float, float, float]:
        """width, delta and scale (-1 for auto), as :func:`~heedful.bandits.thresholds.look` takes them."""
        return float(self.width), float(self.delta), -1.0 if self.scale == "auto" else float(self.scale)


@dataclass(frozen=True)
class Constrained(Averages):
    """Of those, the ones that know what is allowed.

    Attributes:
        eps: tolerance of the gap between acceptance rates, at least 0.
        rho_min: least total acceptance rate, in [0, 1]; None: none.
        rho_max: largest total acceptance rate, in [0, 1]; None: none.
    """

    eps: float = 0.05
    rho_min: float | None = None
    rho_max: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        between("eps", self.eps, 0.0)
        for name in ("rho_min", "rho_max"):
            if getattr(self, name) is not None:
                between(name, getattr(self, name), 0.0, 1.0)
        if self.rho_min is not None and self.rho_max is not None and self.rho_min > self.rho_max:
            raise ValueError(f"rho_min={self.rho_min}: must be at most rho_max={self.rho_max}")

    @property
    def limits(self) -> tuple[float, float, float]:
        """eps and the bounds of the rate, infinite where there is none: they go where :attr:`Averages.widths` go."""
        low = -np.inf if self.rho_min is None else float(self.rho_min)
        return float(self.eps), low, np.inf if self.rho_max is None else float(self.rho_max)
