"""The networks of Attention-Gate by themselves: their shape, their seed, and their file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from heedful.kv.gates import Gate, Gates, Rules
from heedful.kv.parts import load, store

STORED, WIDTH = 2, 32


def test_a_linear_gate_has_no_attention() -> None:
    assert [name for name, _ in Gate(WIDTH, STORED, 0, 4).named_parameters()] == ["score", "bias"]
    assert Gate(WIDTH, STORED, 0, 4).score.shape == (STORED, WIDTH)


def test_gates_are_the_same_for_the_same_seed(tiny: Any) -> None:
    a, b, c = (Gates.new(tiny(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["0.query"], c["0.query"])
    assert {x.shape for name, x in a.items() if name.endswith("score")} == {(STORED, 128)}
    assert all(float(x.unique()) == 2 for name, x in a.items() if name.endswith("bias"))
    assert float(a["0.query"].abs().max()) <= math.sqrt(6 / (WIDTH + 128))


def test_gates_come_back_from_their_file_as_they_were(tmp_path: Path, tiny: Any) -> None:
    rules = Rules("prompt", 0.4, 2, 5)
    gates = Gates.new(tiny(), rules, 3, 5, seed=1)
    store(tmp_path / "g", gates.parts(tiny(), {"beta": 0.3}))
    parts = load(tmp_path / "g", "gate")
    found = Gates.of(parts)
    assert found.rules == rules and parts.settings["beta"] == 0.3
    assert all(torch.equal(x, found.state_dict()[name]) for name, x in gates.state_dict().items())


@pytest.mark.parametrize("wrong", [{"heads": -1}, {"heads": 1.5}, {"size": 0}], ids=str)
def test_the_shape_of_a_gate_is_checked(wrong: dict[str, Any], tiny: Any) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}="):
        Gates.new(tiny(), **wrong)
    with pytest.raises(ValueError, match=r"^context='both'"):
        Rules("both")  # type: ignore[arg-type]
