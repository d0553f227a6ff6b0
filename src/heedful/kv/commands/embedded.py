"""Policies on the tasks of a shipped task model: which cells, how one is measured, and what comes out."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch

from heedful import models
from heedful.kv.baselines import Clairvoyant, Full
from heedful.kv.commands.options import LONG_PROMPT, Contender, contenders, unknown, unsized
from heedful.kv.commands.page import Table, paired_difference, with_interval
from heedful.kv.evaluate import play
from heedful.kv.experiments import _work
from heedful.kv.policies import make
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
    "prompt": "clairvoyant,h2o,tova,streaming-llm,local,random",
    "decode": "clairvoyant,h2o,h2o+window,lazy-eviction:alpha=0.02,raas:alpha=0.02,tova,streaming-llm,local,random",
}
"""Besides the full cache. At the end of a prompt a ``+window`` form decides as the plain one does. ``alpha`` is what
LazyEviction's experiment calibrates for :data:`CALIBRATED`."""
CALIBRATED = "task-1"
"""The model that ``alpha`` in :data:`DEFAULT_POLICIES` belongs to."""

LENGTH = 256
"""Tokens of an item unless asked otherwise, or the model's longest usable length if that is shorter."""
BATCH = 32


@dataclass(frozen=True)
class Work:
    """A task to play.

    Attributes:
        task: its name, with an operand process after a colon: ``"ledger:stack"``.
        length: tokens of an item, at most.
        group: where eviction shows.
    """

    task: str
    length: int
    group: Group


@dataclass(frozen=True)
class Job:
    """One policy at one budget on one task.

    Attributes:
        model: a shipped model's name.
        work: the task.
        items: number of items.
        seed: data seed.
        spec: the policy.
        asked: the budget as given, empty for a policy that has none.
        slots: the budget in slots, or None.
    """

    model: str
    work: Work
    items: int
    seed: int
    spec: str
    asked: str
    slots: int | None

    @property
    def cost(self) -> int:
        """Roughly how long it takes, in units of one token of one batch."""
        return self.work.length if self.work.group == "decode" else 64 + self.work.length // 16


@dataclass(frozen=True)
class Outcome:
    """What came out of a job.

    Attributes:
        right: float64 ``[items]``: share of an item's scored tokens that are right; for a prompt task 1 if
            all are, else 0.
        slots: entries stored at the end, averaged over items, layers and KV heads.
        peak_slots: the most there were, likewise.
        nbytes: bytes of the cache at the end per sequence, over all layers.
        peak_nbytes: the most there were, likewise.
        tokens_per_s: one-token steps times sequences, per second.
    """

    right: np.ndarray
    slots: float
    peak_slots: float
    nbytes: float
    peak_nbytes: float
    tokens_per_s: float


def task_models() -> tuple[str, ...]:
    """The shipped models that know the tasks."""
    return tuple(name for name in models.names() if name.startswith("task"))


def card(model: str) -> dict[str, Any]:
    """A shipped model's ``card.json``."""
    found: dict[str, Any] = json.loads((models.path(model) / "card.json").read_text(encoding="utf-8"))
    return found


def plan(
    model: str, tasks: Sequence[str] | None, length: int | None, notice: Callable[[str], None]
) -> tuple[Work, ...]:
    """The tasks to play, the ones of long prompts first.

    Args:
        model: a shipped task model.
        tasks: task names; None for those that the model gets right under a full cache, by its card.
        length: tokens of one; None for :data:`LENGTH`, or the longest at which the model gets a task right.
        notice: told of each task that was asked for although the model does not get it right.

    Raises LabError for an unknown task, a length that does not suit one, and if no task is left.
    """
    reached: dict[str, dict[str, float]] = card(model)["accuracy"]
    known = [name for names in TASKS.values() for name in names]
    chosen: list[Work] = []
    for group, names in TASKS.items():
        candidates = names if tasks is None else [task for task in tasks if task.partition(":")[0] in names]
        works = [_work_for(task, group, length, reached) for task in candidates]
        if tasks is None:
            works = [work for work in works if _is_usable(work, reached)][: DEFAULT_TASKS[group]]
        chosen.extend(works)
    for task in tasks or ():
        if task.partition(":")[0] not in known:
            raise unknown("task", task, known)
    if not chosen:
        raise LabError(f"model {model!r} gets no task right at length {length}; give a shorter --length, or --tasks")
    for work in chosen:
        try:
            _work.items(work.task, 0, 1, work.length)
        except (ValueError, TypeError) as error:
            raise LabError(f"task {work.task!r}: {error}") from error
        if not _is_usable(work, reached):
            least = f"{100 * REQUIRED[work.group]:.0f} %"
            notice(
                f"warning: by its card, {model} gets less than {least} of {work.task!r} right at length "
                f"{work.length}, even with the full cache"
            )
    return tuple(chosen)


def _work_for(task: str, group: Group, length: int | None, reached: dict[str, dict[str, float]]) -> Work:
    if length is None:
        fitting = [at for at in _right_lengths(task, group, reached) if at <= LENGTH]
        length = max(fitting, default=LENGTH)
    return Work(task, length, group)


def _is_usable(work: Work, reached: dict[str, dict[str, float]]) -> bool:
    return work.length <= max(_right_lengths(work.task, work.group, reached), default=0)


def _right_lengths(task: str, group: Group, reached: dict[str, dict[str, float]]) -> list[int]:
    on_card = reached.get(task.removesuffix(":zipf").replace(":", "/"), {})
    return [int(length) for length, share in on_card.items() if share >= REQUIRED[group]]


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

    Policies that never shrink a prompt are left out where only that shows. Of the default ones, ``specs`` being None,
    those that cannot work with a budget are left out too. ``notice`` is told.

    Raises LabError for an unknown policy, or a budget that one cannot work with.
    """
    found: list[Job] = []
    notes: dict[str, None] = {}
    for work in works:
        chosen = DEFAULT_POLICIES[work.group].split(",") if specs is None else specs
        able = [spec for spec in chosen if work.group == "decode" or unsized(spec).evicts_prompt]
        for spec in [spec for spec in chosen if spec not in able]:
            notes[f"left out of {work.task!r}: policy {spec!r} never shrinks a prompt"] = None
        left_out = notes.setdefault if specs is None else None
        for contender in contenders(able, sizes, work.length, left_out=left_out):
            found.append(_job(model, work, contender, items, seed))
    for note in notes:
        notice(note)
    return tuple(found)


def _job(model: str, work: Work, contender: Contender, items: int, seed: int) -> Job:
    slots = getattr(contender.policy, "budget", None)
    return Job(model, work, items, seed, contender.spec, contender.budget, slots)


def measure(job: Job) -> Outcome:
    """Plays a job's items under its policy; deterministic but for the time it takes."""
    warnings.filterwarnings("ignore", message=LONG_PROMPT)
    model = _model(job.model)
    drawn = _drawn(job.work, job.seed, job.items)
    right: list[float] = []
    sizes: list[int] = []
    usages: list[tuple[float, float, float, float]] = []
    steps, seconds = 0, 0.0
    for start in range(0, len(drawn), BATCH):
        chunk = drawn[start : start + BATCH]
        played = play(model, _policy(job, chunk), [_work.episode(item) for item in chunk], batch=len(chunk))
        for item, result in zip(chunk, played, strict=True):
            share = float(result.correct.sum() / item.scored.sum())
            right.append(share if job.work.group == "decode" else float(share == 1.0))
        usage = played[0].usage
        sizes.append(len(chunk))
        usages.append(
            (
                float(np.mean(usage.slots)),
                float(np.mean(usage.peak_slots)),
                sum(usage.nbytes) / len(chunk),
                sum(usage.peak_nbytes) / len(chunk),
            )
        )
        steps += played[0].steps
        seconds += played[0].seconds
    slots, peak_slots, nbytes, peak_nbytes = np.average(np.array(usages), axis=0, weights=sizes).tolist()
    return Outcome(np.array(right), slots, peak_slots, nbytes, peak_nbytes, steps / seconds)


@lru_cache(maxsize=1)
def _model(name: str) -> Any:
    torch.set_num_threads(1)
    return models.load(name)[0]


@lru_cache(maxsize=2)
def _drawn(work: Work, seed: int, items: int) -> tuple[Item, ...]:
    return tuple(_work.items(work.task, seed, items, work.length))


def _policy(job: Job, chunk: Sequence[Item]) -> Any:
    policy = make(job.spec, job.slots)
    if not isinstance(policy, Clairvoyant):
        return policy
    needs = [_work.uses(item) for item in chunk]
    return lambda batch: replace(policy, needs=tuple(needs[i] for i in batch))


def run(todo: Sequence[Job], workers: int, progress: Callable[[int, int, float | None], None]) -> list[Outcome]:
    """The outcomes of all jobs, in their order, whatever the number of workers.

    Args:
        todo: the jobs.
        workers: processes; with 1 everything is done in this one.
        progress: told how many jobs are done, of how many, and the estimated seconds that are left.

    Raises BrokenProcessPool if a worker dies.
    """
    outcomes: dict[int, Outcome] = {}
    left, done, began = sum(job.cost for job in todo), 0, 0.0
    for index, outcome in _results(todo, workers):
        outcomes[index] = outcome
        left -= todo[index].cost
        if began:  # the first result does not count: it waited for the workers to start
            done += todo[index].cost
        began = began or time.monotonic()
        progress(len(outcomes), len(todo), (time.monotonic() - began) * left / done if done else None)
    return [outcomes[i] for i in range(len(todo))]


def _results(todo: Sequence[Job], workers: int) -> Iterator[tuple[int, Outcome]]:
    if workers == 1:
        for i, job in enumerate(todo):
            yield i, measure(job)
        return
    longest_first = sorted(range(len(todo)), key=lambda i: -todo[i].cost)
    others = set(multiprocessing.active_children())
    workers = min(workers, len(todo))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (todo[0].model,)) as pool:
        futures = {pool.submit(measure, todo[i]): i for i in longest_first}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise


def _start(model: str) -> None:
    """A worker loads the model once, and leaves Ctrl-C to the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _model(model)


def tables(todo: Sequence[Job], outcomes: Sequence[Outcome]) -> list[Table]:
    """What came out, a table for each group that was played."""
    items = todo[0].items
    about = (
        f"In [] the 95 % interval over {items} items, the same for every policy; vs full: the difference on "
        "the same items. Budgets: slots per layer and KV head, or a share of an item's length. Slots: "
        "averages over layers, KV heads and items. KiB: allocated for one item. tokens/s: of decoding in "
        "batches, while other workers run."
    )
    meaning: dict[Group, tuple[str, str]] = {
        "prompt": (
            "Prompt eviction",
            "The cache shrinks at the end of a long prompt that ends in its question; accuracy: % of items "
            "whose whole answer is right.",
        ),
        "decode": (
            "Decode eviction",
            "A long trace is fed token by token; accuracy: % of an item's scored tokens that are right, "
            "averaged over items.",
        ),
    }
    found = []
    for group, (title, note) in meaning.items():
        chosen = [(job, out) for job, out in zip(todo, outcomes, strict=True) if job.work.group == group]
        if chosen:
            found.append(
                Table(
                    title,
                    f"{note} {about}",
                    rows(*zip(*chosen, strict=True)),
                    ("task", "policy"),
                    {"accuracy": ("accuracy %", 100, 1, ""), "difference": ("vs full", 100, 1, "+")},
                    "accuracy",
                )
            )
    return found


def rows(todo: Sequence[Job], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """A row per job: sizes, accuracy, difference to the full cache on the same items; 95 % intervals."""
    full = {job.work: out.right for job, out in zip(todo, outcomes, strict=True) if job.spec == Full.name}
    return [
        {
            "task": job.work.task,
            "length": job.work.length,
            "policy": job.spec,
            "budget": job.asked,
            "budget_slots": job.slots,
            "slots": out.slots,
            "peak_slots": out.peak_slots,
            "bytes": out.nbytes,
            "peak_bytes": out.peak_nbytes,
            **with_interval("accuracy", out.right.tolist(), binary=job.work.group == "prompt"),
            **paired_difference("difference", out.right.tolist(), full[job.work].tolist()),
            "tokens_per_s": out.tokens_per_s,
            "items": len(out.right),
        }
        for job, out in zip(todo, outcomes, strict=True)
    ]
