"""Put the site together: render every page into a draft folder and swap it for the old site."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from heedful import __version__
from heedful.lab import text
from heedful.lab.discover import Catalog
from heedful.lab.errors import LabError
from heedful.lab.files import check_writable
from heedful.lab.report.comparisons import Comparison, read_comparisons
from heedful.lab.report.parts import FigureView, TableView, table_view
from heedful.lab.report.systems import SystemView, system_view

STATUSES = ("holds", "fails", "inconclusive", "not measured")
_HERE = Path(__file__).parent
_MARKER = "assets/site.js"


@dataclass(frozen=True)
class Site:
    """What was written.

    Attributes:
        index: the page to open first.
        systems: how many systems have a page.
        measured: how many of them have been run.
        comparisons: how many comparisons have a page.
        problems: what could not be shown, one line each.
        left_out: what the site that was there before showed and this one does not, in one line; empty if nothing.
    """

    index: Path
    systems: int
    measured: int
    comparisons: int
    problems: tuple[str, ...]
    left_out: str


@dataclass(frozen=True)
class ComparisonView:
    """A comparison as its page shows it."""

    path: str
    title: str
    room: str
    command: str
    created: str
    facts: tuple[tuple[str, str], ...]
    tables: tuple[tuple[str, TableView], ...]
    figures: tuple[FigureView, ...]


def write_site(catalog: Catalog, runs: str | os.PathLike[str] = "runs", site: str | os.PathLike[str] = "site") -> Site:
    """Write the static site of everything in ``runs`` to the folder ``site``.

    The site is complete in itself: it opens from disk, without a network. It is written beside its place and
    then swapped for the site that was there, so that whoever reads it sees all of one or all of the other.

    Raises LabError if ``site`` is a folder that is not such a site, or cannot be written.
    """
    target = site_folder(site)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        written = _write(draft, catalog, Path(runs))
        left_out = _left_out(draft, target, Path(runs))
        draft.chmod(0o755)
        _swap(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return Site(target / "index.html", *written, left_out)


def site_folder(site: str | os.PathLike[str]) -> Path:
    """Where :func:`write_site` will put the site, as an absolute path whose parent can be written to.

    Raises LabError if there is something else already, or the parent cannot be written to.
    """
    target = Path(site).absolute()
    if target.exists() and not (target / _MARKER).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise LabError(f"{target} exists and is not a report; give --site another folder, or remove it")
    check_writable(target.parent)
    return target


def _write(draft: Path, catalog: Catalog, runs: Path) -> tuple[int, int, int, tuple[str, ...]]:
    problems = [str(problem) for problem in catalog.problems]
    systems = []
    for experiment in catalog.experiments:
        system, complaints = system_view(experiment, runs, draft)
        systems.append(system)
        problems.extend(complaints)
    stored, complaints = read_comparisons(runs)
    problems.extend(complaints)
    comparisons = [_comparison_view(comparison, draft) for comparison in stored]

    render = _Renderer(draft)
    tally = Counter(claim.status for system in systems for claim in system.claims)
    render.page(
        "index.html",
        "index.html",
        systems=systems,
        measured=[system for system in systems if system.run is not None],
        unmeasured=[system for system in systems if system.run is None],
        comparisons=comparisons,
        problems=problems,
        rooms=catalog.rooms,
        tally=[(status, tally[status]) for status in STATUSES],
    )
    for system in systems:
        render.page(system.path, "system.html", system=system, charts=bool(system.figures))
    for comparison in comparisons:
        render.page(comparison.path, "comparison.html", comparison=comparison, charts=bool(comparison.figures))
    pages: list[SystemView | ComparisonView] = [*systems, *comparisons]
    _write_assets(draft, charts=any(page.figures for page in pages))
    return len(systems), sum(system.run is not None for system in systems), len(comparisons), tuple(problems)


def _left_out(draft: Path, target: Path, runs: Path) -> str:
    """The comparisons and measured systems that the old site has tables of and that are not in ``runs``, in one line.

    They are left out because a site shows one folder of runs, and nothing that was removed from it.
    """
    before, now = ({path.name for path in site.glob("data/*")} for site in (target, draft))
    gone = [name for name in sorted(before - now) if not (runs / name).exists()]
    if not gone:
        return ""
    more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
    return (
        f"{target} now shows what is stored in {runs}, and no longer {', '.join(gone[:3])}{more}; "
        "a --site for each folder of runs keeps both"
    )


class _Renderer:
    """Renders templates into the draft; everything that is not a template is escaped."""

    def __init__(self, draft: Path) -> None:
        self.draft = draft
        self.environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
        )
        self.environment.filters["tied"] = lambda words: words.replace(" %", "\N{NO-BREAK SPACE}%")
        self.made = text.moment(datetime.now(UTC).isoformat(timespec="seconds"))

    def page(self, address: str, template: str, *, charts: bool = False, **values: Any) -> None:
        target = self.draft / address
        target.parent.mkdir(parents=True, exist_ok=True)
        page = self.environment.get_template(template).render(
            root="../" * address.count("/"), version=__version__, made=self.made, charts=charts, **values
        )
        target.write_text(page, encoding="utf-8")


def _comparison_view(comparison: Comparison, draft: Path) -> ComparisonView:
    folder = f"{comparison.room}-{comparison.id}"
    created = text.moment(comparison.created)
    return ComparisonView(
        path=f"comparisons/{folder}.html",
        title=comparison.title,
        room=comparison.room,
        command=comparison.command,
        created=created,
        facts=(("made", created), *_texts(comparison.facts)),
        tables=tuple(
            (title, table_view(frame, draft, f"data/{folder}/table-{number}.csv"))
            for number, (title, frame) in enumerate(comparison.tables.items())
        ),
        figures=tuple(
            FigureView(title, caption, spec, table_view(frame, draft, f"data/{folder}/figure-{number}.csv"))
            for number, (title, caption, spec, frame) in enumerate(comparison.figures)
        ),
    )


def _texts(facts: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    return tuple((name, str(value)) for name, value in facts.items())


def _write_assets(draft: Path, *, charts: bool) -> None:
    assets = draft / "assets"
    assets.mkdir()
    for name in ("style.css", "site.js"):
        shutil.copyfile(_HERE / "assets" / name, assets / name)
    if charts:
        (assets / "vega.js").write_text(_vega(), encoding="utf-8")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed of the versions that Altair draws for, as one script."""
    import altair
    import vl_convert

    version = ".".join(altair.VEGALITE_VERSION.split(".")[:2])
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version)


def _swap(draft: Path, target: Path) -> None:
    """Put the draft in the target's place; the old site is removed only once the new one stands."""
    if not target.exists():
        draft.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    target.rename(old / "site")
    try:
        draft.rename(target)
    except BaseException:
        (old / "site").rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
