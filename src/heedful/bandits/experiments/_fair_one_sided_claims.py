"""What was claimed of individually fair learning with one-sided feedback before it was measured."""

from __future__ import annotations

import itertools
from typing import Any

from heedful.lab import Claim

PRICES = (0.0, 2.0, 8.0, 30.0)
"""Of a report, in errors."""


def _side(method: str, price: float) -> dict[str, Any]:
    return {"method": method, "price": price}


_MAIN: dict[str, Any] = {"part": "main"}
_REAL = "random rules and panels over two real populations"

CLAIMS = (
    Claim(
        "mechanism",
        "Regret plus C x slack per violation is at most Lagrangian regret in every run.",
        "broken",
        kind="exact",
        treatment={"part": ["main", "exponents"], "method": ["exp2", "full-information"]},
        published="the reduction",
    ),
    Claim(
        "finite-time",
        "With the theory's settings mean Lagrangian regret stays within the finite-time bound at every horizon.",
        "beyond",
        kind="exact",
        treatment={"part": "exponents"},
    ),
    *(
        Claim(
            f"{what}-exponent-{people}",
            f"With the theory's settings {title} slower than rounds (exponent below 1) among {among}.",
            f"{what}_exponent",
            unit=("seed",),
            treatment={"part": "exponents", "people": people},
            control=1.0,
            published="at most 4/5",
        )
        for what, title in (("regret", "regret grows"), ("violation", "violations grow"))
        for people, among in (("made", "made people"), ("german", "applicants of German Credit"))
    ),
    *(
        Claim(
            f"price-{high:g}",
            f"Raising the price of a report from {low:g} to {high:g} lowers violations by at least a fifth.",
            "violation_rate",
            d=0.2,
            relative=True,
            unit=("seed",),
            treatment=_side("exp2", high),
            control=_side("exp2", low),
            where=_MAIN,
            fixed=_REAL,
        )
        for low, high in itertools.pairwise(PRICES)
    ),
    Claim(
        "cheap",
        "A price of 8 costs at most 0.01 errors per person against no price.",
        "error",
        rule="noninferior",
        d=0.01,
        unit=("seed",),
        treatment=_side("exp2", 8.0),
        control=_side("exp2", 0.0),
        where=_MAIN,
        fixed=_REAL,
    ),
    Claim(
        "one-sided",
        "With a price of 8 one-sidedness costs Exp2 at most 0.005 errors per person against full information.",
        "error",
        rule="noninferior",
        d=0.005,
        unit=("seed",),
        treatment=_side("exp2", 8.0),
        control=_side("full-information", 8.0),
        where=_MAIN,
        fixed=_REAL,
    ),
    Claim(
        "naive",
        "Without importance weights at least 0.002 more errors per person are made (no price).",
        "error",
        d=0.002,
        unit=("seed",),
        treatment=_side("exp2", 0.0),
        control=_side("naive-weights", 0.0),
        where=_MAIN,
        fixed=_REAL,
    ),
    Claim(
        "changing",
        "Under a panel that changes every round a price of 8 still halves the violation rate.",
        "violation_rate",
        d=0.5,
        relative=True,
        unit=("seed",),
        treatment={"price": 8.0},
        control={"price": 0.0},
        where={"part": "changing"},
        published="any dynamically chosen panel",
    ),
    Claim(
        "ftpl-fair",
        "FTPL with a price of 8 halves Exp2's violation rate without one.",
        "violation_rate",
        d=0.5,
        relative=True,
        unit=("seed",),
        treatment=_side("context-semi-bandit-ftpl", 8.0),
        control=_side("exp2", 0.0),
        where=_MAIN,
        fixed=_REAL,
    ),
    Claim(
        "ftpl-accurate",
        "FTPL, which needs an optimiser alone, makes at most 0.01 more errors per person than Exp2 (price 8).",
        "error",
        rule="noninferior",
        d=0.01,
        unit=("seed",),
        treatment=_side("context-semi-bandit-ftpl", 8.0),
        control=_side("exp2", 8.0),
        where=_MAIN,
        published="oracle-efficient, T^(41/45)",
        fixed=_REAL,
    ),
    Claim(
        "recovers-naive",
        "From a pessimistic start among 30 % good people Exp2 makes fewer errors than greedy naive weights.",
        "error",
        unit=("seed",),
        treatment={"method": "exp2"},
        control={"method": "naive-weights"},
        where={"part": "pessimistic"},
    ),
    Claim(
        "recovers-bank",
        "Among 30 % good people Exp2, from a pessimistic start, makes fewer errors than the bank's rule.",
        "error",
        unit=("seed",),
        treatment={"method": "exp2"},
        control={"method": "bank-rule"},
        where={"part": "pessimistic"},
    ),
    Claim(
        "tuned-one-sided",
        "With both tuned (on made people), one-sidedness costs Exp2 at most 0.005 against full information.",
        "cost",
        rule="noninferior",
        d=0.005,
        unit=("seed",),
        treatment={"method": "exp2"},
        control={"method": "full-information"},
        where={"part": "tuned"},
        fixed=_REAL,
    ),
    Claim(
        "tuned-naive",
        "With both tuned Exp2 costs less than naive weights, a report counting as one error.",
        "cost",
        unit=("seed",),
        treatment={"method": "exp2"},
        control={"method": "naive-weights"},
        where={"part": "tuned"},
        fixed=_REAL,
    ),
    Claim(
        "unfair-is-better",
        "The bank's rule, which no auditor stops, makes fewer errors than Exp2 with a price of 8.",
        "error",
        unit=("seed",),
        boundary=True,
        treatment=_side("bank-rule", 0.0),
        control=_side("exp2", 8.0),
        where=_MAIN,
        fixed=_REAL,
    ),
    Claim(
        "easy",
        "Among 90 % good people accepting all makes at most 0.005 more errors per person than Exp2.",
        "error",
        rule="noninferior",
        d=0.005,
        unit=("seed",),
        boundary=True,
        treatment={"method": "accept-all"},
        control={"method": "exp2"},
        where={"part": "easy"},
    ),
    Claim(
        "wide",
        "Where auditors find nearly everything negligible a price changes errors by at most 0.001.",
        "error",
        rule="tie",
        d=0.001,
        unit=("seed",),
        boundary=True,
        treatment={"price": 8.0},
        control={"price": 0.0},
        where={"part": "wide"},
    ),
    Claim(
        "large-class",
        "With 3002 rules and 500 rounds accepting all makes at most 0.01 more errors per person than Exp2.",
        "error",
        rule="noninferior",
        d=0.01,
        unit=("seed",),
        boundary=True,
        treatment={"method": "accept-all"},
        control={"method": "exp2"},
        where={"part": "large-class"},
    ),
)
