"""What algorithms can be told on the command line, and by whom: predictors by name, and files of bits."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from heedful.paging.base import Told, Trace
from heedful.paging.learned import LearnedBits
from heedful.paging.predictors import Kind, flipped, noisy_next, reuse_distance_bits, true_bits
from heedful.paging.traces import read_ids


@dataclass(frozen=True, eq=False)
class Split:
    """A trace in two parts.

    Attributes:
        before: what predictors may learn from; empty if all is measured.
        measured: what algorithms are measured on, with caches that are empty at first.
    """

    before: Trace
    measured: Trace

    @classmethod
    def of(cls, trace: Trace, share: float) -> Split:
        """The first ``share`` of the requests, and the rest."""
        cut = int(share * len(trace))
        return cls(trace.part(0, cut), trace.part(cut, len(trace)) if cut else trace)


@dataclass(frozen=True)
class Predictor:
    """Something that tells algorithms about requests: an immutable description.

    Attributes:
        spec: as it is called in tables.
    """

    name: ClassVar[str]
    """Its name on the command line."""
    kinds: ClassVar[tuple[Told, ...]] = ("discard", "phase")
    """What it can tell."""
    randomised: ClassVar[bool] = False
    """Whether it depends on the seed."""
    learns: ClassVar[bool] = False
    """Whether it needs a part of the trace to learn from."""

    spec: str

    def tell(self, split: Split, k: int, kind: Told, seed: int) -> NDArray[np.integer]:
        """One entry for each measured request: bits of that kind, or times."""
        raise NotImplementedError


@dataclass(frozen=True)
class Learned(Predictor):
    """Bits that are learned from the oracle's on the first part of the trace."""

    name: ClassVar[str] = "learned"
    learns: ClassVar[bool] = True

    model: Literal["boosting", "logistic"] = "boosting"

    def __post_init__(self) -> None:
        if self.model not in ("boosting", "logistic"):
            raise ValueError(f"model={self.model}: must be boosting or logistic")

    def tell(self, split: Split, k: int, kind: Told, seed: int) -> NDArray[np.integer]:
        return LearnedBits(_bits(kind), self.model).fit(split.before, k).predict(split.measured, k)


@dataclass(frozen=True)
class ReuseDistance(Predictor):
    """1 if the page's last two requests lay more than c k requests apart."""

    name: ClassVar[str] = "reuse-distance"

    c: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.c < float("inf"):
            raise ValueError(f"c={self.c}: must be above 0")

    def tell(self, split: Split, k: int, kind: Told, seed: int) -> NDArray[np.integer]:
        return reuse_distance_bits(split.measured, k, self.c)


@dataclass(frozen=True)
class Oracle(Predictor):
    """True bits."""

    name: ClassVar[str] = "oracle"

    def tell(self, split: Split, k: int, kind: Told, seed: int) -> NDArray[np.integer]:
        return true_bits(split.measured, k, _bits(kind))


@dataclass(frozen=True)
class Flip(Predictor):
    """True bits, of which each 0 is flipped with probability p0 and each 1 with p1."""

    name: ClassVar[str] = "flip"
    randomised: ClassVar[bool] = True

    p0: float = 0.1
    p1: float = 0.1

    def __post_init__(self) -> None:
        for key, p in (("p0", self.p0), ("p1", self.p1)):
            if not 0 <= p <= 1:
                raise ValueError(f"{key}={p}: must lie in [0, 1]")

    def tell(self, split: Split, k: int, kind: Told, seed: int) -> NDArray[np.integer]:
        return flipped(true_bits(split.measured, k, _bits(kind)), self.p0, self.p1, _generator(seed))


@dataclass(frozen=True)
class NoisyNext(Predictor):
    """True times of next requests, whose distances are off by a lognormal factor; sigma = 0 for true times."""

    name: ClassVar[str] = "noisy-next"
    kinds: ClassVar[tuple[Told, ...]] = ("next",)
    randomised: ClassVar[bool] = True

    sigma: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < float("inf"):
            raise ValueError(f"sigma={self.sigma}: must be at least 0")

    def tell(self, split: Split, k: int, kind: Told, seed: int) -> NDArray[np.integer]:
        return noisy_next(split.measured, self.sigma, _generator(seed))


@dataclass(frozen=True, eq=False)
class Given(Predictor):
    """What a file says, for every request of the trace or for every measured one.

    Attributes:
        kind: what it holds.
        values: integers ``[n]``.
    """

    name: ClassVar[str] = "file"

    kind: Told
    values: NDArray[np.integer]

    @property
    def kinds(self) -> tuple[Told, ...]:  # type: ignore[override]
        return (self.kind,)

    def check(self, split: Split) -> None:
        """Raises ValueError unless there are as many entries as requests."""
        measured = len(split.measured)
        if len(self.values) not in (measured, len(split.before) + measured):
            raise ValueError(
                f"--predictor {self.spec}: holds {len(self.values)} predictions for {len(split.before) + measured} "
                f"requests, {measured} of them measured"
            )

    def tell(self, split: Split, k: int, kind: Told, seed: int) -> NDArray[np.integer]:
        return self.values[len(self.values) - len(split.measured) :]


PREDICTORS: dict[str, type[Predictor]] = {cls.name: cls for cls in (Learned, ReuseDistance, Oracle, Flip, NoisyNext)}
"""By name."""


def names(kind: Told) -> tuple[str, ...]:
    """The names of predictors that say that."""
    return tuple(name for name, cls in PREDICTORS.items() if kind in cls.kinds)


def make(spec: str) -> Predictor:
    """The predictor that ``spec`` describes: ``learned``, ``flip:p0=0.1,p1=0.2``, or a file as ``bits.txt:kind=phase``.

    Raises ValueError for a name that is neither known nor a file's, a parameter that there is not, or is out of its
    range, and a file that does not hold bits.

    >>> make("reuse-distance:c=2")
    ReuseDistance(spec='reuse-distance:c=2', c=2.0)
    """
    name, _, rest = spec.partition(":")
    values = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"predictor {spec!r}: {pair!r} is not key=value")
        values[key.strip()] = value.strip()
    cls = PREDICTORS.get(name)
    try:
        if cls is None:
            return _given(name, values)
        known: dict[str, Any] = {field.name: type(field.default) for field in dataclasses.fields(cls)[1:]}
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"no parameter {unknown[0]!r}; it has: {', '.join(known) or 'none'}")
        return cls(spec, **{key: known[key](value) for key, value in values.items()})
    except ValueError as error:
        raise ValueError(f"predictor {spec!r}: {error}") from error


def _given(path: str, values: dict[str, str]) -> Given:
    if not Path(path).exists():
        close = difflib.get_close_matches(path, PREDICTORS, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"neither known nor a file; {meant}known: {', '.join(PREDICTORS)}")
    kind = values.pop("kind", "discard")
    kinds = [known for known in get_args(Told) if known != "none"]
    if values or kind not in kinds:
        raise ValueError(f"a file has only the parameter kind, one of {', '.join(kinds)}")
    found = read_ids(path, ("bit", "bits", "next"), names=False)
    if kind != "next" and (wrong := np.flatnonzero((found != 0) & (found != 1))).size:
        raise ValueError(f"{path}: prediction {int(wrong[0]) + 1} is {found[wrong[0]]}, not 0 or 1")
    return Given(Path(path).name, next(known for known in kinds if known == kind), found)


def _bits(kind: Told) -> Kind:
    assert kind in ("discard", "phase")
    return "phase" if kind == "phase" else "discard"


def _generator(seed: int) -> np.random.Generator:
    """The predictor's own generator, apart from the algorithm's."""
    return np.random.default_rng([seed, 2])
