"""The three attention kernels against a dense reference, and what they show of it."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heedful.kv.attention import attend, attend_blockwise, attend_step

SCALE = 0.37


class Case(NamedTuple):
    query: Tensor
    keys: Tensor
    values: Tensor
    valid: Tensor | None
    new: Tensor | None

    @property
    def padding(self) -> Tensor:
        """bool ``[batch, q]``: queries whose output means nothing."""
        q = self.query.shape[2]
        return torch.zeros(self.query.shape[0], q, dtype=torch.bool) if self.new is None else ~self.new


@st.composite
def cases(draw: st.DrawFn, one: bool = False) -> Case:
    """Random entries: past ones with empty columns per head, new ones with padding on the left."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    batch, stored, group = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    q, past = 1 if one else draw(st.integers(1, 11)), draw(st.integers(0, 9))
    d, dv = draw(st.sampled_from([(4, 4), (6, 3)]))
    n = past + q
    query = torch.randn(batch, stored * group, q, d, dtype=torch.float64) * 2
    keys = torch.randn(batch, stored, n, d, dtype=torch.float64)
    values = torch.randn(batch, stored, n, dv, dtype=torch.float64)
    valid = new = None
    if draw(st.booleans()):
        valid = torch.rand(batch, stored, n) < 0.7
        valid[:, :, past:] = True
    if not one and draw(st.booleans()):
        pads = torch.randint(0, q, (batch, 1))
        new = torch.arange(q) >= pads
        valid = torch.ones(batch, stored, n, dtype=torch.bool) if valid is None else valid
        valid[:, :, past:] = new[:, None]
    return Case(query, keys, values, valid, new)


def dense(case: Case) -> tuple[Tensor, Tensor]:
    """Output ``[batch, q, query heads, dv]`` and probabilities ``[batch, stored, group, q, n]``."""
    query, keys, values, valid, _ = case
    batch, heads, q, _ = query.shape
    stored, n = keys.shape[1], keys.shape[2]
    out = torch.zeros(batch, q, heads, values.shape[-1], dtype=torch.float64)
    probs = torch.zeros(batch, stored, heads // stored, q, n, dtype=torch.float64)
    padding = case.padding
    for b in range(batch):
        for h in range(heads):
            s = h // (heads // stored)
            for i in range(q):
                if padding[b, i]:
                    continue
                seen = [j for j in range(n - q + i + 1) if valid is None or valid[b, s, j]]
                p = ((keys[b, s, seen] @ query[b, h, i]) * SCALE).softmax(0)
                out[b, i, h] = p @ values[b, s, seen]
                probs[b, s, h % (heads // stored), i, seen] = p
    return out, probs


def assert_same(out: Tensor, expected: Tensor, padding: Tensor) -> None:
    torch.testing.assert_close(out[~padding], expected[~padding], rtol=0, atol=1e-12)
    assert torch.isfinite(out).all()


@settings(max_examples=60)
@given(cases())
def test_fused_attention_equals_the_dense_reference(case: Case) -> None:
    assert_same(attend(*case[:3], SCALE, case.valid, case.new), dense(case)[0], case.padding)


@settings(max_examples=40)
@given(cases(one=True))
def test_a_step_and_its_row_equal_the_dense_reference(case: Case) -> None:
    out, row = attend_step(*case[:3], SCALE, case.valid)
    expected, probs = dense(case)
    assert_same(out, expected, case.padding)
    torch.testing.assert_close(row, probs[:, :, :, 0], rtol=0, atol=1e-12)


@settings(max_examples=60)
@given(cases(), st.integers(1, 13))
def test_blockwise_sums_equal_the_dense_column_sums(case: Case, block: int) -> None:
    out, seen = attend_blockwise(*case[:3], SCALE, "sums", 1, case.valid, case.new, block)
    expected, probs = dense(case)
    assert_same(out, expected, case.padding)
    assert seen.rows is None and seen.sums is not None
    torch.testing.assert_close(seen.sums, probs.sum((2, 3)), rtol=0, atol=1e-12)
    assert case.valid is None or float(seen.sums[~case.valid].abs().sum()) == 0


@settings(max_examples=40)
@given(cases(), st.integers(1, 13))
def test_the_last_rows_equal_the_dense_rows(case: Case, window: int) -> None:
    out, seen = attend_blockwise(*case[:3], SCALE, "last", window, case.valid, case.new)
    expected, probs = dense(case)
    assert_same(out, expected, case.padding)
    assert seen.rows is not None
    torch.testing.assert_close(seen.rows, probs[:, :, :, -window:], rtol=0, atol=1e-12)
    torch.testing.assert_close(seen.mass(), probs[:, :, :, -window:].sum((2, 3)), rtol=0, atol=1e-12)


@settings(max_examples=40)
@given(cases(), st.integers(1, 13))
def test_all_rows_equal_the_dense_rows_whatever_the_block(case: Case, block: int) -> None:
    out, seen = attend_blockwise(*case[:3], SCALE, "rows", 1, case.valid, case.new, block)
    expected, probs = dense(case)
    assert_same(out, expected, case.padding)
    assert seen.rows is not None
    torch.testing.assert_close(seen.rows, probs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_probabilities_are_float32_whatever_the_model_is(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query, keys, values = (torch.randn(1, h, 9, 8).to(dtype) for h in (4, 2, 2))
    out, row = attend_step(query[:, :, :1], keys, values, SCALE)
    assert row.dtype == torch.float32 and out.dtype == dtype
    torch.testing.assert_close(row.sum(-1), torch.ones(1, 2, 2), rtol=0, atol=1e-6)
    out, seen = attend_blockwise(query, keys, values, SCALE, "sums", block=4)
    assert seen.sums is not None and seen.sums.dtype == torch.float32 and out.dtype == dtype
    torch.testing.assert_close(seen.sums.sum(-1), torch.full((1, 2), 18.0), rtol=0, atol=1e-4)


def test_long_sums_do_not_saturate_in_half_precision() -> None:
    """4096 queries look at one entry: a mass that float16 steps could not count."""
    query = torch.ones(1, 1, 4096, 4, dtype=torch.float16)
    keys = torch.zeros(1, 1, 4096, 4, dtype=torch.float16)
    keys[:, :, 0] = 40
    _, seen = attend_blockwise(query, keys, keys, 1.0, "sums")
    assert seen.sums is not None
    assert float(seen.sums[0, 0, 0]) == pytest.approx(4096, abs=0.1)


def peak_bytes(q: int, block: int) -> int:
    """The largest tensor that the blockwise pass allocates."""
    query, keys = torch.randn(1, 4, q, 8), torch.randn(1, 2, q, 8)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        attend_blockwise(query, keys, keys, SCALE, "sums", block=block)
    return max(event.self_cpu_memory_usage for event in profile.events())


def test_the_blockwise_pass_never_holds_a_square() -> None:
    """One block's logits, 4 heads x block x n floats, are the largest thing; doubling n doubles it."""
    assert peak_bytes(1024, 64) <= 4 * 64 * 1024 * 4 * 1.1
    assert peak_bytes(2048, 64) <= 4 * 64 * 2048 * 4 * 1.1
