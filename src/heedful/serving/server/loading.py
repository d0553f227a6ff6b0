"""The model that is served, found, checked and loaded."""

from __future__ import annotations

from typing import Any

import torch

from heedful import models

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


def device_of(name: str) -> torch.device:
    """The device of that name; ``"auto"`` is the first CUDA device if there is one, else the CPU.

    Raises ValueError if there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r}: not a device; auto, cpu, cuda, cuda:1 and mps are") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name!r}: this torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device={name!r}: this torch sees no MPS device")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device={name!r}: auto, cpu, cuda and mps are supported")
    return device


def load(name: str, dtype: str, device: torch.device) -> tuple[Any, Any]:
    """Model, in evaluation mode, and tokenizer of a shipped model, a folder, or a Hugging Face id.

    Code that comes with a model is never run.

    Raises ValueError if there is no such model, or if it cannot be served.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: must be one of {', '.join(DTYPES)}")
    found = models.find(name)
    given = {"local_files_only": found.local, "trust_remote_code": False}
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(found.where, **given)
        model: Any = AutoModelForCausalLM.from_pretrained(found.where, dtype=dtype, **given)
    except Exception as error:  # every format of models has errors of its own
        what = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"model {name}: neither a shipped one ({', '.join(models.names())}) nor a causal language model that "
            f"transformers can load from a folder or the hub: {what}"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"model {name}: has no fast tokenizer, which streaming needs")
    if not hasattr(model, "init_continuous_batching"):
        raise ValueError(f"model {name}: transformers has no continuous batching for {type(model).__name__}")
    model.to(device)
    return model.eval(), tokenizer
