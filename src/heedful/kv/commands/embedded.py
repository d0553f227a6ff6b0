"""Policies on the tasks of a shipped task model: which tasks, and which policies and budgets on each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from heedful import models
from heedful.kv.base import Policy
from heedful.kv.commands import needs
from heedful.kv.commands.options import Contender, Protocol, contenders, decides_once, unknown, unsized
from heedful.kv.experiments import _work
from heedful.lab.errors import LabError
from heedful.models.tasks import Item

Group = Literal["prompt", "decode"]
"""Where eviction shows: at the end of a long prompt, or along a long trace."""

TASKS: dict[Group, tuple[str, ...]] = {
    "prompt": (
        "niah1", "mk1", "vt", "early", "marked", "twohop", "mk2",
        "mk3", "niah2", "mv", "mq", "copy", "cwe", "fwe",
    ),
    "decode": ("ledger", "verify", "tour", "ledger-spoken", "recall", "repeat", "drill"),
}  # fmt: skip
"""Tasks that ask about a long prompt, and long traces; the first usable ones are the default."""
DEFAULT_TASKS: dict[Group, int] = {"prompt": 4, "decode": 2}
REQUIRED: dict[Group, float] = {"prompt": 0.98, "decode": 0.95}
"""Share of scored tokens that a model must get right with the full cache, by its card. A prompt task counts whole
answers, most of which have two tokens."""
DEFAULT_POLICIES: dict[Group, str] = {
    "prompt": (
        "clairvoyant,snapkv,pyramidkv,adakv,ada-criticalkv,defensivekv,layer-defensivekv,cake,lookaheadkv,"
        "h2o,tova,streaming-llm,random"
    ),
    "decode": "clairvoyant,h2o,h2o+window,lazy-eviction:alpha=0.02,raas:alpha=0.02,tova,streaming-llm,local,random",
}
"""Besides the full cache. At the end of a prompt a ``+window`` form decides as the plain one does. ``alpha`` is what
LazyEviction's experiment calibrates for :data:`CALIBRATED`."""
CALIBRATED = ("task-1", "task-2")
"""The models that ``alpha`` in :data:`DEFAULT_POLICIES` belongs to."""

LENGTH = 256
"""Tokens of an item unless asked otherwise, or the model's longest usable length if that is shorter."""
WINDOW = 16
"""The longest observation window of a policy that was not given one: a tenth of :data:`LENGTH` is 25 slots."""
NAMES: dict[Group, str] = {"prompt": "prompt eviction", "decode": "decode eviction"}
UNFIT: dict[Group, str] = {
    "prompt": "never shrink a prompt",
    "decode": "decide once, when the prompt has been read, which is short there",
}
"""Why policies are left out of a group."""


@dataclass(frozen=True)
class Work:
    """A task to play.

    Attributes:
        task: its name, with an operand process after a colon: ``"ledger:stack"``.
        length: tokens of an item, at most.
        group: where eviction shows.
        protocol: when a policy decides about a long prompt.
    """

    task: str
    length: int
    group: Group
    protocol: Protocol = "aware"

    @property
    def title(self) -> str:
        """As tables name it: the task, and the protocol if it is not the usual one."""
        return self.task if self.protocol == "aware" else f"{self.task}@{self.protocol}"


@dataclass(frozen=True)
class Job:
    """One policy at one budget on one task.

    Attributes:
        model: a shipped model's name.
        work: the task.
        items: number of items.
        seed: data seed.
        contender: the policy and its budget.
    """

    model: str
    work: Work
    items: int
    seed: int
    contender: Contender

    @property
    def policy(self) -> Policy:
        """What is played."""
        return self.contender.policy

    @property
    def cost(self) -> int:
        """Roughly how long it takes, in units of one token of one batch; those of a prompt task share their prompt."""
        return self.work.length if self.work.group == "decode" else 4 + self.work.length // 16


def task_models() -> tuple[str, ...]:
    """The shipped models that know the tasks."""
    return tuple(name for name in models.names() if name.startswith("task"))


def card(model: str) -> dict[str, Any]:
    """A shipped model's ``card.json``."""
    found: dict[str, Any] = json.loads((models.path(model) / "card.json").read_text(encoding="utf-8"))
    return found


def drawn(work: Work, seed: int, count: int) -> list[Item]:
    """The items of a task; those of the protocols that know one question are the same."""
    options = {"protocol": work.protocol} if work.protocol == "reask" else {}
    return _work.items(work.task, seed, count, work.length, **options)


def plan(
    model: str,
    tasks: Sequence[str] | None,
    length: int | None,
    notice: Callable[[str], None],
    protocol: Protocol = "aware",
) -> tuple[Work, ...]:
    """The tasks to play, the ones of long prompts first.

    Args:
        model: a shipped task model.
        tasks: task names; None for those that the model gets right under a full cache, by its card.
        length: tokens of one; None for :data:`LENGTH`, or the longest at which the model gets a task right.
        notice: told of each task that was asked for although the model does not get it right.
        protocol: when a policy decides about a prompt; only tasks that ask about a long one have another than aware.

    Raises LabError for an unknown task, a length or protocol that does not suit one, and if no task is left.
    """
    reached: dict[str, dict[str, float]] = card(model)["accuracy"]
    known = [name for names in TASKS.values() for name in names]
    chosen: list[Work] = []
    for task in tasks or ():
        if task.partition(":")[0] not in known:
            raise unknown("task", task, known)
    for group, names in TASKS.items():
        candidates = names if tasks is None else [task for task in tasks if task.partition(":")[0] in names]
        works = [_work_for(task, group, length, reached, protocol) for task in candidates]
        if tasks is None:
            works = [work for work in works if _is_usable(work, reached) and _has_protocol(work)]
            works = works[: DEFAULT_TASKS[group]]
        chosen.extend(works)
    if not chosen:
        asked = "" if protocol == "aware" else f" with --protocol {protocol}"
        raise LabError(
            f"model {model!r} gets no task right at length {length}{asked}; give a shorter --length, or --tasks"
        )
    for work in chosen:
        if not _has_protocol(work):
            raise LabError(f"task {work.task!r} has no protocol {protocol!r}")
        try:
            drawn(work, 0, 1)
        except (ValueError, TypeError) as error:
            raise LabError(f"task {work.task!r}: {error}") from error
        if not _is_usable(work, reached):
            least = f"{100 * REQUIRED[work.group]:.0f} %"
            notice(
                f"warning: by its card, {model} gets less than {least} of {work.title!r} right at length "
                f"{work.length}, even with the full cache"
            )
    return tuple(chosen)


def _has_protocol(work: Work) -> bool:
    if work.protocol == "aware":
        return True
    try:
        _work.items(work.task, 0, 0, work.length, protocol=work.protocol)
    except (ValueError, TypeError):
        return False
    return True


def _work_for(
    task: str, group: Group, length: int | None, reached: dict[str, dict[str, float]], protocol: Protocol
) -> Work:
    if length is None:
        fitting = [at for at in _right_lengths(Work(task, LENGTH, group, protocol), reached) if at <= LENGTH]
        length = max(fitting, default=LENGTH)
    return Work(task, length, group, protocol)


def _is_usable(work: Work, reached: dict[str, dict[str, float]]) -> bool:
    return work.length <= max(_right_lengths(work, reached), default=0)


def _right_lengths(work: Work, reached: dict[str, dict[str, float]]) -> list[int]:
    name = work.task.removesuffix(":zipf").replace(":", "/") + ("/reask" if work.protocol == "reask" else "")
    return [int(length) for length, share in reached.get(name, {}).items() if share >= REQUIRED[work.group]]


def jobs(
    model: str,
    works: Sequence[Work],
    specs: Sequence[str] | None,
    sizes: Sequence[Any],
    items: int,
    seed: int,
    notice: Callable[[str], None],
) -> tuple[Job, ...]:
    """Every policy at every budget on every task; the full cache on each task first.

    Policies are left out of a group of tasks where their eviction cannot show, and a group in which no policy is left
    is not played. Of the default ones, ``specs`` being None, those that cannot work with a budget or lack trained parts
    are left out too. ``notice`` is told.

    Raises LabError for an unknown policy, for a budget or a model that one cannot work with, and if no job is left.
    """
    found: list[Job] = []
    notes: dict[str, None] = {}
    left_out = notes.setdefault if specs is None else None
    load = lru_cache(maxsize=1)(lambda: models.load(model)[0])
    for group, default in DEFAULT_POLICIES.items():
        mine = [work for work in works if work.group == group]
        fit, unfit = _fit(default.split(",") if specs is None else specs, group)
        if mine and unfit:
            notes[f"left out of {NAMES[group]}: {', '.join(unfit)}: {UNFIT[group]}"] = None
        able = needs.able(fit, load, left_out) if mine else ()
        for work in mine if able else ():
            for contender in contenders(able, sizes, work.length, window=WINDOW, left_out=left_out):
                found.append(Job(model, work, items, seed, contender))
    if not found:
        raise LabError(f"no policy is left on these tasks: {next(iter(notes))}")
    for note in notes:
        notice(note)
    return tuple(found)


def _fit(specs: Sequence[str], group: Group) -> tuple[list[str], list[str]]:
    """The policies whose eviction can show in a group, and the others."""
    fit: list[str] = []
    unfit: list[str] = []
    for spec in specs:
        policy = unsized(spec)
        (fit if (policy.evicts_prompt if group == "prompt" else not decides_once(policy)) else unfit).append(spec)
    return fit, unfit
