"""The room's part of the command line: ``heedful compare serving`` and ``heedful serving calibrate``."""

from heedful.serving.commands.calibrate import app
from heedful.serving.commands.command import compare

__all__ = ["app", "compare"]
