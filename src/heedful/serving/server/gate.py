"""The outermost layer: keys, size of bodies, disconnects, and what became of each request.

It is plain ASGI, for middleware that wraps responses hides disconnects from streams. A client that goes away ends its
request wherever that is: the handler is cancelled, and with it what the engine does for it.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import uuid
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

from heedful.serving.server.limits import ApiError
from heedful.serving.server.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = ("/health",)
"""Paths that need no key."""
REQUEST_ID = "heedful.request_id"
"""Where a request's own id stands in its scope; no client can choose it, for the engine goes by it."""

log = logging.getLogger("heedful.serve")


class Gate:
    """Lets requests through to an application.

    Args:
        app: the application.
        paths: the paths that it has; all others count as ``other``, so that nobody can fill the metrics with names.
        keys: keys of which each request must bring one as ``Authorization: Bearer KEY``; none if empty.
        max_body: bytes of a body.
        metrics: where requests are counted.
        over: told the id of each request when it is over, however it ended.
    """

    def __init__(
        self,
        app: App,
        paths: Sequence[str],
        keys: Sequence[bytes],
        max_body: int,
        metrics: Metrics,
        over: Callable[[str], None],
    ) -> None:
        self._app, self._paths, self._keys = app, frozenset(paths), tuple(keys)
        self._max_body, self._metrics, self._over = max_body, metrics, over

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        scope[REQUEST_ID] = request_id
        answer = _Answer(send, request_id)
        try:
            try:
                self._check_key(scope)
                body = await self._read(scope, receive)
            except ApiError as error:
                self._metrics.rejected.labels(code=error.code).inc()
                await JSONResponse(error.body, error.status, error.headers)(scope, receive, answer)
            else:
                if body is not None:
                    await self._answer(scope, body, receive, answer)
        except Exception:
            log.exception("request %s failed", request_id)
            if not answer.whole:
                raise  # the connection is closed in the middle of the answer, so that nobody takes it for whole
        finally:
            self._over(request_id)
            path = scope["path"] if scope["path"] in self._paths else "other"
            status = str(answer.status) if answer.whole else "disconnected"
            self._metrics.requests.labels(path=path, status=status).inc()

    def _check_key(self, scope: Message) -> None:
        """Raises ApiError 401 without a valid key. Every key is compared, in constant time."""
        if not self._keys or scope["path"] in OPEN:
            return
        given = b""
        for name, value in scope["headers"]:
            scheme, _, token = value.partition(b" ")
            if name == b"authorization" and scheme.lower() == b"bearer":
                given = token.strip()
        if not any([hmac.compare_digest(given, key) for key in self._keys]):
            raise ApiError(401, "invalid_api_key", "a valid key is needed, as 'Authorization: Bearer KEY'")

    async def _read(self, scope: Message, receive: Receive) -> bytes | None:
        """The whole body; None if the client went away meanwhile. Raises ApiError 413 for one that is too large."""
        too_large = ApiError(413, "body_too_large", f"the body is larger than {self._max_body} bytes")
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._max_body:
                raise too_large
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_body:
                raise too_large
        return bytes(body)

    async def _answer(self, scope: Message, body: bytes, receive: Receive, answer: _Answer) -> None:
        """Runs the application until it has answered, or until the client goes away."""
        gone = asyncio.Event()
        given = False

        async def replay() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        work = asyncio.ensure_future(self._app(scope, replay, answer))
        leave = asyncio.ensure_future(receive())
        try:
            await asyncio.wait((work, leave), return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not answer.whole:
                gone.set()
                work.cancel()
            try:
                await work
            except asyncio.CancelledError:
                if not gone.is_set():
                    raise
        finally:
            for task in (work, leave):
                task.cancel()


class _Answer:
    """Sends an answer on, with the request's id, and remembers what became of it."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self._id = send, request_id
        self.status: int | None = None
        self.whole = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._id.encode())]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.whole = True
