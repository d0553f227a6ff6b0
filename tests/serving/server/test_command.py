"""``heedful serve`` as a process: how it starts, what it prints, how it is refused, and how it stops."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import openai
import pytest

from heedful.cli import main
from heedful.serving.server import history_file

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
COMMAND = [sys.executable, "-c", "from heedful.cli import main; main()", "serve"]


@pytest.fixture
def start():
    """``start(*options)``: a server in a process of its own, the lines that it printed, and its URL."""
    running = []

    def call(*options):
        process = subprocess.Popen(
            [*COMMAND, "--port", "0", *map(str, options)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip
        running.append(process)
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("try"):
                break
        assert lines, process.stderr.read()
        return process, lines, re.search(r"http://[\d.:]+", "\n".join(lines))[0]

    yield call
    for process in running:
        process.kill()
        process.communicate()


def stop(process, how=signal.SIGTERM):
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def test_shipped_model_from_start_to_stop(start, tmp_path):
    history = tmp_path / "history.json"
    history.write_text("{damaged")
    process, lines, url = start("--history", history, "--window", 10)
    assert lines[0] == "model      byte-1, float32 on cpu"
    assert lines[1] == "cache      16,384 tokens in 1,024 blocks of 16"
    assert lines[2] == f"scheduler  past-future, history in {history}"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    said = [{"role": "user", "content": "import os\n"}]
    whole = client.chat.completions.create(model="byte-1", messages=said, max_tokens=20)
    chunks = client.chat.completions.create(model="byte-1", messages=said, max_tokens=20, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    answer = subprocess.run(["sh", "-c", lines[4].removeprefix("try").strip()], capture_output=True, text=True)
    assert json.loads(answer.stdout)["usage"]["completion_tokens"] == 32
    code, err = stop(process)
    assert code == 0
    assert err.startswith("warning: ") and f"it is kept as {history}.damaged-1" in err and err.count("\n") == 1
    assert (tmp_path / "history.json.damaged-1").read_text() == "{damaged"
    assert history_file.read(history)[-3:] == (20, 20, 32)


def test_second_signal_does_not_wait(start):
    process, _, url = start("--drain-timeout", 50, "--greedy")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    chunks = iter(client.completions.create(model="byte-1", prompt="def f(", max_tokens=2000, stream=True))
    next(chunks)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(openai.APIError, match="before the answer was complete"):
        list(chunks)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def test_history_goes_on_where_it_ended(serve, tmp_path):
    history = tmp_path / "history.json"
    for expected in ((4, 3), (4, 3, 2)):
        notices = []
        with serve(history=history, window=5, notices=notices, max_output=10, default_max_tokens=10) as asked:
            if len(expected) == 2:
                asked.complete(max_tokens=4)
                asked.complete(max_tokens=3)
            else:
                assert asked.metrics()["heedful_history_lengths"] == 4
                asked.complete(max_tokens=2)
        assert history_file.read(history)[2:] == expected
        assert notices == []
    with serve(history=history, scheduler="fifo", notices=notices) as asked:
        asked.complete(max_tokens=4)
        assert "heedful_history_lengths" not in asked.metrics()
    assert "looks at no history" in notices[0]
    assert history_file.read(history)[2:] == (4, 3, 2)


@pytest.fixture
def refused(capsys):
    """``refused(*options)``: the exit status and the line that says why."""

    def call(*options):
        with pytest.raises(SystemExit) as end:
            main(["serve", *map(str, options)])
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1
        assert printed.err.startswith("error: ")
        return end.value.code, printed.err

    return call


def test_busy_port(refused):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, line = refused("--port", port)
    assert code == 2
    assert line == f"error: --port {port} at 127.0.0.1: Address already in use; name another, or 0 for a free one\n"


def test_host_that_is_not_here(refused, monkeypatch):
    own = "name an address of this machine, as 127.0.0.1, or 0.0.0.0 for all of them"
    # 192.0.2.0/24 is kept for examples: no machine has it.
    code, line = refused("--host", "192.0.2.1", "--port", 0)
    assert (code, line) == (2, f"error: --host '192.0.2.1': Cannot assign requested address; {own}\n")
    code, line = refused("--host", "no..name", "--port", 0)
    assert (code, line) == (2, f"error: --host 'no..name': is no name of a host; {own}\n")

    def unknown(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    code, line = refused("--host", "nohost.invalid")
    assert (code, line) == (2, f"error: --host 'nohost.invalid': Name or service not known; {own}\n")


def test_bad_options_are_refused_before_anything_is_loaded(refused, tmp_path):
    empty = tmp_path / "keys"
    empty.write_text("\n\n")
    for options, part in (
        (("--scheduler", "past-futur"), "did you mean 'past-future'"),
        (("--scheduler", "past-future:rho=2"), "rho=2.0: must lie in [0, 1)"),
        (("--scheduler", "oracle"), "needs the true output lengths"),
        (
            ("--scheduler", "nope"),
            "there are: fifo, aggressive, conservative, past-future, peak-with-cap, peak-with-mean",
        ),
        (("--page-size", 2), "page_size=2: must be at least 4"),
        (("--max-queue", 0), "max_queue=0: must be at least 1"),
        (("--default-max-tokens", 5000), "must be at most max_output=2048"),
        (("--drain-timeout", -1), "drain_timeout=-1.0: must be at least 0"),
        (("--log-level", "loud"), "--log-level 'loud'"),
        (("--history", empty / "history.json"), "cannot write to"),
        (("--api-key-file", empty), "has no key"),
        (("--api-key-file", tmp_path / "none"), f"--api-key-file {tmp_path / 'none'}: No such file or directory; name"),
        (("--api-key-file", tmp_path), f"--api-key-file {tmp_path}: Is a directory; name"),
        (("--history", tmp_path), f"--history {tmp_path}: Is a directory; name a file"),
        (("--model", "./nowhere", "--port", 0), "no such folder"),
        (("--device", "cuda:9", "--port", 0), "CUDA"),
        (("--dtype", "int8", "--port", 0), "dtype='int8'"),
    ):
        code, line = refused(*options)
        assert code == 2 and part in line, line


def test_keys_that_others_can_read(tmp_path, capsys):
    from heedful.serving.commands.serve import _keys

    path = tmp_path / "keys"
    path.write_text("one\n\n two \n")
    path.chmod(0o600)
    assert _keys(path) == (b"one", b"two")
    assert capsys.readouterr().err == ""
    path.chmod(0o644)
    assert _keys(path) == (b"one", b"two")
    assert capsys.readouterr().err == f"warning: {path} can be read by others; chmod 600 {path}\n"


@pytest.mark.parametrize(
    "words, there", [(["--help"], True), (["serve", "--help"], True), (["compare", "--help"], False)]
)
def test_serve_is_a_command_and_no_room_to_compare(words, there, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    assert ("serve" in capsys.readouterr().out) == there
