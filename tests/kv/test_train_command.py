"""``heedful kv train``: parts from a file of prompts, interruptions, and how it refuses."""

import json
import shutil
import signal

import numpy as np
import pytest
import torch

from heedful import models
from heedful.cli import main
from heedful.kv.commands import loading, train
from heedful.kv.parts import load
from heedful.kv.policies import make
from heedful.lab import console
from heedful.models import tasks

LOOKAHEAD = ("--tokens", 3, "--rank", 2, "--answer-tokens", 2, "--batch", 4, "--steps", 5)
GATE = ("--heads", 1, "--size", 4, "--batch", 2, "--steps", 5)
KINDS = {"lookahead": LOOKAHEAD, "gate": GATE}


@pytest.fixture(scope="module")
def examples():
    """Eight short items with their answers."""
    items = tasks.sample("niah1", np.random.default_rng(0), 8, 32)
    cuts = [(item.tokens[: item.prompt_length], item.tokens[item.prompt_length :]) for item in items]
    return [{"prompt": tasks.decode(prompt), "answer": tasks.decode(answer)} for prompt, answer in cuts]


@pytest.fixture
def folder(tmp_path):
    """A model in a folder of its own."""
    return shutil.copytree(models.path("task-mini-1"), tmp_path / "model")


@pytest.fixture
def call(capsys, tmp_path, monkeypatch, examples):
    """``call(kind, *words, lines=)``: exit status, standard output and standard error, with these lines of data."""
    monkeypatch.chdir(tmp_path)

    def run(kind, *words, lines=examples):
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / "d.jsonl").write_text("\n".join(texts), encoding="utf-8")
        given = ("kv", "train", kind, "--model", "./model", "--data", "d.jsonl", "--threads", 1, *words)
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in given])
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_trained_where_their_policy_finds_them(call, folder, kind):
    status, out, err = call(kind, *KINDS[kind])
    assert (status, err) == (0, "")
    policy = {"lookahead": "lookaheadkv", "gate": "attention-gate"}[kind]
    assert out.startswith(f"model/{kind}.safetensors: ") and out.endswith(f"use it as --policies {policy}\n")
    assert [path.name for path in folder.glob(f"{kind}*")] == [f"{kind}.safetensors"]
    model = loading.load(loading.find(str(folder)), "auto", torch.device("cpu"))
    make(policy, 20).attach(model)
    parts = load(folder / f"{kind}.safetensors", kind)
    assert parts.settings["batch"] == {"lookahead": 4, "gate": 2}[kind]
    if kind == "lookahead":
        assert parts.tensors["embeddings"].shape == (3, model.config.hidden_size)
    else:
        assert parts.settings["trained_steps"] == 5


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_saves_and_the_same_command_goes_on(call, folder, tmp_path, monkeypatch, kind):
    status, _, _ = call(kind, *KINDS[kind], "--out", "whole")
    assert status == 0
    told = []
    show = console.Progress.__call__

    def press(bar, done, total, **more):
        told.append(done)
        show(bar, done, total, **more)
        if len(told) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(console.Progress, "__call__", press)
    status, out, err = call(kind, *KINDS[kind], "--out", "parts")
    assert (status, out) == (130, "")
    assert err.splitlines() == [
        "stopping after this step; again to stop at once",
        "interrupted; the training is saved in parts.state, and the same command goes on",
    ]
    assert (tmp_path / "parts.state").exists() and not (tmp_path / "parts").exists()
    status, out, err = call(kind, *KINDS[kind], "--out", "parts")
    assert (status, err) == (0, "going on from parts.state\n")
    assert told[3:] == {"lookahead": [2, 3, 4, 5], "gate": [4, 5]}[kind]
    assert not (tmp_path / "parts.state").exists()
    whole, broken = (load(tmp_path / name, kind) for name in ("whole", "parts"))
    assert all(torch.equal(x, broken.tensors[name]) for name, x in whole.tensors.items())


def test_parts_of_a_shipped_model_go_into_the_current_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = loading.find("task-mini-1")
    place = train._place(None, source, "gate.safetensors")
    assert place.absolute() == tmp_path / "gate.safetensors"
    train._tell("attention-gate", source, place, "gate.safetensors", "done")
    assert capsys.readouterr().out.endswith("use it as --policies attention-gate:parts=gate.safetensors\n")


def test_gates_learn_from_text_or_from_answers():
    said = loading.Text(loading.Prompt(3, ("a",), 1, "b"), torch.tensor([4, 5]), (2,), torch.tensor([6]))
    tokens, counts = train._judged(said)
    assert tokens.tolist() == [4, 5, 6] and counts.tolist() == [False, False, True]
    tokens, counts = train._judged(loading.Text(said.prompt, torch.tensor([4, 5, 6]), (3,), None))
    assert tokens.tolist() == [4, 5, 6] and counts.tolist() == [False, True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_minutes_end_a_training(call, folder, monkeypatch, kind):
    told = []
    monkeypatch.setattr(console.Progress, "__call__", lambda bar, done, total, **more: told.append((done, total)))
    status, _, err = call(kind, *KINDS[kind][:-2], "--minutes", 0.02)
    assert (status, err) == (0, "")
    assert {total for _, total in told} == {1} and told == sorted(told)


def test_minutes_are_counted_over_breaks(tmp_path):
    torch.save({"seconds": 30.0}, tmp_path / "state")
    told = []
    report = train._by_the_clock(lambda *x: told.append(x), 1.0, tmp_path / "state")
    report(7, train.MANY, 0.5)
    (tmp_path / "state").unlink()
    report(8, train.MANY, 0.25)
    assert told == [(30, 60, 0.5), (30, 60, 0.25)]


REFUSED = {
    "bad JSON": ("lookahead", ['{"prompt": "<bos> K1"}', "{"], (), "--data d.jsonl, line 2: not JSON"),
    "no prompt": ("lookahead", [{"text": "<bos>"}], (), 'line 1: has no "prompt"; write {"prompt": "..."}'),
    "empty": ("lookahead", [""], (), "--data d.jsonl: holds no prompt"),
    "not words": ("lookahead", [{"prompt": "Hello"}], (), "prompt in line 1: the tokenizer of ./model cannot encode"),
    "no answer": ("gate", [{"prompt": "<bos> K1"}], (), 'line 1: has no "answer"'),
    "no text": ("gate", [{"words": "<bos> K1"}], (), 'line 1: has no "text"; write {"text": "..."}, or'),
    "one token": ("gate", [{"text": "<bos>"}], (), "--data, line 1: has no token to be predicted"),
    "prompt gates without prompts": (
        "gate", [{"text": "<bos> K1 K2"}], ("--context", "prompt"), "with --context prompt only answers can be judged",
    ),
    "unknown context": ("gate", None, ("--context", "all"), "context='all': must be 'prefix' or 'prompt'"),
    "steps and minutes": ("gate", None, ("--steps", 3, "--minutes", 1), "not both"),
    "steps and minutes, lookahead": ("lookahead", None, ("--steps", 3, "--minutes", 1), "not both"),
    "negative minutes": ("lookahead", None, ("--minutes", -1), "minutes=-1.0: must be a number above 0"),
    "negative minutes, gate": ("gate", None, ("--minutes", -1), "minutes=-1.0: must be a number > 0"),
    "no such model": ("lookahead", None, ("--model", "./nowhere"), "--model ./nowhere: no such folder"),
    "no such data": ("lookahead", None, ("--data", "nowhere.jsonl"), "--data nowhere.jsonl: No such file"),
    "out is a folder": ("gate", None, ("--out", "model"), "--out model: is a folder; name a file in it"),
    "out cannot be": ("gate", None, ("--out", "d.jsonl/parts"), "cannot write to d.jsonl"),
    "out is there": ("gate", None, ("--out", "d.jsonl"), "--out d.jsonl: is there already"),
    "unknown dtype": ("lookahead", None, ("--dtype", "int8"), "--dtype 'int8'"),
    "no such device": ("lookahead", None, ("--device", "gpu"), "--device 'gpu': not a device"),
    "no template": ("gate", [{"text": "<bos> K1 K2"}], ("--chat",), None),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "lines", "words", "part"), REFUSED.values(), ids=REFUSED)
def test_bad_usage_is_one_line_before_weights_are_loaded(call, examples, folder, monkeypatch, kind, lines, words, part):
    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("loaded the weights"))
    if part is None:
        (folder / "chat_template.jinja").unlink()
        part = "--chat: the tokenizer of ./model has no chat template"
    status, out, err = call(kind, *words, lines=lines or examples)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and part in err


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_training_of_another_kind_is_refused(call, folder, tmp_path, kind):
    (tmp_path / "parts.state").write_bytes(b"not a state")
    status, out, err = call(kind, *KINDS[kind], "--out", "parts")
    assert (status, out) == (2, "")
    assert err.splitlines()[0] == "going on from parts.state"
    assert "parts.state" in err.splitlines()[1] and "cannot be read" in err and err.count("\n") == 2


def test_parts_of_another_model_are_refused_where_they_are_used(call, folder, capsys, tmp_path):
    status, _, _ = call("lookahead", *LOOKAHEAD, "--out", "parts.safetensors")
    assert status == 0
    words = ["kv", "show", "--model", "task-1", "--policy", "lookaheadkv:parts=parts.safetensors"]
    with pytest.raises(SystemExit) as end:
        main(words)
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.count("\n") == 1
    assert "these lookahead parts were trained for model, not for task-1" in err
    whole = (tmp_path / "parts.safetensors").read_bytes()
    (tmp_path / "parts.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit) as end:
        main(words)
    err = capsys.readouterr().err
    assert end.value.code == 2 and "cannot be read, perhaps cut short" in err and err.count("\n") == 1
