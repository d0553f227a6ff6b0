"""What a value can do to a layer's output: the L1 norm of v Wo_h, the value behind its head's part of the projection.

Feng et al., "Identify Critical KV Cache in LLM Inference from an Output Perturbation Perspective", arXiv 2502.03805:
dropping entry i from head h changes the layer's output by about a[i] v_i Wo_h, with Wo_h the head's slice of the
output projection.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from heedful.kv.attention import wide

BLOCK = 32
"""Columns of the output that are held at a time; fastest among 16 to 512 on a CPU."""


def value_norms(values: Tensor, projection: Tensor) -> Tensor:
    """Mean over a KV head's query heads of the L1 norm of ``v Wo_h``.

    Args:
        values: ``[batch, stored heads, n, dv]``.
        projection: ``[width, query heads x dv]``, the output projection's weight.

    Returns:
        ``[batch, stored heads, n]``, float32 or wider.
    """
    batch, heads, n, dv = values.shape
    slices = projection.view(projection.shape[0], heads, -1, dv)
    group = slices.shape[2]
    total = torch.zeros(batch, heads, n, dtype=wide(values.dtype), device=values.device)
    for block in slices.split(BLOCK):
        image = values @ block.permute(1, 3, 2, 0).flatten(2)
        total += image.abs_().sum(dim=-1, dtype=total.dtype)
    return total / group


def projection_of(module: Any, values: Tensor) -> Tensor | None:
    """The weight of an attention module's output projection, ``[width, query heads x dv]``.

    None if the module has no ``o_proj`` with a plain floating-point weight that fits ``values``.
    """
    weight = _weight(module)
    return None if weight is None or weight.shape[1] % (values.shape[1] * values.shape[3]) else weight


def check_projection(model: Any, policy: str) -> None:
    """Warns, once per cache, if no attention module of the model has an output projection that can be read."""
    if all(_weight(module) is None for module in model.modules()):
        warnings.warn(
            f"{policy}: the attention modules of {model.config.model_type!r} have no plain o_proj.weight, so entries "
            "are judged by attention alone",
            stacklevel=5,
        )


def _weight(module: Any) -> Tensor | None:
    weight = getattr(getattr(module, "o_proj", None), "weight", None)
    plain = isinstance(weight, Tensor) and weight.ndim == 2 and weight.is_floating_point()
    return weight if plain else None
