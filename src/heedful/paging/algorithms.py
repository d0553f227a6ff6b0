"""Algorithms by name, as the command line and experiments ask for them: ``lru``, ``mark0``, ``mark0+lru``.

``a+b`` follows the cheaper of two; ``doubling:a+b`` and ``weighted:a+b`` steer between them by other rules. Every
module of this package that defines an :class:`~heedful.paging.base.Algorithm` with a ``name`` is found; another
installed package adds its own through the entry-point group ``heedful.paging.algorithms`` (each entry names a module).
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points

import heedful.paging
from heedful.paging.base import Algorithm
from heedful.paging.pairs import Pair


@cache
def classes() -> dict[str, type[Algorithm]]:
    """All algorithm classes by name, combiners included."""
    for module in pkgutil.iter_modules(heedful.paging.__path__):
        if module.name not in ("experiments", "commands", "learned"):
            importlib.import_module(f"heedful.paging.{module.name}")
    for entry in entry_points(group="heedful.paging.algorithms"):
        entry.load()
    found: dict[str, type[Algorithm]] = {}
    waiting: list[type[Algorithm]] = [Algorithm]
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__())
        if "name" in cls.__dict__:
            found[cls.name] = cls
    return dict(sorted(found.items()))


def names() -> tuple[str, ...]:
    """The names of all algorithms, without combiners, sorted."""
    return tuple(name for name, cls in classes().items() if not issubclass(cls, Pair))


def combiners() -> tuple[str, ...]:
    """The names of all combiners, sorted."""
    return tuple(name for name, cls in classes().items() if issubclass(cls, Pair))


def make(spec: str) -> Algorithm:
    """The algorithm that ``spec`` describes.

    Raises ValueError for an unknown name, naming what there is, and for two algorithms that are told different things.

    >>> make("mark0+lru")
    FollowCheaper(first=Mark0(), second=LRU())
    """
    rule, colon, pair = spec.partition(":")
    parts = (pair if colon else spec).split("+")
    if colon and rule not in combiners():
        raise ValueError(f"algorithm {spec!r}: unknown rule {rule!r}; there are: {', '.join(combiners())}")
    if len(parts) == 2:
        cls = classes()[rule if colon else "cheaper"]
        assert issubclass(cls, Pair)
        return cls(_single(parts[0], spec), _single(parts[1], spec))
    if len(parts) > 2 or colon:
        raise ValueError(f"algorithm {spec!r}: a combination is of two algorithms, as mark0+lru")
    return _single(spec, spec)


def _single(name: str, spec: str) -> Algorithm:
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ";"
        where = f" in {spec!r}" if name != spec else ""
        raise ValueError(f"unknown algorithm {name!r}{where}{hint} there are: {', '.join(names())}")
    return classes()[name]()
