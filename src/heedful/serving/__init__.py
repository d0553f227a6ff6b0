"""Request scheduling for LLM serving: how many waiting requests may join, when nobody knows how long answers will be.

>>> import numpy as np
>>> from heedful.serving import PastFuture, Simulator, distribution_1
>>> requests = distribution_1(300, np.random.default_rng(0))
>>> run = Simulator(capacity=120_000).run(PastFuture(rho=0.03), requests, clients=50)
>>> bool(run.utilisation > 0.5), len(run.order)
(True, 300)

Names are loaded when they are first used, so that listing experiments does not import numba.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heedful.serving.base import EMPTY, Batch, Scheduler
    from heedful.serving.baselines import Aggressive, Conservative, Oracle, PeakWithCap, PeakWithMean
    from heedful.serving.history import History
    from heedful.serving.logs import Columns, Log, read_log
    from heedful.serving.past_future import PastFuture
    from heedful.serving.peak import future_peak
    from heedful.serving.simulator import Run, Simulator
    from heedful.serving.step_time import Fit, StepTime, fit
    from heedful.serving.workloads import Workload, distribution_1, distribution_2, distribution_3, shifted, uniform

_HOME = {
    "Aggressive": "baselines",
    "Batch": "base",
    "Columns": "logs",
    "Conservative": "baselines",
    "EMPTY": "base",
    "Fit": "step_time",
    "History": "history",
    "Log": "logs",
    "Oracle": "baselines",
    "PastFuture": "past_future",
    "PeakWithCap": "baselines",
    "PeakWithMean": "baselines",
    "Run": "simulator",
    "Scheduler": "base",
    "Simulator": "simulator",
    "StepTime": "step_time",
    "Workload": "workloads",
    "distribution_1": "workloads",
    "distribution_2": "workloads",
    "distribution_3": "workloads",
    "fit": "step_time",
    "future_peak": "peak",
    "read_log": "logs",
    "shifted": "workloads",
    "uniform": "workloads",
}

__all__ = [
    "EMPTY",
    "Aggressive",
    "Batch",
    "Columns",
    "Conservative",
    "Fit",
    "History",
    "Log",
    "Oracle",
    "PastFuture",
    "PeakWithCap",
    "PeakWithMean",
    "Run",
    "Scheduler",
    "Simulator",
    "StepTime",
    "Workload",
    "distribution_1",
    "distribution_2",
    "distribution_3",
    "fit",
    "future_peak",
    "read_log",
    "shifted",
    "uniform",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"heedful.serving.{_HOME[name]}"), name)
