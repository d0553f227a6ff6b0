"""Schedulers by name, as the command line and experiments ask for them: ``past-future``, ``aggressive:watermark=0.9``.

Every module of this package that defines a :class:`~heedful.serving.base.Scheduler` with a ``name`` is found; another
installed package adds its own through the entry-point group ``heedful.serving.schedulers`` (each entry names a module).
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import heedful.serving
from heedful.serving.base import Scheduler

_NOT_SCHEDULERS = ("commands", "data", "experiments", "server", "transformers_engine", "vllm_engine")
"""Parts of this package that are slow to import, or need what a scheduler does not."""


@cache
def classes() -> dict[str, type[Scheduler]]:
    """All scheduler classes by name, sorted."""
    for module in pkgutil.iter_modules(heedful.serving.__path__):
        if module.name not in _NOT_SCHEDULERS and not module.name.startswith("_"):
            importlib.import_module(f"heedful.serving.{module.name}")
    for entry in entry_points(group="heedful.serving.schedulers"):
        entry.load()
    found: dict[str, type[Scheduler]] = {}
    waiting: list[type[Scheduler]] = [Scheduler]
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__())
        if "name" in cls.__dict__:
            found[cls.name] = cls
    return dict(sorted(found.items()))


def names() -> tuple[str, ...]:
    """The names of all schedulers, sorted."""
    return tuple(classes())


def make(spec: str, offered: Sequence[str] | None = None) -> Scheduler:
    """The scheduler that ``spec`` describes: a name, and parameters if they are not to have their default values.

    Raises ValueError for an unknown name, naming what there is (``offered``; None: all), for a parameter that there is
    not, and for a value that is out of its range.

    >>> make("past-future:rho=0.03")
    PastFuture(rho=0.03, sampling='simple', draws=0)
    """
    name, _, rest = spec.partition(":")
    cls = classes().get(name)
    if cls is None:
        there = names() if offered is None else offered
        close = difflib.get_close_matches(name, there, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ";"
        where = f" in {spec!r}" if name != spec else ""
        raise ValueError(f"unknown scheduler {name!r}{where}{hint} there are: {', '.join(there)}")
    known = {field.name: field.default for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    try:
        for pair in filter(None, rest.split(",")):
            key, equals, text = (part.strip() for part in pair.partition("="))
            if not equals:
                raise ValueError(f"{pair!r} is not key=value")
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ";"
                raise ValueError(f"no parameter {key!r}{hint} it has: {', '.join(known) or 'none'}")
            if key in values:
                raise ValueError(f"{key} is given twice")
            values[key] = _value(key, text, known[key])
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"scheduler {spec!r}: {error}") from error


def _value(key: str, text: str, default: Any) -> Any:
    """``text`` as a value of the default's type."""
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ValueError(f"{key}={text}: must be true or false")
        return text == "true"
    try:
        return type(default)(text)
    except ValueError:
        raise ValueError(f"{key}={text}: must be of type {type(default).__name__}") from None
