"""Schedulers by name, with parameters, and from other packages."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from heedful.serving import Aggressive, Conservative, Oracle, PastFuture, PeakWithCap, PeakWithMean
from heedful.serving.schedulers import make, names

OTHER = """
from dataclasses import dataclass
from typing import ClassVar

from heedful.serving.base import Scheduler


@dataclass(frozen=True)
class OneByOne(Scheduler):
    name: ClassVar[str] = "one-by-one"

    polite: bool = True
    count: int = 1
    label: str = ""

    def _admit(self, waiting, running, capacity, history, rng, page):
        return self.count
"""


@pytest.mark.parametrize(
    "spec, scheduler",
    [
        ("past-future", PastFuture()),
        ("past-future:rho=0.03", PastFuture(rho=0.03)),
        ("past-future:rho=0.1,sampling=interpolated,draws=3", PastFuture(0.1, "interpolated", 3)),
        ("past-future: rho = 0.1 , draws = 2", PastFuture(0.1, draws=2)),
        ("aggressive:watermark=1", Aggressive(1.0)),
        ("conservative:overcommit=1.5", Conservative(1.5)),
        ("oracle", Oracle()),
        ("peak-with-cap", PeakWithCap()),
        ("peak-with-mean", PeakWithMean()),
    ],
)
def test_a_spec_names_a_scheduler_and_its_parameters(spec, scheduler):
    assert make(spec) == scheduler


def test_every_scheduler_is_listed():
    known = ("aggressive", "conservative", "oracle", "past-future", "peak-with-cap", "peak-with-mean")
    assert set(known) <= set(names())
    assert list(names()) == sorted(names())
    assert all(make(name).name == name for name in known)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("past-futur", r"unknown scheduler 'past-futur'; did you mean 'past-future'\? there are: aggressive, "),
        ("zzz:rho=1", "unknown scheduler 'zzz' in 'zzz:rho=1'; there are: aggressive, "),
        ("", "unknown scheduler ''; there are: "),
        ("fifo", "unknown scheduler 'fifo'"),
        ("past-future:0.03", r"scheduler 'past-future:0.03': '0.03' is not key=value"),
        ("past-future:roh=0.03", r"no parameter 'roh'; did you mean 'rho'\? it has: rho, sampling, draws"),
        ("peak-with-cap:rho=0.03", "no parameter 'rho'; it has: none"),
        ("past-future:rho=0.1,rho=0.2", "rho is given twice"),
        ("past-future:rho=much", "rho=much: must be of type float"),
        ("past-future:draws=1.5", "draws=1.5: must be of type int"),
        ("past-future:rho=1", r"scheduler 'past-future:rho=1': rho=1.0: must lie in \[0, 1\)"),
        ("past-future:sampling=both", "sampling='both': must be 'simple' or 'interpolated'"),
        ("aggressive:watermark=0", r"watermark=0.0: must lie in \(0, 1\]"),
    ],
)
def test_a_bad_spec_is_one_line_that_says_what_there_is(spec, message):
    with pytest.raises(ValueError, match=message) as error:
        make(spec)
    assert "\n" not in str(error.value)


def test_another_package_adds_a_scheduler(install):
    folder = install("queueing", {"rules.py": OTHER}, "[heedful.serving.schedulers]\nrules = queueing.rules\n")
    program = """if True:
        from heedful.serving.schedulers import make, names

        print("one-by-one" in names(), make("one-by-one:polite=false,count=2,label=x"))
        try:
            make("one-by-one:polite=no")
        except ValueError as error:
            print(error)
    """
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "True OneByOne(polite=False, count=2, label='x')",
        "scheduler 'one-by-one:polite=no': polite=no: must be true or false",
    ]
