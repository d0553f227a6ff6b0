"""What parameters and arrays are checked by, each refused in one line that names it."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LARGEST = 1e100
"""Numbers whose squares are summed are at most so large."""


def whole(name: str, value: Any, least: int = 1) -> int:
    """The value as an int. Raises ValueError unless it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name}={value!r}: must be a whole number")
    if value < least:
        raise ValueError(f"{name}={value}: must be at least {least}")
    return int(value)


def between(
    name: str, value: Any, low: float, high: float = math.inf, open_low: bool = False, open_high: bool = False
) -> float:
    """The value as a float. Raises ValueError unless ``low <= value <= high`` (``<`` at an end that is open)."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    inside = number and low <= value <= high and abs(value) <= sys.float_info.max
    if not inside or (open_low and value == low) or (open_high and value == high):
        start, end = "(" if open_low else "[", ")" if open_high or high == math.inf else "]"
        raise ValueError(f"{name}={value!r}: must be a number in {start}{low:g}, {high:g}{end}")
    return float(value)


def true_or_false(name: str, value: Any) -> None:
    """Raises ValueError unless the value is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: must be True or False")


def numbers_of(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """float64, contiguous. Raises ValueError, naming what it is, for what is no array of numbers."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name}: must be an array of numbers")
    return np.asarray(array, dtype=np.float64, order="C")


def flags_of(name: str, values: ArrayLike, rows: int, actions: int) -> NDArray[np.bool_]:
    """A mask as bool ``[1 or rows, actions]``, contiguous. Raises ValueError for another type or shape."""
    try:
        mask = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name}: must be a mask, is rows of different lengths") from None
    if mask.dtype != np.bool_ or mask.shape not in ((actions,), (1, actions), (rows, actions)):
        form = f"[{actions}]" if rows == 1 else f"[{actions}] or [{rows}, {actions}]"
        raise ValueError(f"{name}: must be a mask of shape {form}, is {mask.dtype} {list(mask.shape)}")
    return np.ascontiguousarray(mask.reshape(-1, actions))
