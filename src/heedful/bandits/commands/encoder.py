"""Contexts of a log as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from heedful.bandits.commands.tables import Floats

MOST_LEVELS = 50
"""A text column becomes so many columns and one for everything else."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """Contexts as numbers, by what the rows that it was made from hold.

    Attributes:
        means, scales: column -> mean and standard deviation, of numbers.
        levels: column -> the values that have a column of their own; all others share one.
    """

    means: dict[str, float]
    scales: dict[str, float]
    levels: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, contexts: pl.DataFrame) -> Encoder:
        """From the rows that policies are trained on."""
        means, scales, levels = {}, {}, {}
        for column in contexts:
            if column.dtype == pl.String:
                counts = column.value_counts(sort=True)
                levels[column.name] = tuple(sorted(counts[column.name][:MOST_LEVELS].to_list()))
            else:
                spread: Any = column.std()
                means[column.name] = float(column.mean())  # type: ignore[arg-type]
                scales[column.name] = float(spread) if spread else 1.0
        return cls(means, scales, levels)

    def __call__(self, contexts: pl.DataFrame) -> Floats:
        """float64 ``[n, d]``: standardised numbers, and for each text column one column per level and one for what is
        none of them."""
        parts = []
        for column in contexts:
            if column.name in self.means:
                parts.append(((column.to_numpy() - self.means[column.name]) / self.scales[column.name])[:, None])
                continue
            known = np.array(self.levels[column.name])
            values = column.to_numpy().astype(str)
            place = np.minimum(np.searchsorted(known, values), len(known) - 1)
            place = np.where(known[place] == values, place, len(known))
            parts.append(np.eye(len(known) + 1)[place])
        return np.concatenate(parts, axis=1)
