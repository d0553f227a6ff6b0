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

from openai.types.completion_usage import CompletionUsage
from starlette.responses import JSONResponse, Response, StreamingResponse
from transformers import GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.utils import BaseHandler, Modality, ReasoningText, ToolCall, build_response_parser

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
        settings.stop_strings = body.get("stop")
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

    async def _non_streaming(  # type: ignore[override]
        self,
        request_id: str,
        model: Any,
        processor: Any,
        model_id: str,
        inputs: Any,
        gen_config: GenerationConfig,
        gen_manager: Generations,
        tools: Any = None,
    ) -> Response:
        """The whole answer. If it has stop strings, and the model's answers are parsed, it is a stream put together.

        Only while tokens are parsed is it known which of them are content, where stop strings count.
        """
        parser = gen_config.stop_strings and build_response_parser(processor, model, inputs["input_ids"], tools=tools)
        if not parser:
            whole: Response = await super()._non_streaming(
                request_id, model, processor, model_id, inputs, gen_config, gen_manager, tools
            )
            return whole
        pieces, tokens = await gen_manager.whole(processor, inputs, gen_config, request_id, parser)
        reasoning = "".join(piece for piece in pieces if isinstance(piece, ReasoningText))
        calls = [
            {
                "id": f"{request_id}_tool_call_{i}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for i, call in enumerate(piece for piece in pieces if isinstance(piece, ToolCall))
        ]
        met_cap = gen_config.max_new_tokens is not None and len(tokens) >= gen_config.max_new_tokens
        body = self._build_completion(
            request_id,
            "".join(piece for piece in pieces if type(piece) is str),
            model_id,
            finish_reason="tool_calls" if calls else "length" if met_cap else "stop",
            usage=CompletionUsage(
                prompt_tokens=len(inputs["input_ids"]),
                completion_tokens=len(tokens),
                total_tokens=len(inputs["input_ids"]) + len(tokens),
            ),
            tool_calls=calls or None,
            reasoning_content=reasoning or None,
        )
        return JSONResponse(body)


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
