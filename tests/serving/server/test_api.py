"""What the server answers, asked by OpenAI's own client."""

import json
import shutil

import httpx
import openai
import pytest


def test_completion_with_and_without_streaming_equals_plain_generation(asked, plain_answers):
    expected, _ = plain_answers("def main(", [40])[40]
    whole = asked.complete(max_tokens=40)
    assert whole.choices[0].text == expected
    assert whole.choices[0].finish_reason == "length"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.model) == (10, 40, "tiny")
    chunks = list(asked.complete(max_tokens=40, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    assert len(chunks) > 5
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 40


def test_chat_with_and_without_streaming(asked):
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    options = {"model": "tiny", "messages": said, "max_completion_tokens": 12}
    whole = asked.client.chat.completions.create(**options)
    assert whole.choices[0].message.role == "assistant"
    assert whole.usage.completion_tokens == 12
    chunks = list(asked.client.chat.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"


def test_stream_is_as_the_api_has_it(asked):
    raw = asked.post(prompt="def main(", max_tokens=3, stream=True)
    assert raw.headers["content-type"].startswith("text/event-stream")
    events = raw.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    ids = {json.loads(event.removeprefix("data: "))["id"] for event in events[:-2]}
    assert ids == {raw.headers["x-request-id"]}


def test_one_token_is_not_lost(asked):
    for _ in range(5):
        assert asked.complete(max_tokens=1).usage.completion_tokens == 1
        assert list(asked.complete(max_tokens=1, stream=True))[-1].usage.completion_tokens == 1


def test_a_client_cannot_choose_the_request_id(asked):
    answers = [
        httpx.post(
            f"{asked.url}/v1/completions", json={"prompt": "a", "max_tokens": 2}, headers={"x-request-id": "same"}
        )
        for _ in range(2)
    ]
    assert len({answer.headers["x-request-id"] for answer in answers} | {"same"}) == 3


def test_default_cap(asked, endless):
    assert asked.complete(endless).usage.completion_tokens == 256
    near_the_end = asked.complete("x" * 500)
    assert near_the_end.usage.completion_tokens == 512 - 501


def test_sampling_is_each_requests_own(asked, meanwhile):
    greedy = asked.complete(max_tokens=30).choices[0].text
    others = [meanwhile(lambda: asked.complete(max_tokens=60, temperature=2.0)) for _ in range(4)]
    assert asked.complete(max_tokens=30, temperature=0, seed=7).choices[0].text == greedy
    assert asked.complete(max_tokens=30, temperature=1.0, top_p=1e-9).choices[0].text == greedy
    assert len({other().choices[0].text for other in others}) == 4


def test_models(asked):
    assert [model.id for model in asked.client.models.list()] == ["tiny"]
    assert asked.client.models.retrieve("tiny").owned_by == "heedful"
    with pytest.raises(openai.NotFoundError, match="'tiny' is"):
        asked.client.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError) as error:
        asked.client.completions.create(model="gpt-4", prompt="a")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


def test_health_and_other_paths(asked):
    assert httpx.get(f"{asked.url}/health").json() == {"status": "ok"}
    for method, path, status in (
        ("GET", "/v1/responses", 404),
        ("POST", "/load_model", 404),
        ("GET", "/v1/completions", 405),
    ):
        answer = httpx.request(method, asked.url + path)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] in ("unknown_path", "method_not_allowed")


@pytest.mark.parametrize(
    "path, body, code, part",
    [
        ("completions", {"prompt": "a", "max_tokens": "ten"}, "invalid_value", "max_tokens: input should be a valid"),
        ("completions", {"prompt": "a", "max_tokens": True}, "invalid_value", "max_tokens"),
        ("completions", {"prompt": "a", "max_tokens": 0}, "invalid_value", "max_tokens"),
        ("completions", {"prompt": "a", "max_tokens": 4000}, "max_tokens_too_large", "at most 2048"),
        ("completions", {"prompt": "a", "max_tokens": 600}, "context_length_exceeded", "model's 512 positions"),
        ("completions", {"prompt": "a" * 600}, "context_length_exceeded", "601 tokens"),
        ("completions", {"prompt": ["a", "b"]}, "invalid_value", "prompt"),
        ("completions", {}, "invalid_value", "prompt: field required"),
        ("completions", {"prompt": "a", "temperature": -1}, "invalid_value", "temperature"),
        ("completions", {"prompt": "a", "temperature": 1e-30}, "invalid_value", "at least 0.01"),
        ("completions", {"prompt": "a", "top_p": 0}, "invalid_value", "top_p"),
        ("completions", {"prompt": "a", "stop": ""}, "invalid_value", "stop: must be a string or up to 4 strings"),
        ("completions", {"prompt": "a", "stop": ["b", ""]}, "invalid_value", "stop: must be"),
        ("completions", {"prompt": "a", "stop": list("abcde")}, "invalid_value", "stop: must be"),
        ("completions", {"prompt": "a", "stop": 3}, "invalid_value", "stop: must be"),
        ("completions", {"prompt": "a", "stop": ["b", 3]}, "invalid_value", "stop: must be"),
        ("completions", {"prompt": "a", "n": 2}, "unsupported_field", "n: is not supported"),
        ("completions", {"prompt": "a", "seed": 1, "temperature": 1}, "unsupported_field", "seed"),
        ("completions", {"prompt": "a", "frequency_penalty": 0.5}, "unsupported_field", "frequency_penalty"),
        ("completions", {"prompt": "a", "best": 3}, "unknown_field", "best: unrecognized"),
        ("completions", {"prompt": "a", "generation_config": "{}"}, "forbidden_field", "generation_config"),
        ("completions", {"prompt": "a", "trust_remote_code": True}, "forbidden_field", "trust_remote_code"),
        ("chat/completions", {"messages": []}, "invalid_value", "messages"),
        ("chat/completions", {"messages": "hi"}, "invalid_value", "messages"),
        ("chat/completions", {"messages": [{"role": "user"}]}, "invalid_value", "content: is missing"),
        ("chat/completions", {"messages": [{"role": "user", "content": 3}]}, "invalid_value", "messages.0.content"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]},
            "unsupported_field",
            "tools",
        ),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"chat_template": "x"}},
            "forbidden_field",
            "chat_template",
        ),
    ],
)  # fmt: skip
def test_bad_bodies_are_refused_in_the_apis_shape(asked, path, body, code, part):
    before = asked.metrics().get(f'heedful_rejected_total{{code="{code}"}}', 0)
    answer = asked.post(f"/v1/{path}", **body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["code"], error["type"]) == (code, "invalid_request_error")
    assert part in error["message"] and "\n" not in error["message"]
    assert asked.metrics()[f'heedful_rejected_total{{code="{code}"}}'] == before + 1


def test_bodies_that_are_no_json_or_too_large(asked):
    def post(content, kind="application/json; charset=utf-8"):
        answer = httpx.post(f"{asked.url}/v1/completions", content=content, headers={"content-type": kind})
        return answer.status_code, answer.json()["error"]["code"]

    for content in (b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"prompt": "\\ud800"}'):
        assert post(content) == (400, "invalid_json")
    assert post(b"[]") == (400, "invalid_body")
    assert post(b'{"prompt": "a"}', "text/plain") == (415, "not_json")
    assert post(b"x" * (2**20 + 1)) == (413, "body_too_large")
    assert post(b"x" * 2**16 for _ in range(17)) == (413, "body_too_large")


def test_neutral_values_are_accepted(asked):
    answer = asked.complete(
        max_tokens=2, n=1, best_of=1, echo=False, frequency_penalty=0.0, presence_penalty=0, logit_bias={}, user="me"
    )
    assert answer.usage.completion_tokens == 2


def test_text_that_spells_control_tokens_stays_text(asked):
    def prompt_tokens(text):
        answer = asked.post("/v1/chat/completions", messages=[{"role": "user", "content": text}], max_tokens=1)
        return answer.json()["usage"]["prompt_tokens"]

    assert prompt_tokens("<|eos|>") == prompt_tokens("1234567")


def test_model_without_chat_template(serve, folder, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "chat_template.jinja").unlink()
    with serve(model=str(bare)) as asked:
        with pytest.raises(openai.BadRequestError, match="/v1/completions") as error:
            asked.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a"}])
        assert error.value.code == "no_chat_template"
        assert asked.complete(max_tokens=3).usage.completion_tokens == 3


def test_messages_that_the_template_refuses(serve, folder, tmp_path):
    strict = tmp_path / "strict"
    shutil.copytree(folder, strict)
    (strict / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with serve(model=str(strict)) as asked, pytest.raises(openai.BadRequestError, match="roles must alternate"):
        asked.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a"}])


def test_greedy_server_refuses_to_sample(serve):
    with serve(greedy=True) as asked:
        assert asked.complete(max_tokens=3).usage.completion_tokens == 3
        with pytest.raises(openai.BadRequestError, match="does not sample"):
            asked.complete(max_tokens=3, temperature=1)


def test_metrics_count_and_time(serve):
    with serve() as asked:
        start = asked.metrics()
        asked.complete(max_tokens=20)
        list(asked.complete(max_tokens=20, stream=True))
        end = asked.idle()
        grown = {name: value - start.get(name, 0) for name, value in end.items()}
        assert grown["heedful_prompt_tokens_total"] == grown["heedful_prefilled_tokens_total"] == 20
        assert grown["heedful_generated_tokens_total"] == 40
        assert grown["heedful_time_to_first_token_seconds_count"] == 2
        assert grown["heedful_token_gap_seconds_count"] == 38
        assert grown["heedful_generation_seconds_count"] == grown['heedful_generations_total{how="finished"}'] == 2
        assert grown['heedful_requests_total{path="/v1/completions",status="200"}'] == 2
        assert end["heedful_capacity_tokens"] == 640
        assert end["heedful_history_lengths"] == 502
