"""The server over loopback, asked by OpenAI's own client."""

import asyncio
import json
import re
import shutil
import threading
import time
from contextlib import ExitStack, contextmanager

import httpx
import openai
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from heedful import models
from heedful.serving.server.limits import Limits
from heedful.serving.server.run import Settings, in_background, started

torch.set_num_threads(1)
SCHEDULERS = ("fifo", "aggressive:watermark=1.0", "past-future")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama over bytes in float64, in which every byte is a token, so that answers are rarely valid UTF-8."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=512, initializer_range=0.5,
        bos_token_id=257, eos_token_id=258, pad_token_id=256,
    )  # fmt: skip
    target = tmp_path_factory.mktemp("model") / "tiny"
    LlamaForCausalLM(config).double().save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(models.path("byte-1") / name, target / name)
    return target


@contextmanager
def serving(folder, **changes):
    """A server on a free port, and how to ask it."""
    limits = Limits(**{name: changes.pop(name) for name in list(changes) if name in Limits.__dataclass_fields__})
    notices = changes.pop("notices", [])
    settings = Settings(
        **{"model": str(folder), "name": "tiny", "num_blocks": 40, "dtype": "float64", "limits": limits, **changes}
    )
    with started(settings, notices.append) as server, in_background(server) as url:
        yield Asked(server, url)


class Asked:
    def __init__(self, server, url):
        self.server, self.url = server, url
        self.key = settings.keys[0].decode() if (settings := server.settings).keys else "none"
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key=self.key, max_retries=0, timeout=60)
        self.engine = server.generations._engine

    def post(self, path="/v1/completions", **body):
        return httpx.post(self.url + path, json=body, timeout=60)

    def complete(self, prompt="def main(", **options):
        return self.client.completions.create(model="tiny", prompt=prompt, **options)

    def metrics(self):
        text = httpx.get(f"{self.url}/metrics", headers={"authorization": f"Bearer {self.key}"}).text
        return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)}

    def idle(self):
        """The metrics, when nothing runs any more."""
        for _ in range(200):
            found = self.metrics()
            if not any(found[f"heedful_{name}"] for name in ("in_flight", "running", "waiting", "occupied_tokens")):
                return found
            time.sleep(0.05)
        raise AssertionError(f"still busy: {found}")


@pytest.fixture(scope="module")
def asked(folder):
    with serving(folder) as found:
        yield found


def plain_answers(folder, prompt, caps):
    """Texts and lengths of plain greedy generation, for each cap."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=max(caps), do_sample=False)
    new = whole[0, ids.shape[1] :]
    return {cap: (tokenizer.decode(new[:cap], skip_special_tokens=True), len(new[:cap])) for cap in caps}


def test_completion_with_and_without_streaming_equals_plain_generation(asked, folder):
    expected, _ = plain_answers(folder, "def main(", [40])[40]
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


def test_default_cap(asked):
    endless = [answer for answer in map(asked.complete, "abcd") if answer.choices[0].finish_reason == "length"]
    assert {answer.usage.completion_tokens for answer in endless} == {256}
    near_the_end = asked.complete("x" * 500)
    assert near_the_end.usage.completion_tokens == 512 - 501


def test_sampling_is_each_requests_own(asked):
    greedy = asked.complete(max_tokens=30).choices[0].text
    with ExitStack() as stack:
        others = [
            stack.enter_context(_thread(lambda: asked.complete(max_tokens=60, temperature=2.0))) for _ in range(4)
        ]
        assert asked.complete(max_tokens=30, temperature=0, seed=7).choices[0].text == greedy
        assert asked.complete(max_tokens=30, temperature=1.0, top_p=1e-9).choices[0].text == greedy
    assert len({other.result.choices[0].text for other in others}) == 4


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
        ("completions", {"prompt": "a", "stop": "b"}, "unsupported_field", "stop"),
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
    url = f"{asked.url}/v1/completions"
    for content in (b"", b"{", b"[" * 100_000, b"\xff\xfe"):
        assert httpx.post(url, content=content).json()["error"]["code"] == "invalid_json"
    assert httpx.post(url, content=b"[]").json()["error"]["code"] == "invalid_body"
    assert httpx.post(url, content=b"x" * (2**20 + 1)).status_code == 413
    chunked = httpx.post(url, content=(b"x" * 2**16 for _ in range(17)))
    assert (chunked.status_code, chunked.json()["error"]["code"]) == (413, "body_too_large")


def test_neutral_values_are_accepted(asked):
    answer = asked.complete(
        max_tokens=2, n=1, best_of=1, echo=False, frequency_penalty=0.0, presence_penalty=0, logit_bias={}, user="me"
    )
    assert answer.usage.completion_tokens == 2


def test_more_than_the_cache_holds_is_refused_at_once(folder):
    with serving(folder, num_blocks=8) as asked:
        with asked.engine.pause(), pytest.raises(openai.BadRequestError, match="beyond the cache of 128 tokens"):
            asked.complete("x" * 100, max_tokens=28)
        assert asked.complete("x" * 100, max_tokens=27).usage.total_tokens == 128
        assert asked.idle()['heedful_rejected_total{code="context_length_exceeded"}'] == 1


def test_text_that_spells_control_tokens_stays_text(asked):
    def prompt_tokens(text):
        answer = asked.post("/v1/chat/completions", messages=[{"role": "user", "content": text}], max_tokens=1)
        return answer.json()["usage"]["prompt_tokens"]

    assert prompt_tokens("<|eos|>") == prompt_tokens("1234567")


def test_model_without_chat_template(folder, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "chat_template.jinja").unlink()
    with serving(bare) as asked:
        with pytest.raises(openai.BadRequestError, match="/v1/completions") as error:
            asked.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a"}])
        assert error.value.code == "no_chat_template"
        assert asked.complete(max_tokens=3).usage.completion_tokens == 3


def test_messages_that_the_template_refuses(folder, tmp_path):
    strict = tmp_path / "strict"
    shutil.copytree(folder, strict)
    (strict / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with serving(strict) as asked, pytest.raises(openai.BadRequestError, match="roles must alternate"):
        asked.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a"}])


def test_greedy_server_refuses_to_sample(folder):
    with serving(folder, greedy=True) as asked:
        assert asked.complete(max_tokens=3).usage.completion_tokens == 3
        with pytest.raises(openai.BadRequestError, match="greedy"):
            asked.complete(max_tokens=3, temperature=1)


def test_keys(folder):
    with serving(folder, keys=(b"first", b"s\xc3\xa9cond")) as asked:
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


def test_full_queue(folder):
    with serving(folder, max_queue=2) as asked:
        with ExitStack() as stack, asked.engine.pause():
            waiting = [stack.enter_context(_thread(lambda: asked.complete(max_tokens=5))) for _ in range(2)]
            _until(lambda: len(asked.server.generations) == 2)
            with pytest.raises(openai.RateLimitError) as error:
                asked.complete(max_tokens=5)
            assert error.value.code == "queue_full"
            assert error.value.response.headers["retry-after"] == "1"
        assert [other.result.usage.completion_tokens for other in waiting] == [5, 5]
        assert asked.idle()['heedful_rejected_total{code="queue_full"}'] == 1


def test_timeout_frees_the_slots(folder):
    with serving(folder, request_timeout=0.3) as asked:
        with asked.engine.pause():
            with pytest.raises(openai.InternalServerError) as error:
                asked.complete(max_tokens=50)
            assert (error.value.status_code, error.value.code) == (504, "timeout")
            with pytest.raises(openai.APIError, match="longer than"):
                list(asked.complete(max_tokens=50, stream=True))
        assert asked.idle()['heedful_generations_total{how="failed"}'] == 2
        assert asked.complete(max_tokens=5).usage.completion_tokens == 5


def test_client_that_leaves_in_mid_stream_frees_its_slots(asked):
    before = asked.idle()
    with asked.complete(max_tokens=400, stream=True) as stream:
        next(iter(stream))
    after = asked.idle()
    cancelled = 'heedful_generations_total{how="cancelled"}'
    assert after[cancelled] == before[cancelled] + 1
    assert after["heedful_generated_tokens_total"] - before["heedful_generated_tokens_total"] < 400
    assert not asked.engine.output_router.result_handlers


def test_client_that_leaves_without_streaming_frees_its_slots(asked):
    before = asked.idle()
    with asked.engine.pause():
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{asked.url}/v1/completions", json={"prompt": "a", "max_tokens": 400}, timeout=0.3)
        _until(lambda: len(asked.server.generations) == 0)
    after = asked.idle()
    gone = 'heedful_requests_total{path="/v1/completions",status="disconnected"}'
    assert after[gone] == before.get(gone, 0) + 1


def test_metrics_count_and_time(folder):
    with serving(folder) as asked:
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


def test_load(folder):
    """A hundred clients at once, some of which leave and some of which talk nonsense, under each scheduler."""
    prompts = [f"def f{i}(" + "x" * (7 * i) for i in range(10)]
    caps = [10 + 5 * (i % 7) for i in range(70)]
    plain = [plain_answers(folder, prompt, set(caps)) for prompt in prompts]
    expected = [plain[i % 10][cap] for i, cap in enumerate(caps)]
    for scheduler in SCHEDULERS:
        with serving(folder, scheduler=scheduler, num_blocks=24) as asked:
            answers = asyncio.run(_crowd(asked.url, prompts, caps))
            after = asked.idle()
            history = asked.server.scheduler.history
        assert after['heedful_generations_total{how="finished"}'] == 70
        assert after['heedful_generations_total{how="failed"}'] == 0
        assert (
            sum(after.get(f'heedful_requests_total{{path="/v1/completions",status="{s}"}}', 0) for s in ("400", "404"))
            == 15
        )
        assert answers == expected, scheduler
        if history is not None:
            assert sorted(history.values[-70:]) == sorted(length for _, length in expected)
        if scheduler.startswith("aggressive"):
            assert after["heedful_evictions_total"] > 0


async def _crowd(url, prompts, caps):
    """The answers and their lengths of the clients that wait for them, in order."""
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)

    async def whole(i):
        options = {"model": "tiny", "prompt": prompts[i % 10], "max_tokens": caps[i]}
        if i % 2:
            answer = await client.completions.create(**options)
            return answer.choices[0].text, answer.usage.completion_tokens
        text, usage = "", None
        async for chunk in await client.completions.create(**options, stream=True):
            text, usage = text + chunk.choices[0].text, chunk.usage
        return text, usage.completion_tokens

    async def leaving(i):
        options = {"model": "tiny", "prompt": prompts[i % 10], "max_tokens": 250}
        if i % 2:
            stream = await client.completions.create(**options, stream=True)
            await anext(aiter(stream))
            await stream.close()
        else:
            with pytest.raises(openai.APITimeoutError):
                await client.with_options(timeout=0.2).completions.create(**options)

    async def malformed(i):
        wrong = [{"max_tokens": -1}, {"prompt": 3}, {"what": 1}, {"max_tokens": 10_000}, {"model": "other"}][i % 5]
        with pytest.raises(openai.APIStatusError) as error:
            await client.completions.create(**{"model": "tiny", "prompt": "a", "extra_body": wrong})
        assert error.value.status_code in (400, 404)

    async with client:
        work = [whole(i) for i in range(70)] + [leaving(i) for i in range(15)] + [malformed(i) for i in range(15)]
        work = [work[i * 37 % 100] for i in range(100)]
        done = await asyncio.wait_for(asyncio.gather(*work), 120)
    return [done[i * 73 % 100] for i in range(70)]


def _until(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come about")


@contextmanager
def _thread(work):
    """Does the work in a thread; its result is there when the context has ended."""

    class Done:
        result = None

    done = Done()
    thread = threading.Thread(target=lambda: setattr(done, "result", work()))
    thread.start()
    yield done
    thread.join()
