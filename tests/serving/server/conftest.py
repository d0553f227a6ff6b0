"""A server over loopback, with a tiny model, and how the tests of this folder ask it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import re
import shutil
import threading
import time
from contextlib import contextmanager
from functools import partial

import httpx
import openai
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from heedful import models
from heedful.serving.server import Limits, Settings, in_background, started

torch.set_num_threads(1)

PATIENCE_S = 60.0
"""How long what must come about may take, on a machine that is busy."""


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def serve(folder):
    """``serve(**changes)``: a server on a free port, and how to ask it, while a context lasts."""
    return partial(serving, folder)


@contextmanager
def serving(folder, **changes):
    limits = Limits(**{name: changes.pop(name) for name in list(changes) if name in Limits.__dataclass_fields__})
    notices = changes.pop("notices", [])
    settings = Settings(
        **{"model": str(folder), "name": "tiny", "num_blocks": 40, "dtype": "float64", "limits": limits, **changes}
    )
    with started(settings, notices.append) as server, in_background(server) as url:
        yield Asked(server, url)


class Asked:
    """A server that runs, and ways to ask it."""

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
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            found = self.metrics()
            if not any(found[f"heedful_{name}"] for name in ("in_flight", "running", "waiting", "occupied_tokens")):
                return found
            time.sleep(0.05)
        raise AssertionError(f"still busy: {found}")


@pytest.fixture(scope="session")
def asked(serve):
    """A server that all tests may ask, and none may spoil."""
    with serve() as found:
        yield found


@pytest.fixture(scope="session")
def plain_answers(folder):
    """``plain_answers(prompt, caps)``: text and length of plain greedy generation, for each cap."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def call(prompt, caps):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=max(caps), do_sample=False)
        new = whole[0, ids.shape[1] :]
        return {cap: (tokenizer.decode(new[:cap], skip_special_tokens=True), len(new[:cap])) for cap in caps}

    return call


@pytest.fixture(scope="session")
def endless(plain_answers):
    """A prompt whose answer has no end within 450 tokens."""
    return next(prompt for prompt in "abcdefgh" if plain_answers(prompt, [450])[450][1] == 450)


@pytest.fixture(scope="session")
def until():
    """``until(condition)``: waits for it."""

    def call(condition):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if condition():
                return
            time.sleep(0.01)
        raise AssertionError("it did not come about")

    return call


@pytest.fixture
def meanwhile():
    """``meanwhile(work)``: does it in a thread, and gives a function that waits for what it returns."""
    threads = []

    def call(work):
        results = []
        thread = threading.Thread(target=lambda: results.append(work()))
        thread.start()
        threads.append(thread)

        def result():
            thread.join()
            return results[0]

        return result

    yield call
    for thread in threads:
        thread.join()
