"""Page requests of real applications."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from heedful.lab import DataFile, Dataset

if TYPE_CHECKING:
    import polars as pl

_CACHE2K = (
    "https://raw.githubusercontent.com/ben-manes/caffeine/ccef95542a9181182a60f5c6c33d2a0642c73574/simulator/src/main/"
    "resources/com/github/benmanes/caffeine/cache/simulator/parser/cache2k"
)


def _from_cache2k(original: Path, requests: int | None = None) -> pl.DataFrame:
    """``page`` (int32): the page that each request asks for, numbered from 0 in order of first appearance.

    Args:
        original: big-endian int32, compressed with xz.
        requests: how many of them, the first ones; all by default.
    """
    import lzma

    import numpy as np
    import polars as pl

    with lzma.open(original) as file:
        asked = np.frombuffer(file.read(-1 if requests is None else 4 * requests), ">i4")
    _, first, which = np.unique(asked, return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int32)
    number[first.argsort()] = np.arange(len(first), dtype=np.int32)
    return pl.DataFrame({"page": number[which]})


datasets = (
    Dataset(
        name="cache2k",
        title="Page requests of a web shop (2013) and of a database application: the benchmark traces of cache2k",
        licence="CC BY 4.0",
        citation="headissue GmbH, Jens Wilke: the cache2k benchmark traces, as shipped with Caffeine's simulator",
        changes="xz to Parquet; the traces named 1m are the first million of five million requests; pages numbered",
        files=(
            DataFile(
                name="cache-traces/web07.parquet",
                origin=f"{_CACHE2K}/web07.trace.xz",
                sha256="e50bb13aa66d1cc71877c8ea92c577be0d0ab5b2b4f7a16c87046af1097bd46a",
                content="6b77e623fb7b35c67b6a971bae05aa50d47728724cc28b3291f3687b04f333ec",
                rows=76_118,
                convert=_from_cache2k,
                size=104_172,
            ),
            DataFile(
                name="cache-traces/web12.parquet",
                origin=f"{_CACHE2K}/web12.trace.xz",
                sha256="a76c78e129a982fe17055d0a291ebf385e7a0aa7964bd091d006bcde862bcdad",
                content="cdcbf63e8c7cd7f0a4728ea74209d8e2e0477e3381c7c35dfa5a0c14a4f8fcbb",
                rows=95_607,
                convert=_from_cache2k,
                size=136_144,
            ),
            DataFile(
                name="cache-traces/orm-busy-1m.parquet",
                origin=f"{_CACHE2K}/orm-busy.trace.xz",
                sha256="0b1d6593387d713c98cc20a5b8c4128eaa983f94dcd70069b032dc1af9c2ceb3",
                content="e88e51cdf69068f11e6b9def4a39628785a3d88d378460e99319e9fa00971579",
                rows=1_000_000,
                convert=partial(_from_cache2k, requests=1_000_000),
            ),
            DataFile(
                name="cache-traces/orm-night-1m.parquet",
                origin=f"{_CACHE2K}/orm-night.trace.xz",
                sha256="144cc3050f79b202c70d4fb4b69023a485126adcd0ad2758fb4f5cc1ef0573b1",
                content="6900a7332b29105cd2f488aa0fe10f2c30e5cd25f66817a3c83249757e486472",
                rows=1_000_000,
                convert=partial(_from_cache2k, requests=1_000_000),
            ),
        ),
    ),
)
