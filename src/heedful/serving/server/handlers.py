"""How chats and completions are answered: transformers' own handlers, for one model that is there already.

Of transformers' handlers this keeps how answers and streams are built and how a model's tool calls and reasoning are
recognised. What comes before is done here: a request cannot name a model to load, set how the engine runs, or hold up
everybody else while its prompt is cut into tokens.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response, StreamingResponse
from transformers import GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.utils import BaseHandler, Modality

from heedful.serving.server.generations import Generations, unquoted


@dataclass(frozen=True, eq=False)
class Served:
    """The one model that is served.

    Attributes:
        name: what requests call it.
        model: the model itself.
        tokenizer: a fast tokenizer.
    """

    name: str
    model: Any
    tokenizer: Any


class _OneModel(BaseHandler):
    """A handler for one model.

    Args:
        served: the model.
        generations: what runs.
    """

    def __init__(self, served: Served, generations: Generations) -> None:
        self._served, self._generations = served, generations
        # One thread, for a tokenizer does not like to be changed by one while it is used by another.
        self._tokenizing = ThreadPoolExecutor(1, "heedful-tokenizing")

    async def answer(self, body: dict[str, Any], request_id: str) -> Response:
        """The answer to a request whose body has been checked; a stream if it asks for one."""
        with self._generations.arriving():
            inputs = await asyncio.get_running_loop().run_in_executor(self._tokenizing, self._inputs, body)
        settings = self._settings(body)
        served, extra = self._served, self._extra(body)
        what = (request_id, served.model, served.tokenizer, served.name, inputs, settings, self._generations)
        if not body.get("stream"):
            whole: Response = await self._non_streaming(*what, **extra)  # type: ignore[attr-defined]
            return whole
        response: StreamingResponse = self._streaming(*what, **extra)  # type: ignore[attr-defined]
        response.body_iterator = _to_the_end(response.body_iterator)
        return response

    def _settings(self, body: dict[str, Any]) -> GenerationConfig:
        """The model's own settings with those of the request; the cap is None if the request names none."""
        settings: GenerationConfig = copy.deepcopy(self._served.model.generation_config)
        settings.max_new_tokens = body.get("max_tokens")
        if "temperature" in body:
            settings.do_sample = body["temperature"] > 0
            settings.temperature = body["temperature"] or 1.0
        if "top_p" in body:
            settings.top_p = body["top_p"]
        return settings

    def _inputs(self, body: dict[str, Any]) -> Any:
        """The prompt's tokens, under ``"input_ids"``."""
        raise NotImplementedError

    def _extra(self, body: dict[str, Any]) -> dict[str, Any]:
        """What else the kind of answer depends on."""
        return {}


class Chat(_OneModel, ChatCompletionHandler):
    """``/v1/chat/completions``."""

    def _inputs(self, body: dict[str, Any]) -> Any:
        return self._served.tokenizer.apply_chat_template(
            self.get_processor_inputs_from_messages(body["messages"], Modality.LLM),
            tools=body.get("tools"),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            # What users write stays text, whatever control tokens it spells.
            sanitize_control_tokens=True,
            **body.get("chat_template_kwargs", {}),
        )

    def _extra(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"tools": body.get("tools")}


class Completion(_OneModel, CompletionHandler):
    """``/v1/completions``."""

    def _inputs(self, body: dict[str, Any]) -> Any:
        return self._served.tokenizer(body["prompt"])


async def _to_the_end(parts: Any) -> AsyncIterator[str]:
    """A stream with the end that OpenAI's has: ``[DONE]``, or an error in its format."""
    async for part in parts:
        text, error = unquoted(part)
        if text:
            yield text
        if error is not None:
            yield f"data: {error}\n\n"
            return
    yield "data: [DONE]\n\n"
