"""Checking an experiment's claims: its cells, on workers, into the store, to verdicts."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from heedful.lab import results, wire
from heedful.lab.compiled import forget_stale
from heedful.lab.declare import Cell, Experiment, canonical
from heedful.lab.device import check_device_of
from heedful.lab.errors import LabError, WorkError
from heedful.lab.identity import files_of, identify, locate
from heedful.lab.judge import Verdict, judge
from heedful.lab.machine import available_cpus
from heedful.lab.record import Record
from heedful.lab.results import MEASURE, TUNE
from heedful.lab.rows import Columns
from heedful.lab.store import TUNED, Store, write_json
from heedful.lab.tuning import Tuned, candidates, choose
from heedful.lab.workers import Executor, LocalWorkers

_REPORT_S = 0.1


@dataclass(frozen=True)
class Progress:
    """How far a stage of a run is.

    Attributes:
        stage: ``"tune"``, ``"measure"`` or ``"time"`` (the exclusive cells).
        done: cells of the stage that have ended, those of earlier invocations included.
        total: cells of the stage.
        failed: cells of this invocation that failed.
        eta_s: estimated seconds until the stage ends; None while nothing is known to be done.
    """

    stage: str
    done: int
    total: int
    failed: int
    eta_s: float | None


@dataclass(frozen=True)
class RunResult:
    """What an invocation of :func:`run` did, and what the run says.

    Attributes:
        run_dir: the run's folder.
        verdicts: one per claim, in the order of declaration.
        done: cells that this invocation measured.
        failed: cell id -> why it failed; the next invocation tries it again.
        resumed: cells that earlier invocations had measured.
        tuned: method -> the setting that the tuning stage chose.
        notices: what the user should know, as a damaged part that was set aside.
        complete: whether every cell of the run is measured.
    """

    run_dir: Path
    verdicts: tuple[Verdict, ...]
    done: int
    failed: Mapping[str, str]
    resumed: int
    tuned: Tuned
    notices: tuple[str, ...]
    complete: bool


def check_workers(workers: int | None) -> None:
    """Raises LabError for a number of worker processes below 1; None is as many as there are processors."""
    if workers is not None and workers < 1:
        raise LabError(f"workers must be at least 1, got {workers}")


def resolve_params(
    experiment: Experiment,
    scale: str,
    *,
    seeds: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The parameters that ``cells`` is called with.

    Args:
        experiment: what will be run.
        scale: one of its scales.
        seeds: replaces the parameter ``seeds``: by that number, or by ``[0, .., seeds - 1]`` where it is a
            list.
        overrides: parameter -> value; a string is read as JSON where the scale's own value is not a string.

    Raises LabError for an unknown scale or parameter, and for a value of another type than the scale's own.
    """
    if scale not in experiment.scales:
        raise LabError(f"{experiment.slug} has no scale {scale!r}; choose from {', '.join(experiment.scales)}")
    params = dict(experiment.scales[scale].params)
    changes = dict(overrides or {})
    if seeds is not None:
        if seeds < 1:
            raise LabError(f"seeds must be at least 1, got {seeds}")
        changes["seeds"] = seeds if isinstance(params.get("seeds"), int) else list(range(seeds))
    for name, value in changes.items():
        if name not in params:
            raise LabError(
                f"{experiment.slug} has no parameter {name!r} at scale {scale!r}; it has {', '.join(params)}"
            )
        params[name] = _parse(name, value, params[name])
    try:
        canonical(params)
    except (TypeError, ValueError) as error:
        raise LabError(f"{experiment.slug}: a parameter at scale {scale!r} is not plain data: {error}") from error
    return params


def _parse(name: str, value: Any, declared: Any) -> Any:
    """``value`` as something of the type of ``declared``."""
    if isinstance(value, str) and not isinstance(declared, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise LabError(
                f"parameter {name!r}: cannot read {value!r}; the scale's own value is {declared!r}"
            ) from None
    if isinstance(declared, float) and type(value) is int:
        return float(value)
    if isinstance(declared, list | tuple) and isinstance(value, list | tuple):
        return type(declared)(value)
    if declared is not None and type(value) is not type(declared):
        raise LabError(f"parameter {name!r}: {value!r} is not like the scale's own value, {declared!r}")
    return value


def run(
    experiment: Experiment,
    scale: str = "small",
    *,
    seeds: int | None = None,
    workers: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    out: Path = Path("runs"),
    device: str = "cpu",
    progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Measure what is not yet measured, and judge the claims.

    What a run has measured is kept under ``out/<slug>/<scale>/<run-id>``; calling this again, after a kill or
    a failure, measures the rest only. Values do not depend on ``workers``, on kills or on the order of cells.

    Args:
        experiment: what to run; an attribute of an importable module.
        scale: how much of the work is done.
        seeds: overrides the scale's number of seeds.
        workers: number of worker processes; None for as many as there are processors.
        overrides: overrides parameters of the scale.
        out: where runs are kept.
        device: where tensors live; other than ``"cpu"`` for experiments that are ``on_device`` only.
        progress: told how far the run is, about ten times a second.

    Raises:
        LabError: what the user can put right, in one line.
        WorkError: the run's folder can no longer be written; what had ended is stored.
        KeyboardInterrupt: on Ctrl-C, after what had ended was stored.
    """
    check_workers(workers)
    check_device_of((experiment,), device)
    params = resolve_params(experiment, scale, seeds=seeds, overrides=overrides)
    forget_stale(files_of(experiment).values())
    identity = identify(experiment, params, device)
    reference = locate(experiment)
    columns = Columns.of(experiment)
    home = Path(out).resolve() / experiment.slug
    run_dir = home / scale / identity.run_id
    declared = experiment.scales[scale]
    count = workers or available_cpus()
    try:
        store = Store(run_dir, columns)
        record = Record(experiment, scale, identity, reference, count, run_dir)
        start = wire.Start(reference, params, device, identity.code, home / "artifacts", store.scratch, os.getpid())
        log = run_dir / "workers.log"
        executor = LocalWorkers(start, count, declared.limit_s, declared.repeats, log)
        work = _Work(experiment, store, executor, columns, progress)
        try:
            with _deferred_interrupt() as interrupted:
                tuned, complete = work.stages(params, interrupted)
            record.content["values_sha256"] = store.compact()
            verdicts = tuple(_verdicts(experiment, run_dir, work, complete))
            record.content |= {
                "complete": complete,
                "tuned": tuned,
                "verdicts": [asdict(verdict) for verdict in verdicts],
            }
        finally:
            executor.close()
            store.close()
            record.close(work.counts(), work.measured)
    except OSError as error:
        raise WorkError(f"the run in {run_dir} stopped: {error}") from error
    return RunResult(
        run_dir,
        verdicts,
        work.measured,
        dict(work.failed),
        work.resumed,
        tuned,
        tuple(store.notices),
        complete,
    )


class _Work:
    """The stages of one invocation."""

    def __init__(
        self,
        experiment: Experiment,
        store: Store,
        executor: Executor,
        columns: Columns,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._experiment, self._store, self._executor, self._columns = experiment, store, executor, columns
        self._progress = progress
        self._interrupted = threading.Event()
        self.measured = self.resumed = 0
        self.failed: dict[str, str] = {}
        self._known: dict[str, str] = {}
        self._cells: dict[str, list[Cell]] = {}

    def stages(self, params: Mapping[str, Any], interrupted: threading.Event) -> tuple[Tuned, bool]:
        """Tune, then measure. Returns what was chosen, and whether every cell is measured.

        Raises KeyboardInterrupt soon after ``interrupted`` is set.
        """
        self._interrupted = interrupted
        listed = candidates(self._experiment, params)
        tuned: Tuned = {}
        if listed:
            self._stage(TUNE, [cell for candidate in listed for cell in candidate.cells], {})
            if self.failed:
                return {}, False
            tuned = choose(self._experiment, listed, results.values(self._store.run_dir, TUNE))
            write_json(self._store.run_dir / TUNED, tuned)
        self._stage(MEASURE, list(self._experiment.cells(params, tuned)), tuned)
        return tuned, not self.failed

    def counts(self) -> dict[str, int]:
        """Of the cells known so far: how many there are, how many are measured and how many failed last."""
        done = len(self._store.done & self._known.keys())
        return {"total": len(self._known), "done": done, "failed": len(self._store.failures)}

    def _stage(self, name: str, cells: list[Cell], tuned: Tuned) -> None:
        for cell in cells:
            self._columns.check_params(cell)
            if cell.id in self._known:
                other = "is listed twice" if self._known[cell.id] == name else "is both for calibration and for test"
                raise LabError(f"{self._experiment.slug}: the cell {cell.dict} {other}")
            self._known[cell.id] = name
        if not cells:
            raise LabError(f"{self._experiment.slug}: these parameters leave no cell to measure")
        self._cells[name] = cells
        self._store.set_cells(self._cells)
        for alone in (False, True):
            chosen = [cell for cell in cells if cell.exclusive == alone]
            self._execute("time" if alone else name, chosen, tuned, alone)

    def _execute(self, label: str, cells: Sequence[Cell], tuned: Tuned, alone: bool) -> None:
        todo = [cell for cell in cells if cell.id not in self._store.done]
        before = len(cells) - len(todo)
        self.resumed += before
        if not todo:
            return
        ended, begun, reported = 0, time.monotonic(), 0.0
        for outcome in self._executor.run(todo, tuned, alone=alone):
            if outcome is not None:
                ended += 1
                if reason := self._store.add(outcome):
                    self.failed[outcome.cell.id] = reason
                else:
                    self.measured += 1
            self._store.flush()
            now = time.monotonic()
            if self._progress and (now - reported > _REPORT_S or ended == len(todo)):
                reported = now
                work = ended + self._executor.underway
                eta_s = (now - begun) / work * (len(todo) - work) if work else None
                self._progress(Progress(label, before + ended, len(cells), len(self.failed), eta_s))
            if self._interrupted.is_set():
                raise KeyboardInterrupt
        self._store.flush(force=True)


def _verdicts(experiment: Experiment, run_dir: Path, work: _Work, complete: bool) -> Iterator[Verdict]:
    """The claims' verdicts, with a word about cells that failed."""
    failed = "" if complete else f"{len(work.failed)} of {work.counts()['total']} cells failed"
    for verdict in judge(experiment, results.read(run_dir)):
        yield replace(verdict, note="; ".join(filter(None, [verdict.note, failed])))


@contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that it takes effect between two cells; a second one interrupts at once."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    previous = signal.getsignal(signal.SIGINT)

    def remember(number: int, frame: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, remember)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
