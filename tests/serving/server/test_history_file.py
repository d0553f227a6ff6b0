"""The history file: what was written is read, and what is no history is kept and not overwritten."""

import json

import pytest

from heedful.serving.server import history_file


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "history.json"
    assert history_file.read(path) == ()
    history_file.write(path, (3, 1, 2))
    history_file.write(path, (1, 2, 7))
    assert history_file.read(path) == (1, 2, 7)
    assert [file.name for file in tmp_path.iterdir()] == ["history.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"{",
        b"[1, 2]",
        b"null",
        json.dumps({"lengths": [1]}).encode(),
        json.dumps({"format": "other", "lengths": [1]}).encode(),
        json.dumps({"format": history_file.FORMAT, "lengths": [1, 0]}).encode(),
        json.dumps({"format": history_file.FORMAT, "lengths": [1.5]}).encode(),
        json.dumps({"format": history_file.FORMAT, "lengths": [True]}).encode(),
        json.dumps({"format": history_file.FORMAT, "lengths": 3}).encode(),
        json.dumps({"format": history_file.FORMAT, "lengths": [1, 2]}).encode()[:-3],
    ],
)
def test_damaged_files(content, tmp_path):
    path = tmp_path / "history.json"
    for number in (1, 2):
        path.write_bytes(content)
        with pytest.raises(history_file.DamagedHistoryError) as error:
            history_file.read(path)
        assert "\n" not in str(error.value)
        kept = history_file.set_aside(path)
        assert kept.name == f"history.json.damaged-{number}"
        assert kept.read_bytes() == content and not path.exists()


def test_a_write_that_fails_leaves_the_former_content(tmp_path, monkeypatch):
    path = tmp_path / "history.json"
    history_file.write(path, (5,))
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        history_file.write(path, (6,))
    assert history_file.read(path) == (5,)
