"""``heedful compare serving``: which scheduler sustains which load, on generated requests or on one's own log."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heedful.lab import comparing, console, text
from heedful.lab.errors import LabError

if TYPE_CHECKING:
    from heedful.serving.commands.measuring import Compared
    from heedful.serving.commands.options import Work
    from heedful.serving.service import Limits
    from heedful.serving.simulator import Simulator
    from heedful.serving.workloads import Workload

REQUESTS = 2000
"""Of each workload that nobody asked for."""
FOR_LOGS = ("arrival", "prompt", "output", "cap", "unit", "skip_bad", "sort")


def compare(
    context: typer.Context,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A request log: CSV, JSON lines or Parquet  [default: generated]"),
    ] = None,
    arrival: Annotated[
        str | None, typer.Option(help="The log's column of arrival times  [default: found by name]")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Its column of prompt tokens  [default: found by name]")] = None,
    output: Annotated[str | None, typer.Option(help="Its column of output tokens  [default: found by name]")] = None,
    cap: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN|INT",
            help="The most tokens that requests may generate  [default: the longest output, up to a power of two]",
        ),
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help="Of arrival times: s, ms, us, ns  [default: by the column's name]")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave malformed rows out, and count them.")] = False,
    sort: Annotated[bool, typer.Option("--sort", help="Put the log in order of arrival.")] = False,
    workload: Annotated[
        str | None,
        typer.Option(help="Generated requests: distribution-1, -2, -3, shifted  [default: the first three]"),
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=50, help=f"Take so many  [default: all of a log, {REQUESTS} generated ones]")
    ] = None,
    capacity: Annotated[int, typer.Option(min=1, help="Slots of the KV cache, in tokens.")] = 120_000,
    page: Annotated[int, typer.Option(min=1, help="Tokens per block of the cache.")] = 1,
    interval: Annotated[int, typer.Option(min=1, help="Decode steps between decisions.")] = 10,
    max_running: Annotated[int, typer.Option(min=1, help="Requests that run together, at most.")] = 1024,
    prefill_tokens: Annotated[int, typer.Option(min=1, help="Tokens of one prefill, at most.")] = 4096,
    chunk: Annotated[int, typer.Option(min=0, help="Compute prompts in pieces beside decode steps; 0: apart.")] = 0,
    step_time: Annotated[
        Path | None, typer.Option(help="Constants from 'heedful serving calibrate'  [default: 7 B on an A100]")
    ] = None,
    ttft: Annotated[float, typer.Option(help="Seconds to the first token, at most.")] = 10.0,
    mtpot: Annotated[float, typer.Option(help="Seconds between two tokens of a request, at most.")] = 1.5,
    share: Annotated[float, typer.Option(help="Share of requests within limits that makes a load sustained.")] = 0.99,
    clients: Annotated[
        str | None, typer.Option(help="Clients that wait for their answers, as 20,40  [default: about saturation]")
    ] = None,
    speed: Annotated[
        str | None, typer.Option(help="Times as fast as the log arrives, as 0.5,1,2  [default: about saturation]")
    ] = None,
    schedulers: Annotated[
        str | None,
        typer.Option(help="As past-future:rho=0.03,aggressive:watermark=0.9  [default: six; the oracle always]"),
    ] = None,
    window: Annotated[int, typer.Option(min=1, help="Finished requests that the history holds.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of random choices.")] = 0,
    search: Annotated[bool, typer.Option(help="Look for the smallest cache that is enough, too.")] = True,
    out: Annotated[Path, typer.Option(help="The folder of runs.")] = Path("runs"),
    site: Annotated[Path, typer.Option(help="The folder of the report.")] = Path("site"),
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare schedulers: the load that each sustains within limits on latency, goodput, and the cache it needs."""
    _refuse_mixed(context, trace)
    from heedful.serving.commands import calibrate, measuring, options
    from heedful.serving.commands.page import Section, figure
    from heedful.serving.loads import saturation
    from heedful.serving.logs import Columns
    from heedful.serving.service import Limits
    from heedful.serving.simulator import Simulator
    from heedful.serving.step_time import StepTime

    chosen = options.read_schedulers(options.DEFAULT if schedulers is None else schedulers)
    constants = StepTime() if step_time is None else calibrate.read_constants(step_time)
    simulator = Simulator(capacity, page, interval, max_running, prefill_tokens, chunk, constants)
    try:
        limits = Limits(ttft, mtpot, share)
    except ValueError as error:
        raise LabError(f"--{error}") from error
    given = None if clients is None else options.read_numbers("--clients", clients, True)
    given = given if speed is None else options.read_numbers("--speed", speed, False)
    comparing.check_writable("serving", out, site)
    if trace is not None:
        columns = Columns(arrival, prompt, output, None, unit)  # type: ignore[arg-type]
        work = [options.log(trace, columns, cap, requests, skip_bad, sort)]
    else:
        names = ",".join(options.GENERATED) if workload is None else workload
        work = options.generated(names, requests or REQUESTS, seed)
        work += [] if workload is not None else options.shared(requests or REQUESTS)

    began = time.monotonic()
    sections: list[Section] = []
    problems: list[str] = []
    try:
        with console.Progress("serving") as bar:
            for place, each in enumerate(work):
                requests_of = each.workload if clients is None else each.workload.closed()
                _check(requests_of.arrival is None, speed is not None, simulator, each)
                bar.title = f"{requests_of.name}, {place + 1} of {len(work)}"
                closed = requests_of.arrival is None
                endless = given is None and measuring.takes_all_at_once(simulator, requests_of, limits)
                if given is None:
                    full = 1.0 if endless else saturation(simulator, requests_of, limits)
                    loads = measuring.loads_about(full, closed)
                else:
                    loads = given
                compared = measuring.compare(
                    simulator, chosen, requests_of, loads, limits, window, seed, search,
                    lambda done, left: bar(round(1000 * done), 1000, left_s=left),
                )  # fmt: skip
                section = Section(
                    _title(each, simulator),
                    _note(each, limits, closed, endless, compared),
                    "clients" if closed else "speed of arrivals, times the log's",
                    compared.reference,
                    measuring.summaries(compared),
                    measuring.rows(compared),
                )
                sections.append(section)
                if not json:
                    section.show()
                if compared.alike and compared.most_held < capacity:
                    problems.append(_undecided(requests_of, compared.most_held, capacity))
                    console.warn_of(problems[-1:])
    except KeyboardInterrupt:
        console.notice("interrupted; nothing is stored")
        raise typer.Exit(130) from None
    facts = {
        "capacity": f"{capacity:,} tokens in blocks of {page}",
        "duration": text.duration(time.monotonic() - began),
    }
    again = comparing.command_line(context, "compare serving")
    title = f"Serving {', '.join(each.workload.name for each in work)}"
    tables = {name: table for section in sections for name, table in section.tables.items()}
    drawn = [figure(section) for section in sections]
    notes = [*(f"{s.title}: {s.note}" for s in sections), *(f"warning: {problem}" for problem in problems)]
    where = comparing.publish("serving", title, again, tables, drawn, facts, out, site, notes)
    if json:
        shown: dict[str, Any] = {
            section.title: {"note": section.note, "summary": section.summaries, "rows": section.rows}
            for section in sections
        }
        console.show_json({"title": title, "facts": facts, "tables": shown, "report": str(where)})
    else:
        print(f"{facts['duration']}; report: {where}")


def _refuse_mixed(context: typer.Context, trace: Path | None) -> None:
    """LabError for an option that says nothing where it was given."""
    if trace is None:
        for name in FOR_LOGS:
            if comparing.given(context, name):
                raise LabError(f"--{name.replace('_', '-')} is for your own log; add --trace")
    elif comparing.given(context, "workload"):
        raise LabError("--workload is for generated requests; leave it out beside --trace")
    if comparing.given(context, "clients") and comparing.given(context, "speed"):
        raise LabError("--clients and --speed: give one, a closed loop or the log's own arrivals")


def _check(closed: bool, speed: bool, simulator: Simulator, work: Work) -> None:
    """LabError for a speed where nothing arrives by itself, and if no request could ever fit."""
    workload = work.workload
    if closed and speed:
        raise LabError(f"--speed: {workload.name} has no arrival times; give --clients")
    if int((workload.prompt + workload.cap).min()) > simulator.capacity:
        least = int((workload.prompt + workload.cap).min())
        raise LabError(
            f"--capacity {simulator.capacity}: no request of {workload.name} fits with its cap; the smallest takes "
            f"{least} slots"
        )


def _undecided(requests: Workload, most_held: int, capacity: int) -> str:
    """That the cache was too large for schedulers to differ, and what makes them differ."""
    ways = []
    if int((requests.prompt + requests.output).sum()) > capacity:
        ways.append("more --clients" if requests.arrival is None else "a higher --speed")
    if (least := int((requests.prompt + requests.cap).max())) < most_held:
        ways.append(f"a --capacity from {least:,} to {most_held:,}")
    return (
        f"{requests.name}: the cache never fills, at most {most_held:,} of {capacity:,} slots are held, so that all "
        f"schedulers do the same and neither loads nor goodput tell them apart; give "
        f"{' or '.join(ways) or 'a longer log'}"
    )


def _title(work: Work, simulator: Simulator) -> str:
    return f"{work.workload.name}: {len(work.workload):,} requests, {simulator.capacity:,} slots"


def _note(work: Work, limits: Limits, closed: bool, endless: bool, compared: Compared) -> str:
    """How it was measured, and what the columns mean; ``endless`` if no speed of arrivals is too fast."""
    reference = compared.reference
    part = (
        "Cold start and end are left out."
        if not compared.whole
        else ("Cold start and end are in it: too few requests would be left.")
    )
    load = "clients that wait for their answers" if closed else "times the speed at which the log arrives"
    if endless:
        load += " (about its own: even if all requests arrive at once, the oracle serves them within limits)"
    slots = "" if reference is None else f" slots for {reference:g}: the smallest cache that sustains that load."
    return (
        f"{'. '.join(each[0].upper() + each[1:] for each in (*work.notes, 'caps: ' + work.caps))}. Loads are {load}; "
        "in their columns goodput in tokens/s, and the share of requests within limits: first token in "
        f"{limits.ttft:g} s, no gap above {limits.mtpot:g} s. sustained: the largest load at which "
        f"{100 * limits.share:g} % are. goodput: mean over loads.{slots} evictions/100: per 100 requests, where most. "
        f"The oracle knows the lengths of answers. {part}"
    )
