"""``heedful serving calibrate``: how long an engine's steps take, fitted to steps that were measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heedful.lab import console
from heedful.lab.errors import LabError
from heedful.lab.files import write_atomic

if TYPE_CHECKING:
    import polars as pl

    from heedful.serving.step_time import StepTime

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)
COLUMNS = ("running", "occupied", "prefill_tokens", "seconds")
"""What a step log says of each step: requests that decoded, tokens they held before, prompt tokens, duration."""


@app.callback()
def _room() -> None:
    """Request scheduling for LLM serving."""


@app.command()
def calibrate(
    log: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Measured steps, CSV or Parquet: running, occupied, prefill_tokens, seconds."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where to write the constants, for 'heedful compare serving --step-time'.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit the step-time model of the simulator to the measured steps of an engine."""
    from heedful.serving.step_time import fit

    frame = _read(log)
    try:
        found = fit(*(frame[name].to_numpy() for name in COLUMNS))
    except ValueError as error:
        raise LabError(f"{log}: {error}") from error
    constants = dataclasses.asdict(found.model)
    if out is not None:
        try:
            write_atomic(out, json.dumps(constants, indent=2).encode() + b"\n")
        except (OSError, ValueError) as error:
            raise LabError(f"--out {out}: cannot be written") from error
    if as_json:
        facts = {"steps": found.steps, "explained": found.explained, "median_error": found.median_error}
        console.show_json({"constants": constants, **facts})
        return
    rows = [{"constant": name, "microseconds": value * 1e6, "of": _OF[name]} for name, value in constants.items()]
    columns = [console.Column("constant"), console.Column("microseconds", align="right"), console.Column("of")]
    console.show_table(rows, columns)
    print(
        f"{found.steps} steps; the model explains {100 * found.explained:.1f} % of the variance, and half of the steps "
        f"are predicted to {100 * found.median_error:.1f} % or better"
    )
    if out is not None:
        print(f"constants: {out}")


_OF = {
    "step": "every decode step",
    "per_request": "each running request, a decode step",
    "per_token": "each token in the cache, a decode step",
    "prefill": "every prefill that stands alone",
    "per_prompt_token": "each token of a prompt",
}


def _read(path: Path) -> pl.DataFrame:
    import polars as pl

    try:
        with path.open("rb") as file:  # by its path polars would read all files that a [ or * in it may mean
            frame = pl.read_parquet(file) if path.suffix == ".parquet" else pl.read_csv(file)
    except OSError as error:
        raise LabError(f"{path}: {error.strerror or error}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise LabError(f"{path}: {str(error).splitlines()[0]}") from error
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise LabError(f"{path}: no column {missing[0]!r}; it has: {', '.join(frame.columns)}")
    for name in COLUMNS:
        column = frame[name]
        numbers = (
            column.cast(pl.Float64, strict=False) if column.dtype.is_numeric() or column.dtype == pl.String else None
        )
        bad = pl.repeat(True, len(column), eager=True) if numbers is None else ~numbers.is_finite().fill_null(False)
        if bad.any():
            at = int(bad.arg_true()[0])
            place = f"row {at + 1}" if path.suffix == ".parquet" else f"line {at + 2}"
            raise LabError(f"{path}: {place}: {name} is {column[at]!r}, not a finite number")
    return frame


def read_constants(path: Path) -> StepTime:
    """The constants that ``calibrate --out`` wrote. Raises LabError for a file that does not hold them."""
    from heedful.serving.step_time import StepTime

    known = {field.name for field in dataclasses.fields(StepTime)}
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise LabError(f"--step-time {path}: {error.strerror}") from error
    except ValueError as error:
        raise LabError(f"--step-time {path}: is not JSON: {error}") from error
    if not isinstance(found, dict) or set(found) - known:
        raise LabError(f"--step-time {path}: must hold a JSON object of {', '.join(sorted(known))}")
    try:
        return StepTime(**found)
    except (TypeError, ValueError) as error:
        raise LabError(f"--step-time {path}: {error}") from error
