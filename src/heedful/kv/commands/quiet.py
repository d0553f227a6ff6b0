"""What the room's commands need before they begin."""

from __future__ import annotations


def silence_libraries() -> None:
    """Keeps what transformers and the hub's client say out of our output; their errors become our lines."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity(logging.CRITICAL)
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
