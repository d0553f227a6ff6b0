"""The room's part of the command line: ``heedful compare kv``, ``heedful kv show`` and ``heedful kv train``."""

import typer

from heedful.kv.commands import train
from heedful.kv.commands.command import compare
from heedful.kv.commands.show import show

__all__ = ["app", "compare"]

app = typer.Typer(
    help="KV-cache eviction: see what policies keep, train what they need.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(show)
app.add_typer(train.app, name="train")
