"""Properties that only a store in S3 can violate."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from sweep.store import open_store
from sweep.store.base import ObjectNotFound, StoreError
from tests.support.stores import assert_no_chain, every_call, script


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
        open_store(moto_url, 0.3).get("x")
    assert_no_chain(caught.value)


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
