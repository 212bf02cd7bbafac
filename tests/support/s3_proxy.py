"""A proxy before an S3 server that spoils answers: in a given order, by a seeded plan, or all of them in an outage."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.s3_servers import S3Server

# Errors of S3 itself, by name: status, and code in the body.
ERRORS = {
    "409": (409, "ConditionalRequestConflict"),
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "denied": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
}
PAGES = {
    "html": 200,
    "redirect": 302,
    "html 403": 403,
    "html 404": 404,
    "html 503": 503,
}  # as captive portals send them
PASSING = (
    "409", "500", "503", *PAGES,
    "reset",  # the connection is reset before the request reaches the server
    "lose",  # the request reaches the server, but the answer is lost
    "cut",  # the connection is reset within the body of the answer
    "silent",  # the request is read and never answered
    "truncate",  # half of the body is missing, and Content-Length says so
    "flip",  # one bit of an object's body is another one; lists are not flipped, since nothing in S3 would show it
    "no etag", "wrong etag", "late",
)  # fmt: skip
PAGE = b"<html><head><title>Welcome</title></head><body>Please sign in to the network.</body></html>"
OWN_HEADERS = ("connection", "content-length", "transfer-encoding", "date", "server")


@dataclass
class Faults:
    """Plan of what a proxy does with the next requests.

    Attributes:
        problems: names of problems, one for each of the next requests; "" for none.
        outage: name of a problem that all requests have; "" for none.
        rate: share of the other requests that have a random problem.
        kinds: problems of `rate`.
        rng: decides that.
        late_seconds: latency of the problem "late".
        checksums: pass on the checksums with which the server would show that a body is flipped.
        expired_key: access key whose requests are answered as if its session had expired.
        injected: number of problems so far, by name.
        requests: number of requests so far.
        ended: ends the waiting of the problem "silent".
    """

    problems: list[str] = field(default_factory=list)
    outage: str = ""
    rate: float = 0.0
    kinds: tuple[str, ...] = PASSING
    rng: random.Random = field(default_factory=random.Random)
    late_seconds: float = 0.02
    checksums: bool = True
    expired_key: str = ""
    injected: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, credential: str) -> str:
        """Return the problem of a request with these credentials; "" for none."""
        with self._lock:
            self.requests += 1
            problem = self.outage or (self.problems.pop(0) if self.problems else "")
            if not problem and self.expired_key and f"Credential={self.expired_key}/" in credential:
                problem = "expired"
            if not problem and self.rng.random() < self.rate:
                problem = self.rng.choice(self.kinds)
            if problem:
                self.injected[problem] += 1
            return problem


@contextmanager
def faulty_proxy(server: S3Server) -> Iterator[tuple[str, Faults]]:
    """Run a proxy before a server; yields the proxy's URL and its plan."""
    with _Proxy(server) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_port}", proxy.faults
        finally:
            proxy.faults.ended.set()
            proxy.shutdown()
            thread.join()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, server: S3Server) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.behind = server.endpoint.removeprefix("http://")
        self.faults = Faults()


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        problem = self.server.faults.next(self.headers.get("Authorization", ""))
        if problem in ERRORS:
            status, code = ERRORS[problem]
            self._answer(status, {}, f"<Error><Code>{code}</Code><Message>later</Message></Error>".encode())
        elif problem in PAGES:
            self._answer(PAGES[problem], {"Content-Type": "text/html"}, PAGE)
        elif problem == "reset":
            self._reset()
        elif problem == "silent":
            self._wait_for_client()
        else:
            self._forward(problem, body)

    def _forward(self, problem: str, body: bytes) -> None:
        if problem == "late":
            time.sleep(self.server.faults.late_seconds)
        behind = http.client.HTTPConnection(self.server.behind)
        behind.request(self.command, self.path, body, {k: v for k, v in self.headers.items() if k.lower() != "expect"})
        answer = behind.getresponse()
        data = answer.read()
        behind.close()
        if problem == "lose":
            self._reset()
            return
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in OWN_HEADERS}
        if not self.server.faults.checksums:
            headers = {name: value for name, value in headers.items() if "checksum" not in name.lower()}
        if problem in ("no etag", "wrong etag"):
            tags = [name for name in headers if name.lower() == "etag"]
            headers = {name: value for name, value in headers.items() if name not in tags}
            if problem == "wrong etag" and tags:
                headers["ETag"] = '"00000000000000000000000000000000"'
        if problem == "flip" and data and self.command == "GET" and not data.startswith(b"<?xml"):
            data = bytes([data[0] ^ 4]) + data[1:]
        if problem == "truncate":
            data = data[: len(data) // 2]
        self._answer(answer.status, headers, data, cut=problem == "cut")

    def _answer(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != http.HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(body)))
        if cut and not body:  # then it is cut within the headers
            self._reset()
            return
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.wfile.flush()
            self._reset()

    def _reset(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD)
            self.connection.close()

    def _wait_for_client(self) -> None:
        """Keep the connection open without an answer, until the client closes it or the proxy ends."""
        self.close_connection = True
        self.connection.settimeout(0.05)
        while not self.server.faults.ended.is_set():
            with suppress(TimeoutError):
                if not self.connection.recv(1):
                    return

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass  # noqa: N815 (the names that http.server calls)

    def handle_one_request(self) -> None:
        """Handle a request; ignore a client that has gone away."""
        with suppress(OSError, ValueError):
            super().handle_one_request()
            return
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Log nothing: a failing test shows what went wrong."""
