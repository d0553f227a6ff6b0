"""What an experiment is: a declaration of its question, its work, its claims and its pictures.

Nothing here runs anything, and nothing here imports more than the standard library, so that listing what
there is stays fast. A module of a room's ``experiments`` package ends in ``experiment = Experiment(...)``;
its top level imports only :mod:`heedful.lab` and the standard library, and everything heavy is imported
inside ``measure``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab.context import Context

Scalar = str | int | float | bool | None
Row = Mapping[str, Scalar]
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_NAME = re.compile(r"[a-z0-9][a-z0-9_.+-]*")


def canonical(value: Any) -> str:
    """The one JSON text of a value made of scalars, lists and string-keyed mappings.

    >>> canonical({"b": 1, "a": [0.5, None]})
    '{"a":[0.5,null],"b":1}'
    """
    return _ENCODER.encode(value)


def digest(*parts: Any) -> str:
    """The first 16 hex digits of the SHA-256 of the parts' canonical texts."""
    return hashlib.sha256("\n".join(canonical(part) for part in parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Paper:
    """Where a method was published. ``arxiv`` is the bare id (``"2306.14048"``), empty if there is none."""

    title: str
    authors: str
    year: int
    arxiv: str = ""
    venue: str = ""


@dataclass(frozen=True)
class Metric:
    """A measured quantity.

    Attributes:
        name: the column's name in rows.
        unit: ``"1"`` for shares and counts, ``"s"``, ``"bytes"``, ``"tokens/s"``, ``"bits/byte"``, ...
        better: which direction is better; ``"neither"`` for descriptive quantities.
        meaning: one sentence for the report.
        timing: True if it depends on the machine's speed. Timings are stored apart from values, may only be
            reported by exclusive cells, and are never compared bit for bit.
    """

    name: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    meaning: str
    timing: bool = False


@dataclass(frozen=True)
class Cell:
    """The unit of work: method x setting x seed.

    Attributes:
        params: what distinguishes this cell; scalars only. The cell's rows carry these columns.
        exclusive: it times something: it runs alone, repeated, after all other cells.
        limit_s: wall-clock limit in seconds for this cell; None for the scale's limit.

    >>> Cell.of(method="h2o", seed=0).id == Cell.of(seed=0, method="h2o").id
    True
    """

    params: tuple[tuple[str, Scalar], ...]
    exclusive: bool = False
    limit_s: float | None = None

    @classmethod
    def of(cls, *, exclusive: bool = False, limit_s: float | None = None, **params: Scalar) -> Cell:
        """A cell from keyword parameters. Raises ValueError for a value that is not a finite scalar."""
        for name, value in params.items():
            if not isinstance(value, str | int | float | bool | None) or (
                isinstance(value, float) and not math.isfinite(value)
            ):
                raise ValueError(f"cell parameter {name}={value!r} is not a finite scalar or a string")
        return cls(tuple(sorted(params.items())), exclusive, limit_s)

    def __getitem__(self, name: str) -> Any:
        return self.dict[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.dict.get(name, default)

    @cached_property
    def dict(self) -> dict[str, Scalar]:
        """The parameters by name."""
        return dict(self.params)

    @cached_property
    def id(self) -> str:
        """16 hex digits, the same in every process and on every machine."""
        return digest(self.params)


Where = Mapping[str, Scalar | Sequence[Scalar]]
"""A selection of rows: column -> the value, or the values, that it may have."""


@dataclass(frozen=True)
class Claim:
    """A statement that the measurement will decide, written down before measuring.

    The effect is ``metric(treatment) - metric(control)``, paired over the unit of replication and every other
    column that both sides share; with a number as ``control`` it is ``metric(treatment) - control``; with
    ``relative=True`` it is the effect divided by the control's mean. Signs follow the metric's direction: a
    positive effect is an improvement of the treatment (for ``"neither"``: a larger value).

    Attributes:
        id: short name, unique within the experiment.
        text: the claim in words.
        metric: name of the metric it is decided on.
        kind: ``"exact"``: no interval, ``metric`` counts violations and must be 0 in every row of
            ``treatment``; ``"seeds"``: interval over replications (hierarchical bootstrap over the units, or
            a paired t interval when there are fewer than 20 of them); ``"log"``: moving-block bootstrap over
            consecutive rows of a real log, ordered by ``unit[-1]``.
        rule: ``"superior"``: holds if the interval lies above ``d``, fails if it lies below ``d``;
            ``"noninferior"``: the same against ``-d``; ``"tie"``: holds if the interval lies inside (-d, d),
            fails if it lies outside; otherwise inconclusive. Ignored for ``"exact"``.
        d: the minimal relevant effect, in the metric's unit (a share if ``relative``); >= 0.
        unit: the columns that identify a replication, outermost first, as ``("seed", "item")``. The interval
            speaks of other values of the outermost one, and is made from as many numbers as it has values;
            where seeds only label independent draws of items, it is the items that replicate: ``("item",)``.
        treatment: the rows of the method under test.
        control: the rows of its rival, or a number.
        where: which rows of both sides count.
        relative: the effect is a share of the control's mean.
        boundary: a claim about where the method should *not* win.
        published: the paper's figure, as text.
        fixed: what was not varied, as ``"one checkpoint"``; every verdict names it.
        reason: if not empty, the claim is *not measured*, for this reason.
    """

    id: str
    text: str
    metric: str
    kind: Literal["exact", "seeds", "log"] = "seeds"
    rule: Literal["superior", "noninferior", "tie"] = "superior"
    d: float = 0.0
    unit: tuple[str, ...] = ("seed", "item")
    treatment: Where = field(default_factory=dict)
    control: Where | float = 0.0
    where: Where = field(default_factory=dict)
    relative: bool = False
    boundary: bool = False
    published: str = ""
    fixed: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Scale:
    """How much of the work is done.

    Attributes:
        params: what ``cells`` is called with; ``--set KEY=VALUE`` overrides one, ``--seeds`` overrides
            ``seeds``.
        limit_s: wall-clock limit of one cell, in seconds.
        leaves_out: what this scale leaves out of the paper's plan, for the system's page.
        repeats: how often an exclusive cell is measured after its warm-up; the limit is for each time.
    """

    params: Mapping[str, Any]
    limit_s: float = 600.0
    leaves_out: str = ""
    repeats: int = 5


@dataclass(frozen=True)
class Tuning:
    """The stage that chooses hyper-parameters, on calibration items only, with equal effort for every method.

    Attributes:
        grids: method -> its candidate settings. All grids have the same length (padding a grid by repeating
            is refused); a method with nothing to tune is left out. Called with the scale's parameters.
        cells: ``(params, method, setting) -> cells`` measuring one candidate on calibration items.
        metric: the candidate with the best mean of this metric wins; ties go to the earlier one.
    """

    grids: Callable[[Mapping[str, Any]], Mapping[str, Sequence[Mapping[str, Scalar]]]]
    cells: Callable[[Mapping[str, Any], str, Mapping[str, Scalar]], Iterable[Cell]]
    metric: str


@dataclass(frozen=True)
class Figure:
    """A picture of the report, with the table behind it.

    Attributes:
        title: what is shown.
        chart: an Altair chart.
        table: the numbers that the chart draws.
        caption: what to see in it, one or two sentences.
    """

    title: str
    chart: Any
    table: pl.DataFrame
    caption: str = ""


@dataclass(frozen=True)
class Experiment:
    """One published system's question, its work and its claims.

    Attributes:
        slug: the system's name on the command line, as ``"lazy-eviction"``.
        room: the room it belongs to, as ``"kv"``.
        title: the system's name in print.
        question: one sentence.
        summary: what the method does, one sentence.
        paper: where it was published.
        metrics: everything that rows may report beside their dimensions.
        dimensions: further columns that identify a row within a cell (``item``, ``step``), beyond the cell's
            own.
        scales: ``smoke``, ``small`` and ``full``.
        cells: ``(params, tuned) -> cells``; ``tuned`` maps a method to the setting that the tuning stage
            chose (empty if there is no tuning stage).
        measure: ``(cell, ctx) -> rows``; deterministic given the cell and ``ctx``, writes nothing.
        claims: at least one of them a boundary claim.
        figures: ``rows -> pictures``; the rows are one polars frame, values and timings joined.
        tuning: the tuning stage, if there is one.
        inputs: ``params -> name -> content digest`` of what cells read beside their parameters (a shipped
            checkpoint, a data file); part of a run's identity.
        modules: dotted names of modules or packages whose source is part of a run's identity.
        example: a library example for ``heedful show``; it runs as a test.
        on_device: whether ``measure`` places its tensors on ``ctx.device``; ``--device`` is refused where it does not.
        version: raised by hand when results change for a reason that the source does not show.
    """

    slug: str
    room: str
    title: str
    question: str
    summary: str
    paper: Paper
    metrics: tuple[Metric, ...]
    scales: Mapping[str, Scale]
    cells: Callable[[Mapping[str, Any], Mapping[str, Mapping[str, Scalar]]], Iterable[Cell]]
    measure: Callable[[Cell, Context], Iterable[Row]]
    claims: tuple[Claim, ...]
    dimensions: tuple[str, ...] = ()
    figures: Callable[[pl.DataFrame], Sequence[Figure]] | None = None
    tuning: Tuning | None = None
    inputs: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None
    modules: tuple[str, ...] = ()
    example: str = ""
    on_device: bool = False
    version: int = 1

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.metrics]
        for name in (self.slug, self.room):
            if not _NAME.fullmatch(name):
                raise ValueError(f"experiment {self.slug!r}: {name!r} is not a lower-case name")
        if len(set(names)) != len(names):
            raise ValueError(f"experiment {self.slug!r}: a metric is declared twice")
        if "smoke" not in self.scales or "small" not in self.scales:
            raise ValueError(f"experiment {self.slug!r}: scales 'smoke' and 'small' are required")
        if not any(claim.boundary for claim in self.claims):
            raise ValueError(f"experiment {self.slug!r}: at least one claim must be a boundary claim")
        ids = [claim.id for claim in self.claims]
        if len(set(ids)) != len(ids):
            raise ValueError(f"experiment {self.slug!r}: two claims share an id")
        for claim in self.claims:
            if claim.metric not in names:
                raise ValueError(
                    f"experiment {self.slug!r}: claim {claim.id!r} names no declared metric: {claim.metric!r}"
                )
            if not (math.isfinite(claim.d) and claim.d >= 0):
                raise ValueError(f"experiment {self.slug!r}: claim {claim.id!r}: d must be >= 0, got {claim.d}")

    def metric(self, name: str) -> Metric:
        """The declared metric of that name; KeyError if there is none."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)
