"""What is asked for on the command line, checked before any work: policies, models, estimators, shares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from heedful.bandits import learners
from heedful.bandits.arms import ArmMethod
from heedful.bandits.exploring import OracleMethod, Rule
from heedful.bandits.oracle_policies import ContextualEpsilon, Greedy
from heedful.bandits.oracles import ORACLES, Oracle
from heedful.lab.errors import LabError

ESTIMATORS = ("dr", "snips", "ips", "direct")
WEIGHTED = ("dr", "snips", "ips")
"""Those that need propensities."""


@dataclass(frozen=True)
class Contender:
    """A policy to evaluate.

    Attributes:
        spec: its name.
        oracle: what its model is, ``""`` if it has none.
        rule: what turns predictions into probabilities; None for a learner.
        learner: what learns online and is replayed; None for a rule.
    """

    spec: str
    oracle: str
    rule: Rule | None
    learner: ArmMethod | None = None


def read_oracles(text: str) -> dict[str, Oracle]:
    """The models in a comma-separated list, by name. Raises LabError for none, or one that is not known."""
    names = _distinct("--oracle", _parts(text))
    if unknown := [name for name in names if name not in ORACLES]:
        raise LabError(f"--oracle {unknown[0]!r}: there are {', '.join(ORACLES)}")
    return {name: ORACLES[name]() for name in names}


def read_policies(text: str, oracles: Iterable[str]) -> tuple[Contender, ...]:
    """The policies in a comma-separated list, each that has a model once with each.

    A part like ``gamma=300`` belongs to the policy before it. ``uniform``; ``best-action`` (greedy without contexts);
    ``greedy``; every method of the room on a regression oracle; and every other one that chooses an action, which is
    replayed.

    Raises LabError for none, or one that is not known, or is given what it does not have.
    """
    found = []
    for spec in _distinct("--policies", split_specs(text)):
        if spec == "uniform":
            found.append(Contender(spec, "", ContextualEpsilon(epsilon=1.0)))
        elif spec == "best-action":
            found.append(Contender(spec, "", Greedy()))
        elif spec == "greedy":
            found += [Contender(spec, oracle, Greedy()) for oracle in oracles]
        else:
            method = _made(spec)
            if isinstance(method, OracleMethod):
                found += [Contender(spec, oracle, method) for oracle in oracles]
            else:
                found.append(Contender(spec, "", None, method))
    return tuple(found)


def _made(spec: str) -> Any:
    name = spec.partition(":")[0]
    if name in ("best-action", "greedy"):
        raise LabError(f"--policies {spec!r}: {name} has no parameters; leave out {spec[len(name) :]!r}")
    known = dict.fromkeys(["uniform", "best-action", "greedy", *learners.names("arms")])
    if name in learners.names() and name not in known:
        raise LabError(f"--policies {spec!r}: does not choose one of a log's actions; there are: {', '.join(known)}")
    if name not in known:
        raise LabError(f"--policies {spec!r}: is not known; there are: {', '.join(known)}")
    try:
        method = learners.make(spec)
    except ValueError as error:
        raise LabError(f"--policies: {error}") from error
    if method.per_action:
        raise LabError(f"--policies {spec!r}: shared=true needs features per action, which a log does not have")
    return method


def read_estimators(text: str | None, weighted: bool) -> tuple[str, ...]:
    """The estimators in a comma-separated list; by default all that the log allows.

    Args:
        text: the list; None for the default.
        weighted: whether propensities are known, or estimated.

    Raises LabError for one that is not known, and for one that needs propensities where there are none.
    """
    if text is None:
        return ESTIMATORS if weighted else ("direct",)
    names = _distinct("--estimators", _parts(text))
    for name in names:
        if name not in ESTIMATORS:
            raise LabError(f"--estimators {name!r}: there are {', '.join(ESTIMATORS)}")
        if name in WEIGHTED and not weighted:
            raise LabError(
                f"--estimators {name!r}: needs the probability with which each action was chosen; name its column with "
                "--propensity, or add --estimate-propensity"
            )
    return tuple(name for name in ESTIMATORS if name in names)


def read_names(option: str, text: str | None) -> tuple[str, ...] | None:
    """The names in a comma-separated list; None if there is none. Raises LabError for an empty one."""
    return None if text is None else _distinct(option, _parts(text))


def read_share(text: str) -> float:
    """The share in ``--split``: ``50%`` or ``0.5``. Raises LabError unless it lies in (0, 1)."""
    number, percent = (text[:-1], 100.0) if text.endswith("%") else (text, 1.0)
    try:
        share = float(number) / percent
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise LabError(f"--split {text!r}: must be a share of the log above 0 and below 1 (0.5, or 50%)")
    return share


def split_specs(text: str) -> list[str]:
    """Parts between commas; one like ``gamma=300`` belongs to the one before it.

    >>> split_specs("greedy, squarecb:scale=1,exponent=0.3,ucb1")
    ['greedy', 'squarecb:scale=1,exponent=0.3', 'ucb1']
    """
    specs: list[str] = []
    for part in _parts(text):
        if specs and "=" in part and ":" not in part:
            specs[-1] += f",{part}"
        else:
            specs.append(part)
    return specs


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _distinct(option: str, values: Sequence[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(values))
    if not found:
        raise LabError(f"{option} is empty")
    return found
