"""What requests may say. Everything is checked before it reaches the engine, and nothing is ignored in silence that
would change the answer: a field that the engine cannot honour is refused unless it has its neutral value.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError, field_validator, model_validator

from heedful.serving.server.limits import ApiError

_FORBIDDEN = ("generation_config", "trust_remote_code")
_HARMLESS = ("metadata", "prompt_cache_key", "safety_identifier", "user")
"""Fields that are for the operator of a service, and change no answer."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True,),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("auto",),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields of OpenAI's API that the engine cannot honour, and the values that ask for nothing; null always does."""


MOST_STOPS = 4
"""Stop strings of one request, as OpenAI has it."""
COLDEST = 0.01
"""The lowest temperature above 0: logits divided by less could overflow, which would end the engine."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class _Body(_Strict):
    """What both kinds of request have.

    Attributes:
        model: the served model's name.
        stream: whether tokens are sent as they come.
        stream_options: usage is sent with the last chunk in any case.
        temperature: 0 for the likeliest token, up to 2; None for the model's own default.
        top_p: in (0, 1]; None for the model's own default.
        max_tokens: cap on the output; None for the server's default.
        stop: strings before which the answer ends, at most :data:`MOST_STOPS` and none of them empty; one may be given
            by itself.
        seed: accepted with temperature 0, where it changes nothing.
    """

    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: list[str] | None = None
    seed: int | None = None

    @field_validator("stop", mode="plain")
    @classmethod
    def _some_strings(cls, value: Any) -> list[str] | None:
        strings = [value] if isinstance(value, str) else value
        if strings is not None and not (
            isinstance(strings, list)
            and len(strings) <= MOST_STOPS
            and all(isinstance(string, str) and string for string in strings)
        ):
            raise ValueError(f"must be a string or up to {MOST_STOPS} strings, none of them empty")
        return strings


class CompletionBody(_Body):
    """A request to ``/v1/completions``.

    Attributes:
        prompt: the text to continue.
    """

    prompt: str


class _Part(_Strict):
    type: Literal["text"]
    text: str


class _Call(BaseModel):
    """The called function, with its arguments as JSON."""

    name: str
    arguments: Json[dict[str, Any]]


class _ToolCall(BaseModel):
    id: str | None = None
    type: Literal["function"] = "function"
    function: _Call


class _Message(_Strict):
    role: Annotated[str, Field(min_length=1)]
    content: str | list[_Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> _Message:
        if self.content is None and not self.tool_calls:
            raise ValueError("content: is missing")
        return self


class ChatBody(_Body):
    """A request to ``/v1/chat/completions``.

    Attributes:
        messages: what was said so far.
        max_completion_tokens: the newer name of ``max_tokens``.
        tools: functions that the model may call, if its chat template knows tools.
        chat_template_kwargs: variables of the model's chat template.
    """

    messages: Annotated[list[_Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


Kind = TypeVar("Kind", bound=_Body)


def read(kind: type[Kind], raw: Any) -> Kind:
    """A request's body, checked. Raises ApiError 400 naming the field and what is wrong with it."""
    if not isinstance(raw, dict):
        raise ApiError(400, "invalid_body", "the body must be a JSON object")
    for name in _FORBIDDEN:
        if name in raw:
            raise ApiError(
                400, "forbidden_field", f"{name}: requests may not change how this server loads or runs", param=name
            )
    for name, neutral in _NEUTRAL.items():
        value = raw.get(name)
        if value is not None and not any(
            value == ok and isinstance(value, bool) == isinstance(ok, bool) for ok in neutral
        ):
            raise ApiError(400, "unsupported_field", f"{name}: is not supported; leave it out", param=name)
    try:
        body = kind.model_validate({name: raw[name] for name in raw if name not in _NEUTRAL and name not in _HARMLESS})
    except ValidationError as error:
        raise _refusal(error) from error
    if body.temperature is not None and 0 < body.temperature < COLDEST:
        raise ApiError(400, "invalid_value", f"temperature: must be 0, or at least {COLDEST:g}", param="temperature")
    if body.seed is not None and body.temperature != 0:
        raise ApiError(
            400,
            "unsupported_field",
            "seed: requests that run together share one random generator; for answers that repeat use temperature 0",
            param="seed",
        )
    return body


def check_template(body: ChatBody, tokenizer: Any) -> None:
    """Raises ApiError 400 if the model has no chat template, or one that cannot do what is asked."""
    template = tokenizer.chat_template
    if not template:
        raise ApiError(
            400, "no_chat_template", "this model has no chat template; use /v1/completions with a prompt instead"
        )
    if body.tools and "tools" not in str(template):
        raise ApiError(400, "unsupported_field", "tools: this model's chat template knows no tools", param="tools")
    own = set(inspect.signature(tokenizer.apply_chat_template).parameters)
    for name in body.chat_template_kwargs or ():
        if name in own:
            raise ApiError(
                400,
                "forbidden_field",
                f"chat_template_kwargs: {name} is not a variable of the template",
                param="chat_template_kwargs",
            )


def _refusal(error: ValidationError) -> ApiError:
    """The first problem, in one line."""
    first: Mapping[str, Any] = error.errors(include_url=False, include_input=False)[0]
    where = [str(part) for part in first["loc"]]
    param = ".".join(where) or None
    if first["type"] == "extra_forbidden":
        return ApiError(400, "unknown_field", f"{param}: unrecognized request argument", param=param)
    what = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, "invalid_value", f"{param}: {what[:1].lower()}{what[1:]}", param=param)
