"""A prompts file, checked line by line before any work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heedful.kv.commands.options import Protocol
from heedful.lab.errors import LabError

SHAPES: dict[Protocol, str] = {
    "aware": '{"prompt": "..."}, or {"context": "...", "question": "..."}',
    "agnostic": '{"context": "...", "question": "..."}',
    "reask": '{"context": "...", "questions": ["...", "..."], "answers": ["...", "..."]}',
}
"""What a line holds; an ``"answer"`` may follow but for reask, which needs both."""


@dataclass(frozen=True)
class Prompt:
    """A line of a prompts file.

    Attributes:
        line: its number, from 1.
        pieces: what the model is given, in order: the prompt; context and question; or context, a first question, its
            answer and a second question.
        first: how many of these have been read when a policy decides.
        answer: the answer, or None.
    """

    line: int
    pieces: tuple[str, ...]
    first: int
    answer: str | None


def read_prompts(path: Path, protocol: Protocol = "aware") -> tuple[Prompt, ...]:
    """The prompts of a JSON Lines file, see :data:`SHAPES`, with an ``"answer"`` on every line or on none.

    Blank lines and other keys are ignored. Raises LabError, with the line's number, for a line that is
    something else, for a file that mixes lines with and without an answer, and for one that is empty or
    cannot be read.
    """
    prompts = []
    for number, value in read_lines("--prompts", path, SHAPES[protocol]):
        prompts.append(_prompt(number, value, protocol, f"--prompts {path}, line {number}"))
    for prompt in prompts:
        if (prompt.answer is None) != (prompts[0].answer is None):
            has, other = ("has no", "has one") if prompt.answer is None else ("has an", "has none")
            raise LabError(
                f'--prompts {path}, line {prompt.line}: {has} "answer", but line {prompts[0].line} {other}; '
                "give one for every prompt, or for none"
            )
    return tuple(prompts)


def read_lines(option: str, path: Path, shape: str) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file with the numbers of their lines, blank lines aside.

    Args:
        option: how the file was given, for messages.
        path: the file.
        shape: what a line should look like, for messages.

    Raises LabError for a file that cannot be read or holds nothing, and for a line that is not a JSON object.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise LabError(f"{option} {path}: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found.append((number, _object(line, f"{option} {path}, line {number}", shape)))
    if not found:
        raise LabError(f"{option} {path}: holds no prompt")
    return found


def _object(line: bytes, where: str, shape: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise LabError(f"{where}: not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise LabError(f"{where}: not JSON ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise LabError(f"{where}: not JSON that can be read ({error})") from error
    if not isinstance(value, dict):
        raise LabError(f"{where}: not an object; write {shape}")
    return value


def _prompt(number: int, value: dict[str, Any], protocol: Protocol, where: str) -> Prompt:
    if protocol == "reask":
        context = text_of(value, "context", where, SHAPES[protocol])
        (one, two), (said, last) = (_pair(value, key, where) for key in ("questions", "answers"))
        return Prompt(number, (context, one, said, two), 2, last)
    answer = text_of(value, "answer", where) if value.get("answer") is not None else None
    if protocol == "aware" and ("prompt" in value or "context" not in value):
        return Prompt(number, (text_of(value, "prompt", where, SHAPES[protocol]),), 1, answer)
    pieces = tuple(text_of(value, key, where, SHAPES[protocol]) for key in ("context", "question"))
    return Prompt(number, pieces, 2 if protocol == "aware" else 1, answer)


def text_of(value: dict[str, Any], key: str, where: str, shape: str = "") -> str:
    """A string that is not blank. Raises LabError, beginning with ``where``, if it is missing or something else."""
    if key not in value:
        raise LabError(f'{where}: has no "{key}"{f"; write {shape}" if shape else ""}')
    return _checked(value[key], key, where)


def _pair(value: dict[str, Any], key: str, where: str) -> Sequence[str]:
    if key not in value:
        raise LabError(f'{where}: has no "{key}"; write {SHAPES["reask"]}')
    pair = value[key]
    if not (isinstance(pair, list) and len(pair) == 2):
        raise LabError(f'{where}: "{key}" is {json.dumps(pair)[:40]}, not a list of two strings')
    return [_checked(text, key, where) for text in pair]


def _checked(text: Any, key: str, where: str) -> str:
    if not isinstance(text, str):
        raise LabError(f'{where}: "{key}" is {json.dumps(text)[:40]}, not a string')
    if not text.strip():
        raise LabError(f'{where}: "{key}" is empty')
    return text
