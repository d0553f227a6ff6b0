"""The small models that heedful trained and ships, found by name, and the tasks and texts they know.

Importing this package needs NumPy alone; torch and transformers are imported when a model is loaded.
"""

from . import tasks, text
from .checkpoints import digest, load, names, path
from .evaluate import accuracy, correct
from .finding import Found, find

__all__ = ["Found", "accuracy", "correct", "digest", "find", "load", "names", "path", "tasks", "text"]
