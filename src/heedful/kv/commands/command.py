"""``heedful compare kv``: policies x budgets on the embedded tasks, or on one's own model and prompts."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heedful.lab import console, text
from heedful.lab.errors import LabError, WorkError

if TYPE_CHECKING:
    from heedful.kv.base import Size
    from heedful.kv.commands.options import Prompt
    from heedful.kv.commands.page import Table

BUDGETS = "10%,20%,50%"
ONLY_EMBEDDED = ("tasks", "items", "length", "seed", "workers")
ONLY_OWN = ("max_new_tokens", "chat", "dtype", "device")


def compare(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(metavar="PATH|ID", help="A folder, a Hugging Face id, or a shipped model's name.")
    ] = "task-1",
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help='Lines of {"prompt": ..., "answer": ...}; answers optional.'),
    ] = None,
    policies: Annotated[
        str, typer.Option(help="Policies, as h2o,tova,lazy-eviction:alpha=0.01,window=32  [default: all]")
    ] = "",
    budgets: Annotated[
        str, typer.Option(help="Shares of the item or prompt (0.2, 20%) and numbers of slots (64).")
    ] = BUDGETS,
    tasks: Annotated[
        str, typer.Option(help="Embedded tasks, as niah1,ledger:stack  [default: what the model gets right]")
    ] = "",
    items: Annotated[int, typer.Option(min=2, help="Items per embedded task.")] = 32,
    length: Annotated[
        int | None, typer.Option(min=16, help="Tokens of an embedded item  [default: 256, if the model can]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the embedded items.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer to a prompt.")] = 64,
    chat: Annotated[bool, typer.Option("--chat", help="Use the tokenizer's chat template.")] = False,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16; with --prompts.")] = "auto",
    device: Annotated[str, typer.Option(help="Where the model runs, as cpu or cuda:0; with --prompts.")] = "cpu",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes for embedded tasks  [default: one per processor]")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of runs.")] = Path("runs"),
    site: Annotated[Path, typer.Option(help="The folder of the report.")] = Path("site"),
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare eviction policies: accuracy, memory and speed at each budget.

    Without --prompts on the tasks of a shipped model; with it on your model and your prompts.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _refuse_mixed(context, own=prompts is not None)
    from heedful.kv.commands import options, page

    sizes = options.read_budgets(budgets)
    specs = options.read_specs(policies) if policies else None
    page.check_writable(out, site)
    import torch

    began = time.monotonic()
    try:
        if prompts is None:
            chosen = options.read_tasks(tasks) if tasks else None
            title, tables, facts = _embedded(model, chosen, length, specs, sizes, items, seed, workers)
        else:
            title, tables, facts = _own(
                model, options.read_prompts(prompts), specs, sizes, max_new_tokens, chat, dtype, device
            )
    except KeyboardInterrupt:
        console.notice("interrupted; nothing is stored")
        raise typer.Exit(130) from None
    except LabError:
        raise
    except (BrokenProcessPool, torch.OutOfMemoryError, MemoryError, ValueError) as error:
        raise WorkError(f"the comparison stopped: {error or type(error).__name__}") from error
    facts["duration"] = text.duration(time.monotonic() - began)
    if not json:
        for table in tables:
            table.show()
    where = page.publish(title, _command_line(context), tables, facts, out, site)
    if json:
        data = {table.title: {"note": table.note, "rows": table.rows} for table in tables}
        console.show_json({"title": title, "facts": facts, "tables": data, "report": str(where)})
    else:
        print(f"{facts['duration']}; report: {where}")


def _refuse_mixed(context: typer.Context, own: bool) -> None:
    """LabError for an option that says nothing where it was given."""
    for name in ONLY_EMBEDDED if own else ONLY_OWN:
        if _given(context, name):
            option = "--" + name.replace("_", "-")
            advice = "embedded tasks; leave it out beside" if own else "your own prompts; add"
            raise LabError(f"{option} is for {advice} --prompts")


def _given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _command_line(context: typer.Context) -> str:
    """The command that does it again."""
    words = ["heedful", "compare", "kv"]
    for name, value in context.params.items():
        if _given(context, name) and name not in ("json", "out", "site"):
            words.append("--" + name.replace("_", "-"))
            words.extend([] if value is True else [str(value)])
    return shlex.join(words)


def _embedded(
    model: str,
    tasks: Sequence[str] | None,
    length: int | None,
    specs: Sequence[str] | None,
    sizes: Sequence[Size],
    items: int,
    seed: int,
    workers: int | None,
) -> tuple[str, list[Table], dict[str, str]]:
    """Title, tables and facts of a comparison on the embedded tasks."""
    from heedful.kv.commands import embedded, options
    from heedful.lab.machine import available_cpus

    known = embedded.task_models()
    if model not in known:
        raise LabError(
            f"model {model!r}: without --prompts FILE.jsonl only shipped task models can be compared "
            f"({', '.join(known) or 'none is installed'})"
        )
    works = embedded.plan(model, tasks, length, console.notice)
    todo = embedded.jobs(model, works, specs, sizes, items, seed, console.notice)
    chosen_here = specs is None and model == embedded.CALIBRATED
    foreign = (job.spec for job in todo if not chosen_here and (specs is None or "alpha=" not in job.spec))
    options.tell_thresholds(foreign, model, console.notice)
    with console.Progress(f"{len(todo)} cells on {model}") as bar:
        outcomes = embedded.run(
            todo, workers or available_cpus(), lambda done, total, left: bar(done, total, left_s=left)
        )
    facts = {"model": model, "items per task": str(items), "seed": str(seed)}
    return f"Policies on the tasks of {model}", embedded.tables(todo, outcomes), facts


def _own(
    model: str,
    prompts: Sequence[Prompt],
    specs: Sequence[str] | None,
    sizes: Sequence[Size],
    max_new_tokens: int,
    chat: bool,
    dtype: str,
    device: str,
) -> tuple[str, list[Table], dict[str, str]]:
    """Title, tables and facts of a comparison on the user's model and prompts."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    from heedful.kv.commands import loading, options, own

    hub_logging.set_verbosity(logging.CRITICAL)
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    loading.check_dtype(dtype)
    place = loading.check_device(device)
    own.check_specs(specs or ())
    source = loading.find(model)
    texts = loading.encode(source, prompts, chat)
    field = own.field_for(specs, sizes, texts, console.notice)
    options.tell_thresholds((c.spec for c in field if "alpha=" not in c.spec), model, console.notice)
    loading.check_positions(source, texts, max_new_tokens, console.notice)
    loaded = loading.load(source, dtype, place)
    with console.Progress(f"{len(field)} policies and budgets on {len(texts)} prompts") as bar:
        answers = own.run(
            loaded,
            source.tokenizer,
            field,
            texts,
            max_new_tokens,
            lambda done, total, left: bar(done, total, left_s=left),
        )
    table = own.table(field, texts, answers, max_new_tokens)
    facts = {"model": model, "dtype": str(loaded.dtype).removeprefix("torch."), "device": str(place)}
    return f"Policies on {model}", [table], facts
