"""``heedful data``: which public data sets there are, and bring them here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from heedful.lab import console, discover, text
from heedful.lab.data.declare import DataFile, Dataset
from heedful.lab.data.store import State, folder, state
from heedful.lab.errors import LabError, WorkError

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)

Chosen = tuple[tuple[Dataset, tuple[DataFile, ...]], ...]


@app.callback()
def _main(context: typer.Context) -> None:
    """Public data sets: where they come from, and bring them here when asked."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list")
def list_(
    name: Annotated[str, typer.Argument(help="Only this data set, its files one by one.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the data sets, and say whether they are here. Looks at nothing but this machine."""
    catalog = discover.data_catalog()
    chosen = catalog.select(name or "all")
    if json:
        console.show_json([_described(dataset, files) for dataset, files in chosen])
    elif name:
        for dataset, files in chosen:
            _show(dataset, files)
    else:
        columns: list[console.Column | str] = [
            console.Column("name", "data set"),
            console.Column("files", align="right"),
            console.Column("rows", align="right"),
            console.Column("size", "download", align="right"),
            "licence",
            "origin",
            "state",
        ]
        console.show_table([_summary(dataset) for dataset in catalog.datasets], columns)
        console.notice(f"in {folder()}; 'heedful data fetch NAME' brings one here")
    console.warn_of(catalog.problems)


def _summary(dataset: Dataset) -> dict[str, Any]:
    states = [state(file) for file in dataset.files]
    return {
        "name": dataset.name,
        "files": len(dataset.files),
        "rows": sum(file.rows for file in dataset.files),
        "size": text.size(_size(dataset.files)),
        "licence": dataset.licence,
        "origin": ", ".join(dict.fromkeys(_in_short(file.origin) for file in dataset.files)),
        "state": _summed(states),
    }


def _summed(states: Sequence[State]) -> str:
    if "altered" in states:
        return "altered"
    here = states.count("present")
    return "present" if here == len(states) else f"{here} of {len(states)} present" if here else "missing"


def _size(files: Sequence[DataFile]) -> int | None:
    sizes = [file.size for file in files if file.size is not None]
    return sum(sizes) if len(sizes) == len(files) else None


def _in_short(origin: str) -> str:
    """The host of an address, and the two parts after it; of a file on GitHub the repository's page."""
    return "/".join(origin.split("/")[2:5]).replace("raw.githubusercontent.com", "github.com")


def _described(dataset: Dataset, files: Sequence[DataFile]) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "title": dataset.title,
        "licence": dataset.licence,
        "citation": dataset.citation,
        "changes": dataset.changes,
        "files": [
            {
                "name": file.name,
                "path": folder() / file.name,
                "state": state(file),
                "rows": file.rows,
                "origin": file.origin,
                "sha256": file.sha256,
                "size": file.size,
                "content": file.content,
            }
            for file in files
        ],
    }


def _show(dataset: Dataset, files: Sequence[DataFile]) -> None:
    _introduce(dataset)
    rows = [{**vars(file), "size": text.size(file.size), "state": state(file)} for file in files]
    columns: list[console.Column | str] = [
        console.Column("name", "file"),
        console.Column("rows", align="right"),
        console.Column("size", "download", align="right"),
        "state",
        "origin",
    ]
    console.show_table(rows, columns)


def _introduce(dataset: Dataset) -> None:
    print(f"{dataset.name}: {dataset.title}")
    print(f"  licence: {dataset.licence}")
    print(f"  cite: {dataset.citation}")
    if dataset.changes:
        print(f"  changes: {dataset.changes}")


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...|all", help="Data sets, or single files of them.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="PATH",
            help="Take it from a file or a folder (originals or converted tables), or from the address of a mirror.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Bring data sets here.

    Originals are downloaded, verified, converted, and verified again; a download that was cut off goes on.
    """
    from heedful.lab.data.download import UnreachableError
    from heedful.lab.data.fetch import check_place

    catalog = discover.data_catalog()
    chosen: Chosen = tuple(dict.fromkeys(pair for name in names for pair in catalog.select(name)))
    within, given = folder(), _given(source)
    if isinstance(given, Path) and given.is_file():
        chosen = _those_that_it_is(given, chosen)
    for file in (file for _, files in chosen for file in files):
        if force or not (within / file.name).is_file():
            check_place(file, within)
    failed = 0
    skipped: dict[str, list[str]] = {}  # hosts that do not answer -> the other files that they were to be asked for
    for dataset, files in chosen:
        _introduce(dataset)
        for file in files:
            host = None if isinstance(given, Path) else urlsplit(_address(file, given)).netloc
            if host in skipped and (force or state(file, within) == "missing"):
                skipped[host].append(file.name)
                print(f"  {file.name}: not tried, {host} does not answer")
                continue
            try:
                _fetch(file, given, within, force)
            except (LabError, WorkError) as error:
                if sum(len(files) for _, files in chosen) == 1:
                    raise
                console.notice(f"error: {text.one_line(str(error))}")
                failed += 1
                if isinstance(error, UnreachableError):
                    skipped[error.host] = []
            except KeyboardInterrupt:
                console.notice("interrupted; what arrived is kept, and the same command goes on from there")
                raise typer.Exit(130) from None
    for host, left in skipped.items():
        if left:
            others = f" and {len(left) - 5} others" if len(left) > 5 else ""
            console.notice(
                f"error: {host} does not answer and was not tried for {', '.join(left[:5])}{others}; "
                "what was fetched stays, and the same command fetches the rest"
            )
    console.warn_of(catalog.problems)
    if failed:
        raise typer.Exit(1)


def _given(source: str | None) -> str | Path | None:
    if source == "":
        raise LabError("--from is empty")
    if source is None or source.startswith(("http://", "https://")):
        return source
    path = Path(source).expanduser()
    if not path.exists():
        raise LabError(f"--from {source}: there is no such file or folder")
    return path


def _address(file: DataFile, mirror: str | None) -> str:
    from heedful.lab.data.fetch import mirrored

    return file.origin if mirror is None else mirrored(file, mirror)


def _those_that_it_is(path: Path, chosen: Chosen) -> Chosen:
    """The one of the chosen files whose original or table this is."""
    from heedful.lab.data.fetch import Supplied
    from heedful.lab.data.store import told

    supplied = Supplied(path)
    wanted = [file for _, files in chosen for file in files]
    if len(wanted) == 1:  # what is wrong with it is said in full when it is fetched
        return chosen
    found = [(dataset, tuple(file for file in files if supplied.is_of(file))) for dataset, files in chosen]
    if not any(files for _, files in found):
        names = ", ".join(file.name for file in wanted)
        raise LabError(f"{path}: is none of {names} (sha256 {supplied.sha256}, {told(supplied.content)})")
    return tuple((dataset, files) for dataset, files in found if files)


def _fetch(file: DataFile, source: str | Path | None, within: Path, force: bool) -> None:
    from heedful.lab.data.fetch import fetch

    path = within / file.name
    if force or state(file, within) != "present":
        if isinstance(source, Path):
            print(f"  {file.name}: from {source}")
        else:
            print(f"  {file.name}: from {_address(file, source)} ({text.size(file.size)})", flush=True)
    began: tuple[float, int] | None = None
    with console.Progress(f"{file.basename}, kB") as bar:

        def show(done: int, total: int | None) -> None:
            nonlocal began
            now = time.monotonic()
            start, first = began = began or (now, done)
            speed = (done - first) / (now - start) if now > start else 0.0
            left_s = (total - done) / speed if total is not None and speed else None
            bar(done // 1000, (total or done) // 1000, left_s=left_s)

        placed = fetch(file, source, within=within, force=force, progress=show, notice=console.notice)
    print(f"  {path}: {'verified' if placed else 'is there, verified'}, {file.rows:,} rows")
