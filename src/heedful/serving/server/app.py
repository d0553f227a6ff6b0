"""The application: what each path answers, around transformers' own handlers for chat and completions."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from heedful.serving.server import bodies
from heedful.serving.server.gate import REQUEST_ID, Gate
from heedful.serving.server.generations import Generations
from heedful.serving.server.handlers import Chat, Completion, Served
from heedful.serving.server.limits import ApiError, Limits
from heedful.serving.server.metrics import Metrics

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics")


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
    chat, completion = Chat(served, generations), Completion(served, generations)
    about = {"id": served.name, "object": "model", "created": int(time.time()), "owned_by": "heedful"}

    async def chat_completions(request: Request) -> Response:
        body = bodies.read(bodies.ChatBody, await _json(request))
        _check_model(body.model, served.name)
        bodies.check_template(body, served.tokenizer)
        try:
            return await chat.answer(_plain(body), request.scope[REQUEST_ID])
        except TemplateError as error:
            raise ApiError(
                400, "invalid_messages", f"messages: the model's chat template refuses them: {error}", param="messages"
            ) from error

    async def completions(request: Request) -> Response:
        body = bodies.read(bodies.CompletionBody, await _json(request))
        _check_model(body.model, served.name)
        return await completion.answer(_plain(body), request.scope[REQUEST_ID])

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
    body = await request.body()
    try:
        raw = json.loads(body)
        if b"\\u" in body:
            json.dumps(raw, ensure_ascii=False).encode()  # halves of characters can be written, and mean nothing
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_json", "the body is not valid JSON") from error
    return raw


def _check_model(asked: str | None, name: str) -> None:
    """Raises ApiError 404 for a model that is not the served one; a request that names none means that one."""
    if asked is not None and asked != name:
        raise ApiError(404, "model_not_found", f"model {asked!r} is not served here; {name!r} is", param="model")


def _plain(body: bodies.ChatBody | bodies.CompletionBody) -> dict[str, Any]:
    """The body as transformers' handlers read it."""
    plain = body.model_dump(exclude_none=True, exclude={"model", "stream_options", "seed"})
    newer = plain.pop("max_completion_tokens", None)
    return plain if newer is None else {**plain, "max_tokens": newer}
