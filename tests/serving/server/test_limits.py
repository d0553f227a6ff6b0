"""What the server does not take on, and that nothing that ends early leaves something behind."""

import socket
from functools import partial

import httpx
import openai
import pytest

from heedful.serving.server import Limits, Settings, in_background, started


def test_more_than_the_cache_holds_is_refused_at_once(serve):
    with serve(num_blocks=8) as asked:
        with asked.engine.pause(), pytest.raises(openai.BadRequestError, match="beyond the cache of 128 tokens"):
            asked.complete("x" * 100, max_tokens=28)
        assert asked.complete("x" * 100, max_tokens=27).usage.total_tokens == 128
        assert asked.idle()['heedful_rejected_total{code="context_length_exceeded"}'] == 1


def test_keys(serve):
    with serve(keys=(b"first", b"s\xc3\xa9cond")) as asked:
        assert asked.complete(max_tokens=2).usage.completion_tokens == 2
        assert httpx.get(f"{asked.url}/health").status_code == 200
        for headers in (
            {},
            {"authorization": "Bearer no"},
            {"authorization": "first"},
            {"authorization": "Basic first"},
        ):
            for path in ("/v1/models", "/metrics", "/v1/completions"):
                answer = httpx.get(asked.url + path, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        second = {b"authorization": "Bearer sécond".encode()}
        assert httpx.get(f"{asked.url}/v1/models", headers=second).status_code == 200
        assert asked.metrics()['heedful_rejected_total{code="invalid_api_key"}'] == 12


def test_full_queue(serve, meanwhile, until):
    with serve(max_queue=2) as asked:
        with asked.engine.pause():
            waiting = [meanwhile(lambda: asked.complete(max_tokens=5)) for _ in range(2)]
            until(lambda: len(asked.server.generations) == 2)
            with pytest.raises(openai.RateLimitError) as error:
                asked.complete(max_tokens=5)
            assert error.value.code == "queue_full"
            assert error.value.response.headers["retry-after"] == "1"
        assert [answer().usage.completion_tokens for answer in waiting] == [5, 5]
        assert asked.idle()['heedful_rejected_total{code="queue_full"}'] == 1


def test_timeout_frees_the_slots(serve, monkeypatch):
    with serve(request_timeout=0.3) as asked:
        with asked.engine.pause():
            with pytest.raises(openai.InternalServerError) as error:
                asked.complete(max_tokens=50)
            assert (error.value.status_code, error.value.code) == (504, "timeout")
            with pytest.raises(openai.APIError, match="longer than"):
                list(asked.complete(max_tokens=50, stream=True))
        assert asked.idle()['heedful_generations_total{how="failed"}'] == 2
        monkeypatch.setattr(asked.server.generations, "_limits", Limits())  # with all the time it needs
        assert asked.complete(max_tokens=5).usage.completion_tokens == 5


def test_client_that_leaves_in_mid_stream_frees_its_slots(asked, endless, until):
    before = asked.idle()
    with asked.complete(endless, max_tokens=450, stream=True) as stream:
        next(iter(stream))
        with asked.engine.pause():
            stream.close()
            until(lambda: len(asked.server.generations) == 0)
    after = asked.idle()
    cancelled = 'heedful_generations_total{how="cancelled"}'
    assert after[cancelled] == before[cancelled] + 1
    assert after["heedful_generated_tokens_total"] - before["heedful_generated_tokens_total"] < 450
    asked.complete(max_tokens=2)
    router = asked.engine.output_router
    assert not router.result_handlers and router.output_queue.empty()


def test_client_that_leaves_without_streaming_frees_its_slots(asked, until):
    before, url = asked.idle(), httpx.URL(asked.url)
    gone = 'heedful_requests_total{path="/v1/completions",status="disconnected"}'
    body = b'{"prompt": "a", "max_tokens": 400}'
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(body)}"
    with asked.engine.pause():
        with socket.create_connection((url.host, url.port)) as client:
            client.sendall(f"{head}\r\nContent-Type: application/json\r\n\r\n".encode() + body)
            until(lambda: len(asked.server.generations) == 1)
        until(lambda: len(asked.server.generations) == 0)
    until(lambda: asked.metrics().get(gone, 0) == before.get(gone, 0) + 1)
    asked.idle()


def test_stop_lets_what_runs_end(serve, meanwhile):
    with serve() as asked:
        streams = [asked.complete(prompt, max_tokens=200, stream=True) for prompt in "abcdef"]
        readers = [meanwhile(lambda stream=stream: list(stream)) for stream in streams]
        url = asked.url
    ends = [reader()[-1] for reader in readers]
    assert {end.choices[0].finish_reason for end in ends} <= {"length", "stop"}
    assert all(end.usage.completion_tokens == 200 for end in ends if end.choices[0].finish_reason == "length")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_stop_that_does_not_wait_fails_what_runs_in_one_piece(folder, meanwhile, until):
    settings = Settings(str(folder), "tiny", limits=Limits(drain_timeout=0), num_blocks=40)
    with started(settings, print) as server:
        with server.generations._engine.pause(), in_background(server) as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
            ask = partial(client.completions.create, model="tiny", prompt="a")
            whole = meanwhile(lambda: _error(ask))
            stream = meanwhile(lambda: _error(lambda: list(ask(stream=True))))
            until(lambda: len(server.generations) == 2)
        assert (whole().status_code, whole().code) == (503, "stopping")
        assert stream().code == "stopping" and "before the answer was complete" in stream().message


def _error(work):
    with pytest.raises(openai.APIError) as error:
        work()
    return error.value


def test_engine_that_fails_ends_what_runs_and_is_told(serve, monkeypatch, until):
    with serve() as asked:
        broken = asked.server.scheduler
        monkeypatch.setattr(broken, "schedule_batch", lambda *_: 1 / 0)
        assert _error(asked.complete).code == "engine_failed"
        until(lambda: httpx.get(f"{asked.url}/health").status_code == 503)
        later = _error(asked.complete)
        assert (later.status_code, later.code) == (503, "engine_failed")
        assert "ZeroDivisionError" not in later.message
        assert len(asked.server.generations) == 0


def test_failure_inside_the_server_tells_the_client_nothing(asked, monkeypatch):
    monkeypatch.setattr(asked.server.served.tokenizer, "apply_chat_template", lambda *_, **__: 1 / 0)
    said = [{"role": "user", "content": "a"}]
    error = _error(lambda: asked.client.chat.completions.create(model="tiny", messages=said))
    assert (error.status_code, error.code) == (500, "internal_error")
    assert "zero" not in error.message
