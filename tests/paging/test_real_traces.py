"""The exact consistencies on real traces, where those files are on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from heedful.paging import FlushWhenAll0s, Mark0, MarkAndPredict, lfd, read_trace, true_bits
from heedful.paging.experiments.succinct_paging import FILES
from heedful.paging.predictors import clean_pages

SIZES = {"mooncake": (1000, 10_000)}


@pytest.mark.parametrize("name", FILES)
def test_true_bits_are_exactly_as_good_as_they_should_be(name: str, data_file: Callable[[str], Path]) -> None:
    path = data_file(FILES[name])
    trace = read_trace(path, "block_ids" if "block_ids" in pl.read_parquet_schema(path) else "page")
    for k in SIZES.get(name, (1, 7, 100, 1000)):
        bits, best = true_bits(trace, k, "discard"), lfd(trace, k).faults
        assert FlushWhenAll0s().run(trace, k, bits).faults == best
        assert Mark0().run(trace, k, bits, seed=3).faults == best
        phase_bits, clean = true_bits(trace, k, "phase"), clean_pages(trace, k)
        for seed in range(3):
            assert MarkAndPredict().run(trace, k, phase_bits, seed).faults == clean <= 2 * best
