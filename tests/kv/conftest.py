"""Tiny random-weight models and the ways to run them that the tests of this room share."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from heedful.kv.replay import record

torch.set_num_threads(1)
# What several files import, beside the fixtures here, stands in modules of this folder.
sys.path.insert(0, str(Path(__file__).parent))

SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=512,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=0,
)
CONFIGS: dict[str, Callable[..., Any]] = {
    "llama": lambda **kw: LlamaConfig(**{**SIZES, **kw}),
    "qwen3": lambda **kw: Qwen3Config(**{**SIZES, **kw}),
    "mistral": lambda **kw: MistralConfig(**{**SIZES, "sliding_window": None, **kw}),
    "gemma3": lambda **kw: Gemma3TextConfig(
        **{
            **SIZES,
            "sliding_window": 6,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            **kw,
        }
    ),
}


def build(family: str = "llama", dtype: torch.dtype = torch.float64, seed: int = 0, **config: Any) -> Any:
    """A model with random weights, large enough that attention is far from uniform."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[family](**config)).to(dtype).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(12)
            elif weight.ndim == 2:
                weight.mul_(4)
    return model


SHARED: list[tuple[Any, str]] = []
"""Models of several tests, with the attention that they were made with."""


@cache
def shared(*args: Any, **config: Any) -> Any:
    model = build(*args, **config)
    SHARED.append((model, model.config._attn_implementation))
    return model


@pytest.fixture(autouse=True)
def whichever_came_before() -> None:
    """Random numbers begin anew, and models that were left with the attention of a cache get their own back."""
    torch.manual_seed(0)
    for model, attention in SHARED:
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """``tiny(family, dtype, seed, **config)``: a model, built once per set of arguments."""
    return shared


@pytest.fixture(scope="session")
def fresh() -> Callable[..., Any]:
    """``fresh(family, dtype, seed, **config)``: a model of one's own, to compile or to damage."""
    return build


@pytest.fixture(scope="session")
def prompt() -> Callable[..., Tensor]:
    """``prompt(tokens, batch, seed)``: random token ids ``[batch, tokens]``, none of them padding."""

    def make(tokens: int, batch: int = 1, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(1, 64, (batch, tokens), generator=generator)

    return make


@pytest.fixture(scope="session")
def padded() -> Callable[..., tuple[Tensor, Tensor]]:
    """``padded(prompts)``: token ids and mask of prompts ``[1, n_i]``, padded on the left to one length."""

    def make(prompts: list[Tensor]) -> tuple[Tensor, Tensor]:
        width = max(p.shape[1] for p in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, p in enumerate(prompts):
            ids[i, width - p.shape[1] :] = p[0]
            mask[i, width - p.shape[1] :] = 1
        return ids, mask

    return make


@pytest.fixture(scope="session")
def generate() -> Callable[..., Any]:
    """``generate(model, ids, cache, new, mask, **options)``: greedy by default, with the raw logits."""

    def run(model: Any, ids: Tensor, cache: Any, new: int = 12, mask: Tensor | None = None, **options: Any) -> Any:
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids) if mask is None else mask,
            past_key_values=cache,
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=options.pop("do_sample", False),
            output_logits=options.pop("output_logits", True),
            return_dict_in_generate=True,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def reference(generate: Any) -> Callable[..., Any]:
    """``reference(model, ids, ...)``: what the same model generates with SDPA and a ``DynamicCache``."""

    def run(model: Any, ids: Tensor, *args: Any, **options: Any) -> Any:
        before = model.config._attn_implementation
        model.set_attn_implementation("sdpa")
        try:
            return generate(model, ids, DynamicCache(config=model.config), *args, **options)
        finally:
            model.set_attn_implementation(before)

    return run


@pytest.fixture(scope="session")
def observed() -> Callable[..., Any]:
    """``observed(model, ids, window)``: per layer the last rows and the values that one pass over a prompt leaves.

    Rows ``[KV heads, group, window, S]``, values ``[KV heads, S, d]``, of one sequence, computed without a policy.
    """

    def look(model: Any, ids: Tensor, window: int) -> list[tuple[Tensor, Tensor]]:
        rows = record(model, ids)
        cache = DynamicCache(config=model.config)
        before = model.config._attn_implementation
        model.set_attn_implementation("sdpa")
        with torch.no_grad():
            model(ids, past_key_values=cache)
        model.set_attn_implementation(before)
        return [(r[0, :, :, -window:], layer.values[0]) for r, layer in zip(rows, cache.layers)]

    return look


@pytest.fixture(scope="session")
def snap_scores() -> Callable[..., list[list[float]]]:
    """``snap_scores(rows, kernel)``: SnapKV's score of every entry before the window, spelt out."""

    def score(rows: Tensor, kernel: int) -> list[list[float]]:
        heads, group, window, length = rows.shape
        half, found = kernel // 2, []
        for k in range(heads):
            mine = []
            for i in range(length - window):
                near = range(max(0, i - half), min(length - window, i + half + 1))
                total = sum(float(rows[k, g, j, n]) for g in range(group) for j in range(window) for n in near)
                mine.append(total / kernel / window / group)
            found.append(mine)
        return found

    return score


@pytest.fixture(scope="session")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """``gate(model, rules, bias=..., heads=..., **options)``: a policy with random gates; half is let through."""
    from plain_gates import random_gates

    return random_gates(tmp_path_factory.mktemp("gates"))
