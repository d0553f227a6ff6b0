"""The room's part of the command line: ``heedful compare kv``."""

from heedful.kv.commands.command import compare

__all__ = ["compare"]
