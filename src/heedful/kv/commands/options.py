"""What is asked for on the command line, checked before any work: policies, budgets, prompts."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heedful.kv.base import Policy, Share, Size, Sized, resolve
from heedful.kv.policies import make
from heedful.lab.errors import LabError

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


def size_text(size: Size) -> str:
    """A budget as people write it.

    >>> size_text(Share(0.125)), size_text(64)
    ('12.5%', '64')
    """
    return f"{100 * size.value:g}%" if isinstance(size, Share) else str(size)


def read_budgets(text: str) -> tuple[Size, ...]:
    """The budgets in a comma-separated list: shares (``0.2``, ``20%``) and numbers of slots (``64``).

    Raises LabError for anything else, zero, negative and not-a-number included.

    >>> read_budgets("0.1,20%,64")
    (Share(value=0.1), Share(value=0.2), 64)
    """
    return _distinct("--budgets", (_read_budget(part) for part in _parts(text)))


def _read_budget(text: str) -> Size:
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
        f"--budgets {text!r}: a budget is a share of the length above 0 and below 1 (0.2, or 20%), "
        "or a whole number of slots from 1 on (64)"
    )


def read_specs(text: str) -> tuple[str, ...]:
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
    return _distinct("--policies", specs)


def read_tasks(text: str) -> tuple[str, ...]:
    """The tasks in a comma-separated list. Raises LabError if there is none."""
    return _distinct("--tasks", _parts(text))


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
        raise LabError(f"policy {spec!r}: give its budget with --budgets")
    return policy


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
    left_out: Callable[[str], None] | None = None,
) -> tuple[Contender, ...]:
    """Every policy at every budget, the full cache first; a policy without a budget once.

    Args:
        specs: policies, as :func:`heedful.kv.policies.make` takes them.
        sizes: budgets.
        length: tokens of the shortest text that shares will be of.
        text: what that text is, empty if all are alike.
        resolved: give policies the slots that shares of ``length`` are, not the shares.
        left_out: told why a policy that cannot work with a budget is left out, as long as another one can.

    Raises LabError as :func:`unsized`, and for a budget below what a policy needs unless ``left_out`` is told.
    """
    found: list[Contender] = []
    problems: list[tuple[Size, LabError]] = []
    for spec in dict.fromkeys(("full", *specs)):
        plain = unsized(spec)
        if not isinstance(plain, Sized):
            found.append(Contender(spec, None, plain))
            continue
        for size in sizes:
            try:
                policy = _fitting(spec, size, length, text)
            except LabError as error:
                problems.append((size, error))
                continue
            found.append(Contender(spec, size, policy if resolved else _made(spec, size)))
    for size, problem in problems:
        if left_out is None or not any(contender.asked == size for contender in found):
            raise LabError(f"{problem}; raise --budgets or leave it out of --policies")
        left_out(f"left out: {problem}")
    return tuple(found)


def _fitting(spec: str, size: Size, length: int, text: str) -> Policy:
    if isinstance(size, int):
        return _made(spec, size)
    slots = int(resolve(size, length))
    share = f"{size_text(size)} of {text or f'{length} tokens'}{f' ({length} tokens)' if text else ''}"
    if slots < 1:
        raise LabError(f"policy {spec!r}: {share} is no slot at all")
    try:
        return _made(spec, slots)
    except LabError as error:
        raise LabError(f"{error}; that is {share}") from error


def _made(spec: str, size: Size | None) -> Policy:
    """``make(spec, size)``, with every mistake as a LabError that names the policy."""
    try:
        return make(spec, size)
    except TypeError as error:
        raise LabError(f"policy {spec!r}: a parameter is of the wrong kind ({error})") from error
    except ValueError as error:
        message = str(error)
        told = message.startswith(("unknown policy", "policy "))
        raise LabError(message if told else f"policy {spec!r}: {message}") from error


@dataclass(frozen=True)
class Prompt:
    """A line of a prompts file.

    Attributes:
        line: its number, from 1.
        text: the prompt.
        answer: the answer, or None.
    """

    line: int
    text: str
    answer: str | None


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """The prompts of a JSON Lines file: ``{"prompt": ..., "answer": ...}`` on every line, or no answers.

    Blank lines and other keys are ignored. Raises LabError, with the line's number, for a line that is
    something else, for a file that mixes lines with and without an answer, and for one that is empty or
    cannot be read.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise LabError(f"--prompts {path}: {error.strerror}") from error
    prompts = [_read_prompt(path, i, line) for i, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise LabError(f"--prompts {path}: holds no prompt")
    for prompt in prompts:
        if (prompt.answer is None) != (prompts[0].answer is None):
            has, other = ("has no", "has one") if prompt.answer is None else ("has an", "has none")
            raise LabError(
                f'--prompts {path}, line {prompt.line}: {has} "answer", but line {prompts[0].line} {other}; '
                "give one for every prompt, or for none"
            )
    return tuple(prompts)


def _read_prompt(path: Path, number: int, line: bytes) -> Prompt:
    where = f"--prompts {path}, line {number}"
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise LabError(f"{where}: not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise LabError(f"{where}: not JSON ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise LabError(f"{where}: not JSON that can be read ({error})") from error
    if not isinstance(value, dict):
        raise LabError(f'{where}: not an object; write {{"prompt": "..."}}')
    if "prompt" not in value:
        raise LabError(f'{where}: has no "prompt"')
    for key in ("prompt", "answer"):
        text = value.get(key)
        if key not in value or (key == "answer" and text is None):
            continue
        if not isinstance(text, str):
            raise LabError(f'{where}: "{key}" is {json.dumps(text)[:40]}, not a string')
        if not text.strip():
            raise LabError(f'{where}: "{key}" is empty')
    return Prompt(number, value["prompt"], value.get("answer"))


def unknown(kind: str, name: str, known: Iterable[str]) -> LabError:
    """The error for a name that is not known, with the closest one that is."""
    known = tuple(known)
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return LabError(f"unknown {kind} {name!r}; {meant}known: {', '.join(known)}")
