"""What the server takes on, and how it says no: limits, and errors in the shape that OpenAI's clients read."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is refused or that failed.

    Args:
        status: the HTTP status.
        code: what happened, for programs: ``"queue_full"``.
        message: what happened and what to do, for people; nothing of the server's inside.
        param: the field of the request that is wrong.
        retry_s: seconds after which trying again makes sense; None if it does not.
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.retry_s = status, code, message, param, retry_s

    @property
    def body(self) -> dict[str, Any]:
        """The answer's body, as OpenAI's API has it."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that tell clients whether to try again."""
        if self.retry_s is None:
            return {"x-should-retry": "false"}
        return {"retry-after": str(self.retry_s)}


@dataclass(frozen=True)
class Limits:
    """What the server takes on.

    Args:
        default_max_tokens: the cap of a request that names none, in tokens, at least 1; less if less is left.
        max_output: the largest cap that a request may name, in tokens, at least 1.
        max_queue: requests that may wait for their first token at once, at least 1; the next one is refused.
        request_timeout: seconds from a request's acceptance to its last token, above 0; 0 for no limit.
        drain_timeout: seconds that a stop leaves to what runs, at least 0.
        max_body: bytes of a request's body, at least 1.

    Raises ValueError for a value outside its range.
    """

    default_max_tokens: int = 256
    max_output: int = 2048
    max_queue: int = 1024
    request_timeout: float = 600.0
    drain_timeout: float = 30.0
    max_body: int = 2**20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name.endswith("timeout") else 1
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"{field.name}={value}: must be at least {least}")
        if self.default_max_tokens > self.max_output:
            raise ValueError(
                f"default_max_tokens={self.default_max_tokens}: must be at most max_output={self.max_output}"
            )

    def cap(self, asked: int | None, prompt: int, capacity: int, positions: int | None) -> int:
        """The most tokens that a request may generate.

        Args:
            asked: what the request says, if it says anything.
            prompt: tokens of its prompt.
            capacity: tokens that the cache holds.
            positions: tokens that the model was made for; None if it does not say.

        Raises ApiError if the prompt is empty, or if prompt and cap cannot be served.
        """
        if prompt < 1:
            raise ApiError(400, "empty_prompt", "the prompt has no tokens", param="prompt")
        if asked is not None and asked > self.max_output:
            raise ApiError(
                400,
                "max_tokens_too_large",
                f"max_tokens={asked}: this server generates at most {self.max_output} tokens per request",
                param="max_tokens",
            )
        room, of = capacity, f"cache of {capacity} tokens"
        if positions is not None and positions < room:
            room, of = positions, f"model's {positions} positions"
        if prompt + (asked or 1) > room:
            wanted = f"{asked} new ones" if asked else "one new one"
            raise ApiError(
                400,
                "context_length_exceeded",
                f"the prompt has {prompt} tokens; with {wanted} that is beyond the {of}",
                param="max_tokens" if asked and prompt < room else "prompt",
            )
        return asked or min(self.default_max_tokens, room - prompt)
