"""The application: what each path answers, around transformers' own handlers for chat and completions."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers import GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import BaseHandler, GenerationState

from heedful.serving.server import bodies
from heedful.serving.server.gate import REQUEST_ID, Gate
from heedful.serving.server.generations import Generations, unquoted
from heedful.serving.server.limits import ApiError, Limits
from heedful.serving.server.metrics import Metrics

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics")


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


def application(
    served: Served, generations: Generations, metrics: Metrics, limits: Limits, keys: Sequence[bytes]
) -> Gate:
    """The whole ASGI application.

    Args:
        served: the model.
        generations: what runs.
        metrics: what is counted.
        limits: what is taken on.
        keys: keys of which each request must bring one; none if empty.
    """
    state = _state(served, generations)
    # What users write stays text, whatever control tokens it spells.
    chat = _Chat(_Pinned(served), state, chat_template_kwargs={"sanitize_control_tokens": True})
    completion = _Completion(_Pinned(served), state)
    about = {"id": served.name, "object": "model", "created": int(time.time()), "owned_by": "heedful"}

    async def chat_completions(request: Request) -> Response:
        body = bodies.read(bodies.ChatBody, await _json(request))
        _check_model(body.model, served.name)
        bodies.check_template(body, served.tokenizer)
        return await _handled(chat, _plain(body), request)

    async def completions(request: Request) -> Response:
        body = bodies.read(bodies.CompletionBody, await _json(request))
        _check_model(body.model, served.name)
        return await _handled(completion, _plain(body), request)

    async def list_models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [about]})

    async def show_model(request: Request) -> Response:
        _check_model(request.path_params["name"], served.name)
        return JSONResponse(about)

    async def health(request: Request) -> Response:
        state = "engine failed" if not generations.is_alive() else "stopping" if generations.closed else "ok"
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    async def show_metrics(request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        if error.status not in (500, 504):
            metrics.rejected.labels(code=error.code).inc()
        return JSONResponse(error.body, error.status, error.headers)

    async def other(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        codes = {404: "unknown_path", 405: "method_not_allowed"}
        told = ApiError(error.status_code, codes.get(error.status_code, "invalid_request"), str(error.detail))
        return JSONResponse(told.body, told.status, {**(error.headers or {}), **told.headers})

    async def failed(request: Request, error: Exception) -> Response:
        told = f"the server failed; its log says why, under {request.scope[REQUEST_ID]}"
        answer = ApiError(500, "internal_error", told)
        return JSONResponse(answer.body, answer.status, answer.headers)

    routes = [
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/models", list_models),
        Route("/v1/models/{name:path}", show_model),
        Route("/health", health),
        Route("/metrics", show_metrics),
    ]
    handlers = {ApiError: refused, HTTPException: other, Exception: failed}
    app = Starlette(routes=routes, exception_handlers=handlers)
    return Gate(app, PATHS, keys, limits.max_body, metrics, generations.abandon)  # type: ignore[arg-type]


async def _json(request: Request) -> Any:
    """The body. Only what calls itself JSON is read: a page in a browser cannot send that to another site unasked."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "not_json", "the body must be JSON, with the header 'Content-Type: application/json'")
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_json", "the body is not valid JSON") from error


def _check_model(asked: str | None, name: str) -> None:
    """Raises ApiError 404 for a model that is not the served one; a request that names none means that one."""
    if asked is not None and asked != name:
        raise ApiError(404, "model_not_found", f"model {asked!r} is not served here; {name!r} is", param="model")


def _plain(body: bodies.ChatBody | bodies.CompletionBody) -> dict[str, Any]:
    """The body as transformers' handlers read it."""
    plain = body.model_dump(exclude_none=True, exclude={"model", "stream_options", "seed"})
    newer = plain.pop("max_completion_tokens", None)
    return plain if newer is None else {**plain, "max_tokens": newer}


async def _handled(handler: _Chat | _Completion, body: dict[str, Any], request: Request) -> Response:
    """What transformers' handler answers. Raises ApiError for messages that the chat template refuses."""
    try:
        return await handler.handle_request(body, request.scope[REQUEST_ID])
    except TemplateError as error:
        raise ApiError(
            400, "invalid_messages", f"messages: the model's chat template refuses them: {error}", param="messages"
        ) from error


def _state(served: Served, generations: Generations) -> GenerationState:
    """transformers' state of the generations, with ours in the place of the one that it would make."""
    state = GenerationState(continuous_batching=True)
    state._cb_manager, state._cb_model_id = generations, served.name
    return state


class _Pinned(ModelManager):
    """Knows the one model, and loads no other."""

    def __init__(self, served: Served) -> None:
        self.served = served


class _OneModel(BaseHandler):
    """A handler that serves the one model, and says so in OpenAI's format to the end of a stream."""

    def _resolve_model(self, body: dict[str, Any]) -> tuple[str, Any, Any]:
        manager = self.model_manager
        assert isinstance(manager, _Pinned)
        return manager.served.name, manager.served.model, manager.served.tokenizer

    def _build_generation_config(
        self, body: dict[str, Any], model_generation_config: GenerationConfig, use_cb: bool = False
    ) -> GenerationConfig:
        """The model's own settings with those of the request; the cap is None if the request names none."""
        config = copy.deepcopy(model_generation_config)
        config.max_new_tokens = body.get("max_tokens")
        if "temperature" in body:
            config.do_sample = body["temperature"] > 0
            config.temperature = body["temperature"] or 1.0
        if "top_p" in body:
            config.top_p = body["top_p"]
        return config

    def _streaming(self, *args: Any, **kwargs: Any) -> StreamingResponse:
        response: StreamingResponse = super()._streaming(*args, **kwargs)  # type: ignore[misc]
        response.body_iterator = _to_the_end(response.body_iterator)
        return response


class _Chat(_OneModel, ChatCompletionHandler):
    """``/v1/chat/completions``."""


class _Completion(_OneModel, CompletionHandler):
    """``/v1/completions``."""


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
