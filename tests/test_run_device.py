"""``heedful run --device``: what cannot be is refused before anything is measured, or imported for it."""

import dataclasses
import json
from pathlib import Path

import pytest

from heedful.lab import discover
from heedful.lab.discover import Catalog
from heedful.lab.errors import LabError
from heedful.lab.identity import source_files
from heedful.lab.run import run


@pytest.fixture
def heedful(heedful, tmp_path, monkeypatch):
    """The command, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return heedful


@pytest.mark.parametrize("name", ["cake", "kv", "all"])
@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("foo", "--device 'foo': not a device; cpu, cuda, cuda:1 and mps are"),
        ("meta", "--device 'meta': cpu, cuda and mps are supported"),
        ("cuda:99", "--device cuda:99: this torch sees "),
    ],
)
def test_a_device_that_is_not_there_is_one_line_and_nothing_is_stored(heedful, name, device, told):
    status, out, err = heedful("run", name, "--scale", "smoke", "--device", device)
    assert (status, out) == (2, "") and err.startswith(f"error: {told}") and err.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_a_system_that_has_no_tensors_to_place_takes_no_device(heedful, toy_room):
    for name, who in (("lsd-bandits", "lsd-bandits has"), ("coin", "coin has"), ("bandits", "these systems have")):
        status, out, err = heedful("run", name, "--scale", "smoke", "--device", "cuda:0")
        told = f"error: --device cuda:0: {who} no tensors to place there; leave the option out\n"
        assert (status, out, err) == (2, "", told)
    coin = discover.catalog().find("coin")
    with pytest.raises(LabError, match="coin has no tensors"):
        run(coin, "smoke", device="cuda")
    assert list(Path().iterdir()) == []


def test_systems_that_place_tensors_say_so():
    """Those whose cells look at their context's device, and no others."""
    for experiment in discover.catalog().experiments:
        files = [path for module in experiment.modules for path in source_files(module).values()]
        assert experiment.on_device == any("ctx.device" in path.read_text() for path in files), experiment.slug


def test_of_several_systems_those_without_tensors_run_where_they_always_do(heedful, toy_room, monkeypatch):
    coin = discover.catalog().find("coin")
    placed = dataclasses.replace(discover.catalog().find("cake"), room="toy")
    seen = {}

    def measure(experiment, scale, *, device, **_):
        seen[experiment.slug] = device
        raise LabError("was not run")

    monkeypatch.setattr(discover, "catalog", lambda: Catalog((coin, placed)))
    monkeypatch.setattr("heedful.lab.run.run", measure)
    assert heedful("run", "all", "--scale", "smoke", "--device", "cpu:0")[0] == 1
    assert seen == {"coin": "cpu", "cake": "cpu:0"}


def test_the_processor_is_there_for_all(heedful, toy_room):
    status, out, _ = heedful("run", "coin", "--scale", "smoke", "--workers", "1", "--device", "cpu", "--json")
    assert status == 0 and json.loads(out)[0]["system"] == "coin"
