"""Downloads that are whole, cut, refused or altered, from a server of the test's own."""

from __future__ import annotations

import hashlib
import socket

import pytest
from file_server import FileServer, Served

from heedful.lab.data import download as downloads
from heedful.lab.data.download import Patience, UnreachableError, download
from heedful.lab.errors import WorkError

ORIGINAL = b"n,text\n" + b"".join(b"%d,%d\n" % (n, n * n) for n in range(5000))
SHA256 = hashlib.sha256(ORIGINAL).hexdigest()
ALTERED = ORIGINAL.replace(b"7,49\n", b"7,50\n", 1)
SOON = Patience(attempts=3, wait_s=0.0, timeout_s=5.0)


@pytest.fixture
def server():
    with FileServer() as running:
        running.files["/set/a.csv"] = Served(ORIGINAL)
        yield running


def test_whole_download(server, tmp_path):
    told = []
    url = f"{server.url}/set/a.csv"
    download(url, tmp_path / "a.part", SHA256, progress=lambda *numbers: told.append(numbers), patience=SOON)
    assert (tmp_path / "a.part").read_bytes() == ORIGINAL
    assert told[-1] == (len(ORIGINAL), len(ORIGINAL))
    ((path, headers),) = server.requests
    assert path == "/set/a.csv" and "range" not in headers and headers["user-agent"].startswith("heedful/")
    download(url, tmp_path / "a.part", SHA256, patience=SOON)
    assert len(server.requests) == 1


@pytest.mark.parametrize("tag", ["", '"strong"', 'W/"weak"'])
@pytest.mark.parametrize("chunked", [False, True])
def test_cut_download_goes_on_where_it_was(server, tmp_path, tag, chunked):
    server.files["/set/a.csv"] = Served(ORIGINAL, cuts=[10_000, 20_000], tag=tag, chunked=chunked)
    notices = []
    size = len(ORIGINAL) if chunked else None
    download(f"{server.url}/set/a.csv", tmp_path / "a.part", SHA256, size, notice=notices.append, patience=SOON)
    assert (tmp_path / "a.part").read_bytes() == ORIGINAL
    assert [headers.get("range") for _, headers in server.requests] == [None, "bytes=10000-", "bytes=30000-"]
    conditions = [headers.get("if-range") for _, headers in server.requests]
    assert conditions == ([None, tag, tag] if tag == '"strong"' else [None] * 3)
    assert notices == [
        f"{server.url}/set/a.csv: cut off after {have:,} of {len(ORIGINAL):,} bytes; trying again in 0 s"
        for have in (10_000, 30_000)
    ]


def test_download_goes_on_from_an_earlier_process(server, tmp_path):
    (tmp_path / "a.part").write_bytes(ORIGINAL[:12_345])
    download(f"{server.url}/set/a.csv", tmp_path / "a.part", SHA256, patience=SOON)
    assert (tmp_path / "a.part").read_bytes() == ORIGINAL
    assert [headers.get("range") for _, headers in server.requests] == ["bytes=12345-"]


def test_server_that_ignores_ranges_sends_it_all_again(server, tmp_path):
    server.files["/set/a.csv"] = Served(ORIGINAL, ranges=False, cuts=[10_000])
    download(f"{server.url}/set/a.csv", tmp_path / "a.part", SHA256, patience=SOON)
    assert (tmp_path / "a.part").read_bytes() == ORIGINAL
    assert [headers.get("range") for _, headers in server.requests] == [None, "bytes=10000-"]


def test_file_that_changes_between_two_requests_is_read_from_the_start(server, tmp_path):
    served = server.files["/set/a.csv"] = Served(ALTERED, cuts=[10_000], tag='"old"')

    def change(_):
        served.content, served.tag = ORIGINAL, '"new"'

    download(f"{server.url}/set/a.csv", tmp_path / "a.part", SHA256, notice=change, patience=SOON)
    assert (tmp_path / "a.part").read_bytes() == ORIGINAL
    assert server.requests[1][1]["if-range"] == '"old"'


@pytest.mark.parametrize("earlier", [ALTERED[:20_000], ORIGINAL + b"more", b"x" * len(ORIGINAL)])
def test_what_does_not_go_with_an_earlier_part_is_read_from_the_start(server, tmp_path, earlier):
    (tmp_path / "a.part").write_bytes(earlier)
    notices = []
    download(f"{server.url}/set/a.csv", tmp_path / "a.part", SHA256, notice=notices.append, patience=SOON)
    assert (tmp_path / "a.part").read_bytes() == ORIGINAL
    assert len(notices) == 1 and "does not go with what was there from an earlier download" in notices[0]


def test_server_that_sends_another_part_is_asked_again(server, tmp_path):
    server.files["/set/a.csv"] = Served(ORIGINAL, cuts=[10_000], shift=5)
    download(f"{server.url}/set/a.csv", tmp_path / "a.part", SHA256, patience=SOON)
    assert (tmp_path / "a.part").read_bytes() == ORIGINAL
    assert [headers.get("range") for _, headers in server.requests] == [None, "bytes=10000-", None]


def test_truncated_download_fails_in_one_line_and_keeps_its_part(server, tmp_path):
    url, part = f"{server.url}/set/a.csv", tmp_path / "a.part"
    server.files["/set/a.csv"] = Served(ORIGINAL, cuts=[100, 200, 300])
    with pytest.raises(WorkError) as error:
        download(url, part, SHA256, patience=SOON)
    assert str(error.value) == (
        f"{url}: cut off after 600 of {len(ORIGINAL):,} bytes (3 attempts); "
        "what arrived is kept, and the same command goes on from there"
    )
    assert part.read_bytes() == ORIGINAL[:600]
    download(url, part, SHA256, patience=SOON)
    assert part.read_bytes() == ORIGINAL and server.requests[-1][1]["range"] == "bytes=600-"


def test_altered_content_is_refused_with_both_digests_and_not_kept(server, tmp_path):
    url, part = f"{server.url}/set/a.csv", tmp_path / "a.part"
    server.files["/set/a.csv"] = Served(ALTERED)
    found = hashlib.sha256(ALTERED).hexdigest()
    with pytest.raises(WorkError) as error:
        download(url, part, SHA256, len(ORIGINAL), patience=SOON)
    assert str(error.value) == (
        f"{url}: its content is another one (sha256 {found}, expected {SHA256}); nothing was kept"
    )
    assert not part.exists() and len(server.requests) == 1


def test_file_of_another_size_is_not_read(server, tmp_path):
    server.files["/set/a.csv"] = Served(ORIGINAL * 3)
    with pytest.raises(WorkError, match=f"has {3 * len(ORIGINAL):,} bytes, expected {len(ORIGINAL):,}; it is another"):
        download(f"{server.url}/set/a.csv", tmp_path / "a.part", SHA256, len(ORIGINAL), patience=SOON)
    server.files["/set/a.csv"].chunked = True
    with pytest.raises(WorkError, match=f"sends more than {len(ORIGINAL):,} bytes; it is another file"):
        download(f"{server.url}/set/a.csv", tmp_path / "a.part", SHA256, len(ORIGINAL), patience=SOON)


def test_missing_file_is_not_asked_for_twice(server, tmp_path):
    with pytest.raises(WorkError, match=r"/gone\.csv: 404 Not Found; --from PATH takes a copy from elsewhere$"):
        download(f"{server.url}/gone.csv", tmp_path / "a.part", SHA256, patience=SOON)
    assert len(server.requests) == 1 and not (tmp_path / "a.part").exists()


def test_busy_server_is_asked_again_when_it_wants_to_be(server, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(downloads.time, "sleep", waited.append)
    url, part = f"{server.url}/set/a.csv", tmp_path / "a.part"
    server.files["/set/a.csv"] = Served(ORIGINAL, refusals=[503, 429], wait="7")
    download(url, part, SHA256, patience=Patience(attempts=3, wait_s=0.5))
    assert part.read_bytes() == ORIGINAL and waited == [7.0, 7.0]
    part.unlink()
    server.files["/set/a.csv"] = Served(ORIGINAL, refusals=[503, 503, 500])
    with pytest.raises(WorkError, match=r"500 Internal Server Error \(3 attempts\); --from PATH takes a copy"):
        download(url, part, SHA256, patience=Patience(attempts=3, wait_s=0.5))
    assert waited[2:] == [0.5, 1.0]
    server.files["/set/a.csv"] = Served(ORIGINAL, refusals=[503], wait="100000")
    download(url, part, SHA256, patience=Patience(attempts=3))
    assert waited[4:] == [60.0]


def test_unreachable_server_is_one_line(nobody, tmp_path):
    with pytest.raises(WorkError, match=r"cannot be reached: Connection refused \(2 attempts\)"):
        download(f"{nobody}/a.csv", tmp_path / "a.part", SHA256, patience=Patience(2, 0.0))


def test_host_that_has_answered_is_given_more_time(server, tmp_path, monkeypatch):
    waited = []

    def sleep(wait_s):
        waited.append(wait_s)
        if len(waited) == 1:
            server.vanish()

    monkeypatch.setattr(downloads.time, "sleep", sleep)
    server.files["/set/a.csv"] = Served(ORIGINAL, cuts=[100])
    with pytest.raises(UnreachableError, match=r"refused \(4 attempts\); what arrived is kept") as error:
        download(f"{server.url}/set/a.csv", tmp_path / "a.part", SHA256, patience=Patience(4, 0.0))
    assert len(waited) == 3 and error.value.host == server.url.removeprefix("http://")
    (tmp_path / "a.part").unlink()
    with pytest.raises(UnreachableError, match=r"refused \(2 attempts\); --from PATH"):
        download(f"{server.url}/set/a.csv", tmp_path / "a.part", SHA256, patience=Patience(4, 0.0))


def test_full_disk_is_one_line(server, tmp_path):
    (tmp_path / "a.part").symlink_to("/dev/full")
    with pytest.raises(WorkError, match=r"a\.part: No space left on device; what arrived is kept"):
        download(f"{server.url}/set/a.csv", tmp_path / "a.part", SHA256, patience=SOON)


def test_server_that_does_not_answer_is_given_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.csv"
        with pytest.raises(WorkError, match=r"cannot be reached: timed out \(2 attempts\); --from PATH"):
            download(url, tmp_path / "a.part", SHA256, patience=Patience(2, 0.0, timeout_s=0.05))


def test_unknown_host_is_not_asked_for_twice(tmp_path, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(
        WorkError, match=r"^http://nowhere\.invalid/a: cannot be reached: Name or service not known; --from"
    ):
        download("http://nowhere.invalid/a", tmp_path / "a.part", SHA256)


@pytest.mark.parametrize(("name", "value"), [("attempts", 0), ("wait_s", -1.0), ("timeout_s", 0.0)])
def test_impossible_patience_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} (must be|> 0)"):
        Patience(**{name: value})
