"""How a comparison on the embedded tasks is measured: policies that can share a prompt together, in processes."""

from __future__ import annotations

import multiprocessing
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from heedful import models
from heedful.kv.base import Policy
from heedful.kv.baselines import Clairvoyant, Full
from heedful.kv.commands.embedded import LENGTH, Job, Work, drawn
from heedful.kv.commands.options import LONG_PROMPT
from heedful.kv.evaluate import Episode, Played, play, play_all
from heedful.kv.experiments import _retrieval, _work
from heedful.kv.oracle import Oracle
from heedful.kv.shared_prompt import takes_part
from heedful.models.tasks import Item

BATCH = 32
"""Items at a time; fewer if they are longer than :data:`LENGTH`, for a shared prompt holds all its attention rows."""


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
        steps: one-token steps times sequences.
        seconds: that they took.
    """

    right: np.ndarray
    slots: float
    peak_slots: float
    nbytes: float
    peak_nbytes: float
    steps: int
    seconds: float


def measure(jobs: Sequence[Job]) -> list[Outcome]:
    """Plays the items of jobs on one task under their policies; deterministic but for the time it takes.

    Policies that decide about a prompt when it has been read share one pass over it. The full cache reads its own: it
    is given room for exactly what it will hold.
    """
    warnings.filterwarnings("ignore", message=LONG_PROMPT)
    model, work = _model(jobs[0].model), jobs[0].work
    items = _drawn(work, jobs[0].seed, jobs[0].items)
    batch = BATCH if work.group == "decode" else max(1, min(BATCH, BATCH * LENGTH // work.length))
    parts: list[list[tuple[list[float], Played]]] = [[] for _ in jobs]
    for start in range(0, len(items), batch):
        chunk = items[start : start + batch]
        episodes = [_retrieval.episode(item, work.protocol) for item in chunk]
        for mine, played in zip(parts, _play(model, jobs, chunk, episodes), strict=True):
            mine.append((_right(work, episodes, played), played[0]))
    return [_outcome(mine) for mine in parts]


def _play(
    model: Any, jobs: Sequence[Job], chunk: Sequence[Item], episodes: Sequence[Episode]
) -> Iterator[list[Played]]:
    """Each job's policy on one batch, in the order of the jobs."""
    sharing = [job for job in jobs if job.work.group == "prompt" and shares(job.policy)]
    together: dict[int, list[Played]] = {}
    if sharing:
        reads = [job.policy.reads for job in sharing]
        results = play_all(
            model,
            [informed(job.policy, chunk, episodes) for job in sharing],
            episodes,
            batch=len(chunk),
            window=max(r.window for r in reads),
            sums=any(r.prompt == "sums" for r in reads),
        )
        together = {id(job): result for job, result in zip(sharing, results, strict=True)}
    for job in jobs:
        if id(job) in together:
            yield together[id(job)]
        else:
            yield play(model, informed(job.policy, chunk, episodes), episodes, batch=len(chunk))


def shares(policy: Policy) -> bool:
    """Whether a policy can be given a prompt that was read for others too."""
    return not (isinstance(policy, Full) or takes_part(policy) or policy.reads.prompt == "rows")


def informed(policy: Policy, items: Sequence[Item], episodes: Sequence[Episode]) -> Any:
    """What :func:`~heedful.kv.evaluate.play` takes for a policy; those that know the future are told about it.

    The oracle is told all tokens that will be fed when the policy has decided.
    """
    if isinstance(policy, Clairvoyant):
        needs = [_work.uses(item) for item in items]
        return lambda batch: replace(policy, needs=tuple(needs[i] for i in batch))
    if isinstance(policy, Oracle):
        answers = [tuple(episode.tokens[episode.parts[0] : -1].tolist()) for episode in episodes]
        return lambda batch: replace(policy, answers=tuple(answers[i] for i in batch))
    return policy


def _right(work: Work, episodes: Sequence[Episode], played: Sequence[Played]) -> list[float]:
    shares = [float(p.correct.sum() / e.scored.sum()) for p, e in zip(played, episodes, strict=True)]
    return shares if work.group == "decode" else [float(share == 1.0) for share in shares]


def _outcome(parts: Sequence[tuple[list[float], Played]]) -> Outcome:
    """What came out of a job's batches together."""
    sizes = [len(right) for right, _ in parts]
    usages = [played.usage for _, played in parts]

    def mean(values: Sequence[float]) -> float:
        return float(np.average(values, weights=sizes))

    return Outcome(
        right=np.array([share for right, _ in parts for share in right]),
        slots=mean([float(np.mean(usage.slots)) for usage in usages]),
        peak_slots=mean([float(np.mean(usage.peak_slots)) for usage in usages]),
        nbytes=mean([sum(usage.nbytes) / size for usage, size in zip(usages, sizes)]),
        peak_nbytes=mean([sum(usage.peak_nbytes) / size for usage, size in zip(usages, sizes)]),
        steps=sum(played.steps for _, played in parts),
        seconds=sum(played.seconds for _, played in parts),
    )


@lru_cache(maxsize=1)
def _model(name: str) -> Any:
    torch.set_num_threads(1)
    return models.load(name)[0]


@lru_cache(maxsize=2)
def _drawn(work: Work, seed: int, items: int) -> tuple[Item, ...]:
    return tuple(drawn(work, seed, items))


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
    for indices, found in _results(todo, _bundles(todo), workers):
        outcomes |= zip(indices, found, strict=True)
        cost = sum(todo[i].cost for i in indices)
        left -= cost
        if began:  # the first result does not count: it waited for the workers to start
            done += cost
        began = began or time.monotonic()
        progress(len(outcomes), len(todo), (time.monotonic() - began) * left / done if done else None)
    return [outcomes[i] for i in range(len(todo))]


def _bundles(todo: Sequence[Job]) -> list[tuple[int, ...]]:
    """Indices of the jobs that are done together, the longest work first: all of a prompt task, else each by itself."""
    bundles: dict[Any, list[int]] = {}
    for i, job in enumerate(todo):
        bundles.setdefault(job.work if job.work.group == "prompt" else i, []).append(i)
    cost = {key: sum(todo[i].cost for i in indices) for key, indices in bundles.items()}
    return [tuple(bundles[key]) for key in sorted(bundles, key=lambda key: -cost[key])]


def _results(
    todo: Sequence[Job], bundles: Sequence[tuple[int, ...]], workers: int
) -> Iterator[tuple[tuple[int, ...], list[Outcome]]]:
    if workers == 1:
        for indices in bundles:
            yield indices, measure([todo[i] for i in indices])
        return
    others = set(multiprocessing.active_children())
    workers = min(workers, len(bundles))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (todo[0].model,)) as pool:
        futures = {pool.submit(measure, [todo[i] for i in indices]): indices for indices in bundles}
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
