"""Messages between the driver and its workers: pickles behind their length, over pipes.

The driver sends one :class:`Start` and then batches; a worker answers with the other messages. One message
per finished cell keeps the driver certain of which cell a worker was busy with when it died.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from heedful.lab.declare import Cell, Scalar
from heedful.lab.identity import Reference
from heedful.lab.rows import Measured

_LENGTH = struct.Struct(">Q")


@dataclass(frozen=True)
class Start:
    """What a worker needs to measure cells of one run."""

    reference: Reference
    params: Mapping[str, Any]
    device: str
    code: str
    artifacts: Path
    scratch: Path
    driver: int


class Batch(NamedTuple):
    """Cells to measure, in order; exclusive ones ``repeats`` times after a warm-up."""

    cells: tuple[Cell, ...]
    tuned: Mapping[str, Mapping[str, Scalar]]
    repeats: int


class Ready(NamedTuple):
    """The experiment is imported. ``error`` says why not."""

    error: str = ""


class Began(NamedTuple):
    """The batch has arrived and its first cell begins."""


class Done(NamedTuple):
    """The next cell of the batch has ended. ``measured`` is None if it failed, and ``error`` says why."""

    measured: Measured | None
    error: str
    seconds: float


class Idle(NamedTuple):
    """The worker wants another batch; cells that it has not reported were not begun."""


class Waiting(NamedTuple):
    """The current cell begins, or ends, waiting for an artifact that another worker builds."""

    waits: bool


class Fraction(NamedTuple):
    """How much of the current cell is done."""

    fraction: float


def send(pipe: IO[bytes], message: Any) -> None:
    """Write one message, unbuffered."""
    data = pickle.dumps(message, protocol=5)
    frame = memoryview(_LENGTH.pack(len(data)) + data)
    while frame:
        frame = frame[pipe.write(frame) :]


def receive(pipe: IO[bytes]) -> Any:
    """Read one message. Raises EOFError when the other end is gone."""
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    return pickle.loads(_exactly(pipe, length))


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    while len(data) < size:
        more = pipe.read(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def unpack(buffer: bytearray) -> Iterator[Any]:
    """Take the complete messages from the front of ``buffer``."""
    start = 0
    while len(buffer) - start >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(buffer, start)
        end = start + _LENGTH.size + length
        if len(buffer) < end:
            break
        message = pickle.loads(memoryview(buffer)[start + _LENGTH.size : end])
        start = end
        yield message
    del buffer[:start]
