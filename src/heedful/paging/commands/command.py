"""``heedful compare paging``: algorithms x cache sizes on a made trace, or on one's own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heedful.lab import comparing, console, text
from heedful.lab.errors import LabError, WorkError

if TYPE_CHECKING:
    from heedful.paging.base import Trace
    from heedful.paging.commands.predictions import Split

SIZES = "1%,5%,20%"
REQUESTS, PAGES = 100_000, 2_500
"""Of the made trace."""


def compare(
    context: typer.Context,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A trace: CSV, Parquet, one id per line, or oracleGeneral  [default: made]"),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Of a CSV or Parquet file, where the pages are  [default: the only one, or page]")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="csv, parquet, txt or oracleGeneral  [default: as the file is called]")
    ] = None,
    k: Annotated[str, typer.Option("--k", help="Cache sizes: pages (100), shares of the different ones (1%).")] = SIZES,
    algorithms: Annotated[
        str | None, typer.Option(help="Algorithms, as fifo,mark0,doubling:mark0+lru  [default: 13 of them]")
    ] = None,
    predictor: Annotated[
        str,
        typer.Option(
            help="Who tells algorithms about requests: learned, reuse-distance:c=1, oracle, flip:p0=0.1,p1=0.1, "
            "noisy-next:sigma=1, or files of bits. Several: each algorithm once with each."
        ),
    ] = "learned",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of what depends on chance.")] = 5,
    fit: Annotated[
        str, typer.Option(help="The share of the trace, from its start, to learn from; the rest is measured.")
    ] = "50%",
    out: Annotated[Path, typer.Option(help="The folder of runs.")] = Path("runs"),
    site: Annotated[Path, typer.Option(help="The folder of the report.")] = Path("site"),
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare paging algorithms: faults, the share of the gap between LRU and the optimum, and speed.

    Algorithms that are told something learn it from the first half of the trace; all are measured on the second half.
    """
    if trace is None and (column is not None or format is not None):
        raise LabError(f"--{'format' if column is None else 'column'} is for your own trace; add --trace")
    from heedful.paging.commands import measuring, options, page
    from heedful.paging.commands.predictions import Given, Split

    sizes, share = options.read_sizes(k), options.read_share(fit)
    predictors = options.read_predictors(predictor)
    field = options.field(None if algorithms is None else options.read_algorithms(algorithms), predictors)
    comparing.check_writable("paging", out, site)
    split = Split.of(_trace(trace, column, format), share)
    learning = any(contender.predictor is not None and contender.predictor.learns for contender in field)
    if learning and not len(split.before):
        raise LabError(f"--fit {fit!r}: leaves nothing to learn from; raise it, or change --predictor")
    for told in predictors:
        if isinstance(told, Given):
            told.check(split)
    for size in sizes:
        size.pages(split.measured.distinct)

    began = time.monotonic()
    try:
        with console.Progress("compiling, only the first time") as bar:
            measuring.warm_up(field, bar)
            bar.title = f"{len(field)} algorithms on {len(split.measured):,} requests"
            outcomes = measuring.run(
                split, sizes, field, seeds, lambda done, total, left: bar(done, total, left_s=left)
            )
        heading = _title(split, share, trace is not None)
        table = page.Table(heading, _note(share, learning), measuring.rows(outcomes, len(split.measured)))
    except KeyboardInterrupt:
        console.notice("interrupted; nothing is stored")
        raise typer.Exit(130) from None
    except MemoryError as error:
        raise WorkError(f"the comparison stopped: {error or 'out of memory'}") from error
    facts = {"trace": str(trace or split.measured.name), "seeds": str(seeds)}
    facts["duration"] = text.duration(time.monotonic() - began)
    if not json:
        table.show()
    title = f"Paging on {split.measured.name}"
    again, tables = comparing.command_line(context, "compare paging"), {table.title: table.frame}
    where = comparing.publish("paging", title, again, tables, page.figures(table), facts, out, site, [table.note])
    if json:
        shown = {table.title: {"note": table.note, "rows": table.rows}}
        console.show_json({"title": title, "facts": facts, "tables": shown, "report": str(where)})
    else:
        print(f"{facts['duration']}; report: {where}")


def _trace(path: Path | None, column: str | None, format: str | None) -> Trace:
    """The trace that was asked for, else the made one."""
    import numpy as np

    from heedful.paging.traces import format_of, read_trace
    from heedful.paging.work import zipf_with_scans

    if path is None:
        return zipf_with_scans(REQUESTS, PAGES, np.random.default_rng(0))
    try:
        what = format_of(path, format)
        if what == "oracleGeneral":
            console.notice(f"notice: sizes of objects in {path} are ignored; every object is a page, whatever its size")
        return read_trace(path, column, what)
    except ValueError as error:
        raise LabError(f"--trace {error}") from error


def _title(split: Split, share: float, own: bool) -> str:
    measured = split.measured
    name = measured.name if own else measured.name.capitalize()  # a file is called as it is called
    part = f"The last {100 * (1 - share):g} % of {measured.name}" if share else name
    return f"{part}: {len(measured):,} requests, {measured.distinct:,} different pages"


def _note(share: float, learning: bool) -> str:
    """How it was measured, and what the columns mean."""
    before = f"the first {100 * share:g} % of the trace"
    if learning:
        how = f"Learned predictors saw {before}; everything else, the optimum too, is of the rest, with empty caches."
    elif share:
        how = f"All is measured without {before}, with caches that are empty at first."
    else:
        how = "All is measured on the whole trace, with caches that are empty at first."
    return (
        f"{how} In [] the 95 % interval, by moving-block bootstrap over the trace; what depends on chance is averaged "
        "over seeds. gap closed: faults saved against lru, as a share of what opt saves; below 0 is worse than lru. "
        "wrong 0 / 1: % of requests that were told a bit that the oracle would not say. requests/s: of processor "
        "time, without what it takes to predict."
    )
