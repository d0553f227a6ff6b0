"""``heedful serve``: an OpenAI-compatible server with a chosen scheduler."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heedful.lab import console
from heedful.lab.errors import LabError, WorkError
from heedful.lab.files import check_writable

if TYPE_CHECKING:
    from heedful.serving.server.run import Server

LOG_LEVELS = ("critical", "error", "warning", "info", "debug")

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def serve(
    model: Annotated[str, typer.Option(metavar="PATH_OR_ID", help="A shipped model, a folder, or an id.")] = "byte-1",
    served_model_name: Annotated[str, typer.Option(help="What requests call it  [default: as --model]")] = "",
    scheduler: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="Who may join, as past-future:rho=0.03, aggressive:watermark=0.9, conservative, peak-with-cap; "
            "fifo is the engine's own rule.",
        ),
    ] = "past-future",
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 for a free one.")] = 8000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or float64.")] = "auto",
    num_blocks: Annotated[
        int | None, typer.Option(help="Blocks of the KV cache  [default: 16,384 tokens on a CPU, what fits on a GPU]")
    ] = None,
    page_size: Annotated[
        int | None, typer.Option(help="Tokens per block  [default: 16 on a CPU, 256 on a GPU]")
    ] = None,
    max_batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens in one step  [default: 512 on a CPU, by memory on a GPU]")
    ] = None,
    max_requests: Annotated[
        int | None, typer.Option(help="Requests that run together  [default: 64 on a CPU, 1024 on a GPU]")
    ] = None,
    default_max_tokens: Annotated[int, typer.Option(help="Cap on the output of requests that name none.")] = 256,
    max_output: Annotated[int, typer.Option(help="The largest cap that a request may name, in tokens.")] = 2048,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait for their first token at once.")] = 1024,
    max_body: Annotated[int, typer.Option(help="Bytes of a request's body.")] = 2**20,
    request_timeout: Annotated[float, typer.Option(help="Seconds that a request may take; 0 for no limit.")] = 600.0,
    drain_timeout: Annotated[float, typer.Option(help="Seconds that a stop leaves to what runs.")] = 30.0,
    history: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep output lengths here from one start to the next.")
    ] = None,
    window: Annotated[int, typer.Option(help="Output lengths that the scheduler remembers.")] = 1000,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keys, one per line; each request must bring one of them.")
    ] = None,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Take the likeliest token always; refuse to sample.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of sampling and of the scheduler's draws.")] = 0,
    log_level: Annotated[str, typer.Option(help=f"{', '.join(LOG_LEVELS[:-1])} or {LOG_LEVELS[-1]}.")] = "warning",
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing at the start.")] = False,
) -> None:
    """Serve a model through an OpenAI-compatible API, with a scheduler that decides who may join.

    Chat completions, completions, models, health and metrics; nothing but the given model is served.
    """
    from heedful.lab.doctor import require

    require("serving")
    if log_level not in LOG_LEVELS:
        raise LabError(f"--log-level {log_level!r}: must be one of {', '.join(LOG_LEVELS)}")
    keys = _keys(api_key_file)
    if history is not None:
        _check_history(history)
    _set_up_logs(log_level)
    from heedful.serving.server.limits import Limits
    from heedful.serving.server.run import Settings, run, started

    settings = Settings(
        model=model,
        name=served_model_name,
        scheduler=scheduler,
        device=device,
        dtype=dtype,
        num_blocks=num_blocks,
        page_size=page_size,
        max_batch_tokens=max_batch_tokens,
        max_requests=max_requests,
        window=window,
        greedy=greedy,
        seed=seed,
        limits=Limits(default_max_tokens, max_output, max_queue, request_timeout, drain_timeout, max_body),
        history=history,
        keys=keys,
    )
    with _listening(host, port) as sock:
        if not keys and host not in ("127.0.0.1", "::1", "localhost"):
            console.notice(f"warning: anybody who reaches {host} can use this server; --api-key-file asks for a key")
        try:
            with started(settings, console.notice) as server:
                ready = (lambda: None) if quiet else (lambda: _introduce(server, sock))
                run(server, sock, ready, log_level)
        except RuntimeError as error:
            raise WorkError(str(error)) from error


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """The socket, before anything slow is done. Raises LabError if there is none to be had."""
    from heedful.serving.server.run import listen

    try:
        sock = listen(host, port)
    except (OSError, UnicodeError) as error:
        raise LabError(_not_listening(host, port, error)) from error
    with sock:
        yield sock


def _not_listening(host: str, port: int, error: OSError | UnicodeError) -> str:
    """Which of the two options is wrong, why, and what to give instead."""
    own = "name an address of this machine, as 127.0.0.1, or 0.0.0.0 for all of them"
    if isinstance(error, UnicodeError):
        return f"--host {host!r}: is no name of a host; {own}"
    if isinstance(error, socket.gaierror):
        return f"--host {host!r}: {error.strerror}; {own}"
    why = os.strerror(error.errno) if error.errno else error  # the error's own words go on to the attempt
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host!r}: {why}; {own}"
    return f"--port {port} at {host}: {why}; name another, or 0 for a free one"


def _keys(path: Path | None) -> tuple[bytes, ...]:
    """The keys in a file, one per line, empty lines left out. Raises LabError if it cannot be read, or has none."""
    if path is None:
        return ()
    try:
        keys = tuple(line.strip() for line in path.read_bytes().splitlines() if line.strip())
    except OSError as error:
        raise LabError(f"--api-key-file {path}: {error.strerror}; name a file with a key in each line") from error
    if not keys:
        raise LabError(f"--api-key-file {path}: has no key")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        console.notice(f"warning: {path} can be read by others; chmod 600 {path}")
    return keys


def _check_history(path: Path) -> None:
    """Raises LabError if the history can be neither kept nor read there."""
    check_writable(path.parent)
    try:
        path.open("rb").close()
    except FileNotFoundError:
        pass  # it is written at the end
    except OSError as error:
        raise LabError(f"--history {path}: {error.strerror}; name a file that can be read and written") from error


def _set_up_logs(level: str) -> None:
    from transformers.utils import logging as theirs

    logging.basicConfig(format="%(levelname)s: %(name)s: %(message)s")
    logging.getLogger("heedful").setLevel(level.upper())
    # transformers warns about every request.
    theirs.set_verbosity(logging.ERROR if level == "warning" else getattr(logging, level.upper()))


def _introduce(server: Server, sock: socket.socket) -> None:
    """What runs where, and how to try it."""
    from heedful.serving.server.run import url_of

    url = url_of(sock)
    model, scheduler = server.served.model, server.scheduler
    key = " -H 'Authorization: Bearer KEY'" if server.settings.keys else ""
    chats = bool(server.served.tokenizer.chat_template)
    path = "chat/completions" if chats else "completions"
    asked = '"messages": [{"role": "user", "content": "Hello"}]' if chats else '"prompt": "Hello"'
    kept = f", history in {server.settings.history}" if server.settings.history else ""
    blocks = scheduler.capacity // scheduler.page
    body = f'{{{asked}, "max_tokens": 32}}'
    print(
        f"model      {server.served.name}, {str(model.dtype).removeprefix('torch.')} on {model.device}\n"
        f"cache      {scheduler.capacity:,} tokens in {blocks:,} blocks of {scheduler.page}\n"
        f"scheduler  {server.settings.scheduler}{kept}\n"
        f"listening  {url}/v1\n"
        f"try        curl {url}/v1/{path} -H 'Content-Type: application/json'{key} -d '{body}'",
        flush=True,
    )
