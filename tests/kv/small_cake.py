"""CAKE with a window of four, and what it keeps; for its tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from heedful.kv import CAKE, Slots

WINDOW = 4


def cake(budget: Any = 12, **options: Any) -> CAKE:
    return CAKE(budget, **{"observation_window": WINDOW, **options})


def kept(stores: Sequence[Slots]) -> list[list[list[list[int]]]]:
    return [[[sorted(p for p in h if p >= 0) for h in item] for item in s.position.tolist()] for s in stores]
