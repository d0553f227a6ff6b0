"""Trained parts on disk: they come back as they were, and to their own model only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from heedful.kv.parts import Parts, beside, check, likeness, load, store


@pytest.fixture
def parts(tiny: Any) -> Parts:
    return Parts("lookahead", {"a": torch.arange(6.0).view(2, 3)}, {"rank": 8}, likeness(tiny()))


def test_parts_come_back_as_they_were(parts: Parts, tmp_path: Path) -> None:
    store(tmp_path / "deep" / "x.safetensors", parts)
    again = load(tmp_path / "deep" / "x.safetensors", "lookahead")
    assert torch.equal(again.tensors["a"], parts.tensors["a"])
    assert again.settings == {"rank": 8} and again.model == parts.model
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_known_again_in_any_precision(dtype: torch.dtype, parts: Parts, fresh: Any) -> None:
    check(parts, fresh(dtype=dtype), "x")


def test_another_model_is_refused_and_both_are_named(parts: Parts, tiny: Any) -> None:
    with pytest.raises(ValueError, match="lookahead parts were trained for an unnamed llama, not for an unnamed qwen"):
        check(parts, tiny("qwen3"), "x")
    with pytest.raises(ValueError, match="num_hidden_layers is 3 there and 2 here"):
        check(parts, tiny(num_hidden_layers=2), "x")
    with pytest.raises(ValueError, match="the weights are others"):
        check(parts, tiny(seed=1), "x")


def test_a_damaged_or_wrong_file_is_named(parts: Parts, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    store(path, parts)
    with pytest.raises(ValueError, match=r"x\.safetensors: holds lookahead parts, not gate parts"):
        load(path, "gate")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"x\.safetensors: cannot be read, perhaps cut short"):
        load(path, "lookahead")
    with pytest.raises(ValueError, match=r"none\.safetensors: no such file; train gate parts with"):
        load(tmp_path / "none.safetensors", "gate")


def test_parts_beside_a_model_are_found(parts: Parts, fresh: Any, tmp_path: Path) -> None:
    model = fresh()
    assert beside(model, "lookahead.safetensors") is None
    model.config._name_or_path = str(tmp_path)
    store(tmp_path / "lookahead.safetensors", parts)
    assert beside(model, "lookahead.safetensors") == tmp_path / "lookahead.safetensors"
