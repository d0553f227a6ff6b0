"""``heedful serve``: an OpenAI-compatible server on transformers' own serving stack, with a scheduler of this room.

The same server runs inside of a program, in a thread::

    with started(Settings(scheduler="past-future:rho=0.05"), print) as server, in_background(server) as url:
        ...

Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heedful.serving.server.limits import Limits
    from heedful.serving.server.run import Settings, in_background, started

_HOME = {"Limits": "limits", "Settings": "run", "in_background": "run", "started": "run"}

__all__ = ["Limits", "Settings", "in_background", "started"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"heedful.serving.server.{_HOME[name]}"), name)
