"""The server from its start to its stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from transformers import ContinuousBatchingConfig
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager

from heedful.serving import schedulers
from heedful.serving._transformers_scheduler import EngineScheduler
from heedful.serving.admission import Options
from heedful.serving.server import history_file
from heedful.serving.server.app import application
from heedful.serving.server.generations import Generations, shared_settings
from heedful.serving.server.handlers import Served
from heedful.serving.server.limits import ApiError, Limits
from heedful.serving.server.loading import device_of, load
from heedful.serving.server.metrics import Metrics, Reading
from heedful.serving.transformers_engine import ENGINES_OWN, installed

CPU_TOKENS, CPU_PAGE, CPU_BATCH, CPU_REQUESTS = 16_384, 16, 512, 64
"""On a CPU, unless told otherwise: tokens in the cache, per block, in one step; requests that run together."""
SAVE_EVERY_S = 30.0
"""Seconds between two looks whether the history has grown and should be saved."""

log = logging.getLogger("heedful.serve")


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Args:
        model: a shipped model, a folder, or a Hugging Face id.
        name: what requests call it; as ``model`` if empty.
        scheduler: its name with its parameters, as ``"past-future:rho=0.05"``; ``"fifo"`` for the engine's own rule.
        device: ``"auto"``, or a device by name.
        dtype: of the weights.
        num_blocks: blocks of the KV cache; None for what fits on a GPU, 16,384 tokens on a CPU.
        page_size: tokens per block, at least 4; None for transformers' own on a GPU, 16 on a CPU.
        max_batch_tokens: tokens in one step; None as above, 512 on a CPU.
        max_requests: requests that run together; None as above, 64 on a CPU.
        window: output lengths that are remembered, at least 1.
        greedy: whether the engine always takes the likeliest token, and requests that sample are refused.
        seed: of sampling and of the scheduler's draws.
        limits: what is taken on.
        history: where output lengths are kept; None for nowhere.
        keys: of which each request must bring one; none if empty.

    Raises ValueError for a value outside its range, or an unknown scheduler.
    """

    model: str = "byte-1"
    name: str = ""
    scheduler: str = "past-future"
    device: str = "auto"
    dtype: str = "auto"
    num_blocks: int | None = None
    page_size: int | None = None
    max_batch_tokens: int | None = None
    max_requests: int | None = None
    window: int = 1000
    greedy: bool = False
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    history: Path | None = None
    keys: Sequence[bytes] = ()

    def __post_init__(self) -> None:
        for name, least in (
            ("num_blocks", 1), ("page_size", 4), ("max_batch_tokens", 1), ("max_requests", 1), ("window", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value}: must be at least {least}")
        offered = [ENGINES_OWN, *(name for name, cls in schedulers.classes().items() if not cls.knows_lengths)]
        if self.scheduler != ENGINES_OWN and schedulers.make(self.scheduler, offered).knows_lengths:
            raise ValueError(f"scheduler {self.scheduler!r}: needs the true output lengths, which no server knows")


class Server:
    """A model in the engine, with a scheduler, and the application around it; made by :func:`started`.

    Attributes:
        served: the model.
        settings: as given.
        scheduler: the scheduler inside the engine.
        generations: what runs.
        app: the ASGI application.
    """

    def __init__(
        self, served: Served, settings: Settings, engine: ContinuousBatchingManager, scheduler: EngineScheduler
    ) -> None:
        self.served, self.settings, self.scheduler = served, settings, scheduler
        metrics = Metrics(self._readings)
        self.generations = Generations(engine, served.model, self.scheduler, settings.limits, metrics, settings.greedy)
        self.app = application(served, self.generations, metrics, settings.limits, settings.keys)
        self._saved = self._lengths
        self._saving = threading.Lock()

    def _readings(self) -> Iterator[Reading]:
        stats, history = self.scheduler.stats, self.scheduler.history
        yield "heedful_in_flight", "Requests that have not ended.", len(self.generations)
        yield "heedful_running", "Requests that run in the engine.", stats.running
        yield "heedful_waiting", "Requests that wait in the engine, evicted ones included.", stats.waiting
        yield "heedful_capacity_tokens", "Tokens that the KV cache holds.", stats.capacity
        yield "heedful_occupied_tokens", "Tokens in blocks of the KV cache that are taken.", stats.occupied
        yield "heedful_evictions_total", "How often a running request was evicted.", stats.evictions
        yield "heedful_prefilled_tokens_total", "Prompt tokens computed, again ones included.", stats.prefilled
        yield "heedful_recomputed_tokens_total", "Tokens computed again after an eviction.", stats.recomputed
        yield "heedful_steps_total", "Forward passes.", stats.steps
        if history is not None:
            peak = stats.predicted_peak if stats.running else 0
            yield "heedful_predicted_peak_tokens", "The most tokens that those that run will come to hold.", peak
            yield "heedful_history_lengths", "Output lengths that the scheduler remembers.", len(history)
            yield "heedful_history_mean_tokens", "Their mean, in tokens.", history.mean

    @property
    def _lengths(self) -> tuple[int, ...]:
        return () if self.scheduler.history is None else self.scheduler.history.values

    def save(self) -> None:
        """Writes the history if there is a file for it and something new; a failure is logged."""
        path = self.settings.history
        with self._saving:
            lengths = self._lengths
            if path is None or lengths == self._saved:
                return
            try:
                history_file.write(path, lengths)
            except OSError as error:
                log.error("the history cannot be saved to %s: %s", path, error.strerror or error)
            else:
                self._saved = lengths


@contextlib.contextmanager
def started(settings: Settings, notice: Callable[[str], None]) -> Iterator[Server]:
    """The engine, running, and the application around it; both end with the context, and the history is saved.

    Args:
        settings: how to serve.
        notice: told, in one line each, what the operator should know.

    Raises ValueError for a model or device that cannot be used, OSError for a history file that cannot be read.
    """
    lengths = _recalled(settings.history, notice)
    device = device_of(settings.device)
    model, tokenizer = load(settings.model, settings.dtype, device)
    if settings.greedy:
        model.generation_config.do_sample = False
    served = Served(settings.name or settings.model, model, tokenizer)
    options = Options(settings.window, settings.limits.max_output, seed=settings.seed, lengths=lengths)
    with installed(settings.scheduler, options) as ours:
        engine = model.init_continuous_batching(
            generation_config=shared_settings(model, settings.greedy),
            continuous_batching_config=ContinuousBatchingConfig(
                **ours.config, **_engine_fields(settings, device.type), seed=settings.seed
            ),
        )
        engine.warmup()
        if ours.live is None:
            raise ValueError(f"model {settings.model}: has an engine already, whose scheduler cannot be changed")
        if settings.history is not None and ours.live.history is None:
            notice(f"warning: scheduler {settings.scheduler!r} looks at no history; {settings.history} stays as it is")
        server = Server(served, settings, engine, ours.live)
        engine.start()
        try:
            yield server
        finally:
            try:
                engine.stop(block=True, timeout=30, hard_stop=True)
            finally:
                # Afterwards, for answers that ended at a stop string just now are recorded as the engine ends.
                server.save()


def _recalled(path: Path | None, notice: Callable[[str], None]) -> tuple[int, ...]:
    """The lengths in a history file. A damaged one is kept under another name, and the server starts without."""
    if path is None:
        return ()
    try:
        return history_file.read(path)
    except history_file.DamagedHistoryError as error:
        kept = history_file.set_aside(path)
        notice(f"warning: {path} is no history ({error}); it is kept as {kept}, and the history starts anew")
        return ()


def _engine_fields(settings: Settings, device: str) -> dict[str, Any]:
    """Fields of the engine's configuration."""
    page, blocks = settings.page_size, settings.num_blocks
    batch, requests = settings.max_batch_tokens, settings.max_requests
    fields: dict[str, Any] = {"per_request_processors": not settings.greedy}
    if device == "cpu":
        page = page or CPU_PAGE
        blocks = blocks or -(-CPU_TOKENS // page)
        batch, requests = batch or CPU_BATCH, requests or CPU_REQUESTS
        fields |= {"use_cuda_graph": False, "use_async_batching": False, "auto_switch_to_flash": False}
    chosen = {
        "page_size": page,
        "num_blocks": blocks,
        "max_batch_tokens": batch,
        "max_requests_per_batch": requests,
    }
    return fields | {name: value for name, value in chosen.items() if value is not None}


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any free one.

    Raises socket.gaierror or UnicodeError for a host without an address, OSError if there is no socket to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Looked up here, for create_server tells of an unknown host as of any other failure.
    *_, address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0]
    return socket.create_server(address, family=family, backlog=2048)


def run(server: Server, sock: socket.socket, ready: Callable[[], None], log_level: str) -> None:
    """Serves on a socket until the process is told to stop (SIGINT, SIGTERM), then until what runs has ended.

    A second signal ends what runs with an error; a third does not wait for clients to read it.

    Args:
        server: what to serve.
        sock: where.
        ready: called when requests are answered.
        log_level: of uvicorn's log.
    """
    _Uvicorn(server, ready, log_level).run(sockets=[sock])


@contextlib.contextmanager
def in_background(server: Server, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serves from a thread while the context lasts, then until what runs has ended; gives the URL.

    Args:
        server: what to serve.
        host: address to listen at.
        port: port to listen at; 0 for a free one.

    Raises OSError, or UnicodeError, if there is no such address, OSError if somebody else listens there.
    """
    ready = threading.Event()
    with listen(host, port) as sock:
        ours = _Uvicorn(server, ready.set, "warning")
        thread = threading.Thread(target=ours.run, args=([sock],), name="heedful-serve")
        thread.start()
        try:
            while not ready.wait(0.1):
                if not thread.is_alive():
                    raise RuntimeError("the server has not started; its log says why")
            yield url_of(sock)
        finally:
            ours.should_exit = True
            thread.join()


def url_of(sock: socket.socket) -> str:
    """Where the server on a socket is found."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Uvicorn(uvicorn.Server):
    """uvicorn, which tells when it is ready, saves the history now and then, and lets what runs end before it stops."""

    def __init__(self, server: Server, ready: Callable[[], None], log_level: str) -> None:
        super().__init__(
            uvicorn.Config(
                server.app,
                log_level=log_level,
                access_log=log_level in ("info", "debug"),
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=math.ceil(server.settings.limits.drain_timeout) + 5,
            )
        )
        self._server, self._ready = server, ready
        self._hurried = False

    async def main_loop(self) -> None:
        self._ready()
        saving = asyncio.create_task(self._save_now_and_then())
        try:
            await super().main_loop()
        finally:
            saving.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # In uvicorn's own version the signal is raised once more in the end, and the process dies of it.
        if self.should_exit:
            self.force_exit = self._hurried
            self._hurried = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._server.generations.close()
        late = asyncio.create_task(self._fail_what_is_late())
        await super().shutdown(sockets)
        late.cancel()

    async def _fail_what_is_late(self) -> None:
        end = time.monotonic() + self._server.settings.limits.drain_timeout
        while time.monotonic() < end and not self._hurried:
            await asyncio.sleep(0.05)
        error = ApiError(503, "stopping", "the server has stopped before the answer was complete", retry_s=5)
        self._server.generations.fail_all(error)

    async def _save_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            await asyncio.to_thread(self._server.save)
