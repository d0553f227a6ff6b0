"""Methods by name, as the command line and experiments ask for them: ``ucb1``, ``linucb:alpha=0.5,shared=true``.

Every module of this package that defines a :class:`~heedful.bandits.base.Method` with a ``name`` is found; another
installed package adds its own through the entry-point group ``heedful.bandits.methods`` (each entry names a module).
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
import typing
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import heedful.bandits
from heedful.bandits.base import Method


@cache
def classes() -> dict[str, type[Method]]:
    """All methods by name, sorted."""
    for module in pkgutil.iter_modules(heedful.bandits.__path__):
        if module.name not in ("experiments", "commands", "data"):
            importlib.import_module(f"heedful.bandits.{module.name}")
    for entry in entry_points(group="heedful.bandits.methods"):
        entry.load()
    found: dict[str, type[Method]] = {}
    waiting: list[type[Method]] = [Method]
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__())
        if "name" in cls.__dict__:
            found[cls.name] = cls
    return dict(sorted(found.items()))


def names(kind: str | None = None) -> tuple[str, ...]:
    """The names of all methods, or of those of one kind, sorted."""
    return tuple(name for name, cls in classes().items() if kind in (None, cls.kind))


def make(spec: str) -> Any:
    """The method that ``spec`` describes: a name, and after a colon its parameters.

    Raises ValueError for an unknown name or parameter, naming what there is, and for a value of another type or range.

    >>> make("linucb:alpha=0.5,shared=true")
    LinUCB(alpha=0.5, ridge=1.0, shared=True)
    """
    if not isinstance(spec, str):
        raise ValueError(f"method {spec!r}: must be text, as 'linucb:alpha=0.5'")
    name, colon, rest = spec.partition(":")
    if name not in classes():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ";"
        raise ValueError(f"unknown method {name!r}{hint} there are: {', '.join(names())}")
    cls = classes()[name]
    types = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]
    given: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        key, equals, text = (piece.strip() for piece in part.partition("="))
        if key not in known:
            raise ValueError(f"method {spec!r}: {name} has no parameter {key!r}; it has: {', '.join(known) or 'none'}")
        if not equals or key in given:
            raise ValueError(f"method {spec!r}: give {key} once, as {key}=VALUE")
        given[key] = _value(spec, key, text, types[key])
    return cls(**given)


def _value(spec: str, key: str, text: str, wanted: Any) -> Any:
    """The text as the first of these that the parameter may be: none, true or false, a whole number, a number, text."""
    allowed = typing.get_args(wanted) if typing.get_origin(wanted) not in (None, typing.Literal) else (wanted,)
    if type(None) in allowed and text.lower() == "none":
        return None
    if bool in allowed and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        if number in allowed:
            try:
                return number(text)
            except ValueError:
                continue
    if str in allowed or any(text in typing.get_args(option) for option in allowed):
        return text
    choices = [_WORDS[option] for option in allowed if option in _WORDS]
    choices += [choice for option in allowed for choice in typing.get_args(option)]
    *most, last = choices or [str(wanted)]
    raise ValueError(f"method {spec!r}: {key}={text}: must be {', '.join(most) + ' or ' if most else ''}{last}")


_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "none"}
