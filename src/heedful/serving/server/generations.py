"""What runs in the engine for whom: every request's admission, its tokens as they come, and its end.

This takes the place of the manager of transformers' serving stack, from which it differs where that could lose a
request: results are awaited before the request is given to the engine, so that a fast answer is not missed; a cancelled
request leaves nothing behind; every request ends, by a timeout if need be; and how the engine generates is settled when
the server starts, not by whichever request comes first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import GenerationConfig
from transformers.cli.serving.utils import CBGenerateManager, CBStreamer, _StreamError
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
from transformers.generation.continuous_batching.requests import GenerationOutput
from transformers.generation.continuous_batching.utils import drain_queue

from heedful.serving._transformers_scheduler import EngineScheduler
from heedful.serving.server.limits import ApiError, Limits
from heedful.serving.server.metrics import Metrics
from heedful.serving.server.stop_strings import StopStrings

log = logging.getLogger("heedful.serve")

Deliver = Callable[[GenerationOutput | ApiError], int]
"""Given each output of a request, or the error that ends it. Tells the tokens of the answer if a stop string has ended
it, and 0 otherwise."""


def shared_settings(model: Any, greedy: bool) -> GenerationConfig:
    """How the engine generates, for all requests alike.

    Unless ``greedy``, temperature, top-k and top-p have values that change something: only then does the engine apply
    them at all, and lets each request have its own (:func:`own_settings`).
    """
    eos = model.generation_config.eos_token_id
    shared = GenerationConfig(eos_token_id=-1 if eos is None else eos, do_sample=not greedy)
    if not greedy:
        shared.update(temperature=0.5, top_p=0.5, top_k=1)
    return shared


def own_settings(wanted: GenerationConfig, vocabulary: int) -> dict[str, Any]:
    """A request's own temperature, top-p and top-k; the likeliest token alone if it does not sample."""
    if not wanted.do_sample:
        return {"temperature": 1.0, "top_p": 1.0, "top_k": 1}
    return {
        "temperature": float(wanted.temperature or 1.0),
        "top_p": float(wanted.top_p or 1.0),
        "top_k": min(wanted.top_k or vocabulary, vocabulary),
    }


@dataclass(eq=False)
class _Ticket:
    """One request in the engine.

    Attributes:
        deliver: given each output.
        accepted: when it was accepted, in seconds of the server's clock.
        last: when its last token came.
        generated: tokens so far.
        timer: ends it when its time is over.
    """

    deliver: Deliver
    accepted: float = field(default_factory=time.perf_counter)
    last: float = 0.0
    generated: int = 0
    timer: asyncio.TimerHandle | None = None


class Generations(CBGenerateManager):
    """Every request between its acceptance and its last token.

    Args:
        engine: transformers' continuous batching, started.
        model: the model that it runs.
        scheduler: the scheduler inside of it.
        limits: what is taken on.
        metrics: where tokens and times are counted.
        greedy: whether the engine can only take the likeliest token.
    """

    def __init__(
        self,
        engine: ContinuousBatchingManager,
        model: Any,
        scheduler: EngineScheduler,
        limits: Limits,
        metrics: Metrics,
        greedy: bool,
    ) -> None:
        super().__init__()
        self._cb = self._engine = engine
        self._scheduler, self._limits, self._metrics, self._greedy = scheduler, limits, metrics, greedy
        self._positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        self._vocabulary = model.get_input_embeddings().num_embeddings
        self._tickets: dict[str, _Ticket] = {}
        self._arriving = 0
        self._closed = False

    def __len__(self) -> int:
        """Requests that have not ended."""
        return len(self._tickets)

    @property
    def closed(self) -> bool:
        """Whether the server is stopping, and takes no more requests."""
        return self._closed

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """A place in the queue, while a request's prompt is cut into tokens. Raises ApiError 429 if there is none."""
        waiting = self._arriving + sum(not ticket.generated for ticket in self._tickets.values())
        if waiting >= self._limits.max_queue:
            raise ApiError(429, "queue_full", f"{waiting} requests are waiting already; try again later", retry_s=1)
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    def generate_streaming(  # type: ignore[override]
        self,
        model: Any,
        processor: Any,
        inputs: Any,
        gen_config: GenerationConfig,
        request_id: str,
        response_parser: Any = None,
    ) -> tuple[asyncio.Queue[Any], _Streamer]:
        """Starts a request whose text comes through the queue, as :class:`CBGenerateManager` has it."""
        queue = _Texts(gen_config)
        streamer = _Streamer(self, processor, request_id, queue, response_parser)

        def deliver(outcome: GenerationOutput | ApiError) -> int:
            if isinstance(outcome, ApiError):
                queue.put_nowait(_FailedError(outcome))
                return 0
            return streamer.take(outcome)

        self._accept(list(inputs["input_ids"]), gen_config, request_id, deliver)
        return queue, streamer

    async def whole(
        self, processor: Any, inputs: Any, gen_config: GenerationConfig, request_id: str, response_parser: Any = None
    ) -> tuple[list[Any], list[int]]:
        """All that a stream would have sent, and the answer's tokens, when a request has ended."""
        queue, streamer = self.generate_streaming(None, processor, inputs, gen_config, request_id, response_parser)
        pieces = []
        try:
            while (piece := await queue.get()) is not None:
                if isinstance(piece, _FailedError):
                    raise piece.error
                pieces.append(piece)
        finally:
            self.abandon(request_id)
        return pieces, streamer.tokens

    async def generate_non_streaming(  # type: ignore[override]
        self, model: Any, processor: Any, inputs: Any, gen_config: GenerationConfig, request_id: str
    ) -> tuple[str, int, list[int]]:
        """Text, number of prompt tokens and generated tokens of a request, when it has ended."""
        prompt = len(inputs["input_ids"])
        if gen_config.stop_strings:
            pieces, generated = await self.whole(processor, inputs, gen_config, request_id)
            return "".join(pieces), prompt, generated
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

        def deliver(outcome: GenerationOutput | ApiError) -> int:
            if future.done():
                return 0
            if isinstance(outcome, ApiError):
                future.set_exception(outcome)
            elif outcome.is_finished():
                future.set_result(outcome.generated_tokens)
            return 0

        self._accept(list(inputs["input_ids"]), gen_config, request_id, deliver)
        try:
            generated = await future
        finally:
            self.abandon(request_id)
        return processor.decode(generated, skip_special_tokens=True), prompt, generated

    def abandon(self, request_id: str) -> None:
        """Ends a request that nobody waits for any more; nothing happens if it has ended."""
        if self._remove(request_id, "cancelled"):
            self._engine.cancel_request(request_id)

    def fail(self, request_id: str, error: ApiError) -> None:
        """Ends a request with an error; nothing happens if it has ended."""
        ticket = self._remove(request_id, "failed")
        if ticket is not None:
            self._engine.cancel_request(request_id)
            ticket.deliver(error)

    def close(self) -> None:
        """Takes no more requests. Those that run go on."""
        self._closed = True

    def fail_all(self, error: ApiError) -> None:
        """Ends all requests with an error."""
        for request_id in list(self._tickets):
            self.fail(request_id, error)

    def _accept(self, tokens: list[int], wanted: GenerationConfig, request_id: str, deliver: Deliver) -> None:
        """Gives a request to the engine; its cap is written into ``wanted``. Raises ApiError if it is refused."""
        if self._closed:
            raise ApiError(503, "stopping", "the server is stopping", retry_s=5)
        if not self.is_alive():
            raise ApiError(503, "engine_failed", "the engine has failed, and the server must be restarted")
        if wanted.do_sample and self._greedy:
            raise ApiError(
                400, "unsupported_field", "temperature: this server does not sample; use 0", param="temperature"
            )
        cap = self._limits.cap(wanted.max_new_tokens, len(tokens), self._scheduler.capacity, self._positions)
        if max(tokens) >= self._vocabulary:
            raise ApiError(400, "unknown_token", "the prompt has a token that the model does not know", param="prompt")
        wanted.max_new_tokens = cap

        loop = asyncio.get_running_loop()
        ticket = self._tickets[request_id] = _Ticket(deliver)
        if seconds := self._limits.request_timeout:
            error = ApiError(504, "timeout", f"the request took longer than {seconds:g} seconds")
            ticket.timer = loop.call_later(seconds, self.fail, request_id, error)
        self._engine.register_result_handler(request_id, self._receive)
        taken = self._engine.add_request(
            tokens,
            request_id=request_id,
            max_new_tokens=cap,
            streaming=True,
            eos_token_id=wanted.eos_token_id,
            **({} if self._greedy else own_settings(wanted, self._vocabulary)),
        )
        if taken is None:
            self._remove(request_id, "failed")
            raise ApiError(503, "engine_failed", "the engine takes no requests", retry_s=5)
        self._metrics.prompt_tokens.inc(len(tokens))

    def _receive(self, output: GenerationOutput) -> None:
        """A request's tokens so far, on the event loop."""
        ticket = self._tickets.get(output.request_id)
        if ticket is None:
            return
        if output.error is not None:
            log.error("request %s failed in the engine: %s", output.request_id, output.error)
            self.fail(output.request_id, ApiError(500, "engine_failed", "the engine failed on this request"))
            return
        now = time.perf_counter()
        new = len(output.generated_tokens) - ticket.generated
        if new > 0:
            if ticket.generated:
                self._metrics.gap.observe(now - ticket.last)
            else:
                self._metrics.first_token.observe(now - ticket.accepted)
            self._metrics.generated_tokens.inc(new)
            ticket.generated += new
            ticket.last = now
        try:
            length = ticket.deliver(output)
        except Exception:  # decoders raise anything, and the engine must not go on for a request that cannot be told
            log.exception("request %s cannot be decoded", output.request_id)
            self.fail(output.request_id, ApiError(500, "internal_error", "the answer cannot be decoded"))
            return
        if length or output.is_finished():
            self._metrics.whole.observe(now - ticket.accepted)
            self._remove(output.request_id, "finished")
        if length and not output.is_finished():
            self._scheduler.complete(output.request_id, length)

    def _remove(self, request_id: str, how: str) -> _Ticket | None:
        """Forgets a request, here and where the engine would deliver its results."""
        ticket = self._tickets.pop(request_id, None)
        if ticket is None:
            return None
        if ticket.timer is not None:
            ticket.timer.cancel()
        router = self._engine.output_router
        with router._lock:
            router.result_handlers.pop(request_id, None)
        # What the engine had still to say about requests that were taken back lies here, and nobody else reads it.
        drain_queue(router.output_queue)
        self._metrics.ended.labels(how=how).inc()
        return ticket


class _FailedError(_StreamError):
    """An error that ends a stream; its body survives being put between quotes, as transformers' handlers do."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(json.dumps(json.dumps(error.body))[1:-1])
        self.error = error


class _Texts(asyncio.Queue[Any]):
    """The queue of a stream: it holds content back that may be the beginning of a stop string, and ends before one.

    What a model's parser has taken for reasoning or a tool call is no content, and passes as it is.

    Attributes:
        text: all content so far, what is held back included.
        stop: the stop strings.
    """

    def __init__(self, settings: GenerationConfig) -> None:
        super().__init__()
        self.text = ""
        self.stop = StopStrings(settings.stop_strings or ())
        self._settings = settings

    def put_nowait(self, item: Any) -> None:
        if type(item) is str:  # and not a tagged one, which is reasoning
            self.text += item
            item = self.stop.feed(item)
            if self.stop.found:
                # By the cap, which the last token may have met as well, handlers tell why an answer has ended.
                self._settings.max_new_tokens = None
        elif item is None and (rest := self.stop.rest()):
            super().put_nowait(rest)
        if item != "":
            super().put_nowait(item)


class _Streamer(CBStreamer):
    """Turns tokens into text as they come. What was held back at the end, as an incomplete character, is sent too.

    Attributes:
        tokens: those of the answer so far.
    """

    def __init__(self, generations: Generations, processor: Any, request_id: str, queue: _Texts, parser: Any) -> None:
        tokenizer = processor._tokenizer
        loop = asyncio.get_running_loop()
        super().__init__(generations._engine, request_id, tokenizer, loop, queue, response_parser=parser)
        self._generations, self._processor, self._texts = generations, processor, queue
        self._plain = parser is None
        self.tokens: list[int] = []

    def take(self, output: GenerationOutput) -> int:
        """Takes an output, and the end if it has come. Tells the tokens of the answer if a stop string has ended it."""
        self.put(output)
        if self._texts.stop.found or output.is_finished():
            self.end()
        return len(self.tokens) if self._texts.stop.found else 0

    def put(self, output: GenerationOutput) -> None:
        # One by one, so that of several tokens none counts that comes after a stop string.
        for count in range(len(self.tokens) + 1, len(output.generated_tokens) + 1):
            self.tokens = output.generated_tokens[:count]
            super().put(replace(output, generated_tokens=self.tokens))
            if self._texts.stop.found:
                break

    def end(self) -> None:
        if self._plain:
            whole = self._processor.decode(self.tokens, skip_special_tokens=True)
            if whole.startswith(self._texts.text) and len(whole) > len(self._texts.text):
                self._texts.put_nowait(whole[len(self._texts.text) :])
        super().end()

    def cancel(self) -> None:
        self._generations.abandon(self._request_id)


def unquoted(part: str) -> tuple[str, str | None]:
    """A piece of a stream without the error that ends it, and that error's body as JSON, if it ends with one."""
    head, mark, tail = part.rpartition('data: {"error": ')
    if not mark:
        return part, None
    body: str = json.loads(tail.removesuffix("}\n\n"))
    return head, body
