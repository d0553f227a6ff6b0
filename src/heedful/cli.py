"""The command line: thin over :mod:`heedful.lab`; rooms and their commands are found through entry points."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from heedful import __version__
from heedful.lab import console, discover, text
from heedful.lab.data.commands import app as data_commands
from heedful.lab.errors import LabError, WorkError
from heedful.lab.summary import describe, describe_lines, result_data, show_result

if TYPE_CHECKING:
    from heedful.lab.declare import Experiment
    from heedful.lab.run import RunResult

# Newer typers carry their own click, so click's exceptions are reached through the one that typer exports.
_BadUsage: type[Exception] = typer.BadParameter.__mro__[2]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Out = Annotated[Path, typer.Option(help="The folder of runs.")]
STAGES = {"tune": "tuning", "measure": "measuring", "time": "timing"}
_HELP_WIDTH = 55
"""Letters of a command's help in a list of commands."""
OPTIONS: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}


class _Rooms(TyperGroup):
    """Our commands, and for each room that has an ``app`` a command of the room's name, loaded when named."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in discover.command_names():
            return own
        room = getattr(_commands(cmd_name), "app", None)
        if room is None:
            raise LabError(f"room {cmd_name!r} has no commands of its own; see 'heedful compare {cmd_name} --help'")
        return _named(typer.main.get_command(room), cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        super().format_commands(ctx, formatter)
        more = [row for name in discover.command_names() for row in _offered(name)]
        if more:
            with formatter.section("Commands of rooms"):
                formatter.write_dl(more)


class _Comparisons(TyperGroup):
    """For each room whose commands define ``compare`` a command of the room's name, loaded when named."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in discover.command_names():
            raise LabError(discover.unknown("room", cmd_name, discover.comparable_rooms()))
        compare = getattr(_commands(cmd_name), "compare", None)
        if compare is None:
            rooms = ", ".join(discover.comparable_rooms())
            raise LabError(f"{cmd_name!r} has nothing to compare; rooms that have: {rooms}")
        room = typer.Typer(add_completion=False, **OPTIONS)
        room.command(cmd_name)(compare)
        return _named(typer.main.get_command(room), cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Rooms"):
            formatter.write_dl([(name, f"see 'heedful compare {name} --help'") for name in discover.comparable_rooms()])


def _commands(room: str) -> ModuleType:
    """A room's commands, once everything that the room needs is there."""
    from heedful.lab.doctor import require

    require(room)
    return discover.load_commands(room)


def _offered(name: str) -> list[tuple[str, str]]:
    """The commands that an installed package adds under a name, with a line of help each.

    Of a room that cannot be loaded there is its name, and where to see why.
    """
    try:
        room = getattr(discover.load_commands(name), "app", None)
        command = typer.main.get_command(room) if room is not None else None
    except Exception:  # somebody else's commands may raise anything
        return [(name, f"see 'heedful {name} --help'")]
    if command is None:
        return []
    if not isinstance(command, TyperGroup):
        return [(name, command.get_short_help_str(_HELP_WIDTH))]
    return [
        (f"{name} {part}" + (" ..." if isinstance(one, TyperGroup) else ""), one.get_short_help_str(_HELP_WIDTH))
        for part, one in command.commands.items()
        if not one.hidden
    ]


def _named(command: Any, name: str) -> Any:
    command.name = name
    return command


app = typer.Typer(cls=_Rooms, invoke_without_command=True, **OPTIONS)
app.add_typer(
    typer.Typer(cls=_Comparisons, callback=lambda: None, no_args_is_help=True, **OPTIONS),
    name="compare",
    help="Compare a room's methods on your model, trace or data.",
)
app.add_typer(data_commands, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"heedful {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (anywhere on the line).")
    ] = False,
) -> None:
    """Act before you can know; be judged later.

    Published methods for deciding before the outcome is visible: use them, and check what their papers claim.
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list")
def list_(
    room: Annotated[str, typer.Argument(help="Only this room.")] = "",
    json: Json = False,
) -> None:
    """List the systems there are."""
    catalog = discover.catalog()
    rows = [
        {
            "room": experiment.room,
            "system": experiment.slug,
            "question": experiment.question,
            "paper": f"{experiment.paper.title} ({experiment.paper.year})",
        }
        for experiment in (catalog.of_room(room) if room else catalog.experiments)
    ]
    console.show_table(rows, ["room", "system", "question", "paper"], as_json=json)
    console.warn_of(catalog.problems)


@app.command()
def show(system: Annotated[str, typer.Argument(help="The system's name.")], json: Json = False) -> None:
    """Show what a system claims, and how to use it."""
    experiment = discover.catalog().find(system)
    if json:
        console.show_json(describe(experiment))
    else:
        print("\n".join(describe_lines(experiment)))


@app.command()
def run(
    name: Annotated[str, typer.Argument(metavar="SYSTEM|ROOM|all", help="What to check.")],
    scale: Annotated[str, typer.Option(help="How much of the work: smoke, small or full.")] = "small",
    seeds: Annotated[int | None, typer.Option(help="Number of seeds, instead of the scale's.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes  [default: one per processor]")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a parameter of the scale.")
    ] = None,
    out: Out = Path("runs"),
    device: Annotated[str, typer.Option(help="Where tensors live, as cpu or cuda:0.")] = "cpu",
    json: Json = False,
) -> None:
    """Check the claims of a system, of a room, or of all."""
    from heedful.lab.device import CPU, check_device_of
    from heedful.lab.doctor import require
    from heedful.lab.files import check_writable
    from heedful.lab.run import Progress, check_workers, resolve_params
    from heedful.lab.run import run as measure

    catalog = discover.catalog()
    experiments = catalog.select(name)
    overrides = dict(map(_key_and_value, settings or ()))
    check_workers(workers)
    for experiment in experiments:
        resolve_params(experiment, scale, seeds=seeds, overrides=overrides)
    check_device_of(experiments, device)
    check_writable(out)
    finished: list[tuple[Experiment, RunResult]] = []
    refused = 0
    for experiment in experiments:
        try:
            require(experiment.room)
            with console.Progress("") as bar:

                def show_progress(state: Progress, bar: console.Progress = bar, slug: str = experiment.slug) -> None:
                    bar.title = f"{slug}, {scale}, {STAGES[state.stage]}"
                    bar(
                        state.done,
                        state.total,
                        left_s=state.eta_s,
                        note=f"{state.failed} failed" if state.failed else "",
                    )

                result = measure(
                    experiment,
                    scale,
                    seeds=seeds,
                    workers=workers,
                    overrides=overrides,
                    out=out,
                    device=device if experiment.on_device else CPU,
                    progress=show_progress,
                )
        except (ValueError, WorkError) as error:
            if len(experiments) == 1:
                raise
            told = str(error).removeprefix(f"{experiment.slug}: ")
            console.notice(f"error: {experiment.slug}: {text.one_line(told)}")
            refused += 1
            continue
        except KeyboardInterrupt:
            console.notice(f"interrupted; what had ended is stored in {out}, and the same command finishes the rest")
            raise typer.Exit(130) from None
        finished.append((experiment, result))
        if not json:
            show_result(experiment, scale, result)
    if len(experiments) > 1:
        console.warn_of(catalog.problems)
    if json:
        console.show_json([result_data(experiment, scale, result) for experiment, result in finished])
    if refused or any(result.failed for _, result in finished):
        raise typer.Exit(1)


def _key_and_value(setting: str) -> tuple[str, str]:
    key, equals, value = setting.partition("=")
    if not (key and equals):
        raise LabError(f"--set {setting!r} is not KEY=VALUE")
    return key, value


@app.command()
def report(
    context: typer.Context,
    runs: Annotated[Path, typer.Option("--runs", "--out", help="The folder of runs to read.")] = Path("runs"),
    site: Annotated[Path, typer.Option(help="The folder to write.")] = Path("site"),
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    json: Json = False,
) -> None:
    """Write the site of everything that was measured."""
    from heedful.lab.comparing import given
    from heedful.lab.report.site import write_site

    if runs.exists() and not runs.is_dir():
        raise LabError(f"--out {runs}: is not a folder")
    if given(context, "runs") and not runs.exists():  # at a first use there is nothing in the default folder yet
        raise LabError(f"--out {runs}: there is no such folder")
    written = write_site(discover.catalog(), runs, site)
    console.warn_of(written.problems)
    console.warn_of(filter(None, [written.left_out]))
    if json:
        console.show_json(vars(written))
    else:
        measured = f"{written.measured} of {written.systems} systems measured"
        print(f"{written.index}: {measured}, {written.comparisons} comparisons")
    if open_:
        import webbrowser

        webbrowser.open(written.index.as_uri())


@app.command()
def doctor(json: Json = False) -> None:
    """Say what is installed, and what rooms still need."""
    from heedful.lab.doctor import examine

    found = examine()
    rows = [vars(finding) for finding in found]
    if json:
        console.show_json(rows)
    else:
        console.show_table(rows, ["what", "state", "detail"])
        for finding in found:
            if finding.fix:
                print(f"{finding.what}: {finding.detail}; {finding.fix}")
    if any(finding.fix for finding in found):
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the work failed, 2 bad usage."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        status = app(arguments, prog_name="heedful", standalone_mode=False)
    except _BadUsage as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())  # type: ignore[attr-defined]
            sys.exit(2)
        sys.exit(_complain(error.format_message(), _hint(error), 2, debug))  # type: ignore[attr-defined]
    except ValueError as error:  # LabError, and what a room says about a parameter that is out of its range
        sys.exit(_complain(str(error), "", 2, debug))
    except WorkError as error:
        sys.exit(_complain(str(error), "", 1, debug))
    except OSError as error:
        sys.exit(_complain(f"{error.filename or 'system'}: {error.strerror or error}", "", 1, debug))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(_complain("interrupted", "", 130, debug))
    except Exception as error:
        hint = "this is a defect of heedful or of a room; --debug shows where"
        sys.exit(_complain(f"unexpected {type(error).__name__}: {error}", hint, 1, debug))
    sys.exit(status if isinstance(status, int) else 0)


def _complain(message: str, hint: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    line = text.one_line(message)
    console.notice(f"error: {line.rstrip('.')}; {hint}" if hint else f"error: {line}")
    return status


def _hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"see '{context.command_path} --help'" if context else ""
