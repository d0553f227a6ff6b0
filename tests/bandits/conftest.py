"""What several files share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from heedful.cli import main

# What several files import, beside the fixtures here, stands in modules of this folder.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def square() -> Callable[[np.ndarray], np.ndarray]:
    """The symmetric matrix, and the zeros that it is padded with, of the 4 x 4 blocks of half of it."""

    def of(kept: np.ndarray) -> np.ndarray:
        n = int(np.sqrt(len(kept) / 8))
        half, blocks = np.zeros((4 * n, 4 * n)), iter(kept.reshape(-1, 4, 4))
        for i in range(n):
            for j in range(i + 1):
                half[4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = next(blocks).T
        return half + half.T

    return of


@pytest.fixture
def compare(capsys: Any, tmp_path: Path, monkeypatch: Any) -> Any:
    """``compare(*words)``: exit status, standard output and standard error, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: Any) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["compare", "bandits", *map(str, words)])
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return call


@pytest.fixture(scope="session")
def people() -> Callable[..., pl.DataFrame]:
    """Makes n people: two groups, one of lower scores; outcomes follow the score; a tenth was never observed."""

    def of(n: int = 4000, seed: int = 0) -> pl.DataFrame:
        rng = np.random.default_rng(seed)
        group = rng.random(n) < 0.4
        score = 1 / (1 + np.exp(-(np.where(group, -0.4, 0.6) + rng.normal(size=n))))
        outcome = pl.Series((rng.random(n) < score).astype(int)).scatter(np.flatnonzero(rng.random(n) < 0.1), None)
        return pl.DataFrame({"score": score, "group": np.where(group, "B", "A"), "outcome": outcome})

    return of
