"""What is asked for on the command line, checked before any work: cache sizes, algorithms, predictors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from heedful.lab.errors import LabError
from heedful.paging import algorithms
from heedful.paging.base import Algorithm
from heedful.paging.blind_oracle import BlindOracle
from heedful.paging.commands import predictions
from heedful.paging.commands.predictions import Predictor

OPT = "opt"
"""The optimal offline algorithm: LFD, told the true times of next requests."""
DEFAULT_ALGORITHMS = (
    "fifo,clock,lfu,random,marker,mark0,mark-and-predict,flush-when-all-0s,"
    "mark0+lru,doubling:mark0+lru,flush-when-all-0s+lru"
)
"""Besides ``opt`` and ``lru``."""
WITH_TIMES = "blind-oracle,blind-oracle+lru,predictive-marker"
"""Default ones too, if there is a predictor of times. It has to be asked for: those that there are know the true times,
and would stand beside bits that are learned from the past as if they were no more than that."""


@dataclass(frozen=True)
class Size:
    """A cache size as asked for.

    Attributes:
        text: as it was written.
        amount: pages, or a share of the different pages.
        is_share: which of the two.
    """

    text: str
    amount: float
    is_share: bool

    def pages(self, distinct: int) -> int:
        """In pages, where there are so many different ones. Raises LabError for a share that is no page at all."""
        if not self.is_share:
            return int(self.amount)
        pages = math.floor(self.amount * distinct + 1e-9)
        if pages < 1:
            raise LabError(f"--k {self.text!r}: that share of {distinct} different pages is no page at all")
        return pages


@dataclass(frozen=True)
class Contender:
    """An algorithm to compare, with what tells it something.

    Attributes:
        spec: its name.
        algorithm: what decides.
        predictor: what it is told by; None if it is told nothing, and for :data:`OPT`.
    """

    spec: str
    algorithm: Algorithm
    predictor: Predictor | None = None

    @property
    def randomised(self) -> bool:
        """Whether its faults depend on the seed."""
        return self.algorithm.randomised or (self.predictor is not None and self.predictor.randomised)


def read_sizes(text: str) -> tuple[Size, ...]:
    """The cache sizes in a comma-separated list: pages (``100``) and shares of the different pages (``1%``, ``0.01``).

    Raises LabError for anything else, zero and negative numbers included.

    >>> [size.pages(5000) for size in read_sizes("100, 1%, 0.5")]
    [100, 50, 2500]
    """
    return _distinct("--k", (_read_size(part) for part in _parts(text)))


def _read_size(text: str) -> Size:
    number, percent = (text[:-1], 100.0) if text.endswith("%") else (text, 1.0)
    try:
        value = float(number) / percent
    except ValueError:
        value = math.nan
    if percent == 1.0 and text.isdecimal() and 1 <= value < 2**63:
        return Size(text, int(text), False)
    if 0 < value < 1 or (percent == 100.0 and value == 1):
        return Size(text, value, True)
    raise LabError(
        f"--k {text!r}: a cache size is a whole number of pages from 1 on (100), or a share of the different pages "
        "above 0 and at most all (1%, or 0.01)"
    )


def read_share(text: str) -> float:
    """The share of the trace in ``--fit``: ``50%`` or ``0.5``. Raises LabError unless it lies in [0, 1)."""
    number, percent = (text[:-1], 100.0) if text.endswith("%") else (text, 1.0)
    try:
        share = float(number) / percent
    except ValueError:
        share = math.nan
    if not 0 <= share < 1:
        raise LabError(f"--fit {text!r}: must be a share of the trace, from 0 on and below 1 (0.5, or 50%)")
    return share


def read_algorithms(text: str) -> tuple[str, ...]:
    """The algorithms in a comma-separated list. Raises LabError for none, or one that is not known."""
    specs = _distinct("--algorithms", _parts(text))
    for spec in specs:
        _algorithm(spec)
    return specs


def read_predictors(text: str) -> tuple[Predictor, ...]:
    """The predictors in a comma-separated list; a part like ``p1=0.2`` belongs to the predictor before it.

    Raises LabError for none, or one that is not known, or is given what it does not have.

    >>> [predictor.spec for predictor in read_predictors("flip:p0=0.1,p1=0.2, oracle")]
    ['flip:p0=0.1,p1=0.2', 'oracle']
    """
    specs: list[str] = []
    for part in _parts(text):
        if specs and "=" in part and ":" not in part:
            specs[-1] += f",{part}"
        else:
            specs.append(part)
    return tuple(_named("--predictor", predictions.make, spec) for spec in _distinct("--predictor", specs))


def field(specs: Sequence[str] | None, predictors: Sequence[Predictor]) -> tuple[Contender, ...]:
    """Who is compared: ``opt`` and ``lru``, then every algorithm with every predictor of what it is told.

    Args:
        specs: algorithms; None for the default ones, of which those are left out that no predictor can tell anything.
        predictors: what may tell them something.

    Raises LabError for an algorithm that was asked for and is told nothing.
    """
    chosen = [*DEFAULT_ALGORITHMS.split(","), *WITH_TIMES.split(",")] if specs is None else specs
    found = []
    for spec in dict.fromkeys((OPT, "lru", *chosen)):
        algorithm = _algorithm(spec)
        if spec == OPT or algorithm.told == "none":
            found.append(Contender(spec, algorithm))
            continue
        able = [predictor for predictor in predictors if algorithm.told in predictor.kinds]
        if not able and specs is not None:
            raise LabError(
                f"--algorithms {spec!r}: is told {_WHAT[algorithm.told]}, which no --predictor says; "
                f"add one of {', '.join(predictions.names(algorithm.told))}"
            )
        found.extend(Contender(spec, algorithm, predictor) for predictor in able)
    return tuple(found)


_WHAT = {"discard": "discard bits", "phase": "phase bits", "next": "times of next requests"}


def _algorithm(spec: str) -> Algorithm:
    return BlindOracle() if spec == OPT else _named("--algorithms", algorithms.make, spec)


def _named(option: str, make: Callable[[str], Any], spec: str) -> Any:
    """``make(spec)``, with every mistake as a LabError that names the option."""
    try:
        return make(spec)
    except ValueError as error:
        raise LabError(f"{option}: {error}") from error


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _distinct(option: str, values: Iterable[Any]) -> tuple[Any, ...]:
    found = tuple(dict.fromkeys(values))
    if not found:
        raise LabError(f"{option} is empty")
    return found
