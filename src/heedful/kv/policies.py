"""Policies by name, as the command line and experiments ask for them: ``name[+window][:key=value,...]``.

Every module of this package that defines a :class:`~heedful.kv.base.Policy` with a ``name`` is found; another
installed package adds its own through the entry-point group ``heedful.kv.policies`` (each entry names a module).
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import heedful.kv
from heedful.kv.base import Budgeted, Policy, Size, Sized

WINDOW = 16
"""Steps between two decisions in a method's ``+window`` form, unless ``window=`` says otherwise."""


@cache
def classes() -> dict[str, type[Policy]]:
    """All policy classes by name."""
    for module in pkgutil.iter_modules(heedful.kv.__path__):
        if module.name not in ("experiments", "commands"):
            importlib.import_module(f"heedful.kv.{module.name}")
    for entry in entry_points(group="heedful.kv.policies"):
        entry.load()
    found: dict[str, type[Policy]] = {}
    waiting: list[type[Policy]] = [Policy]
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__())
        if "name" in cls.__dict__:
            found[cls.name] = cls
    return dict(sorted(found.items()))


def names() -> tuple[str, ...]:
    """All policy names, sorted."""
    return tuple(classes())


def make(spec: str, budget: Size | None = None, **options: Any) -> Policy:
    """The policy that ``spec`` describes.

    Args:
        spec: ``"h2o"``, ``"h2o+window"`` (decides every 16 steps), ``"lazy-eviction:alpha=0.001,window=32"``.
        budget: entries per layer and KV head, for policies that have a budget.
        **options: further parameters; they win over those in ``spec``.

    Raises ValueError for an unknown name or parameter, naming what there is.

    >>> make("h2o+window:recent=8", 64)
    H2O(budget=64, window=16, recent=8, statistic='sum', granularity='head', decay=0.99)
    """
    name, _, given = spec.partition(":")
    name, _, form = name.partition("+")
    cls = classes().get(name)
    if cls is None:
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown policy {name!r}{hint} There are: {', '.join(names())}")
    known = {field.name: field for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    if form:
        if form != "window" or not issubclass(cls, Budgeted):
            raise ValueError(f"policy {spec!r}: {name} has no form '+{form}'")
        values["window"] = WINDOW
    for pair in filter(None, given.split(",")):
        key, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"policy {spec!r}: {pair!r} is not key=value")
        values[key.strip()] = _parse(text.strip())
    values.update(options)
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"policy {spec!r}: no parameter {unknown[0]!r}; {name} has: {', '.join(known) or 'none'}")
    if budget is not None and issubclass(cls, Sized):
        values.setdefault("budget", budget)
    return cls(**values)


def _parse(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
