"""How a command was called: which options were given, and the line that does it again."""

from __future__ import annotations

import shlex

import typer


def given(context: typer.Context, name: str) -> bool:
    """Whether an option was given rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def line(context: typer.Context, command: str) -> str:
    """The command line that does it again, but for where results go."""
    words = ["heedful", *command.split()]
    for name, value in context.params.items():
        if given(context, name) and name not in ("json", "out", "site"):
            words.append("--" + name.replace("_", "-"))
            words.extend([] if value is True else [str(value)])
    return shlex.join(words)


def silence_libraries() -> None:
    """Keeps what transformers and the hub's client say out of our output; their errors become our lines."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity(logging.CRITICAL)
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
