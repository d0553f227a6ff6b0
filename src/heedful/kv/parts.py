"""Trained parts of a policy on disk: which model they belong to, and what is said if that is another one.

A file is safetensors. Its metadata names the kind of parts, the settings that they were trained with, and the model:
its name, its shape, and a few hundred of its weights, by which it is known again in any precision.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_SHAPE = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
_SAMPLED = 64
"""Weights that are noted of each of the matrices that are looked at."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Trained parts.

    Attributes:
        kind: what they are for, as ``"lookahead"``.
        tensors: by name.
        settings: what they were trained with; JSON values.
        model: name, shape and sampled weights of the model that they belong to.
    """

    kind: str
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    model: Mapping[str, Any]


def likeness(model: Any) -> dict[str, Any]:
    """What a model is known by: ``name``, ``shape`` and ``weights``."""
    config = model.config.get_text_config(decoder=True)
    shape = {key: getattr(config, key, None) for key in _SHAPE}
    return {"name": _name(model), "shape": shape, "weights": _weights(model)}


def _name(model: Any) -> str:
    given = str(getattr(model.config, "_name_or_path", "") or "")
    return Path(given).name or f"an unnamed {model.config.model_type}"


def _weights(model: Any) -> list[float]:
    """Weights at fixed places of the embedding and of the first and last layers' largest matrices."""
    named = [(name, p) for name, p in model.named_parameters() if p.ndim == 2]
    found: list[float] = []
    for _, weight in named[:3] + named[-3:]:
        flat = weight.detach().flatten()
        found.extend(flat[:: max(1, len(flat) // _SAMPLED)][:_SAMPLED].float().cpu().tolist())
    return [float(f"{value:.5g}") for value in found]


def check(parts: Parts, model: Any, source: str) -> None:
    """Raises ValueError, naming both models, unless ``parts`` were made for ``model``.

    Args:
        parts: from :func:`load`.
        model: the model that they are to be used with.
        source: where the parts come from, for the message.
    """
    mine, theirs = likeness(model), parts.model
    differs = [key for key in _SHAPE if mine["shape"][key] != theirs["shape"].get(key)]
    same = len(mine["weights"]) == len(theirs["weights"]) and torch.allclose(
        torch.tensor(mine["weights"]), torch.tensor(theirs["weights"]), rtol=0.02, atol=1e-3
    )
    if differs or not same:
        what = (
            f"{differs[0]} is {theirs['shape'].get(differs[0])} there and {mine['shape'][differs[0]]} here"
            if differs
            else "the weights are others"
        )
        raise ValueError(
            f"{source}: these {parts.kind} parts were trained for {theirs['name']}, not for {mine['name']} ({what}); "
            f"train them with: heedful kv train {parts.kind} --model {mine['name']}"
        )


def store(path: Path, parts: Parts) -> None:
    """Writes the file, atomically."""
    meta = {"kind": parts.kind, "settings": json.dumps(parts.settings), "model": json.dumps(parts.model)}
    data = save({name: x.detach().cpu().contiguous() for name, x in parts.tensors.items()}, metadata=meta)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + f".{os.getpid()}.tmp")
    partial.write_bytes(data)
    partial.replace(path)


def load(path: Path, kind: str) -> Parts:
    """Reads the file. Raises ValueError, naming it, if it is missing, cut short, or holds something else."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; train {kind} parts with: heedful kv train {kind} --out {path}")
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read, perhaps cut short ({str(error).splitlines()[0]})") from error
    if meta.get("kind") != kind:
        raise ValueError(f"{path}: holds {meta.get('kind') or 'no trained'} parts, not {kind} parts")
    return Parts(kind, tensors, json.loads(meta["settings"]), json.loads(meta["model"]))


def beside(model: Any, file: str) -> Path | None:
    """The file of that name in the folder that the model was loaded from, if it is there."""
    folder = Path(str(getattr(model.config, "_name_or_path", "") or ""))
    found = folder / file
    return found if folder.is_dir() and found.is_file() else None
