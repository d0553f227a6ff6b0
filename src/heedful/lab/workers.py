"""Executors: who measures the cells. The local one keeps a pool of worker processes on this machine."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from heedful.lab import wire
from heedful.lab.declare import Cell, Scalar
from heedful.lab.errors import LabError
from heedful.lab.rows import Measured

TICK_S = 0.1
"""An executor yields at least this often, so that its caller can store, report and stop."""

_LARGEST_BATCH = 512
_START_FAILURES = 3
_LAST_BREATH_S = 1.0
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: with its rows, or with one line that says why it failed."""

    cell: Cell
    measured: Measured | None
    error: str
    seconds: float


class Executor(Protocol):
    """Measures cells somewhere."""

    @property
    def underway(self) -> float:
        """How many cells' worth of work is done in the cells that have not ended, as far as they tell."""
        ...

    def run(
        self, cells: Sequence[Cell], tuned: Mapping[str, Mapping[str, Scalar]], *, alone: bool = False
    ) -> Iterator[Outcome | None]:
        """The cells' outcomes as they end, in any order, with None whenever nothing has ended for a moment.

        Args:
            cells: what to measure.
            tuned: what the tuning stage chose.
            alone: one cell at a time, with nothing of this run beside it.
        """
        ...

    def close(self) -> None:
        """Stop everything at once."""
        ...


class _Worker:
    """One process, the batch that it has, and since when it is busy with the batch's first cell."""

    def __init__(self, start: wire.Start, log: Path) -> None:
        environment = dict(os.environ) | dict.fromkeys(_ONE_THREAD, "1")
        environment |= {
            "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path),
            "PYTHONHASHSEED": "0",
            "TOKENIZERS_PARALLELISM": "false",
        }
        with open(log, "ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "heedful.lab.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                bufsize=0,
                start_new_session=True,
            )
        self.batch: deque[Cell] = deque()
        self.ready = False
        self.idle = False
        self.began = False
        self.since = time.monotonic()
        self.waited_from: float | None = None
        self.size = 1
        self.reported = 0
        self.fraction = 0.0
        self._buffer = bytearray()
        self.send(start)

    @property
    def output(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, message: wire.Start | wire.Batch) -> None:
        """A worker that died meanwhile is found out when its output ends."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            wire.send(self.process.stdin, message)

    def assign(self, batch: wire.Batch) -> None:
        self.batch.extend(batch.cells)
        self.idle, self.began, self.reported = False, False, 0
        self.send(batch)

    def messages(
        self,
    ) -> list[wire.Ready | wire.Began | wire.Done | wire.Idle | wire.Waiting | wire.Fraction] | None:
        """What has arrived; None when the worker is gone."""
        data = os.read(self.output, 1 << 20)
        if not data:
            return None
        self._buffer += data
        return list(wire.unpack(self._buffer))

    def busy_s(self, now: float) -> float:
        """For how long it has been busy with its current cell, time spent waiting for others left out."""
        if not self.began or not self.batch:
            return 0.0
        return (self.waited_from or now) - self.since

    def kill(self) -> None:
        """End it and whatever its cell started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def reap(self) -> int:
        """Its exit status; negative for the signal that killed it."""
        status = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        return status


def _cause(status: int) -> str:
    """What became of a worker, in words."""
    if status == -signal.SIGKILL:
        return "its worker was killed (signal 9), as the kernel does when memory runs out"
    if status < 0:
        return f"its worker died of signal {-status} ({signal.strsignal(-status)})"
    return f"its worker exited with status {status}"


class LocalWorkers:
    """Spawned processes on this machine, each with one thread, replaced when they die or overrun their limit.

    Args:
        start: what each process is told.
        workers: how many processes.
        limit_s: wall-clock limit of a cell that has none of its own; repeats count one by one.
        repeats: how often an exclusive cell is measured after its warm-up.
        log: file that collects what the processes print.
    """

    def __init__(self, start: wire.Start, workers: int, limit_s: float, repeats: int, log: Path) -> None:
        self._start, self._count, self._limit_s, self._repeats, self._log = (
            start,
            workers,
            limit_s,
            repeats,
            log,
        )
        self._workers: set[_Worker] = set()
        self._selector = selectors.DefaultSelector()
        self._failed_starts = 0

    @property
    def underway(self) -> float:
        """See :attr:`Executor.underway`."""
        return sum(worker.fraction for worker in self._workers)

    def run(
        self, cells: Sequence[Cell], tuned: Mapping[str, Mapping[str, Scalar]], *, alone: bool = False
    ) -> Iterator[Outcome | None]:
        """See :meth:`Executor.run`. Raises LabError if workers cannot start."""
        todo = deque(cells)
        if alone:
            for worker in list(self._workers)[1:]:
                self._dismiss(worker)
        while todo or any(worker.batch for worker in self._workers):
            self._employ(1 if alone else self._count, len(todo))
            for worker in self._workers:
                if worker.idle and todo:
                    share = 1 if alone else max(1, len(todo) // (2 * self._count))
                    size = min(worker.size, share, len(todo))
                    worker.assign(wire.Batch(tuple(todo.popleft() for _ in range(size)), tuned, self._repeats))
            for key, _ in self._selector.select(TICK_S):
                yield from self._read(key.data, todo)
            for worker in list(self._workers):
                yield from self._enforce(worker, todo)
            yield None

    def close(self) -> None:
        """Kill all processes."""
        for worker in list(self._workers):
            self._dismiss(worker)
        self._selector.close()

    def _employ(self, count: int, todo: int) -> None:
        """Start processes until there are as many as there is work for, ``count`` at most."""
        idle = sum(not worker.batch for worker in self._workers)
        for _ in range(min(count - len(self._workers), todo - idle)):
            worker = _Worker(self._start, self._log)
            self._workers.add(worker)
            self._selector.register(worker.output, selectors.EVENT_READ, worker)

    def _dismiss(self, worker: _Worker) -> int:
        self._workers.discard(worker)
        self._selector.unregister(worker.output)
        worker.kill()
        return worker.reap()

    def _read(self, worker: _Worker, todo: deque[Cell]) -> Iterator[Outcome]:
        messages = worker.messages()
        if messages is None:
            yield from self._bury(worker, todo)
            return
        yield from self._handle(worker, messages, todo)

    def _handle(self, worker: _Worker, messages: Sequence[object], todo: deque[Cell]) -> Iterator[Outcome]:
        now = time.monotonic()
        for message in messages:
            match message:
                case wire.Done(measured, error, seconds):
                    worker.since, worker.waited_from, worker.fraction = now, None, 0.0
                    worker.reported += 1
                    yield Outcome(worker.batch.popleft(), measured, error, seconds)
                case wire.Idle():
                    worker.idle, full = True, not worker.batch
                    worker.size = min(_LARGEST_BATCH, 2 * worker.size) if full else worker.reported
                    todo.extendleft(reversed(worker.batch))
                    worker.batch.clear()
                case wire.Began():
                    worker.began, worker.since, worker.waited_from = True, now, None
                case wire.Fraction(fraction):
                    worker.fraction = min(max(fraction, 0.0), 1.0)
                case wire.Waiting(True):
                    worker.waited_from = now
                case wire.Waiting(False):
                    worker.since += now - (worker.waited_from or now)
                    worker.waited_from = None
                case wire.Ready(error):
                    if error:
                        raise LabError(f"the experiment cannot be imported by a worker: {error}; see {self._log}")
                    worker.ready, worker.idle, self._failed_starts = True, True, 0

    def _enforce(self, worker: _Worker, todo: deque[Cell]) -> Iterator[Outcome]:
        """Kill the worker if its cell has overrun its limit, and what a dead worker has left behind."""
        if worker.process.poll() is not None:
            worker.kill()
        if not worker.began or not worker.batch:
            return
        cell = worker.batch[0]
        limit_s = self._limit_s if cell.limit_s is None else cell.limit_s
        busy_s = worker.busy_s(time.monotonic())
        if busy_s <= limit_s * (self._repeats + 1 if cell.exclusive else 1):
            return
        worker.kill()
        while (messages := worker.messages()) is not None:
            yield from self._handle(worker, messages, todo)
        self._dismiss(worker)
        if worker.batch and worker.batch[0] is cell:
            worker.batch.popleft()
            yield Outcome(cell, None, f"it ran past its limit of {limit_s:g} s", busy_s)
        todo.extendleft(reversed(worker.batch))

    def _bury(self, worker: _Worker, todo: deque[Cell]) -> Iterator[Outcome]:
        """Fail the cell that a dead worker was busy with, and give the rest of its batch to others."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(_LAST_BREATH_S)
        status = self._dismiss(worker)
        if worker.began and worker.batch:
            seconds = worker.busy_s(time.monotonic())
            yield Outcome(worker.batch.popleft(), None, _cause(status), seconds)
        elif not worker.ready or worker.batch:
            self._failed_starts += 1
            if self._failed_starts >= _START_FAILURES:
                raise LabError(f"workers die as they start ({_cause(status)}); see {self._log}")
        todo.extendleft(reversed(worker.batch))
