"""Find the experiments, commands and data sets of every installed room, through entry points.

A room, ours or somebody else's, names these things in its package's metadata::

    [project.entry-points."heedful.experiments"]
    toy = "toy_room.experiments"   # a package; each of its modules has a module-level ``experiment``

    [project.entry-points."heedful.commands"]
    toy = "toy_room.commands"      # a module with ``compare`` (a function) and/or ``app`` (a ``typer.Typer``)

    [project.entry-points."heedful.data"]
    toy = "toy_room.data"          # a module with ``datasets``, a tuple of ``heedful.lab.Dataset``

Modules of an experiments package whose name starts with an underscore are helpers and are not looked at. What
cannot be loaded is reported beside what can, and hides nothing. All of these modules are loaded to list what there is,
commands by ``heedful --help``: what is slow to import belongs inside their functions.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from heedful.lab.data.declare import DataFile, Dataset
from heedful.lab.declare import Experiment
from heedful.lab.errors import LabError

EXPERIMENTS = "heedful.experiments"
COMMANDS = "heedful.commands"
DATA = "heedful.data"
RESERVED = ("all", "compare")
"""Names that no system may have: one means every system, one is where comparisons are stored."""


@dataclass(frozen=True)
class Problem:
    """Something installed that could not be loaded.

    Attributes:
        where: the module, and the distribution that brought it.
        what: why, in one line.
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Catalog:
    """Every experiment that is installed, by room and slug, and everything that should have been one."""

    experiments: tuple[Experiment, ...]
    problems: tuple[Problem, ...] = ()

    @cached_property
    def rooms(self) -> tuple[str, ...]:
        """The rooms that have at least one experiment, in alphabetical order."""
        return tuple(sorted({experiment.room for experiment in self.experiments}))

    def of_room(self, room: str) -> tuple[Experiment, ...]:
        """The experiments of a room; LabError, with close matches, for a room that has none."""
        found = tuple(experiment for experiment in self.experiments if experiment.room == room)
        if not found:
            raise LabError(unknown("room", room, self.rooms, self.problems))
        return found

    def find(self, slug: str) -> Experiment:
        """The experiment of a system; LabError, with close matches, for an unknown one."""
        for experiment in self.experiments:
            if experiment.slug == slug:
                return experiment
        raise LabError(unknown("system", slug, self._slugs, self.problems))

    def select(self, name: str) -> tuple[Experiment, ...]:
        """The experiments that a name on the command line means: a system, a room, or ``all``.

        Raises LabError, with close matches, for anything else.
        """
        if name == "all":
            return self.experiments
        if name in self._slugs:
            return (self.find(name),)
        if name in self.rooms:
            return self.of_room(name)
        raise LabError(unknown("system or room", name, (*self._slugs, *self.rooms), self.problems))

    @cached_property
    def _slugs(self) -> tuple[str, ...]:
        return tuple(experiment.slug for experiment in self.experiments)


@dataclass(frozen=True)
class DataCatalog:
    """Every data set that an installed package declares, by name, and everything that should have been one."""

    datasets: tuple[Dataset, ...]
    problems: tuple[Problem, ...] = ()

    @cached_property
    def files(self) -> dict[str, DataFile]:
        """The files of all data sets, by name."""
        return {file.name: file for dataset in self.datasets for file in dataset.files}

    def file(self, name: str) -> DataFile:
        """The file of that name; LabError, with close matches, for an unknown one."""
        if name not in self.files:
            raise LabError(unknown("data file", name, tuple(self.files), self.problems))
        return self.files[name]

    def select(self, name: str) -> tuple[tuple[Dataset, tuple[DataFile, ...]], ...]:
        """The files that a name on the command line means, with their data sets: a set's, one of them, or ``all``.

        Raises LabError, with close matches, for anything else.
        """
        found = tuple(
            (dataset, files)
            for dataset in self.datasets
            if (files := tuple(file for file in dataset.files if name in ("all", dataset.name, file.name)))
        )
        if not found and name != "all":
            known = (*(dataset.name for dataset in self.datasets), *self.files)
            raise LabError(unknown("data set or file", name, known, self.problems))
        return found


def data_catalog() -> DataCatalog:
    """Load every data set that is declared by an installed package.

    Several packages may declare the same one. What differs under the same name is a problem, and the first one counts.
    """
    found: dict[str, Dataset] = {}
    files: dict[str, DataFile] = {}
    problems: list[Problem] = []
    for entry in _entries(DATA):
        where = entry.module + _brought_by(entry)
        try:
            declared = getattr(importlib.import_module(entry.module), "datasets", None)
        except Exception as error:  # somebody else's module may raise anything
            problems.append(Problem(where, f"cannot be imported: {_reason(error)}"))
            continue
        if not isinstance(declared, tuple) or not all(isinstance(dataset, Dataset) for dataset in declared):
            problems.append(Problem(where, "has no module-level 'datasets = (Dataset(...), ...)'"))
            continue
        for dataset in declared:
            if dataset == found.get(dataset.name):
                continue
            twice = [file.name for file in dataset.files if files.get(file.name, file) != file]
            if dataset.name in found:
                problems.append(Problem(where, f"declares {dataset.name!r} otherwise than another package"))
            elif twice:
                problems.append(Problem(where, f"declares {twice[0]!r} otherwise than another data set"))
            else:
                found[dataset.name] = dataset
                files.update((file.name, file) for file in dataset.files)
    return DataCatalog(tuple(found[name] for name in sorted(found)), tuple(problems))


def catalog() -> Catalog:
    """Load every experiment that is declared by an installed package."""
    found: dict[str, Experiment] = {}
    problems: list[Problem] = []
    for entry in _entries(EXPERIMENTS):
        for where, loaded in _load_package(entry):
            if isinstance(loaded, str):
                problems.append(Problem(where, loaded))
            elif loaded.room != entry.name:
                problems.append(Problem(where, f"is listed under room {entry.name!r} but declares {loaded.room!r}"))
            elif loaded.slug in found or loaded.slug in RESERVED:
                problems.append(Problem(where, f"the name {loaded.slug!r} is already taken"))
            else:
                found[loaded.slug] = loaded
    ordered = sorted(found.values(), key=lambda experiment: (experiment.room, experiment.slug))
    return Catalog(tuple(ordered), tuple(problems))


def command_names() -> tuple[str, ...]:
    """The names under which installed packages offer commands; nothing is loaded."""
    return tuple(entry.name for entry in _entries(COMMANDS))


def comparable_rooms() -> tuple[str, ...]:
    """Those of :func:`command_names` that are rooms: a command by itself, as ``serve``, has no experiments."""
    rooms = {entry.name for entry in _entries(EXPERIMENTS)}
    return tuple(name for name in command_names() if name in rooms)


def load_commands(name: str) -> ModuleType:
    """The commands module of a room. Raises LabError if there is none or it cannot be imported."""
    for entry in _entries(COMMANDS):
        if entry.name == name:
            try:
                return importlib.import_module(entry.module)
            except Exception as error:  # somebody else's module may raise anything
                raise LabError(f"the commands of {name!r} cannot be loaded: {_reason(error)}") from error
    raise LabError(unknown("room", name, command_names()))


def distribution_of(room: str) -> str | None:
    """The name of the installed package that brings a room; None if it is not known."""
    for entry in (*_entries(EXPERIMENTS), *_entries(COMMANDS)):
        if entry.name == room and entry.dist is not None:
            return entry.dist.name
    return None


def _entries(group: str) -> list[EntryPoint]:
    """The entry points of a group, each once, in alphabetical order: ours may be on the path twice."""
    unique = {(entry.name, entry.value): entry for entry in entry_points(group=group)}
    return [unique[key] for key in sorted(unique)]


def _brought_by(entry: EntryPoint) -> str:
    return f" (from {entry.dist.name} {entry.dist.version})" if entry.dist else ""


def _load_package(entry: EntryPoint) -> Iterator[tuple[str, Experiment | str]]:
    """Every module of an experiments package: where it is, and its experiment or what is wrong with it."""
    brought_by = _brought_by(entry)
    try:
        package = importlib.import_module(entry.module)
    except Exception as error:  # somebody else's package may raise anything
        yield entry.module + brought_by, f"cannot be imported: {_reason(error)}"
        return
    if not hasattr(package, "__path__"):
        yield entry.module + brought_by, "is a module; the entry point must name a package of experiments"
        return
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        if info.name.startswith("_"):
            continue
        name = f"{entry.module}.{info.name}"
        try:
            loaded = getattr(importlib.import_module(name), "experiment", None)
        except Exception as error:  # somebody else's module may raise anything
            yield name + brought_by, f"cannot be imported: {_reason(error)}"
            continue
        if isinstance(loaded, Experiment):
            yield name, loaded
        else:
            yield name + brought_by, "has no module-level 'experiment = Experiment(...)'"


def _reason(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def unknown(kind: str, name: str, known: tuple[str, ...], problems: tuple[Problem, ...] = ()) -> str:
    """One line: what is unknown, what it may have meant, and where to look."""
    close = get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known) or 'none'}"
    broken = f"; {len(problems)} installed could not be loaded, see 'heedful doctor'" if problems else ""
    return f"unknown {kind} {name!r}; {meant}{broken}"
