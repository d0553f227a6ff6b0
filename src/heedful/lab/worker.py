"""The process that measures cells: ``python -m heedful.lab.worker``, started by :mod:`heedful.lab.workers`.

It speaks to its driver over stdin and stdout, and dies when the driver does. What ``measure`` prints goes to
stderr.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from typing import IO, NoReturn

from heedful.lab import wire
from heedful.lab.context import Context
from heedful.lab.declare import Cell, Experiment
from heedful.lab.rows import Columns, Measured, combine_repeats

BATCH_S = 0.25
"""A batch is given back after about this many seconds, so that no worker hoards work while others idle."""

_PROGRESS_S = 0.25
_DEATH_SIGNAL = 1


def _end() -> NoReturn:
    """End this process and whatever ``measure`` started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _die_with(driver: int) -> None:
    """Ask the kernel for this process's death when the driver dies, even inside a long native call."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != driver:
            _end()


def _listen(inbox: IO[bytes], batches: queue.SimpleQueue[wire.Batch]) -> None:
    try:
        while True:
            batches.put(wire.receive(inbox))
    except EOFError:
        _end()


def _reason(error: BaseException) -> str:
    """An exception as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


class _Bench:
    """Measures one cell after another."""

    def __init__(self, start: wire.Start, experiment: Experiment, outbox: IO[bytes]) -> None:
        self.start, self.experiment, self.outbox = start, experiment, outbox
        self.columns = Columns.of(experiment)
        self._reported = 0.0

    def batch(self, batch: wire.Batch) -> None:
        wire.send(self.outbox, wire.Began())
        begun = time.monotonic()
        for cell in batch.cells:
            wire.send(self.outbox, self._cell(cell, batch))
            if time.monotonic() - begun > BATCH_S:
                break
        wire.send(self.outbox, wire.Idle())

    def _cell(self, cell: Cell, batch: wire.Batch) -> wire.Done:
        begun = time.perf_counter()
        measured, reason = None, ""
        try:
            if cell.exclusive:
                repeats = [self._once(cell, batch, fresh=True) for _ in range(batch.repeats + 1)]
                measured = combine_repeats(repeats[1:])
            else:
                measured = self._once(cell, batch)
        except (Exception, SystemExit) as error:
            reason = _reason(error)
            print(f"cell {cell.dict} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        return wire.Done(measured, reason, time.perf_counter() - begun)

    def _once(self, cell: Cell, batch: wire.Batch, fresh: bool = False) -> Measured:
        scratch = self.start.scratch / cell.id
        if fresh:
            shutil.rmtree(scratch, ignore_errors=True)
        ctx = Context(
            cell,
            self.start.params,
            batch.tuned,
            self.start.device,
            self.start.code,
            self.start.artifacts,
            scratch,
            self._progress,
            lambda waits: wire.send(self.outbox, wire.Waiting(waits)),
        )
        return self.columns.check(self.experiment.measure(cell, ctx), cell)

    def _progress(self, fraction: float) -> None:
        now = time.monotonic()
        if now - self._reported > _PROGRESS_S:
            self._reported = now
            wire.send(self.outbox, wire.Fraction(float(fraction)))


def main() -> None:
    """Measure the batches that arrive until the driver closes the pipe."""
    inbox = os.fdopen(os.dup(0), "rb", buffering=0)
    outbox = os.fdopen(os.dup(1), "wb", buffering=0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    faulthandler.enable()
    start: wire.Start = wire.receive(inbox)
    _die_with(start.driver)
    batches: queue.SimpleQueue[wire.Batch] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(inbox, batches), daemon=True).start()
    try:
        bench = _Bench(start, start.reference.load(), outbox)
    except Exception as error:
        traceback.print_exc()
        wire.send(outbox, wire.Ready(_reason(error)))
        return
    wire.send(outbox, wire.Ready())
    while True:
        bench.batch(batches.get())


if __name__ == "__main__":
    main()
