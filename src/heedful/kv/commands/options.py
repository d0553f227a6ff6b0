"""What is asked for on the command line, checked before any work: policies, budgets, prompts."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from heedful import models
from heedful.kv.base import Policy, Share, Size, Sized, resolve
from heedful.kv.policies import make
from heedful.lab.errors import LabError

Protocol = Literal["aware", "agnostic", "reask"]
"""When a policy decides about a prompt: when its question has been read; before it; when a first question has been
read, and only the answer to a second one counts."""
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

_DRAFTER = re.compile(r"(?<=[:,]drafter=)[^,]+")
LONG_PROMPT = ".*the prompt alone is longer"
"""A warning of policies that do not cut prompts; the measured slots say the same."""


@dataclass(frozen=True)
class Contender:
    """A policy to compare, at one budget.

    Attributes:
        spec: its name and parameters, as given.
        asked: the budget as given; None for a policy that has none.
        policy: what :func:`heedful.kv.policies.make` made of the two.
    """

    spec: str
    asked: Size | None
    policy: Policy

    @property
    def budget(self) -> str:
        """The budget as text, empty for a policy that has none."""
        return "" if self.asked is None else size_text(self.asked)

    @property
    def slots(self) -> int | None:
        """The budget in slots; None for a policy that has none, or a share of a prompt that may have any length."""
        size = getattr(self.policy, "budget", None)
        return size if isinstance(size, int) else None


def size_text(size: Size) -> str:
    """A budget as people write it.

    >>> size_text(Share(0.125)), size_text(64)
    ('12.5%', '64')
    """
    return f"{100 * size.value:g}%" if isinstance(size, Share) else str(size)


def read_budgets(text: str, option: str = "--budgets") -> tuple[Size, ...]:
    """The budgets in a comma-separated list: shares (``0.2``, ``20%``) and numbers of slots (``64``).

    Raises LabError for anything else, zero, negative and not-a-number included.

    >>> read_budgets("0.1,20%,64")
    (Share(value=0.1), Share(value=0.2), 64)
    """
    return _distinct(option, (_read_budget(part, option) for part in _parts(text)))


def _read_budget(text: str, option: str) -> Size:
    number, percent = (text[:-1], 100.0) if text.endswith("%") else (text, 1.0)
    try:
        value = float(number) / percent
    except ValueError:
        value = math.nan
    if percent == 1.0 and text.isdecimal() and value >= 1:
        return int(text)
    if 0 < value < 1 or (percent == 100.0 and value == 1):
        return Share(value)
    raise LabError(
        f"{option} {text!r}: a budget is a share of the length above 0 and below 1 (0.2, or 20%), "
        "or a whole number of slots from 1 on (64)"
    )


def read_specs(text: str, option: str = "--policies") -> tuple[str, ...]:
    """The policies in a comma-separated list; a part like ``window=32`` belongs to the policy before it.

    Raises LabError if there is none.

    >>> read_specs("h2o, lazy-eviction:alpha=0.01,window=32,tova")
    ('h2o', 'lazy-eviction:alpha=0.01,window=32', 'tova')
    """
    specs: list[str] = []
    for part in _parts(text):
        if specs and "=" in part and ":" not in part:
            specs[-1] += f",{part}"
        else:
            specs.append(part)
    return _distinct(option, specs)


def read_tasks(text: str) -> tuple[str, ...]:
    """The tasks in a comma-separated list. Raises LabError if there is none."""
    return _distinct("--tasks", _parts(text))


def read_protocol(text: str) -> Protocol:
    """The protocol of that name. Raises LabError if there is none."""
    for protocol in PROTOCOLS:
        if text == protocol:
            return protocol
    raise LabError(f"--protocol {text!r}: must be one of {', '.join(PROTOCOLS)}")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _distinct(option: str, values: Iterable[Any]) -> tuple[Any, ...]:
    found = tuple(dict.fromkeys(values))
    if not found:
        raise LabError(f"{option} is empty")
    return found


def unsized(spec: str) -> Policy:
    """A policy that keeps everything, for what it is and not what it does.

    Raises LabError for an unknown policy or parameter, and for a budget among the parameters.
    """
    policy = _made(spec, None)
    if isinstance(policy, Sized) and policy.budget != Share(1.0):
        raise LabError(f"policy {spec!r}: give the budget as an option of the command")
    return policy


def decides_once(policy: Policy) -> bool:
    """Whether a policy evicts when the prompt has been read and never afterwards."""
    idle = type(policy).decoded is Policy.decoded or getattr(policy, "decode", "") in ("keep", "freeze")
    return policy.evicts and idle


def tell_thresholds(specs: Iterable[str], model: str, notice: Callable[[str], None]) -> None:
    """Tells ``notice``, for policies whose ``alpha`` nobody chose for this model, which one they use.

    ``alpha``, the attention weight from which an entry counts as used, belongs to a model.
    """
    used: dict[float, list[str]] = {}
    for spec in dict.fromkeys(specs):
        alpha = getattr(unsized(spec), "alpha", None)
        if alpha is not None:
            used.setdefault(alpha, []).append(spec)
    for alpha, having in used.items():
        names = [spec.replace(f":alpha={alpha}", "") for spec in having]
        notice(
            f"notice: alpha={alpha:g} of {', '.join(names)} was not chosen for {model}; calibrate it with "
            f"heedful.kv.replay.record and recurrence, and give it as {names[0].partition(':')[0]}:alpha=..."
        )


def contenders(
    specs: Iterable[str],
    sizes: Sequence[Size],
    length: int,
    text: str = "",
    *,
    resolved: bool = True,
    window: int | None = None,
    left_out: Callable[[str], None] | None = None,
) -> tuple[Contender, ...]:
    """Every policy at every budget, the full cache first; a policy without a budget once.

    Args:
        specs: policies, as :func:`heedful.kv.policies.make` takes them.
        sizes: budgets.
        length: tokens of the shortest text that shares will be of.
        text: what that text is, empty if all are alike.
        resolved: give policies the slots that shares of ``length`` are, not the shares.
        window: the longest observation window of policies that were not given one; None for no limit.
        left_out: told which policies cannot work with a budget and are left out, as long as another one can.

    Raises LabError as :func:`unsized`, and for a budget below what a policy needs unless ``left_out`` is told.
    """
    found: list[Contender] = []
    problems: dict[Size, list[tuple[str, LabError]]] = {}
    for spec in dict.fromkeys(("full", *specs)):
        plain = unsized(spec)
        if not isinstance(plain, Sized):
            found.append(Contender(spec, None, plain))
            continue
        options = _shortened(spec, plain, window)
        for size in sizes:
            try:
                policy = _fitting(spec, size, length, text, options)
            except LabError as error:
                problems.setdefault(size, []).append((spec, error))
                continue
            found.append(Contender(spec, size, policy if resolved else _made(spec, size, options)))
    for size, failed in problems.items():
        (_, problem), *others = failed
        if left_out is None or not any(contender.asked == size for contender in found):
            raise LabError(f"{problem}; raise the budget or leave the policy out")
        likewise = f"; likewise {', '.join(spec for spec, _ in others)}" if others else ""
        left_out(f"left out: {problem}{likewise}")
    return tuple(found)


def _shortened(spec: str, policy: Policy, window: int | None) -> dict[str, int]:
    """The option that shortens a policy's observation window to ``window``, if ``spec`` says nothing about it."""
    own: Any = {field.name: field.default for field in dataclasses.fields(policy)}.get("observation_window")
    if window is None or own is None or own <= window or "observation_window=" in spec:
        return {}
    return {"observation_window": window}


def _fitting(spec: str, size: Size, length: int, text: str, options: Mapping[str, int]) -> Policy:
    if isinstance(size, int):
        return _made(spec, size, options)
    slots = int(resolve(size, length))
    share = f"{size_text(size)} of {text or f'{length} tokens'}{f' ({length} tokens)' if text else ''}"
    if slots < 1:
        raise LabError(f"policy {spec!r}: {share} is no slot at all")
    try:
        return _made(spec, slots, options)
    except LabError as error:
        raise LabError(f"{error}; that is {share}") from error


def _made(spec: str, size: Size | None, options: Mapping[str, int] | None = None) -> Policy:
    """``make(spec, size, **options)``, with every mistake as a LabError that names the policy."""
    try:
        return make(_DRAFTER.sub(_shipped, spec), size, **(options or {}))
    except TypeError as error:
        raise LabError(f"policy {spec!r}: a parameter is of the wrong kind ({error})") from error
    except ValueError as error:
        message = str(error)
        told = message.startswith(("unknown policy", "policy "))
        raise LabError(message if told else f"policy {spec!r}: {message}") from error


def _shipped(drafter: re.Match[str]) -> str:
    """A shipped model's folder for its name."""
    name = drafter.group()
    return str(models.path(name)) if name in models.names() else name


def unknown(kind: str, name: str, known: Iterable[str]) -> LabError:
    """The error for a name that is not known, with the closest one that is."""
    known = tuple(known)
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return LabError(f"unknown {kind} {name!r}; {meant}known: {', '.join(known)}")
