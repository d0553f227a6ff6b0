"""Experiments and commands of other packages are found, and what is broken hides nothing."""

import pytest

from heedful.lab import discover
from heedful.lab.doctor import examine, needs, require
from heedful.lab.errors import LabError

EXPERIMENT = """
from heedful.lab import Cell, Claim, Experiment, Metric, Paper, Scale

experiment = Experiment(
    slug="{slug}", room="{room}", title="T", question="Q?", summary="S", paper=Paper("P", "A", 2000),
    metrics=(Metric("score", "1", "higher", "m"),), scales={{"smoke": Scale({{}}), "small": Scale({{}})}},
    cells=lambda params, tuned: [Cell.of(seed=0)], measure=lambda cell, ctx: [{{"score": 1.0}}],
    claims=(Claim("c", "t", "score", boundary=True),),
)
"""


def experiments_of(name, **modules):
    """The files of a package of experiments, and the entry point of its room ``<name>``."""
    files = {"__init__.py": "", "experiments/__init__.py": ""}
    files |= {f"experiments/{module}.py": source for module, source in modules.items()}
    return name, files, f"[heedful.experiments]\n{name} = {name}.experiments\n"


def test_installed_room_is_found(toy_room):
    catalog = discover.catalog()
    assert "toy" in catalog.rooms
    assert catalog.find("coin").title == "The biased coin"
    assert [experiment.slug for experiment in catalog.select("toy")] == ["coin"]
    assert catalog.find("coin") in catalog.select("all")


def test_experiments_are_ordered_by_room_and_slug(install):
    install(
        *experiments_of(
            "ordered",
            b=EXPERIMENT.format(slug="z1", room="ordered"),
            a=EXPERIMENT.format(slug="z2", room="ordered"),
        )
    )
    catalog = discover.catalog()
    names = [(experiment.room, experiment.slug) for experiment in catalog.experiments]
    assert names == sorted(names)
    assert [experiment.slug for experiment in catalog.of_room("ordered")] == ["z1", "z2"]


def test_unknown_name_is_one_line_with_close_matches(toy_room):
    with pytest.raises(LabError, match=r"^unknown system 'cion'; did you mean coin\?") as error:
        discover.catalog().find("cion")
    assert "\n" not in str(error.value)
    with pytest.raises(LabError, match=r"^unknown room 'toi'; did you mean toy"):
        discover.catalog().of_room("toi")
    with pytest.raises(LabError, match=r"^unknown system or room 'xyzzy'; known: .*coin"):
        discover.catalog().select("xyzzy")


def test_broken_modules_are_reported_in_one_line_and_hide_nothing(install):
    good = EXPERIMENT.format(slug="good-one", room="brittle")
    install(
        *experiments_of(
            "brittle",
            good=good,
            raises="raise RuntimeError('no luck\\ntoday')",
            absent="import surely_not_installed",
            empty="",
            stranger=EXPERIMENT.format(slug="stranger", room="elsewhere"),
            twin=good,
            _helper="raise RuntimeError('never imported')",
        )
    )
    catalog = discover.catalog()
    assert [experiment.slug for experiment in catalog.of_room("brittle")] == ["good-one"]
    problems = {p.where.split()[0].split(".")[-1]: str(p) for p in catalog.problems if "brittle" in p.where}
    assert set(problems) == {"raises", "absent", "empty", "stranger", "twin"}
    assert problems["raises"] == (
        "brittle.experiments.raises (from brittle 1.0): cannot be imported: RuntimeError: no luck"
    )
    assert "No module named 'surely_not_installed'" in problems["absent"]
    assert "has no module-level 'experiment" in problems["empty"]
    assert "listed under room 'brittle' but declares 'elsewhere'" in problems["stranger"]
    assert "the name 'good-one' is already taken" in problems["twin"]


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({}, "cannot be imported: ModuleNotFoundError"),
        ({"__init__.py": "", "experiments.py": ""}, "must name a package of experiments"),
        ({"__init__.py": "1/0", "experiments/__init__.py": ""}, "ZeroDivisionError: division by zero"),
    ],
)
def test_broken_package_is_reported(install, files, what):
    name = f"broken{len(files)}{len(what)}"
    install(name, files, f"[heedful.experiments]\n{name} = {name}.experiments\n")
    (problem,) = [problem for problem in discover.catalog().problems if name in problem.where]
    assert what in problem.what


def test_commands_are_named_without_being_loaded(install):
    install("lazy", {"__init__.py": "", "commands.py": "1/0"}, "[heedful.commands]\nlazy = lazy.commands\n")
    assert "lazy" in discover.command_names()
    with pytest.raises(LabError, match=r"commands of 'lazy' cannot be loaded: ZeroDivisionError"):
        discover.load_commands("lazy")
    with pytest.raises(LabError, match=r"^unknown room 'lasy'; did you mean lazy"):
        discover.load_commands("lasy")


def test_needs_of_a_room_are_the_extra_of_its_name(install):
    metadata = """Provides-Extra: needy
Provides-Extra: more
Requires-Dist: polars; extra == "needy"
Requires-Dist: needy[more]; extra == "needy"
Requires-Dist: surely-not-installed>=3; extra == "more"
Requires-Dist: numpy>=999; extra == "more"
Requires-Dist: scipy
"""
    install(*experiments_of("needy", one=EXPERIMENT.format(slug="needy-one", room="needy")), metadata)
    found = {need.requirement: need for need in needs("needy")}
    assert set(found) == {"polars", "surely-not-installed>=3", "numpy>=999"}
    assert found["polars"].met and not found["numpy>=999"].met
    assert found["surely-not-installed>=3"].installed == ""
    with pytest.raises(LabError, match=r"needs surely-not-installed>=3, numpy>=999.*pip install 'needy\[needy\]'"):
        require("needy")
    states = {finding.what: finding.state for finding in examine()}
    assert states["room needy: polars"] == "ok"
    assert states["room needy: surely-not-installed>=3"] == "missing"
    assert states["room needy: numpy>=999"] == "too old or too new"
