"""What each room needs beyond the core installation, from the metadata of the package that brings the room.

A room's needs are the extra of its package that bears its name: ``heedful[kv]`` for the room ``kv``.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from heedful import __version__
from heedful.lab import discover
from heedful.lab.data.store import folder, state
from heedful.lab.errors import LabError

_MEND = "mend or uninstall the package that brought it"


@dataclass(frozen=True)
class Need:
    """One requirement of a room.

    Attributes:
        room: the room.
        requirement: as its package states it, as ``"torch>=2.6"``.
        installed: the version that is installed, empty if none is.
        met: whether that version will do.
        fix: the command that mends it.
    """

    room: str
    requirement: str
    installed: str
    met: bool
    fix: str


def needs(room: str) -> tuple[Need, ...]:
    """What a room needs beyond the core, met or not; empty if its package declares no extra for it."""
    package = discover.distribution_of(room)
    if package is None:
        return ()
    fix = f"pip install '{package}[{canonicalize_name(room)}]'"
    return tuple(_need(room, requirement, fix) for requirement in _extra(package, room, set()))


def require(room: str) -> None:
    """Raise LabError, naming the fix, if something that a room needs is not installed."""
    unmet = [need for need in needs(room) if not need.met]
    if unmet:
        what = ", ".join(need.requirement for need in unmet)
        raise LabError(f"room {room!r} needs {what}, which this Python does not have; {unmet[0].fix}")


def _extra(package: str, extra: str, seen: set[tuple[str, str]]) -> Iterator[Requirement]:
    """The requirements of a package's extra, those of extras of the same package that it names included."""
    if (package, extra) in seen:
        return
    seen.add((package, extra))
    for line in distribution(package).requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}) or not marker.evaluate({"extra": extra}):
            continue
        if canonicalize_name(requirement.name) == canonicalize_name(package):
            for other in sorted(requirement.extras):
                yield from _extra(package, other, seen)
        else:
            yield requirement


@dataclass(frozen=True)
class Finding:
    """One line of ``heedful doctor``.

    Attributes:
        what: what was looked at.
        state: ``"ok"``, or what it is instead.
        detail: version, or what is wrong.
        fix: the command or step that mends it; empty if nothing is wrong.
    """

    what: str
    state: str
    detail: str
    fix: str = ""


def examine() -> tuple[Finding, ...]:
    """Look at this Python, the core's libraries, every room's needs, the data files, and what should load."""
    found = [Finding("python", "ok", platform.python_version()), Finding("heedful", "ok", __version__)]
    for line in distribution("heedful").requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found.append(_finding(_need("heedful", requirement, "pip install --upgrade heedful"), "core"))
    core_is_there = not any(finding.fix for finding in found)
    catalog, data = discover.catalog(), discover.data_catalog()
    for room in sorted({*catalog.rooms, *discover.command_names()}):
        found.extend(_finding(need, f"room {room}") for need in needs(room))
        if room in discover.command_names() and all(need.met for need in needs(room)):
            found.append(_commands_finding(room))
    if core_is_there:  # what reads the files is part of it
        found.extend(_data_findings(data))
    problems = (*catalog.problems, *data.problems)
    found.extend(Finding(problem.where, "broken", problem.what, _MEND) for problem in problems)
    return tuple(found)


def _data_findings(data: discover.DataCatalog) -> Iterator[Finding]:
    """Which data files lie here, and a finding for each that is not what it should be; a missing one is no fault."""
    states = {name: state(file) for name, file in data.files.items()}
    there = [name for name, found in states.items() if found == "present"]
    yield Finding("data", "ok", f"{len(there)} of {len(states)} files in {folder()}; see 'heedful data list'")
    for name, found in states.items():
        if found == "altered":
            fix = f"move it away, or heedful data fetch {name} --force"
            yield Finding(f"data: {name}", "altered", "its content is not the declared one", fix)


def _commands_finding(room: str) -> Finding:
    try:
        module = discover.load_commands(room)
    except LabError as error:
        return Finding(f"room {room}: commands", "broken", str(error), _MEND)
    return Finding(f"room {room}: commands", "ok", module.__name__)


def _finding(need: Need, owner: str) -> Finding:
    what = f"{owner}: {need.requirement}"
    if need.met:
        return Finding(what, "ok", need.installed)
    state = "too old or too new" if need.installed else "missing"
    return Finding(what, state, need.installed or "not installed", need.fix)


def _need(room: str, requirement: Requirement, fix: str) -> Need:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        installed = ""
    met = bool(installed) and requirement.specifier.contains(installed, prereleases=True)
    return Need(room, f"{requirement.name}{requirement.specifier}", installed, met, fix)
