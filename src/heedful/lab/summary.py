"""What ``show`` says about an experiment and what ``run`` says about a run, as text and as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from heedful.lab import console, text
from heedful.lab.console import Column
from heedful.lab.declare import Experiment

if TYPE_CHECKING:
    from heedful.lab.run import RunResult

NAMED_FAILURES = 10
"""So many failed cells are named by ``run``; the others are in the run's folder."""

_NOT_PARAMETERS = ("cell", "stage", "exclusive")


def describe(experiment: Experiment) -> dict[str, Any]:
    """Everything that an experiment declares, as plain data; ``decision`` says what makes each claim hold."""
    return {
        "system": experiment.slug,
        "room": experiment.room,
        "title": experiment.title,
        "question": experiment.question,
        "summary": experiment.summary,
        "paper": asdict(experiment.paper),
        "claims": [
            {**asdict(claim), "decision": text.decision(claim, experiment.metric(claim.metric))}
            for claim in experiment.claims
        ],
        "scales": {
            name: {"params": dict(scale.params), "limit_s": scale.limit_s, "leaves_out": scale.leaves_out}
            for name, scale in experiment.scales.items()
        },
        "metrics": [asdict(metric) for metric in experiment.metrics],
        "example": experiment.example,
    }


def describe_lines(experiment: Experiment) -> Iterator[str]:
    """The same for people, line by line."""
    yield f"{experiment.title} ({experiment.room})"
    yield ""
    yield experiment.question
    yield experiment.summary
    yield ""
    yield f"Paper: {text.citation(experiment.paper)}"
    yield from ("", "Claims")
    for claim in experiment.claims:
        yield f"  {claim.id}{' (boundary)' if claim.boundary else ''}: {claim.text}"
        if claim.reason:
            yield f"      not measured: {claim.reason}"
            continue
        yield f"      {text.decision(claim, experiment.metric(claim.metric))}"
        if claim.published:
            yield f"      the paper: {claim.published}"
        if claim.fixed:
            yield f"      not varied: {claim.fixed}"
    yield from ("", "Scales and their parameters")
    for name, scale in experiment.scales.items():
        yield f"  {name}: {text.settings(scale.params)}"
        if scale.leaves_out:
            yield f"      leaves out: {scale.leaves_out}"
    yield from ("", "Metrics")
    for metric in experiment.metrics:
        unit = "" if metric.unit == "1" else f" ({metric.unit})"
        better = "" if metric.better == "neither" else f"; {metric.better} is better"
        yield f"  {metric.name}{unit}: {metric.meaning}{better}"
    if experiment.example:
        yield from ("", "Example", "")
        yield from (f"  {line}".rstrip() for line in experiment.example.strip().splitlines())
    yield from ("", f"Check its claims: heedful run {experiment.slug}")


def result_data(experiment: Experiment, scale: str, result: RunResult) -> dict[str, Any]:
    """A run's outcome as plain data; the unit of a relative effect is ``share`` (of the control's mean)."""
    claims = {claim.id: claim for claim in experiment.claims}
    return {
        "system": experiment.slug,
        "room": experiment.room,
        "scale": scale,
        **asdict(result),
        "verdicts": [
            {
                **asdict(verdict),
                "text": claims[verdict.claim].text,
                "unit": "share"
                if claims[verdict.claim].relative
                else experiment.metric(claims[verdict.claim].metric).unit,
            }
            for verdict in result.verdicts
        ],
    }


def show_result(experiment: Experiment, scale: str, result: RunResult) -> None:
    """Print a run's verdicts, tuned settings and counts; notices and failed cells go to standard error."""
    for line in result.notices:
        console.notice(f"notice: {line}")
    rows = []
    for claim, verdict in zip(experiment.claims, result.verdicts, strict=True):
        metric = experiment.metric(claim.metric)
        rows.append(
            {
                "claim": claim.text + (" (boundary)" if claim.boundary else ""),
                "verdict": verdict.status,
                "effect": text.verdict_effect(claim, metric, verdict.effect, verdict.low, verdict.high),
                "units": verdict.units or None,
                "paper": claim.published or None,
                "note": verdict.note,
            }
        )
    columns = [
        Column("claim"),
        Column("verdict"),
        Column("effect", "effect, 95 % interval"),
        Column("units", align="right"),
        Column("paper", "the paper"),
        Column("note"),
    ]
    console.show_table(rows, columns, title=f"{experiment.title}, {scale}")
    for method, setting in result.tuned.items():
        print(f"tuned {method}: {text.settings(setting)}")
    _show_failed(result)
    counts = f"{result.done} measured, {result.resumed} stored before, {len(result.failed)} failed"
    print(f"cells: {counts}; {result.run_dir}")


def _show_failed(result: RunResult) -> None:
    """Name the first cells that failed by their parameters."""
    if not result.failed:
        return
    from heedful.lab import results

    stored = {row["cell"]: row for row in results.cells(result.run_dir).to_dicts()}
    for cell, reason in list(result.failed.items())[:NAMED_FAILURES]:
        row = stored.get(cell, {})
        params = {key: row[key] for key in row if key not in _NOT_PARAMETERS and row[key] is not None}
        console.notice(f"failed: {text.settings(params) or cell}: {text.one_line(reason)}")
    if len(result.failed) > NAMED_FAILURES:
        others = len(result.failed) - NAMED_FAILURES
        console.notice(f"failed: {others} more; see {result.run_dir / 'failures.json'}")
    console.notice("the same command tries them again")
