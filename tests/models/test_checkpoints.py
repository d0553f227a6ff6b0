"""What is shipped loads, tokenizes without loss, and knows its tasks."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import heedful.models
from heedful.models import checkpoints, tasks, text

TASK_MODELS = [name for name in heedful.models.names() if name.startswith("task")]


def test_the_package_needs_numpy_alone() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'tokenizers', 'safetensors', 'polars', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "import heedful.models\n"
        "print(*heedful.models.names(), heedful.models.digest('task-mini-1'))\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == [*heedful.models.names(), heedful.models.digest("task-mini-1")]


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    for call in (heedful.models.path, heedful.models.digest, heedful.models.load):
        with pytest.raises(ValueError, match=r"unknown checkpoint 'task-9'; shipped: .*task-mini-1"):
            call("task-9")


def test_the_digest_covers_the_weights_and_not_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(heedful.models.path("task-mini-1"), tmp_path / "copy")
    before = heedful.models.digest("task-mini-1")
    monkeypatch.setattr(checkpoints, "_SHIPPED", tmp_path)
    assert heedful.models.names() == ("copy",)
    (tmp_path / "copy" / "card.json").write_text("{}")
    assert heedful.models.digest("copy") == before
    weights = tmp_path / "copy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert heedful.models.digest("copy") != before
    assert len(before) == len(hashlib.sha256().hexdigest())


@pytest.mark.parametrize("name", heedful.models.names())
def test_checkpoints_are_small_float32_llamas_with_a_card(name: str) -> None:
    model, tokenizer = heedful.models.load(name)
    folder = heedful.models.path(name)
    card = json.loads((folder / "card.json").read_text())
    assert sum(p.numel() for p in model.parameters()) == card["parameters"]
    assert {str(p.dtype) for p in model.parameters()} == {"torch.float32"}
    assert not model.training and model.config.model_type == "llama"
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert (folder / "model.safetensors").stat().st_size < 8e6
    assert tokenizer.pad_token_id == model.config.pad_token_id
    assert tokenizer.bos_token_id == model.config.bos_token_id
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert card["name"] == name and card["steps"] > 1000


@pytest.mark.parametrize("name", TASK_MODELS)
def test_task_tokenizers_invert_decode(name: str) -> None:
    _, tokenizer = heedful.models.load(name)
    for task in tasks.names():
        item = tasks.sample(task, np.random.default_rng(0), 1, 160)[0]
        written = tasks.decode(item.tokens)
        assert tokenizer(written)["input_ids"] == item.tokens.tolist()
        assert tokenizer.decode(item.tokens) == written


@pytest.mark.parametrize("name", TASK_MODELS)
def test_task_models_recall(name: str) -> None:
    model, _ = heedful.models.load(name)
    rng = np.random.default_rng(1)
    for task in ("recall", "mk1", "ledger-spoken"):
        assert heedful.models.accuracy(model, tasks.sample(task, rng, 16, 128)) > 0.95


def test_generate_answers_and_stops() -> None:
    model, tokenizer = heedful.models.load("task-mini-1")
    chat = [{"role": "user", "content": "; K3 V4 V5 ; F1 F2 ; K9 V7 V1 ; F0 <q> K3"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "V4 V5 <eos>"


def test_accuracy_does_not_depend_on_batching() -> None:
    model, _ = heedful.models.load("task-mini-1")
    items = [tasks.sample(task, np.random.default_rng(2), 3, n) for task, n in (("mk2", 90), ("repeat", 60))]
    flat = [item for group in items for item in group]
    alone, together = (heedful.models.correct(model, flat, batch_size=size) for size in (1, 4))
    for item, one, many in zip(flat, alone, together):
        assert np.array_equal(one, many)
        assert one.shape == item.tokens.shape and not one[~item.scored].any()
    with pytest.raises(ValueError, match="batch_size"):
        heedful.models.correct(model, flat, batch_size=0)
    with pytest.raises(ValueError, match="at least one item"):
        heedful.models.accuracy(model, [])


needs_byte_model = pytest.mark.skipif("byte-1" not in heedful.models.names(), reason="byte-1 is not shipped yet")


@pytest.fixture(scope="module")
def byte_tokenizer():
    return heedful.models.load("byte-1")[1]


@needs_byte_model
@settings(max_examples=100)
@given(written=st.text())
def test_the_byte_tokenizer_loses_nothing(byte_tokenizer, written: str) -> None:
    ids = byte_tokenizer(written, add_special_tokens=False)["input_ids"]
    assert ids == list(written.encode())
    assert byte_tokenizer.decode(ids) == written
    assert byte_tokenizer(written)["input_ids"] == [text.BOS, *ids]


@needs_byte_model
def test_the_byte_model_knows_python() -> None:
    import torch

    model, _ = heedful.models.load("byte-1")
    chunks = torch.from_numpy(text.stdlib_bytes("held-out", np.random.default_rng(3), 8, 256))
    with torch.no_grad():
        loss = model(input_ids=chunks, labels=chunks).loss.item()
    assert loss / np.log(2) < 2.5
