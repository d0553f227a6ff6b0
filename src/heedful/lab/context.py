"""What ``measure`` is given beside its cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heedful.lab.artifacts import artifact
from heedful.lab.declare import Cell, Scalar, digest

if TYPE_CHECKING:
    import numpy as np


def _ignore(_: Any) -> None:
    return None


@dataclass
class Context:
    """A cell's surroundings: its randomness, its device, its shared products and its own scratch folder.

    Attributes:
        cell: the cell that is measured.
        params: the scale's parameters after overrides.
        tuned: method -> the setting that the tuning stage chose; empty in the tuning stage.
        device: where tensors live, as ``"cpu"`` or ``"cuda:0"``.
    """

    cell: Cell
    params: Mapping[str, Any]
    tuned: Mapping[str, Mapping[str, Scalar]]
    device: str
    _code: str
    _artifacts: Path
    _scratch: Path
    _report: Callable[[float], None] = field(default=_ignore, repr=False)
    _waiting: Callable[[bool], None] = field(default=_ignore, repr=False)

    def seed(self, name: str = "") -> int:
        """A seed in [0, 2**63) that depends on the cell and the name alone.

        Cells differ in their method, so this seed does too: what rivals must share (items, noise) is drawn
        from the cell's own ``seed`` parameter instead.
        """
        return int(digest(self.cell.id, name), 16) >> 1

    @cached_property
    def rng(self) -> np.random.Generator:
        """The cell's generator; the same stream whenever and wherever the cell is measured."""
        import numpy as np

        return np.random.default_rng(self.seed("rng"))

    def artifact(self, key: str | Mapping[str, Any], build: Callable[[Path], None]) -> Path:
        """The folder of a product that cells share, built by whichever cell asks first.

        ``build`` is given an empty folder and fills it; the others wait, and their time limit with them. The
        address is made of ``key`` and of the run's code, inputs and library versions, not of the scale's
        parameters: what the product depends on belongs in ``key``.
        """
        return artifact(self._artifacts, self._code, key, build, self._waiting)

    @property
    def scratch(self) -> Path:
        """This cell's own folder, for a long cell's checkpoints; it survives kills until the cell is done."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch

    def progress(self, fraction: float) -> None:
        """Tell how much of this cell is done, in [0, 1]."""
        self._report(fraction)
