"""Request logs of LLM services: lengths and arrival times, no text. Some say which prompt blocks requests share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from heedful.lab import DataFile, Dataset

if TYPE_CHECKING:
    import polars as pl

_AZURE = "https://raw.githubusercontent.com/Azure/AzurePublicDataset/b469a113cedca53ddc3bdea71a143dc4b7d8700c/data"
_MOONCAKE = (
    "https://raw.githubusercontent.com/kvcache-ai/Mooncake/3b5a594133958449a1feaf1c9e0fc1b553e34a28/"
    "FAST25-release/traces"
)


def _from_azure(original: Path) -> pl.DataFrame:
    """``arrival_us`` (int64, microseconds since the first request), ``input_tokens`` and ``output_tokens`` (int32)."""
    import polars as pl

    with original.open("rb") as file:
        log = pl.read_csv(file, schema={"TIMESTAMP": pl.String, "ContextTokens": pl.Int32, "GeneratedTokens": pl.Int32})
    arrival = pl.col("TIMESTAMP").str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us")
    return log.select(
        (arrival - arrival.first()).dt.total_microseconds().alias("arrival_us"),
        pl.col("ContextTokens").alias("input_tokens"),
        pl.col("GeneratedTokens").alias("output_tokens"),
    )


def _from_mooncake(original: Path) -> pl.DataFrame:
    """``arrival_ms`` (int64, since the first request), ``input_tokens`` and ``output_tokens`` (int32), ``block_ids``.

    ``block_ids`` (lists of int32) are the hashes of the 512-token prefix blocks of a prompt: equal ids are the same
    block after the same beginning, whose keys and values can be used again.
    """
    import polars as pl

    with original.open("rb") as file:
        log = pl.read_ndjson(
            file,
            schema={
                "timestamp": pl.Int64,
                "input_length": pl.Int32,
                "output_length": pl.Int32,
                "hash_ids": pl.List(pl.Int32),
            },
        )
    return log.select(
        (pl.col("timestamp") - pl.col("timestamp").first()).alias("arrival_ms"),
        pl.col("input_length").alias("input_tokens"),
        pl.col("output_length").alias("output_tokens"),
        pl.col("hash_ids").alias("block_ids"),
    )


datasets = (
    Dataset(
        name="azure-llm-2023",
        title="An hour of requests to two LLM services on Azure, 16 November 2023: conversation and code completion",
        licence="CC BY 4.0",
        citation="Patel et al., Splitwise: Efficient generative LLM inference using phase splitting, ISCA 2024",
        changes="CSV to Parquet; times relative to the first request; columns renamed",
        files=(
            DataFile(
                name="llm-traces/azure2023_conv.parquet",
                origin=f"{_AZURE}/AzureLLMInferenceTrace_conv.csv",
                sha256="2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
                content="41cbb6ebfca8875b248f9e4759219026401e00f6997410aef96321b989bcb75e",
                rows=19_366,
                convert=_from_azure,
                size=719_188,
            ),
            DataFile(
                name="llm-traces/azure2023_code.parquet",
                origin=f"{_AZURE}/AzureLLMInferenceTrace_code.csv",
                sha256="54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
                content="5129c95179cf7593cf1b1801e4f15d5fcdc8cec4dc38453585ddfcba8e65494f",
                rows=8_819,
                convert=_from_azure,
                size=320_117,
            ),
        ),
    ),
    Dataset(
        name="mooncake",
        title="An hour of requests to a chat service (Kimi), and a synthetic log, with the prompts' prefix blocks",
        licence="Apache-2.0",
        citation="Qin et al., Mooncake: Trading more storage for less computation, FAST 2025",
        changes="JSON lines to Parquet; times relative to the first request; columns renamed",
        files=(
            DataFile(
                name="llm-traces/mooncake_conversation.parquet",
                origin=f"{_MOONCAKE}/conversation_trace.jsonl",
                sha256="b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df",
                content="f728dbd5fc9d98d318a47e1dca968a0c697f859829eb5011d4baeebfccbc2e33",
                rows=12_031,
                convert=_from_mooncake,
                size=3_029_533,
            ),
            DataFile(
                name="llm-traces/mooncake_synthetic.parquet",
                origin=f"{_MOONCAKE}/synthetic_trace.jsonl",
                sha256="bd070915a98fc0ed264d7cfef2ce746002eb3076a695ec31ba2674c0111ec131",
                content="c716d894380c14fb00c2f4addb8ebebe47b215f271519950198920d3cc1e3193",
                rows=3_993,
                convert=_from_mooncake,
                size=1_136_313,
            ),
        ),
    ),
)
