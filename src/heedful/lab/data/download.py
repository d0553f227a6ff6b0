"""Downloads that go on where they were cut off, and whose content is verified.

What has arrived lies in a ``.part`` file. The next request asks for the rest of it (``Range``), on the condition that
the file is still the same one where the server gave it a strong tag (``If-Range``); a server that sends the whole file
all the same is listened to from the start.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from io import FileIO
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from heedful import __version__
from heedful.lab.errors import WorkError

_ELSEWHERE = "--from PATH takes a copy from elsewhere"
_KEPT = "what arrived is kept, and the same command goes on from there"
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_CHUNK = 1 << 18
_LONGEST_WAIT_S = 60.0
_UNANSWERED = 2
"""Requests at most to a host that does not answer at all."""
_PART = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True)
class Patience:
    """How long a download is tried.

    Attributes:
        attempts: requests at most, >= 1; never more than two to a host that does not answer any.
        wait_s: seconds before the second one, >= 0, doubled before each further one; a server that says how long it
            wants to be left alone is obeyed, up to a minute.
        timeout_s: seconds without an answer after which a request is given up, > 0.

    Raises ValueError for anything else.
    """

    attempts: int = 5
    wait_s: float = 1.0
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")
        if self.wait_s < 0 or self.timeout_s <= 0:
            raise ValueError(f"wait_s must be >= 0 and timeout_s > 0, got {self.wait_s} and {self.timeout_s}")


class UnreachableError(WorkError):
    """The host does not answer, whatever file it is asked for.

    Attributes:
        host: as in the address, with its port.
    """

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"{url}: {why}")
        self.host = urlsplit(url).netloc


class _CutOffError(Exception):
    """A request that may do better when it is made again, after ``wait_s`` seconds at least."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class _UnansweredError(_CutOffError):
    """A request that no answer came to."""

    def __init__(self, why: object) -> None:
        super().__init__(f"cannot be reached: {_why(why)}")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(
    url: str,
    part: Path,
    sha256: str,
    size: int | None = None,
    *,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    notice: Callable[[str], None] = lambda line: None,
    patience: Patience | None = None,
) -> None:
    """Bring a public file into ``part``, from where an earlier call left off.

    Args:
        url: an http or https address.
        part: where it goes; its folder is there. Kept when the download is cut off, removed when what arrived is not
            what it should be.
        sha256: the file's SHA-256, 64 hex digits.
        size: its bytes, if they are known.
        progress: told how many bytes are there, and of how many (None if the server does not say).
        notice: told in one line why a request is made again.
        patience: when to give up.

    Raises UnreachableError if the server cannot be reached; WorkError if it has no such file or keeps breaking off, if
    the content is another one, and if it cannot be written.
    """
    patience = patience or Patience()
    earlier = part.is_file()
    if earlier and sha256_of(part) == sha256:
        return
    _complete(url, part, size, progress, notice, patience)
    found = sha256_of(part)
    if found != sha256 and earlier:
        notice(f"{url}: does not go with what was there from an earlier download; from the start again")
        part.unlink()
        _complete(url, part, size, progress, notice, patience)
        found = sha256_of(part)
    if found != sha256:
        part.unlink()
        raise WorkError(f"{url}: its content is another one (sha256 {found}, expected {sha256}); nothing was kept")


def _complete(
    url: str,
    part: Path,
    size: int | None,
    progress: Callable[[int, int | None], None],
    notice: Callable[[str], None],
    patience: Patience,
) -> None:
    """Requests until ``part`` is as long as the server says that the file is."""
    tag, answered = "", False
    for attempt in range(1, patience.attempts + 1):
        try:
            response, have, tag = _ask(url, part, tag, patience.timeout_s)
            with response:
                _receive(response, url, part, have, size, progress)
            return
        except _CutOffError as cut:
            answered = answered or not isinstance(cut, _UnansweredError)
            if attempt == patience.attempts or (not answered and attempt == _UNANSWERED):
                begun = part.exists() and part.stat().st_size > 0
                why = f"{cut} ({attempt} attempts); {_KEPT if begun else _ELSEWHERE}"
                if isinstance(cut, _UnansweredError):
                    raise UnreachableError(url, why) from cut
                raise WorkError(f"{url}: {why}") from cut
            wait_s = min(max(cut.wait_s, patience.wait_s * 2 ** (attempt - 1)), _LONGEST_WAIT_S)
            notice(f"{url}: {cut}; trying again in {wait_s:g} s")
            time.sleep(wait_s)


def _ask(url: str, part: Path, tag: str, timeout_s: float) -> tuple[HTTPResponse, int, str]:
    """The server's answer, the byte from which on it sends, and the file's strong tag if it has one."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"heedful/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag:
            headers["If-Range"] = tag
    try:
        response = urlopen(Request(url, headers=headers), timeout=timeout_s)
    except HTTPError as error:
        error.close()
        if error.code == 416 and have:
            part.unlink()
            raise _CutOffError("does not go with what was there from an earlier download") from error
        if error.code in _BUSY:
            raise _CutOffError(f"{error.code} {error.reason}", _asked_wait(error)) from error
        raise WorkError(f"{url}: {error.code} {error.reason}; {_ELSEWHERE}") from error
    except URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise WorkError(f"{url}: {error.reason.verify_message}") from error
        if isinstance(error.reason, socket.gaierror) and error.reason.errno == socket.EAI_NONAME:
            raise UnreachableError(url, f"cannot be reached: {_why(error.reason)}; {_ELSEWHERE}") from error
        raise _UnansweredError(error.reason) from error
    except (HTTPException, OSError) as error:
        raise _UnansweredError(error) from error
    answered = response.headers.get("ETag", "")
    return response, have if response.status == 206 else 0, "" if answered.startswith("W/") else answered


def _receive(
    response: HTTPResponse,
    url: str,
    part: Path,
    have: int,
    size: int | None,
    progress: Callable[[int, int | None], None],
) -> None:
    """Write what the server sends behind the first ``have`` bytes of ``part``."""
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else None
    if response.status == 206:
        found = _PART.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != have:
            part.unlink()
            raise _CutOffError("sends another part than the one that was asked for")
        total = None if found[2] == "*" else int(found[2])
    if None not in (size, total) and size != total:
        raise WorkError(f"{url}: has {total:,} bytes, expected {size:,}; it is another file")
    total = total if size is None else size
    with _opened(part, "ab" if have else "wb") as file:
        while chunk := _read(response):
            have += len(chunk)
            if total is not None and have > total:
                raise WorkError(f"{url}: sends more than {total:,} bytes; it is another file")
            rest = memoryview(chunk)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError as error:
                raise WorkError(f"{part}: {error.strerror}; {_KEPT}") from error
            progress(have, total)
    if total is not None and have < total:
        raise _CutOffError(f"cut off after {have:,} of {total:,} bytes")


def _opened(part: Path, mode: Literal["ab", "wb"]) -> FileIO:
    try:
        return open(part, mode, buffering=0)
    except OSError as error:
        raise WorkError(f"{part}: {error.strerror}") from error


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK)
    except (HTTPException, OSError) as error:
        raise _CutOffError(f"broke off: {_why(error)}") from error


def _asked_wait(error: HTTPError) -> float:
    asked = error.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else 0.0


def _why(error: object) -> str:
    strerror = error.strerror if isinstance(error, OSError) else ""
    return strerror or str(error) or type(error).__name__
