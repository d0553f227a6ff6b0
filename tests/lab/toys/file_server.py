"""A small file server for tests, whose handling of each file can be chosen: ranges, cuts, lies, refusals."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """A file on the server, and how it is served.

    Attributes:
        content: its bytes.
        ranges: whether a part may be asked for; if not, the whole file is sent whatever is asked.
        cuts: for each of the first requests, after how many bytes sent the connection breaks off.
        refusals: for each of the first requests, the status that it is refused with; 0 for none.
        tag: its ETag.
        wait: what Retry-After says in a refusal.
        shift: how far the parts that are sent begin behind the byte that was asked for.
        chunked: do not say how long it is.
    """

    content: bytes
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    tag: str = ""
    wait: str = ""
    shift: int = 0
    chunked: bool = False


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        served = self.server.files.get(self.path)
        status = 404 if served is None else served.refusals.pop(0) if served.refusals else 0
        if status or served is None:
            self.send_response(status)
            if served is not None and served.wait:
                self.send_header("Retry-After", served.wait)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        begin = self._begin(served)
        if begin > len(served.content) or (begin and begin == len(served.content)):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(served.content)}")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            begin += served.shift
            self.send_header("Content-Range", f"bytes {begin}-{len(served.content) - 1}/{len(served.content)}")
        if served.tag:
            self.send_header("ETag", served.tag)
        if not served.chunked:
            self.send_header("Content-Length", str(len(served.content) - begin))
        self.end_headers()
        sent = served.content[begin:]
        self.wfile.write(sent[: served.cuts.pop(0)] if served.cuts else sent)
        self.close_connection = True

    def _begin(self, served):
        asked = self.headers.get("Range", "")
        condition = self.headers.get("If-Range")
        if not served.ranges or not asked or (condition and condition != served.tag):
            return 0
        return int(asked.removeprefix("bytes=").partition("-")[0])


class FileServer(ThreadingHTTPServer):
    """A server on a free port of this machine.

    Attributes:
        files: what it has, by path (``"/a.csv"``).
        requests: path and headers (lower-case) of each request so far.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self._kept = socket.socket()
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
        self._kept.close()

    def vanish(self):
        """Refuses connections from now on, and keeps its port from others."""
        self.shutdown()
        self.server_close()
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._kept.bind(self.server_address)
