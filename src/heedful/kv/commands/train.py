"""``heedful kv train``: the parts that lookaheadkv and attention-gate need, for any supported model."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heedful.lab import console, files, text
from heedful.lab.device import check_device
from heedful.lab.errors import LabError, WorkError

if TYPE_CHECKING:
    from heedful.kv.commands.loading import Source, Text
    from heedful.kv.commands.prompts import Prompt
    from heedful.kv.parts import Parts

Progress = Callable[[int, int, float | None], None]
"""Told how much of how much is done, and the loss."""
Train = Callable[[Any, Path, Path, Progress], "Parts"]
"""Trains a model's parts: the model, where they go, where the training is saved, and what is told how far it is."""

MANY = 1_000_000
"""Steps of a training that ends by the clock."""

app = typer.Typer(
    help="Train the parts that lookaheadkv and attention-gate need.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Model = Annotated[str, typer.Option(metavar="PATH|ID", help="A folder, a Hugging Face id, or a shipped model's name.")]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Where the parts go  [default: in the model's folder, where they are found; else here]"
    ),
]
Minutes = Annotated[float | None, typer.Option(help="Train for so long, instead of --steps.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the initial parts and the order of the data.")]
Chat = Annotated[bool, typer.Option("--chat", help="Use the tokenizer's chat template.")]
Dtype = Annotated[str, typer.Option(help="Of the model: auto, float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="Where the model runs, as cpu or cuda:0.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processors to use  [default: all]")]


@app.command()
def lookahead(
    model: Model,
    data: Annotated[
        Path, typer.Option(metavar="FILE.jsonl", help='Lines of {"prompt": ...}; the model answers them itself.')
    ],
    out: Out = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the optimiser  [default: each prompt once]")] = None,
    minutes: Minutes = None,
    tokens: Annotated[int, typer.Option(min=1, help="Lookahead tokens.")] = 32,
    rank: Annotated[int, typer.Option(min=0, help="Of the LoRA that they carry; 0 for none.")] = 8,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Of the model's own answers, at most.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Prompts per step.")] = 16,
    seed: Seed = 0,
    chat: Chat = False,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Train lookahead tokens for lookaheadkv: they foresee what the answer will attend to.

    Interrupt it at will: the same command goes on.
    """
    from heedful.kv.commands.prompts import Prompt, read_lines, text_of
    from heedful.kv.lookahead_kv import FILE
    from heedful.kv.lookahead_training import LookaheadSettings, train_lookahead

    settings = _settings(
        LookaheadSettings,
        tokens=tokens, rank=rank, answer_tokens=answer_tokens, batch=batch, steps=steps, minutes=minutes, seed=seed,
    )  # fmt: skip
    shape = '{"prompt": "..."}'
    prompts = [
        Prompt(number, (text_of(value, "prompt", f"--data {data}, line {number}", shape),), 1, None)
        for number, value in read_lines("--data", data, shape)
    ]
    source, texts = _prepared(model, prompts, chat, dtype, device)

    def train(loaded: Any, place: Path, state: Path, progress: Progress) -> Parts:
        sequences = [text.tokens for text in texts]
        return train_lookahead(loaded, sequences, place, settings=settings, state=state, progress=progress)

    place = _place(out, source, FILE)
    parts = _trained("lookahead", train, source, place, dtype, device, threads, timed=minutes is not None)
    _tell("lookaheadkv", source, place, FILE, f"loss {parts.settings['loss']:.4g}")


@app.command()
def gate(
    model: Model,
    data: Annotated[
        Path,
        typer.Option(
            metavar="FILE.jsonl",
            help='Lines of {"text": ...}, or of {"prompt": ..., "answer": ...}, of which only the answer is judged.',
        ),
    ],
    out: Out = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the optimiser  [default: 1000]")] = None,
    minutes: Minutes = None,
    keep: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the entries that shall be kept.")] = 0.3,
    keep_last: Annotated[int, typer.Option(min=0, help="Newest tokens that are kept whatever a gate says.")] = 8,
    context: Annotated[
        str, typer.Option(help="What a gate sees: prefix, the tokens before; prompt, all of it (needs answers).")
    ] = "prefix",
    heads: Annotated[int, typer.Option(min=0, help="Of a gate's attention; 0 for none.")] = 4,
    size: Annotated[int, typer.Option(min=1, help="Of each of these heads.")] = 32,
    batch: Annotated[int, typer.Option(min=1, help="Sequences per step.")] = 8,
    seed: Seed = 0,
    chat: Chat = False,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Train gates for attention-gate: they say which tokens are cached at all, per layer and head.

    Interrupt it at will: the same command goes on.
    """
    from heedful.kv.attention_gate import FILE
    from heedful.kv.commands.prompts import read_lines
    from heedful.kv.gate_training import GateSettings, train_gate

    if steps is not None and minutes is not None:
        raise LabError("give --steps or --minutes, not both")
    settings = _settings(
        GateSettings,
        beta=keep, keep_last=keep_last, context=context, heads=heads, size=size, batch=batch, seed=seed,
        minutes=minutes, steps=MANY if minutes is not None else steps or 1000,
    )  # fmt: skip
    shape = '{"text": "..."}, or {"prompt": "...", "answer": "..."}'
    prompts = [
        _example(number, value, context, f"--data {data}, line {number}", shape)
        for number, value in read_lines("--data", data, shape)
    ]
    source, texts = _prepared(model, prompts, chat, dtype, device)
    sequences = [_judged(text) for text in texts]

    def train(loaded: Any, place: Path, state: Path, progress: Progress) -> Parts:
        told = progress if minutes is None else _by_the_clock(progress, minutes, state)
        return train_gate(loaded, sequences, place, settings=settings, state=state, progress=told)

    place = _place(out, source, FILE)
    parts = _trained("gate", train, source, place, dtype, device, threads, timed=minutes is not None)
    kept = f"{100 * parts.settings['mean_flag']:.0f} % kept, loss {parts.settings['loss']:.4g}"
    _tell("attention-gate", source, place, FILE, kept)


def _settings(kind: Any, **given: Any) -> Any:
    """The settings of a training. Raises LabError for one that is out of its range."""
    try:
        return kind(**given)
    except ValueError as error:
        raise LabError(str(error)) from error


def _example(number: int, value: dict[str, Any], context: str, where: str, shape: str) -> Prompt:
    """A line of a gate's data."""
    from heedful.kv.commands.prompts import Prompt, text_of

    if "prompt" in value:
        return Prompt(number, (text_of(value, "prompt", where),), 1, text_of(value, "answer", where, shape))
    if context == "prompt":
        raise LabError(f'{where}: has no "prompt"; with --context prompt only answers can be judged')
    return Prompt(number, (text_of(value, "text", where, shape),), 1, None)


def _judged(text: Text) -> tuple[Any, Any]:
    """Token ids, and which of them count in the loss: the answer's, or all but the first."""
    import torch

    if text.answer is None:
        counts = torch.ones(len(text.tokens), dtype=torch.bool)
        counts[0] = False
        tokens = text.tokens
    else:
        tokens = torch.cat([text.tokens, text.answer])
        counts = torch.arange(len(tokens)) >= len(text.tokens)
    if not bool(counts.any()):
        raise LabError(f"--data, line {text.prompt.line}: has no token to be predicted from another")
    return tokens, counts


def _prepared(model: str, prompts: Sequence[Prompt], chat: bool, dtype: str, device: str) -> tuple[Source, list[Text]]:
    """The model without its weights, and the data as token ids."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from heedful.kv.commands import loading, quiet

    quiet.silence_libraries()
    loading.check_dtype(dtype)
    check_device(device)
    source = loading.find(model)
    texts = loading.encode(source, prompts, chat)
    loading.check_positions(source, texts, 0, console.notice)
    return source, texts


def _place(out: Path | None, source: Source, file: str) -> Path:
    """Where the parts go. Raises LabError, before any work, if they cannot go there, or some are there already."""
    from heedful import models

    beside = Path(source.path).is_dir() and source.name not in models.names()
    place = out or (Path(source.path) / file if beside else Path(file))
    if place.is_dir():
        raise LabError(f"--out {place}: is a folder; name a file in it")
    files.check_writable(place.parent)
    if place.exists() and not _state(place).exists():
        raise LabError(f"--out {place}: is there already; remove it, or name another file")
    return place


def _state(place: Path) -> Path:
    """Where a training is saved until it has ended."""
    return place.with_name(f"{place.name}.state")


def _trained(
    kind: str, train: Train, source: Source, place: Path, dtype: str, device: str, threads: int | None, timed: bool
) -> Parts:
    """Loads the model and trains its parts; what was saved is gone when they are there.

    Raises LabError for what the training refuses, WorkError if it fails; exits with 130 if it is interrupted.
    """
    import torch

    from heedful.kv.commands import loading
    from heedful.lab.machine import available_cpus

    torch.set_num_threads(threads or available_cpus())
    loaded = loading.load(source, dtype, torch.device(device))
    state = _state(place)
    if state.exists():
        console.notice(f"going on from {state}")
    unit = "seconds" if timed else "steps"
    try:
        with console.Progress(f"{kind} parts for {source.name}, {unit}") as bar, _stoppable() as check:
            parts = train(loaded, place, state, _reporter(bar, check))
    except KeyboardInterrupt:
        console.notice(f"interrupted; the training is saved in {state}, and the same command goes on")
        raise typer.Exit(130) from None
    except ValueError as error:
        raise LabError(str(error)) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise WorkError(f"the training stopped: {error or type(error).__name__}") from error
    state.unlink(missing_ok=True)
    return parts


def _by_the_clock(progress: Progress, minutes: float, state: Path) -> Progress:
    """Tells ``progress`` seconds instead of steps; those before a break are in the saved training."""
    began = time.monotonic()
    before: list[float] = []

    def report(step: int, steps: int, loss: float | None) -> None:
        import torch

        if not before:
            before.append(torch.load(state, weights_only=True)["seconds"] if state.exists() else 0.0)
        total = round(60 * minutes)
        progress(min(total, round(before[0] + time.monotonic() - began)), total, loss)

    return report


def _reporter(bar: console.Progress, check: Callable[[], None]) -> Progress:
    """Tells the bar how far a training is and how long it will take, and ends it if that is asked for."""
    first: list[tuple[float, int]] = []

    def report(done: int, total: int, loss: float | None) -> None:
        now = time.monotonic()
        if not first:
            first.append((now, done))
        began, before = first[0]
        left = (now - began) * (total - done) / (done - before) if done > before else None
        bar(done, total, left_s=left, note="" if loss is None else f"loss {loss:.4g}")
        check()

    return report


@contextmanager
def _stoppable() -> Iterator[Callable[[], None]]:
    """Yields what raises KeyboardInterrupt once Ctrl-C was pressed, so that a step is never left half done.

    Pressed again, it interrupts at once.
    """
    pressed: list[bool] = []

    def note(number: int, frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)
        console.notice("stopping after this step; again to stop at once")

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


def _tell(policy: str, source: Source, place: Path, file: str, result: str) -> None:
    found = place.name == file and place.parent.resolve() == Path(source.path).resolve()
    use = policy if found else f"{policy}:parts={place}"
    print(f"{place}: {text.one_line(result)}; use it as --policies {use}")
