"""``heedful compare bandits``: policies on a log of decisions, one's own or a made one, or thresholds on scores."""

from __future__ import annotations

import math
import time as clock
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heedful.lab import comparing, console, text
from heedful.lab.errors import LabError, WorkError

if TYPE_CHECKING:
    from heedful.bandits.commands.logs import Log
    from heedful.bandits.commands.measuring import Work

OF_A_LOG = ("context", "action", "reward", "propensity", "actions_column", "position", "time", "estimate_propensity")
"""Options that say what is in one's own log."""
OF_LOGS = (*OF_A_LOG, "policies", "oracle", "estimators", "clip")
_WHOSE = {False: "your own log; add --log", True: "scored people; add --scores"}
OF_SCORES = ("score", "group", "outcome", "groups", "tolerance", "gain", "loss", "rounds", "cohort")


def compare(
    ctx: typer.Context,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A log, CSV or Parquet, a row per decision  [default: made]")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="What decisions may depend on  [default: all the others]"),
    ] = None,
    action: Annotated[str, typer.Option(metavar="COLUMN", help="What was done.")] = "action",
    reward: Annotated[str, typer.Option(metavar="COLUMN", help="What it brought.")] = "reward",
    propensity: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The probability that it was done with  [default: propensity, if there]"),
    ] = None,
    actions_column: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="What could have been done: lists, or text with | between  [default: all]"),
    ] = None,
    position: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The place decided about, where places differ in propensities.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="What rows are in order of  [default: as they stand]")
    ] = None,
    policies: Annotated[
        str, typer.Option(help="Policies, as squarecb:gamma=300,greedy; other methods of the room are replayed.")
    ] = "uniform,best-action,greedy,contextual-epsilon,softmax,squarecb,linucb",
    oracle: Annotated[
        str, typer.Option(help="Their models: ridge, logistic, boosting, mlp; several: each once.")
    ] = "logistic",
    split: Annotated[
        str, typer.Option(help="The share of the log, from its start, that policies are trained on.")
    ] = "50%",
    estimators: Annotated[
        str | None, typer.Option(help="dr, snips, ips, direct  [default: all that the log allows]")
    ] = None,
    estimate_propensity: Annotated[
        bool, typer.Option("--estimate-propensity", help="Estimate propensities that the log does not have.")
    ] = False,
    clip: Annotated[float | None, typer.Option(min=0.0, help="The largest importance weight  [default: none]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of learners, of cohorts, and of the made log.")] = 0,
    scores: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Scored people instead: thresholds and groups' rates."),
    ] = None,
    score: Annotated[str, typer.Option(metavar="COLUMN", help="Of --scores: higher is better.")] = "score",
    group: Annotated[str, typer.Option(metavar="COLUMN", help="Of --scores: whose rates must agree.")] = "group",
    outcome: Annotated[
        str, typer.Option(metavar="COLUMN", help="Of --scores: 1 good, 0 bad, missing if never observed.")
    ] = "outcome",
    groups: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Of --scores: the groups that are meant  [default: all]")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Of --scores: by how much acceptance rates may differ.")
    ] = 0.05,
    gain: Annotated[float, typer.Option(min=0.0, help="Of --scores: what an accepted 1 brings.")] = 1.0,
    loss: Annotated[float, typer.Option(min=0.0, help="Of --scores: what an accepted 0 costs.")] = 1.0,
    rounds: Annotated[
        int, typer.Option(min=1, help="Of --scores: so many thresholds are played when learning online.")
    ] = 2000,
    cohort: Annotated[int, typer.Option(min=1, help="Of --scores: people that each of those decides about.")] = 200,
    out: Annotated[Path, typer.Option(help="The folder of runs.")] = Path("runs"),
    site: Annotated[Path, typer.Option(help="The folder of the report.")] = Path("site"),
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare policies on a log of decisions: what each would have brought, and whether the log can say so.

    Policies are trained on the log's first half and evaluated on the second. Without --log one is made, whose truth is
    known and stands beside the estimates. With --scores the file holds scored people instead, and what is compared are
    thresholds under a limit on the difference between groups' acceptance rates: found beforehand, and learned online
    from one cohort after the other.
    """
    if log is not None and scores is not None:
        raise LabError("--log and --scores: compare one of the two")
    for option in OF_LOGS if scores is not None else (*OF_SCORES, *(OF_A_LOG if log is None else ())):
        if comparing.given(ctx, option):
            whose = "logs; leave out --scores" if scores is not None else _WHOSE[option in OF_SCORES]
            raise LabError(f"--{option.replace('_', '-')} is for {whose}")
    if scores is not None:
        columns, terms = (score, group, outcome, groups), (tolerance, gain, loss)
        _thresholds(ctx, scores, columns, terms, split, (rounds, cohort, seed), out, site, json)
        return
    from heedful.bandits.commands import measuring, options, page

    share, oracles = options.read_share(split), options.read_oracles(oracle)
    contenders = options.read_policies(policies, oracles)
    comparing.check_writable("bandits", out, site)
    whole = _log(log, (context, action, reward, propensity, actions_column, position, time), seed)
    taken = "" if log is None or context is not None or whole.propensities is not None else _taken(whole)
    if whole.propensities is not None and estimate_propensity:
        raise LabError("--estimate-propensity: the log has propensities; leave out one of the two")
    weighted = whole.propensities is not None or estimate_propensity
    names = options.read_estimators(estimators, weighted)
    if clip is not None and not (weighted and 0 < clip < math.inf):
        raise LabError(
            f"--clip {clip:g}: must be a number above 0" if weighted else "--clip: there are no weights to clip"
        )
    replayed = [contender.spec for contender in contenders if contender.learner is not None]
    if replayed and not weighted:
        if comparing.given(ctx, "policies"):
            raise LabError(
                f"--policies {replayed[0]!r}: is replayed, which needs --propensity or --estimate-propensity"
            )
        console.notice(f"notice: {', '.join(replayed)} is left out: replaying it needs propensities")
    cut = measuring.check_split(whole, share)
    before, measured = whole.part(0, cut), whole.part(cut, len(whole))
    noticed = [*([taken] if taken else []), *whole.notices]
    for notice in noticed:
        console.notice(f"notice: {notice}")

    began = clock.monotonic()
    try:
        with console.Progress(f"{len(contenders)} policies on {len(measured):,} rows") as bar:
            work = measuring.Work(before, measured, measured.propensities, clip)
            if estimate_propensity:
                work.propensities = measuring.estimated_propensities(measured, work.contexts)
            outcomes = measuring.run(work, contenders, oracles, names, seed, bar)
            intervals = measuring.Intervals(measured.days, len(measured))
            rows = measuring.rows(outcomes, work, intervals)
    except KeyboardInterrupt:
        console.notice("interrupted; nothing is stored")
        raise typer.Exit(130) from None
    except MemoryError as error:
        raise WorkError(f"the comparison stopped: {error or 'out of memory'}") from error
    logged = float(measured.rewards.mean())
    table = page.policies(
        _title(whole, measured, logged, log is not None),
        _note(share, intervals.by_days, names, clip, work, estimate_propensity),
        rows, names, estimate_propensity,
    )  # fmt: skip
    facts = {"log": str(log or whole.name), "rows": f"{len(before)} + {len(measured)}", "seed": str(seed)}
    facts["duration"] = text.duration(clock.monotonic() - began)
    problems = list(_problems(rows, work, estimate_propensity))
    console.warn_of(problems)
    if not json:
        table.show()
    title = f"Policies on {whole.name}"
    again = comparing.command_line(ctx, "compare bandits")
    drawn = page.figures(table, logged, names)
    notes = [table.note, *noticed, *(f"warning: {problem}" for problem in problems)]
    where = comparing.publish("bandits", title, again, {table.title: table.frame}, drawn, facts, out, site, notes)
    if json:
        shown = {table.title: {"note": table.note, "rows": table.rows}}
        console.show_json({"title": title, "facts": facts, "tables": shown, "report": str(where)})
    else:
        print(f"{facts['duration']}; report: {where}")


def _thresholds(
    ctx: typer.Context, path: Path, columns: tuple[Any, ...], terms: tuple[float, float, float], split: str,
    learning: tuple[int, int, int], out: Path, site: Path, json: bool,
) -> None:  # fmt: skip
    """``--scores``: thresholds found on the first part of the people, and learned online, measured on the rest."""
    from heedful.bandits.commands import online, options, page, scores
    from heedful.bandits.commands.tables import LARGEST

    for option, value in zip(("--tolerance", "--gain", "--loss"), terms):
        if not value <= LARGEST:
            raise LabError(f"{option} {value:g}: must be a number of at most {LARGEST:g}")
    score, group, outcome, groups = columns
    share, wanted = options.read_share(split), options.read_names("--groups", groups)
    comparing.check_writable("bandits", out, site)
    people = scores.read_people(path, score, group, outcome, wanted)
    asked, plan = scores.Terms(*terms), online.Plan(*learning)
    before, measured = scores.check_parts(people, int(len(people.scores) * share))
    title = f"{path.name}: {len(measured.scores):,} of {len(people.scores):,} people measured"
    tables = [page.thresholds(title, asked, share, scores.rows(before, measured, asked))]
    drawn = page.threshold_figures(tables[0], asked.tolerance)
    missing = float((people.outcomes != people.outcomes).mean())
    if missing:
        console.notice(
            f"notice: {100 * missing:.1f} % of outcomes were never observed; rewards are of the others, which says "
            "little about people whom an earlier rule turned away"
        )
    if len(people.labels) == 2:
        try:
            with console.Progress(f"learning from {plan.rounds:,} cohorts") as bar:
                found, course = online.rows(before, measured, asked, plan, bar)
        except KeyboardInterrupt:
            console.notice("interrupted; nothing is stored")
            raise typer.Exit(130) from None
        tables.append(page.learned(asked, plan, found))
        drawn.append(page.course(course))
    else:
        console.notice(
            f"notice: there are {len(people.labels)} groups; learning online compares two, named with --groups"
        )
    again, facts = comparing.command_line(ctx, "compare bandits"), {"scores": str(path), "seed": str(plan.seed)}
    heading, frames = f"Thresholds on {path.name}", {table.title: table.frame for table in tables}
    if not json:
        for table in tables:
            table.show()
    notes = [table.note for table in tables]
    where = comparing.publish("bandits", heading, again, frames, drawn, facts, out, site, notes)
    if json:
        shown = {table.title: {"note": table.note, "rows": table.rows} for table in tables}
        console.show_json({"title": heading, "facts": facts, "tables": shown, "report": str(where)})
    else:
        print(f"report: {where}")


def _log(path: Path | None, named: tuple[Any, ...], seed: int) -> Log:
    """The log that was asked for, else the made one."""
    from heedful.bandits.commands import logs, made, options, tables

    if path is None:
        return made.payments(seed)
    names, action, reward, propensity, available, position, time = named
    source = tables.Source("--log", path)
    table = tables.read_table(source)
    if propensity is None and "propensity" in table.columns:
        propensity = "propensity"
    context = options.read_names("--context", names)
    asked = logs.Columns(context, action, reward, propensity, available, position, time)
    return logs.from_table(table, asked, source)


def _taken(whole: Log) -> str:
    """Which columns were taken as the context, as none were named, and which may be propensities."""
    from heedful.bandits.commands import logs

    names = whole.contexts.columns
    there = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    told = f"taken as context: {there}; --context names others"
    if like := logs.like_propensities(whole.contexts):
        told += f"; if {like[0]!r} is the probability that the action was done with, add --propensity {like[0]}"
    return told


def _title(whole: Log, measured: Log, logged: float, own: bool) -> str:
    name = whole.name if own else whole.name.capitalize()  # a file is called as it is called
    return f"{name}: {len(measured):,} of {len(whole):,} decisions measured, {logged:.4f} logged per decision"


def _note(share: float, by_days: bool, names: Any, clip: float | None, work: Work, estimated: bool) -> str:
    """How it was measured, and what the columns mean."""
    from heedful.bandits.commands import measuring

    drawn = "drawing days again" if by_days else "moving-block bootstrap over the log"
    parts = [
        f"Trained on the first {100 * share:g} % of the log, measured on the rest. In [] the 95 % interval, by {drawn}."
    ]
    if {"dr", "direct"} & set(names):
        parts.append(
            "dr and direct predict each third of the measured rows by a model of the other two; direct is as good as "
            "that model."
        )
    if work.propensities is not None:
        parts.append(
            "over the log: by the first estimate, less what was logged. ESS: as many rows of the policy's own would "
            "say as much. mean w: near 1 if the propensities are right. never logged: what the policy does that the "
            "measured rows never show."
        )
    if estimated:
        parts.append(
            f"Propensities are estimated, by a multinomial logistic regression on {measuring.FOLDS} folds: what the "
            "log depended on beside the context biases every weighted estimate."
        )
    if clip is not None:
        parts.append(
            f"Weights are at most {clip:g} in estimates, which biases them; ESS, max w and mean w are of the weights "
            "as they are."
        )
    if work.propensities is None:
        parts.append(
            "Without propensities there is no more than this: no estimate here is safe from what was not logged."
        )
    return " ".join(parts)


def _problems(rows: Any, work: Work, estimated: bool) -> list[str]:
    """What a reader must know before believing the table."""
    found = []
    for row in rows:
        if row["problems"]:
            name = f"{row['policy']} on {row['oracle']}" if row["oracle"] else row["policy"]
            found.append(f"the log does not carry {name}: {row['problems']}")
    if work.propensities is not None and not estimated:
        from heedful.bandits.commands import measuring

        odd = measuring.odd_propensities(work)
        if odd:
            found.append(odd)
    return found
