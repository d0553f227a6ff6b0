"""Shipped checkpoints, found by name: ``task-1``, ``task-mini-1``, ``byte-1``.

Each is a folder in the Hugging Face format (float32 safetensors, tokenizer, chat template) that
``AutoModelForCausalLM`` and ``AutoTokenizer`` load from its path, with a card (``card.json``, ``README.md``).
A retrained checkpoint gets a new name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SHIPPED = Path(__file__).parent / "shipped"
_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
_OPTIONAL = ("chat_template.jinja", "special_tokens_map.json")


def names() -> tuple[str, ...]:
    """The names of all shipped checkpoints, sorted."""
    return tuple(sorted(folder.parent.name for folder in _SHIPPED.glob("*/config.json")))


def path(name: str) -> Path:
    """The folder of checkpoint ``name``.

    Raises:
        ValueError: unknown name.
    """
    if name not in names():
        raise ValueError(f"unknown checkpoint {name!r}; shipped: {', '.join(names())}")
    return _SHIPPED / name


def digest(name: str) -> str:
    """Hex SHA-256 over the files that decide what the checkpoint computes (the card is left out).

    Raises:
        ValueError: unknown name.
    """
    folder = path(name)
    total = hashlib.sha256()
    for file in (*_FILES, *_OPTIONAL):
        if file in _FILES or (folder / file).exists():
            total.update(file.encode() + b"\0" + hashlib.sha256((folder / file).read_bytes()).digest())
    return total.hexdigest()


def load(name: str, dtype: torch.dtype | str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a checkpoint for evaluation, on the CPU.

    Args:
        name: one of :func:`names`.
        dtype: of the weights; float32, as shipped, if None.

    Returns:
        The model (a ``LlamaForCausalLM`` in evaluation mode) and its tokenizer.

    Raises:
        ValueError: unknown name.
    """
    folder = path(name)
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "float32")
    finally:
        if shown:
            logging.enable_progress_bar()
    return model.eval(), AutoTokenizer.from_pretrained(folder)
