"""The standard library as text: a fixed split, chunks that are really there."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.models import text


def test_the_split_is_nine_to_one_and_disjoint() -> None:
    train, held_out = text.stdlib_files("train"), text.stdlib_files("held-out")
    assert not set(train) & set(held_out)
    assert 0.03 < len(held_out) / (len(train) + len(held_out)) < 0.2
    assert not any({"site-packages", "test"} & set(path.parts) for path in train[:50])


def test_chunks_are_bos_and_consecutive_bytes_of_a_held_out_file() -> None:
    chunks = text.stdlib_bytes("held-out", np.random.default_rng(0), 5, 200)
    assert chunks.shape == (5, 200) and chunks.dtype == np.int64
    assert (chunks[:, 0] == text.BOS).all()
    whole = [path.read_bytes() for path in text.stdlib_files("held-out")]
    for row in chunks[:, 1:]:
        assert any(bytes(row.tolist()) in content for content in whole)


def test_chunks_follow_the_seed() -> None:
    first, second, other = (text.stdlib_bytes("train", np.random.default_rng(s), 3, 64) for s in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_bad_input_is_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown split 'test'"):
        text.stdlib_files("test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="length at least 2"):
        text.stdlib_bytes("train", rng, 1, 1)
    with pytest.raises(ValueError, match="count"):
        text.stdlib_bytes("train", rng, -1, 10)
    with pytest.raises(ValueError, match="no held-out file"):
        text.stdlib_bytes("held-out", rng, 1, 10**9)
