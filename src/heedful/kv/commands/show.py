"""``heedful kv show``: which tokens of one prompt each policy keeps, in the terminal and as a page of the report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heedful.kv.experiments import MODEL
from heedful.lab import comparing, console
from heedful.lab.device import check_device
from heedful.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heedful.kv.base import Size
    from heedful.kv.commands.kept import Kept, Seen

POLICIES = "snapkv,adakv,cake,h2o"
ONLY_TASK = ("task", "seed", "length", "protocol")
ONLY_PROMPT = ("chat", "dtype", "device")


def show(
    context: typer.Context,
    policy: Annotated[
        str, typer.Option("--policy", "--policies", help="Policies, as cake,snapkv:observation_window=8")
    ] = POLICIES,
    budget: Annotated[str, typer.Option(help="A share of the prompt (0.2, 20%), or a number of slots (64).")] = "20%",
    prompt: Annotated[
        str | None, typer.Option(metavar="FILE|TEXT", help="A prompt of your own, or a text file with one.")
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="PATH|ID", help="A folder, a Hugging Face id, or a shipped model's name.")
    ] = MODEL,
    task: Annotated[str, typer.Option(help="An embedded task, instead of a prompt.")] = "niah1",
    seed: Annotated[int, typer.Option(min=0, help="Of the embedded item.")] = 0,
    length: Annotated[
        int | None, typer.Option(min=16, help="Tokens of the embedded item  [default: 256, if the model can]")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="When policies decide: aware of the question, agnostic of it, or reask.")
    ] = "aware",
    chat: Annotated[bool, typer.Option("--chat", help="Use the tokenizer's chat template.")] = False,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16; with --prompt.")] = "auto",
    device: Annotated[str, typer.Option(help="Where the model runs, as cpu or cuda:0; with --prompt.")] = "cpu",
    out: Annotated[Path, typer.Option(help="The folder of runs.")] = Path("runs"),
    site: Annotated[Path, typer.Option(help="The folder of the report.")] = Path("site"),
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which tokens of a prompt policies keep, per layer and head.

    Of an embedded task's item, or of a prompt of your own with --prompt.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from heedful.kv.commands import heatmap, options, picture

    own = prompt is not None
    for name in ONLY_TASK if own else ONLY_PROMPT:
        if comparing.given(context, name):
            advice = "embedded tasks; leave it out beside" if own else "a prompt of your own; add"
            raise LabError(f"--{name} is for {advice} --prompt")
    (size,) = _one_budget(budget)
    specs = _specs(policy)
    comparing.check_writable("kv", out, site)
    if prompt is not None:
        title, seen, kept = _own(prompt, specs, size, model, chat, dtype, device)
    else:
        title, seen, kept = _task(task, specs, size, model, seed, length, options.read_protocol(protocol))
    if not json:
        picture.show(seen, kept)
    tables = {"What is kept, by layer and head": heatmap.table(seen, kept)}
    again = comparing.command_line(context, "kv show")
    facts = {"model": model, "budget": budget, "tokens": str(len(seen.tokens))}
    where = comparing.publish("kv", title, again, tables, [heatmap.figure(seen, kept)], facts, out, site)
    if json:
        console.show_json(_data(title, seen, kept) | {"report": str(where)})
    else:
        print(f"report: {where}")


def _one_budget(budget: str) -> Sequence[Size]:
    from heedful.kv.commands import options

    sizes = options.read_budgets(budget, "--budget")
    if len(sizes) > 1:
        raise LabError(f"--budget {budget!r}: give one budget; several policies are shown side by side")
    return sizes


def _specs(policies: str) -> list[str]:
    """The policies. Raises LabError for one that is unknown, or decides about nothing of a prompt."""
    from heedful.kv.commands import options

    specs = options.read_specs(policies, "--policy")
    for spec in specs:
        policy = options.unsized(spec)
        if policy.evicts and not policy.evicts_prompt:
            raise LabError(f"policy {spec!r} never shrinks a prompt: it keeps every token")
    return list(specs)


def _task(
    task: str, specs: list[str], size: Size, model: str, seed: int, length: int | None, protocol: Any
) -> tuple[str, Seen, list[Kept]]:
    """Title, prompt and what is kept of an embedded task's item."""
    from heedful import models
    from heedful.kv.commands import embedded, kept, needs, options

    if model not in embedded.task_models():
        raise LabError(
            f"model {model!r}: without --prompt only shipped task models can be shown "
            f"({', '.join(embedded.task_models())})"
        )
    (work,) = embedded.plan(model, [task], length, console.notice, protocol)
    if work.group == "decode":
        raise LabError(f"task {task!r} has a short prompt; known are {', '.join(embedded.TASKS['prompt'])}")
    loaded = models.load(model)[0]
    field = options.contenders(needs.able(specs, lambda: loaded), [size], work.length, window=embedded.WINDOW)
    item = embedded.drawn(work, seed, 1)[0]
    chosen = [contender for contender in field if contender.spec in specs]
    return f"What is kept of one item of {work.title}", *kept.of_item(loaded, work, item, chosen)


def _own(
    prompt: str, specs: list[str], size: Size, model: str, chat: bool, dtype: str, device: str
) -> tuple[str, Seen, list[Kept]]:
    """Title, prompt and what is kept of it."""
    from heedful.kv.commands import kept, loading, needs, options, own, quiet
    from heedful.kv.commands.prompts import Prompt

    quiet.silence_libraries()
    loading.check_dtype(dtype)
    place = check_device(device)
    own.check_specs(specs, answered=False)
    source = loading.find(model)
    needs.able(specs, lambda: source.hollow)
    (given,) = loading.encode(source, [Prompt(1, (_text(prompt),), 1, None)], chat)
    field = options.contenders(specs, [size], len(given.tokens), "the prompt")
    loading.check_positions(source, [given], 1, console.notice)
    loaded = loading.load(source, dtype, place)
    chosen = [contender for contender in field if contender.spec in needs.able(specs, lambda: loaded)]
    seen = kept.Seen(tuple(source.tokenizer.decode([token]) for token in given.tokens.tolist()))
    return f"What is kept of a prompt by {model}", seen, kept.keep(loaded, given.tokens, chosen)


def _text(prompt: str) -> str:
    """The prompt itself, or what the file of that name holds. Raises LabError if it cannot be read or is empty."""
    if not prompt.strip():
        raise LabError("--prompt is empty")
    path = Path(prompt)
    named = len(prompt) < 4096 and not any(character.isspace() for character in prompt)
    if not (named and (path.exists() or path.suffix or os.sep in prompt)):
        return prompt
    try:
        found = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LabError(f"--prompt {prompt}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LabError(f"--prompt {prompt}: not UTF-8 text") from error
    if not found.strip():
        raise LabError(f"--prompt {prompt}: is empty")
    return found


def _data(title: str, seen: Seen, kept: Sequence[Kept]) -> dict[str, Any]:
    """What is shown, for a machine."""
    return {
        "title": title,
        "tokens": list(seen.tokens),
        "needed": list(seen.needed),
        "kept": [
            {
                "policy": each.contender.spec,
                "budget": each.contender.budget,
                "budget_slots": each.contender.slots,
                "slots": each.mean,
                "needed_share": each.share_of(seen.needed),
                "layers": {
                    str(layer): [{"slots": int(line.sum()), "positions": line.nonzero()[0].tolist()} for line in held]
                    for layer, held in each.layers.items()
                },
            }
            for each in kept
        ],
    }
