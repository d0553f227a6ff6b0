"""What a system's page and its rows of the index say: the declaration, and the run that speaks for it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heedful.lab import results, text
from heedful.lab.declare import Claim, Experiment, canonical
from heedful.lab.errors import LabError
from heedful.lab.identity import identify
from heedful.lab.report.parts import FigureView, Forest, forest, spec_of, table_view
from heedful.lab.store import CELLS

if TYPE_CHECKING:
    import polars as pl

_KEYS = {
    "scale",
    "run_id",
    "params",
    "device",
    "inputs",
    "sources",
    "versions",
    "machine",
    "commit",
    "workers",
    "started",
    "finished",
    "seconds",
    "complete",
    "cells",
    "tuned",
    "verdicts",
    "values_sha256",
}
"""What a run's ``meta.json`` must say for a page to be made of it."""

_UNFINISHED = "what they show is not all measured yet"


@dataclass(frozen=True)
class Mark:
    """A word of caution: a name short enough for the index, and what it means."""

    name: str
    text: str


@dataclass(frozen=True)
class ClaimView:
    """A claim and its verdict in words."""

    text: str
    remark: str
    status: str
    effect: str
    forest: Forest | None
    units: str
    published: str
    boundary: bool


@dataclass(frozen=True)
class StoredRun:
    """A run as its ``meta.json`` describes it.

    Attributes:
        stale: why the current code would not give these results, empty if it would.
    """

    folder: Path
    meta: Mapping[str, Any]
    stale: str

    @property
    def scale(self) -> str:
        return str(self.meta["scale"])

    @property
    def complete(self) -> bool:
        return bool(self.meta["complete"])

    @property
    def when(self) -> str:
        """When it last ended, or began if it never ended."""
        return str(self.meta["finished"] or self.meta["started"])


@dataclass(frozen=True)
class OtherRun:
    """A run that does not speak for its system: a line at the foot of the page."""

    scale: str
    run_id: str
    created: str
    state: str
    folder: str


@dataclass(frozen=True)
class SystemView:
    """Everything that a system's page shows.

    Attributes:
        path: the page, relative to the site.
        run: the run that speaks for the system; None if there is none.
        facts: what is known about that run, as pairs of names and texts.
    """

    experiment: Experiment
    path: str
    run: StoredRun | None
    marks: tuple[Mark, ...]
    claims: tuple[ClaimView, ...]
    figures: tuple[FigureView, ...]
    tuned: tuple[tuple[str, str], ...]
    command: str
    facts: tuple[tuple[str, str], ...]
    leaves_out: str
    others: tuple[OtherRun, ...]


def system_view(experiment: Experiment, runs: Path, site: Path) -> tuple[SystemView, list[str]]:
    """What the page of ``experiment`` shows, with one line for each thing that could not be shown.

    The run that speaks for a system is its newest complete one at the largest scale; of runs at the same
    scale, those with the parameters as declared go first. Without a complete run it is the best partial one.

    Args:
        experiment: the system.
        runs: the folder of runs.
        site: where the tables behind the charts are written.
    """
    stored, problems = _stored_runs(experiment, runs)
    stored.sort(key=lambda run: _rank(experiment, run), reverse=True)
    run = stored[0] if stored else None
    figures: tuple[FigureView, ...] = ()
    marks = list(_marks(experiment, run))
    if run and experiment.figures:
        why = ""
        try:
            figures = tuple(_figures(experiment, _rows(run), site))
        except LabError as error:
            why = str(error)
        except Exception as error:  # the room's own code, perhaps on rows that older code stored
            why = text.one_line(f"{type(error).__name__}: {error}") if run.complete else _UNFINISHED
        if why:
            problems.append(f"the charts of {experiment.slug} cannot be drawn: {why}")
            marks.append(Mark("no charts", why))
    view = SystemView(
        experiment=experiment,
        path=f"systems/{experiment.slug}.html",
        run=run,
        marks=tuple(marks),
        claims=tuple(_claims(experiment, run)),
        figures=figures,
        tuned=tuple((method, text.settings(setting)) for method, setting in run.meta["tuned"].items()) if run else (),
        command=_command(experiment, run),
        facts=tuple(_facts(run)) if run else (),
        leaves_out=experiment.scales[run.scale].leaves_out if run and run.scale in experiment.scales else "",
        others=tuple(map(_other, stored[1:])),
    )
    return view, problems


def _stored_runs(experiment: Experiment, runs: Path) -> tuple[list[StoredRun], list[str]]:
    found, problems = [], []
    for path in sorted((runs / experiment.slug).glob("*/*/meta.json")):
        try:
            meta = results.meta(path.parent)
        except LabError as error:
            problems.append(str(error))
            continue
        if missing := sorted(_KEYS - meta.keys()):
            problems.append(f"{path} says nothing about {', '.join(missing)}; run {experiment.slug} again")
            continue
        found.append(StoredRun(path.parent, meta, _stale(experiment, meta)))
    return found, problems


def _stale(experiment: Experiment, meta: Mapping[str, Any]) -> str:
    try:
        identity = identify(experiment, meta["params"], meta["device"])
    except Exception as error:  # the room's own code, on parameters that older code stored
        return text.one_line(f"whether the code has changed since cannot be told: {error}")
    if identity.run_id == meta["run_id"]:
        return ""
    changed = _differences(meta["sources"], identity.sources)
    changed += _differences(meta["inputs"], identity.inputs)
    what = f" ({', '.join(changed[:4])}{', …' if len(changed) > 4 else ''})" if changed else ""
    return f"what it was measured with has changed since{what}"


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]


def _rank(experiment: Experiment, run: StoredRun) -> tuple[bool, int, bool, str]:
    scales = list(experiment.scales)
    rank = scales.index(run.scale) if run.scale in scales else -1
    return run.complete, rank, not _changes(experiment, run), run.when


def _changes(experiment: Experiment, run: StoredRun) -> dict[str, Any]:
    """The parameters that are not as the scale declares them."""
    declared = experiment.scales[run.scale].params if run.scale in experiment.scales else {}
    return {
        name: value
        for name, value in run.meta["params"].items()
        if name not in declared or canonical(declared[name]) != canonical(value)
    }


def _marks(experiment: Experiment, run: StoredRun | None) -> Iterator[Mark]:
    if run is None:
        yield Mark("not measured", "nobody has run this experiment here; the command below does")
        return
    if run.stale:
        yield Mark("stale", f"{run.stale}; the command below measures it again")
    if not run.complete:
        cells = run.meta["cells"]
        counted = f"{cells['done']} of {cells['total']} cells are measured" if cells else "it has not ended"
        failed = f", {cells['failed']} failed" if cells.get("failed") else ""
        yield Mark("partial", f"{counted}{failed}; the command below finishes the rest")
    if run.scale == "smoke":
        yield Mark(
            "smoke",
            "measured at scale smoke, which shows that the experiment runs, not whether its claims hold",
        )
    if changes := _changes(experiment, run):
        yield Mark("changed parameters", f"not as the scale declares them: {text.settings(changes)}")


def _claims(experiment: Experiment, run: StoredRun | None) -> Iterator[ClaimView]:
    verdicts = {verdict["claim"]: verdict for verdict in run.meta["verdicts"]} if run else {}
    for claim in experiment.claims:
        metric = experiment.metric(claim.metric)
        verdict = verdicts.get(claim.id, {})
        figures = verdict.get("effect"), verdict.get("low"), verdict.get("high")
        yield ClaimView(
            text=claim.text,
            remark=_remark(claim, text.decision(claim, metric), verdict),
            status=verdict.get("status", "not measured"),
            effect=text.verdict_effect(claim, metric, *figures),
            forest=forest(claim, *figures),
            units=text.number(verdict.get("units") or None),
            published=claim.published,
            boundary=claim.boundary,
        )


def _remark(claim: Claim, decision: str, verdict: Mapping[str, Any]) -> str:
    """When the claim holds, how its interval was made, what was not varied; or why there is no verdict."""
    if claim.reason:
        return f"Not measured: {claim.reason}."
    notes = [note for note in verdict.get("note", "").split("; ") if note and note != claim.fixed]
    fixed = f" Not varied: {claim.fixed}." if claim.fixed else ""
    return "; ".join([decision, *notes]) + "." + fixed


def _rows(run: StoredRun) -> pl.DataFrame:
    """What charts are drawn from. Raises LabError if nothing is measured."""
    begun = (run.folder / CELLS).exists()
    if begun and (rows := results.read(run.folder)).height:
        return rows
    tuned = begun and results.values(run.folder, results.TUNE).height
    raise LabError(f"{'nothing but tuning' if tuned else 'no cell'} has been measured yet")


def _figures(experiment: Experiment, rows: pl.DataFrame, site: Path) -> Iterator[FigureView]:
    assert experiment.figures is not None
    for number, figure in enumerate(experiment.figures(rows)):
        table = table_view(figure.table, site, f"data/{experiment.slug}/figure-{number}.csv")
        yield FigureView(figure.title, figure.caption, spec_of(figure.chart), table)


def _command(experiment: Experiment, run: StoredRun | None) -> str:
    if run is None:
        return f"heedful run {experiment.slug}"
    words = ["heedful", "run", experiment.slug, "--scale", run.scale]
    for name, value in _changes(experiment, run).items():
        words += ["--set", f"{name}={value if isinstance(value, str) else canonical(value)}"]
    if run.meta["device"] != "cpu":
        words += ["--device", run.meta["device"]]
    return shlex.join(words)


def _facts(run: StoredRun) -> Iterator[tuple[str, str]]:
    meta, machine = run.meta, run.meta["machine"]
    yield "scale", run.scale
    yield "parameters", text.settings(meta["params"])
    cells = meta["cells"]
    workers = f"{meta['workers']} worker{'s' if meta['workers'] != 1 else ''}"
    seconds = float(meta["seconds"])
    cost = f"{seconds:.1f} s{f' ({text.duration(seconds)})' if seconds >= 60 else ''} on {workers}"
    yield "cost", f"{cost}, {text.number(cells['total'])} cells" if cells else cost
    yield "date", text.moment(run.when)
    yield "machine", f"{machine['processor']}, {machine['cpus']} processors, {machine['memory_gib']} GiB"
    yield "system", str(machine["system"])
    yield "device", str(meta["device"])
    yield "versions", ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    if meta["commit"]:
        changed = " with uncommitted changes" if meta["commit"].endswith("+") else ""
        yield "commit", meta["commit"].removesuffix("+") + changed
    yield "run", str(meta["run_id"])
    yield "checksum of the values", str(meta["values_sha256"]) or text.MISSING


def _other(run: StoredRun) -> OtherRun:
    state = ["complete" if run.complete else "partial", *(["stale"] if run.stale else [])]
    when = text.moment(run.when)
    return OtherRun(run.scale, str(run.meta["run_id"]), when, ", ".join(state), str(run.folder))
