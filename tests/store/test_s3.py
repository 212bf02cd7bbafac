"""Properties that only a store in S3 can violate."""

from __future__ import annotations

import http.client
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sweep.store import open_store
from sweep.store.base import ObjectNotFound, Store, StoreError
from tests.support.s3_servers import S3Server
from tests.support.stores import assert_no_chain, script


def test_more_objects_than_a_page_holds_are_listed_and_deleted(moto_url: str) -> None:
    s3 = open_store(moto_url)
    paths = [f"many/{n:04}/x" for n in range(1003)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda path: s3.put_once(path, b""), paths))
    assert list(s3.list("many")) == paths
    assert s3.names("many") == [f"{n:04}" for n in range(1003)]
    s3.delete_tree("many")
    assert list(s3.list("")) == []


@pytest.mark.parametrize("url", ["moto_url", "seaweed_url"])
def test_a_missing_bucket_is_not_made_and_every_call_says_how_to_make_it(
    request: pytest.FixtureRequest, url: str
) -> None:
    request.getfixturevalue(url)
    store = open_store("s3://no-such-bucket/x")
    for call in every_call(store):
        with pytest.raises(StoreError, match=r"no bucket no-such-bucket.*aws s3 mb s3://no-such-bucket") as caught:
            call()
        assert not isinstance(caught.value, ObjectNotFound)
        assert_no_chain(caught.value)


def test_refused_credentials_are_reported_with_the_fix(seaweed_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for call in every_call(open_store(seaweed_url)):
        with pytest.raises(StoreError, match="credentials") as caught:
            call()
        assert_no_chain(caught.value)


def test_no_credentials_are_reported_with_the_fix(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StoreError, match="set AWS_ACCESS_KEY_ID") as caught:
        open_store(moto_url).put_once("x", b"")
    assert_no_chain(caught.value)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "localhost:9000", "http://no-such-host.invalid"])
def test_an_endpoint_that_is_not_there_is_reported_with_the_fix(
    moto_url: str, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match=f"{endpoint}.*check the network, AWS_ENDPOINT_URL_S3") as caught:
        open_store(moto_url).get("x")
    assert_no_chain(caught.value)


def every_call(store: Store) -> list[Callable[[], object]]:
    return [
        lambda: store.get("x"),
        lambda: store.exists("x"),
        lambda: store.put("x", b""),
        lambda: store.put_once("x", b""),
        lambda: store.put_if("x", b"", None),
        lambda: list(store.list("a")),
        lambda: store.names("a"),
        lambda: store.delete("x"),
        lambda: store.delete_tree("a"),
        lambda: list(store.get_many(["x", "y"])),
    ]


class Faults(ThreadingHTTPServer):
    """A proxy before an S3 server that disturbs requests in the order of `problems`, and then passes all.

    "409", "503": the proxy answers so without asking the server.  "lose": the request reaches the server,
    but the answer is lost.  "cut": half of the answer's body is lost.
    """

    daemon_threads = True

    def __init__(self, server: S3Server) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.behind = server.endpoint.removeprefix("http://")
        self.problems: list[str] = []


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Faults

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        problem = self.server.problems.pop(0) if self.server.problems else ""
        if problem in ("409", "503"):
            code = {"409": "ConditionalRequestConflict", "503": "SlowDown"}[problem]
            self._answer(int(problem), {}, f"<Error><Code>{code}</Code><Message>later</Message></Error>".encode())
            return
        behind = http.client.HTTPConnection(self.server.behind)
        behind.request(self.command, self.path, body, dict(self.headers))
        answer = behind.getresponse()
        data = answer.read()
        behind.close()
        if problem == "lose":
            self.close_connection = True
            return
        headers = {name: value for name, value in answer.getheaders() if name in ("ETag", "x-amz-meta-token")}
        self._answer(answer.status, headers, data, cut=problem == "cut")

    def _answer(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection |= cut

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass  # noqa: N815 (the names that http.server calls)

    def log_message(self, *_: Any) -> None:
        """Log nothing: a failing test shows what went wrong."""


@pytest.fixture
def problems(moto: S3Server, moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    with Faults(moto) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{proxy.server_port}")
        yield proxy
        proxy.shutdown()
        thread.join()


@pytest.mark.parametrize("problem", ["409", "lose"])
def test_a_conditional_write_is_repeated_until_it_is_known_who_won(
    problems: Faults, moto_url: str, problem: str
) -> None:
    store = open_store(moto_url)
    problems.problems = [problem]
    assert store.put_once("won", b"mine")
    store.put("other", b"theirs")
    problems.problems = [problem]
    assert not store.put_once("other", b"mine")
    assert store.get("other") == b"theirs"
    tag = store.get_tagged("won")[1]
    problems.problems = [problem]
    swapped = store.put_if("won", b"mine again", tag)
    assert store.get_tagged("won") == (b"mine again", swapped)
    problems.problems = [problem]
    assert store.put_if("won", b"too late", tag) is None
    problems.problems = [problem]
    assert store.put_if("absent", b"x", tag) is None
    assert problems.problems == []


def test_a_conflict_that_never_ends_is_reported(
    problems: Faults, moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.store.s3.ATTEMPTS", 3)
    problems.problems = ["409"] * 3
    with pytest.raises(StoreError, match=r"ConditionalRequestConflict.*run the same command again"):
        open_store(moto_url).put_once("x", b"1")
    assert problems.problems == []


@pytest.mark.parametrize("problem", ["503", "lose", "cut"])
def test_reads_go_on_through_throttling_and_lost_connections(problems: Faults, moto_url: str, problem: str) -> None:
    store = open_store(moto_url)
    store.put("x", b"whole" * 1000)
    problems.problems = [problem]
    assert store.get("x") == b"whole" * 1000
    assert problems.problems == []


def test_a_server_that_stays_down_ends_in_a_message_that_says_how_to_go_on(
    problems: Faults, moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    problems.problems = ["503"] * 2
    with pytest.raises(StoreError, match=r"SlowDown.*what is stored is kept: run the same command again"):
        open_store(moto_url).put("x", b"1")
    assert problems.problems == []


def test_a_forked_child_and_its_parent_use_the_store_side_by_side(seaweed_url: str) -> None:
    store = open_store(seaweed_url)  # SeaweedFS keeps connections open, moto does not
    forker = script(FORKER, pickle.dumps(store).hex())
    assert forker.communicate(timeout=60)[0] == "True\n"
    assert list(store.list("")) == sorted(["before", *(f"{who}/{n}" for who in ("child", "parent") for n in range(20))])


FORKER = """
import os, pickle, sys
store = pickle.loads(bytes.fromhex(sys.argv[1]))
store.put("before", b"x")
child = os.fork()
who = "parent" if child else "child"
for n in range(20):
    store.put_once(f"{who}/{n}", who.encode())
    assert store.get(f"{who}/{n}") == who.encode()
if child:
    print(os.waitpid(child, 0)[1] == 0)
"""
