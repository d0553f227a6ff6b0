"""``heedful compare kv``: policies x budgets on the embedded tasks, or on one's own model and prompts."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heedful.kv.experiments import MODEL
from heedful.lab import comparing, console, text
from heedful.lab.device import check_device
from heedful.lab.errors import LabError, WorkError

if TYPE_CHECKING:
    from heedful.kv.base import Size
    from heedful.kv.commands.embedded import Job
    from heedful.kv.commands.options import Protocol
    from heedful.kv.commands.page import Table
    from heedful.kv.commands.prompts import Prompt
    from heedful.lab.declare import Figure

BUDGETS = "10%,20%,50%"
ONLY_EMBEDDED = ("tasks", "items", "length", "seed", "workers")
ONLY_OWN = ("max_new_tokens", "chat", "dtype", "device")


def compare(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(metavar="PATH|ID", help="A folder, a Hugging Face id, or a shipped model's name.")
    ] = MODEL,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help='Lines of {"prompt": ..., "answer": ...}; answers optional.'),
    ] = None,
    policies: Annotated[
        str | None,
        typer.Option(help="Policies, as cake,h2o,lazy-eviction:alpha=0.01,window=32  [default: most there are]"),
    ] = None,
    budgets: Annotated[
        str, typer.Option(help="Shares of the item or prompt (0.2, 20%) and numbers of slots (64).")
    ] = BUDGETS,
    tasks: Annotated[
        str | None, typer.Option(help="Embedded tasks, as niah1,ledger:stack  [default: what the model gets right]")
    ] = None,
    items: Annotated[int, typer.Option(min=2, help="Items per embedded task.")] = 32,
    length: Annotated[
        int | None, typer.Option(min=16, help="Tokens of an embedded item  [default: 256, if the model can]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the embedded items.")] = 0,
    protocol: Annotated[
        str, typer.Option(help="When a policy decides: aware of the question, agnostic of it, or reask.")
    ] = "aware",
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
    from heedful.kv.commands.prompts import read_prompts

    when = options.read_protocol(protocol)
    sizes = options.read_budgets(budgets)
    specs = None if policies is None else options.read_specs(policies)
    comparing.check_writable("kv", out, site)
    import torch

    began = time.monotonic()
    try:
        if prompts is None:
            chosen = None if tasks is None else options.read_tasks(tasks)
            title, tables, pictures, facts = _embedded(model, chosen, length, specs, sizes, items, seed, when, workers)
        else:
            title, tables, pictures, facts = _own(
                model, read_prompts(prompts, when), specs, sizes, max_new_tokens, when, chat, dtype, device
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
    again = comparing.command_line(context, "compare kv")
    figures = [figure for table in tables for figure in page.figures(table)] + pictures
    frames = {table.title: table.frame for table in tables}
    where = comparing.publish("kv", title, again, frames, figures, facts, out, site, [t.note for t in tables])
    if json:
        data = {table.title: {"note": table.note, "rows": table.rows} for table in tables}
        console.show_json({"title": title, "facts": facts, "tables": data, "report": str(where)})
    else:
        print(f"{facts['duration']}; report: {where}")


def _refuse_mixed(context: typer.Context, own: bool) -> None:
    """LabError for an option that says nothing where it was given."""
    for name in ONLY_EMBEDDED if own else ONLY_OWN:
        if comparing.given(context, name):
            option = "--" + name.replace("_", "-")
            advice = "embedded tasks; leave it out beside" if own else "your own prompts; add"
            raise LabError(f"{option} is for {advice} --prompts")


def _embedded(
    model: str,
    tasks: Sequence[str] | None,
    length: int | None,
    specs: Sequence[str] | None,
    sizes: Sequence[Size],
    items: int,
    seed: int,
    protocol: Protocol,
    workers: int | None,
) -> tuple[str, list[Table], list[Figure], dict[str, str]]:
    """Title, tables, pictures and facts of a comparison on the embedded tasks."""
    from heedful.kv.commands import embedded, options, outcomes, playing
    from heedful.kv.commands.options import size_text
    from heedful.lab.machine import available_cpus

    known = embedded.task_models()
    if model not in known:
        raise LabError(
            f"model {model!r}: without --prompts FILE.jsonl only shipped task models can be compared "
            f"({', '.join(known) or 'none is installed'})"
        )
    works = embedded.plan(model, tasks, length, console.notice, protocol)
    todo = embedded.jobs(model, works, specs, sizes, items, seed, console.notice)
    chosen_here = specs is None and model in embedded.CALIBRATED
    played = (job.contender.spec for job in todo if not chosen_here)
    foreign = (spec for spec in played if specs is None or "alpha=" not in spec)
    options.tell_thresholds(foreign, model, console.notice)
    with console.Progress(f"{len(todo)} cells on {model}") as bar:
        found = playing.run(todo, workers or available_cpus(), lambda done, total, left: bar(done, total, left_s=left))
    facts = {"model": model, "protocol": protocol, "items per task": str(items), "seed": str(seed)}
    pictures = _pictures(todo, size_text(sizes[len(sizes) // 2]))
    return f"Policies on the tasks of {model}", outcomes.tables(todo, found), pictures, facts


def _pictures(todo: Sequence[Job], budget: str) -> list[Figure]:
    """What the policies keep of the first item of the first task, at one budget; none if no prompt is shrunk."""
    from heedful import models
    from heedful.kv.commands import embedded, heatmap, kept

    first = todo[0]
    here = [job.contender for job in todo if job.work == first.work and job.work.group == "prompt"]
    field = [contender for contender in here if contender.policy.evicts and contender.budget in ("", budget)]
    if not field:
        return []
    item = embedded.drawn(first.work, first.seed, 1)[0]
    figure = heatmap.figure(*kept.of_item(models.load(first.model)[0], first.work, item, field))
    return [replace(figure, title=f"What is kept of one item of {first.work.title}")]


def _own(
    model: str,
    prompts: Sequence[Prompt],
    specs: Sequence[str] | None,
    sizes: Sequence[Size],
    max_new_tokens: int,
    protocol: Protocol,
    chat: bool,
    dtype: str,
    device: str,
) -> tuple[str, list[Table], list[Figure], dict[str, str]]:
    """Title, tables, pictures and facts of a comparison on the user's model and prompts."""
    from heedful.kv.commands import loading, needs, options, own, quiet

    quiet.silence_libraries()
    loading.check_dtype(dtype)
    place = check_device(device)
    own.check_specs(specs or (), answered=prompts[0].answer is not None)
    source = loading.find(model)
    notes: list[str] = []
    left_out = notes.append if specs is None else None
    chosen = needs.able(own.DEFAULT_POLICIES.split(",") if specs is None else specs, lambda: source.hollow, left_out)
    texts = loading.encode(source, prompts, chat)
    field = own.field_for(chosen, sizes, texts, left_out)
    for note in notes:
        console.notice(note)
    options.tell_thresholds((c.spec for c in field if "alpha=" not in c.spec), model, console.notice)
    loading.check_positions(source, texts, max_new_tokens, console.notice)
    loaded = loading.load(source, dtype, place)
    able = needs.able(dict.fromkeys(c.spec for c in field), lambda: loaded, console.notice if specs is None else None)
    field = tuple(contender for contender in field if contender.spec in able)
    with console.Progress(f"{len(field)} policies and budgets on {len(texts)} prompts") as bar:
        answers = own.run(
            loaded,
            source.tokenizer,
            field,
            texts,
            max_new_tokens,
            lambda done, total, left: bar(done, total, left_s=left),
        )
    table = own.table(field, texts, answers, max_new_tokens, protocol)
    kind = str(loaded.dtype).removeprefix("torch.")
    facts = {"model": model, "protocol": protocol, "dtype": kind, "device": str(place)}
    return f"Policies on {model}", [table], [], facts
