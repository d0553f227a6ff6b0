"""Compiled functions are compiled at their first call, which no example of a property should be timed by."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("compiled", deadline=None)
settings.load_profile("compiled")
