"""Numbers, intervals, durations and claims as people read them, in the terminal and in the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from heedful.lab.declare import Claim, Metric, Paper, Where, canonical

MISSING = "–"


def number(value: Any, digits: int = 4) -> str:
    """A value in at most ``digits`` significant digits, with thousands separated; ``–`` for none.

    >>> number(0.123456), number(12345.678), number(1234567), number(3e-9), number(None), number(True)
    ('0.1235', '12,346', '1,234,567', '3e-09', '–', 'yes')
    """
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.{digits - 1}g}"
    before = max(1, math.floor(math.log10(abs(value))) + 1) if value else 1
    text = f"{value:,.{max(0, digits - before)}f}"
    if abs(value) < 1:
        text = f"{value:.{digits}g}"
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def effect(value: float | None, low: float | None, high: float | None, unit: str = "1") -> str:
    """An effect with its interval, both to the interval's precision and at most four significant digits.

    >>> effect(0.03127, 0.01181, 0.0507)
    '+0.031 [+0.012, +0.051]'
    >>> effect(-12.0, -14.1, -10.2, "tokens/s")
    '-12.0 [-14.1, -10.2] tokens/s'
    >>> effect(0.25, 0.2, 0.3, "%")
    '+25.0 [+20.0, +30.0] %'
    >>> effect(1 / 3, 1 / 3, 1 / 3 + 1e-12)
    '+0.3333 [+0.3333, +0.3333]'
    >>> effect(0.0, 0.0, 0.0), effect(0.0, None, None), effect(None, None, None)
    ('+0 [+0, +0]', '0', '–')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    factor = 100.0 if unit == "%" else 1.0
    ending = "" if unit in ("1", "") else f" {unit}"
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return (f"+{number(factor * value)}" if value > 0 else number(factor * value)) + ending
    width, size = factor * (high - low) / 2, factor * max(abs(value), abs(low), abs(high))
    places = max(0, min(1 - _magnitude(width), 3 - _magnitude(size))) if size else 0
    middle, left, right = (f"{_unsigned_zero(factor * x, places):+,.{places}f}" for x in (value, low, high))
    return f"{middle} [{left}, {right}]{ending}"


def _magnitude(value: float) -> int:
    """The power of ten of a value's first digit; that of a thousandth of a millionth for anything smaller."""
    return math.floor(math.log10(max(abs(value), 1e-9)))


def _unsigned_zero(value: float, places: int) -> float:
    return round(value, places) + 0.0


def size(bytes: int | None) -> str:
    """A number of bytes in at most three digits, in powers of 1000.

    >>> size(719), size(719188), size(3029533), size(None)
    ('719 B', '719 kB', '3.03 MB', '–')
    """
    if bytes is None:
        return MISSING
    value, unit = float(bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if round(value) < 1000:
            break
        value, unit = value / 1000, larger
    return f"{number(value, 3)} {unit}"


def duration(seconds: float | None) -> str:
    """A length of time, coarse enough to read at a glance.

    >>> duration(0.034), duration(12.34), duration(75), duration(7300), duration(None)
    ('0.034 s', '12 s', '1 min 15 s', '2 h 1 min', '–')
    """
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def moment(stamp: str) -> str:
    """An ISO 8601 time as date and minutes; anything else unchanged.

    >>> moment("2026-11-23T22:31:05+00:00")
    '2026-11-23 22:31 UTC'
    """
    try:
        when = datetime.fromisoformat(stamp)
    except ValueError:
        return stamp
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".rstrip()


def verdict_effect(claim: Claim, metric: Metric, value: float | None, low: float | None, high: float | None) -> str:
    """What was found about a claim: its effect with interval and unit, or how many violations there were.

    >>> score = Metric("score", "1", "higher", "share of right answers")
    >>> verdict_effect(Claim("a", "valid", "score", kind="exact"), score, 0.0, None, None)
    '0 violations'
    >>> verdict_effect(Claim("b", "wins", "score", relative=True), score, 0.1, 0.05, 0.15)
    '+10.0 [+5.0, +15.0] %'
    """
    if claim.kind == "exact":
        return MISSING if value is None else f"{number(value)} violation{'' if value == 1 else 's'}"
    return effect(value, low, high, "%" if claim.relative else metric.unit)


def decision(claim: Claim, metric: Metric) -> str:
    """What has to be so for a claim to hold, in one line.

    >>> score = Metric("score", "1", "higher", "share of right answers")
    >>> decision(Claim("a", "wins", "score", d=0.02, treatment={"m": "h2o"}, control={"m": "x"}), score)
    'score of m=h2o better than that of m=x by more than 0.02; 95 % interval over seed, item'
    >>> decision(Claim("b", "valid", "score", kind="exact"), score)
    'score of all rows is 0 in every row'
    """
    treatment = selection(claim.treatment) or "all rows"
    ending = f" where {selection(claim.where)}" if claim.where else ""
    if claim.kind == "exact":
        return f"{metric.name} of {treatment} is 0 in every row{ending}"
    d = f"{100 * claim.d:g} %" if claim.relative else f"{claim.d:g}{'' if metric.unit == '1' else ' ' + metric.unit}"
    control = number(claim.control) if isinstance(claim.control, int | float) else f"that of {selection(claim.control)}"
    better = {"higher": "better", "lower": "better (lower)", "neither": "larger"}[metric.better]
    worse = {"higher": "worse", "lower": "worse (higher)", "neither": "smaller"}[metric.better]
    relation = {
        "superior": f"{better} than {control} by more than {d}",
        "noninferior": f"{worse} than {control} by less than {d}",
        "tie": f"within {d} of {control}",
    }[claim.rule]
    interval = "moving-block bootstrap" if claim.kind == "log" else "95 % interval"
    return f"{metric.name} of {treatment} {relation}{ending}; {interval} over {', '.join(claim.unit)}"


def citation(paper: Paper) -> str:
    """A paper in one line.

    >>> citation(Paper("On Dice", "A. Gambler", 1654, "1654.00001", "Letters"))
    'A. Gambler (1654). On Dice. Letters, arXiv:1654.00001.'
    """
    source = ", ".join(filter(None, [paper.venue, f"arXiv:{paper.arxiv}" if paper.arxiv else ""]))
    return f"{paper.authors} ({paper.year}). {paper.title}.{f' {source}.' if source else ''}"


def settings(values: Mapping[str, Any]) -> str:
    """Parameters and their values in one line.

    >>> settings({"seeds": 4, "budgets": [0.5, 1], "task": "recall"})
    'seeds=4, budgets=[0.5,1], task=recall'
    """
    return ", ".join(
        f"{name}={value if isinstance(value, str) else canonical(value)}" for name, value in values.items()
    )


def selection(where: Where) -> str:
    """A selection of rows in words.

    >>> selection({"method": "h2o", "budget": [64, 128]})
    'method=h2o, budget=64|128'
    """
    return ", ".join(
        f"{name}={'|'.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in where.items()
    )


def one_line(text: str) -> str:
    """The text with every run of white space made one blank.

    >>> one_line("  two\\n   lines ")
    'two lines'
    """
    return " ".join(text.split())
