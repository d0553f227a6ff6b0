"""The room's part of the command line: ``heedful compare bandits``."""

from heedful.bandits.commands.command import compare

__all__ = ["compare"]
