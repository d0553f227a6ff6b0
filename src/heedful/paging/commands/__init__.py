"""The room's part of the command line: ``heedful compare paging``."""

from heedful.paging.commands.command import compare

__all__ = ["compare"]
