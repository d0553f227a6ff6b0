"""Schedulers inside the continuous batching of transformers: its engine does the work, ours says who may join.

The engine keeps its own order of things: those that decode go on, prompts that are half computed are finished, and
when the cache is full, requests that found no room are evicted, newest first, after which it admits nobody until some
request has ended. Two things differ. Only as much of the queue's head as the scheduler admits is offered to the
engine; and an evicted request, which the engine would put at the end of the queue, goes back to where it stood, by
order of arrival.

    with scheduled(model, PastFuture(rho=0.05), num_blocks=4096, page_size=16) as engine:
        answers = engine.generate(prompts, max_new_tokens=512)
        print(engine.stats)

Blocks are not shared between prompts by default (``allow_block_sharing``): predictions count what each request holds
by itself, so they are too high by what is shared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TextIO

from heedful.serving import schedulers
from heedful.serving._transformers_interface import TESTED, changes
from heedful.serving._transformers_scheduler import (
    SCHEDULER_MAPPING,
    ContinuousBatchingConfig,
    EngineScheduler,
    Stats,
)
from heedful.serving.admission import Options
from heedful.serving.base import Scheduler

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel
    from transformers.generation.continuous_batching import ContinuousBatchingManager, PagedAttentionCache

ENGINES_OWN = "fifo"
"""The engine's own rule, by name: who fits joins while at least its ``safety_margin`` of the blocks are free. As with
all others, nobody overtakes one that does not fit, which the engine would allow."""
DEFAULTS = Options()
_NUMBER = itertools.count()


class Installed:
    """A scheduler that an engine can be told to use; made by :func:`installed`.

    Attributes:
        config: fields of ``ContinuousBatchingConfig`` that make an engine use it.
        live: the scheduler inside the engine; None before an engine has started.
    """

    def __init__(self, name: str, scheduler: Scheduler | None, options: Options, log: TextIO | None) -> None:
        self._given = scheduler, options, log
        self.config: dict[str, Any] = {"scheduler_type": name, "allow_block_sharing": False}
        if scheduler is not None:
            self.config["safety_margin"] = 0.0
        self.live: EngineScheduler | None = None

    def make(
        self, cache: PagedAttentionCache, safety_margin: float | None, max_requests_per_batch: int
    ) -> EngineScheduler:
        """What the engine calls; its margin is for its own rule alone."""
        margin = safety_margin if self._given[0] is None else 0.0
        self.live = EngineScheduler(cache, margin, max_requests_per_batch, *self._given)
        return self.live

    @property
    def stats(self) -> Stats:
        """What the engine has done so far; from any thread."""
        return Stats() if self.live is None else self.live.stats


@contextmanager
def installed(
    scheduler: Scheduler | str, options: Options = DEFAULTS, name: str = "", log: TextIO | None = None
) -> Iterator[Installed]:
    """Makes a scheduler known to transformers under a name, until the context ends.

    The engine reads its table when it starts, so it has to start inside of the context; it then keeps the scheduler.

    Args:
        scheduler: a scheduler, or a description as ``"past-future:rho=0.03"`` (see
            :func:`heedful.serving.schedulers.make`); ``"fifo"`` for the engine's own rule, with evicted requests back
            at their place.
        options: how it is used.
        name: the name; by default one that nobody else has. One that is there already is replaced meanwhile.
        log: where to write a line per step, as CSV with the columns ``running`` (requests that decode), ``occupied``
            (tokens in the cache of these, before the step), ``prefill_tokens`` and ``seconds``.

    Raises ValueError for an unknown scheduler and for one that no engine can use, RuntimeError if the installed
    transformers is not as expected.
    """
    if found := changes():
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise RuntimeError(
            f"continuous batching of the installed transformers has changed: {found[0]}{more}; version {TESTED} works"
        )
    if isinstance(scheduler, str):
        chosen = None if scheduler == ENGINES_OWN else schedulers.make(scheduler)
    else:
        chosen = scheduler
    if chosen is not None and chosen.knows_lengths:
        raise ValueError(f"scheduler {chosen.name!r}: needs the true output lengths, which no engine knows")
    name = name or f"heedful-{next(_NUMBER)}"
    table: dict[str, Any] = SCHEDULER_MAPPING
    before = table.get(name)
    result = Installed(name, chosen, options, log)
    table[name] = result.make
    try:
        yield result
    finally:
        if before is None:
            del table[name]
        else:
            table[name] = before


class Engine:
    """A running engine with a scheduler of ours; made by :func:`scheduled`.

    Attributes:
        manager: the engine's own interface, for requests that come and go.
    """

    def __init__(self, manager: ContinuousBatchingManager, scheduler: EngineScheduler) -> None:
        self.manager = manager
        self.scheduler = scheduler

    @property
    def stats(self) -> Stats:
        """What the engine has done so far; from any thread."""
        return self.scheduler.stats

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int],
        eos_token_id: int | list[int] | None = None,
    ) -> list[list[int]]:
        """Answers to all prompts, which arrive together and in that order.

        Args:
            prompts: token ids.
            max_new_tokens: the most tokens of an answer, for all of them or one each.
            eos_token_id: tokens at which an answer ends; by default those of the generation config, -1 for none.

        Returns:
            the new token ids, one list for each prompt.

        Raises ValueError, before anything is computed, for a prompt that could never be served, and RuntimeError if
        the engine fails.
        """
        caps = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
        if len(caps) != len(prompts):
            raise ValueError(f"max_new_tokens: {len(caps)} entries for {len(prompts)} prompts")
        for place, (prompt, cap) in enumerate(zip(prompts, caps)):
            try:
                self.scheduler.check(len(prompt), cap)
            except ValueError as error:
                raise ValueError(f"prompts[{place}]: {error}") from None
        names: list[str] = []
        # While it pauses, the engine sees none of them, and then all: decisions do not depend on how fast they come. A
        # queue of limited length has to be emptied meanwhile.
        with self.manager.pause() if self.manager.input_queue.maxsize == 0 else nullcontext():
            for prompt, cap in zip(prompts, caps):
                name = self.manager.add_request(list(prompt), max_new_tokens=cap, eos_token_id=eos_token_id)
                if name is None:
                    raise self._stopped()
                names.append(name)
        answers: dict[str, list[int]] = {}
        while len(answers) < len(names):
            answer = self.manager.get_result(timeout=0.5)
            if answer is None:
                if not self.manager.is_running():
                    raise self._stopped()
            elif answer.error is not None:
                raise RuntimeError(f"{answer.request_id}: {answer.error}")
            else:
                answers[answer.request_id] = answer.generated_tokens
        return [answers[name] for name in names]

    def _stopped(self) -> RuntimeError:
        cause = self.manager.background_thread_status.fatal_error
        return RuntimeError("the engine has stopped" + (f": {cause}" if cause else ""))


@contextmanager
def scheduled(
    model: PreTrainedModel,
    scheduler: Scheduler | str,
    options: Options = DEFAULTS,
    generation_config: GenerationConfig | None = None,
    log: TextIO | None = None,
    **config: Any,
) -> Iterator[Engine]:
    """Continuous batching of a model with a scheduler of ours, while the context lasts.

    Args:
        model: a causal language model of transformers.
        scheduler: see :func:`installed`.
        options: how it is used.
        generation_config: of all requests; the model's own by default.
        log: see :func:`installed`.
        config: other fields of ``ContinuousBatchingConfig``, such as ``num_blocks``, ``page_size``,
            ``use_cuda_graph`` and ``use_async_batching``.

    Raises ValueError for a field that there is not or that the scheduler decides, and as :func:`installed` does.
    """
    with installed(scheduler, options, log=log) as ours:
        if taken := set(ours.config) & set(config) - {"allow_block_sharing"}:
            raise ValueError(f"{min(taken)}: is decided by the scheduler")
        try:
            batching = ContinuousBatchingConfig(**{**ours.config, **config})
        except TypeError as error:
            raise ValueError(f"no such field of ContinuousBatchingConfig: {error}") from None
        manager: Any
        with model.continuous_batching_context_manager(
            generation_config=generation_config, continuous_batching_config=batching
        ) as manager:  # type: ignore[operator]
            if ours.live is None:
                raise RuntimeError("the model has a persistent engine, whose scheduler cannot be changed")
            yield Engine(manager, ours.live)
