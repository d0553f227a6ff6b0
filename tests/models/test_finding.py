"""A model that is named is found without waiting for a hub that does not answer."""

from __future__ import annotations

import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

import heedful.models
from heedful.models import Found, find


class _Nothing(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, which holds the model ``me/mine`` and no other."""
    folder = tmp_path / "cache" / "models--me--mine"
    shutil.copytree(heedful.models.path("byte-1"), folder / "snapshots" / "abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder.parent))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return folder.parent


@pytest.fixture
def closed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a hub that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    return address


def test_shipped_models_and_folders_need_no_hub(closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find("byte-1") == Found(str(heedful.models.path("byte-1")), local=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert find("owner/name") == Found("owner/name", local=True)
    with pytest.raises(ValueError, match=r"^model \./nowhere: no such folder$"):
        find("./nowhere")
    for nothing in ("", " "):
        with pytest.raises(ValueError, match=r"^model: no name, folder or id is given$"):
            find(nothing)
    with pytest.raises(ValueError, match=r"^model ~nobody/x: no such folder$"):
        find("~nobody/x")
    with pytest.raises(ValueError, match=r"^model a/b/c: no such folder, and no id of the hub, which is OWNER/NAME$"):
        find("a/b/c")


def test_unknown_model_without_a_hub_is_one_line_that_says_where_it_was_looked_for(closed: str, cache: Path) -> None:
    with pytest.raises(ValueError) as error:
        find("nobody/nothing")
    told = str(error.value)
    assert told.startswith("model nobody/nothing: is no shipped model (byte-1, ")
    assert f"no folder, not in the hub's cache ({cache}), and {closed} does not answer (" in told
    assert "refused" in told and told.endswith("): connect to a network, or give a folder") and "\n" not in told


def test_hub_that_says_nothing_is_waited_for_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ValueError, match=r"does not answer \("):
            find("nobody/nothing")


def test_model_in_the_cache_is_taken_from_there_if_the_hub_does_not_answer(closed: str) -> None:
    import torch

    from heedful.serving.server.loading import load

    assert find("me/mine") == Found("me/mine", local=True)
    model, tokenizer = load("me/mine", "auto", torch.device("cpu"))
    assert model.config.model_type == "llama" and tokenizer.is_fast


def test_hub_that_must_not_be_asked_is_not(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find("me/mine") == Found("me/mine", local=True)
    with pytest.raises(ValueError, match=r"HF_HUB_OFFLINE forbids to ask the hub: unset it, or give a folder$"):
        find("nobody/nothing")


def test_hub_that_answers_is_left_to_its_own_client(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), _Nothing) as hub:
        threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{hub.server_address[1]}")
        try:
            assert find("nobody/nothing") == Found("nobody/nothing", local=False)
            assert find("me/mine") == Found("me/mine", local=False)
        finally:
            hub.shutdown()
