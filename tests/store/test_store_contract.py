"""One contract for every store: folders, moto, SeaweedFS, and the one in memory that tests use."""

from __future__ import annotations

import os
import pickle
import threading
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from sweep.store import open_store
from sweep.store.base import ObjectNotFound, Store, StoreError
from sweep.store.local import LocalStore
from tests.support.memory_store import MemoryStore
from tests.support.stores import assert_no_chain, at_once, script


@pytest.fixture
def hostile_folder_url(tmp_path: Path) -> str:
    return str(tmp_path / 'it\'s "the" störe 保存 #1 100% [*]')


URLS = ["folder_url", "hostile_folder_url", "moto_url", "seaweed_url"]


@pytest.fixture(params=URLS)
def addressed(request: pytest.FixtureRequest) -> Store:
    """Store that other processes can open by its address."""
    return open_store(request.getfixturevalue(request.param))


@pytest.fixture(params=[*URLS, "memory"])
def store(request: pytest.FixtureRequest) -> Store:
    return MemoryStore() if request.param == "memory" else open_store(request.getfixturevalue(request.param))


@pytest.mark.parametrize("data", [b"", b"{}", bytes(range(256)) * 8, os.urandom(3_000_000)], ids=len)
def test_what_is_put_comes_back_byte_for_byte(store: Store, data: bytes) -> None:
    store.put("put", data)
    assert store.put_once("deep/er/once", data)
    assert store.get("put") == store.get("deep/er/once") == data


def test_put_once_leaves_what_stands_there_untouched(store: Store) -> None:
    assert store.put_once("trials/k/result.json", b"first")
    assert not store.put_once("trials/k/result.json", b"second")
    assert store.get("trials/k/result.json") == b"first"


def test_put_replaces(store: Store) -> None:
    store.put("a/pointer", b"a long old one")
    store.put("a/pointer", b"new")
    assert store.get("a/pointer") == b"new"


def test_an_absent_object_is_missing_and_the_message_names_it(store: Store) -> None:
    store.put("a/b", b"x")
    for absent in ("a", "a/b/c", "a/bb", "nowhere"):
        assert not store.exists(absent)
        for read in (store.get, store.get_tagged):
            with pytest.raises(ObjectNotFound, match=absent):
                read(absent)
    assert store.exists("a/b")


def test_list_is_recursive_sorted_and_by_whole_segments(store: Store) -> None:
    paths = ["a-b/x", "a/c", "a/b/d d", "a/B", "a/ü#%+&=?", "ab", "z/y/x/w"]
    for path in paths:
        store.put(path, b"x")
    assert list(store.list("a")) == sorted(path for path in paths if path.startswith("a/"))
    assert list(store.list("")) == sorted(paths)
    assert list(store.list("a/b")) == ["a/b/d d"]
    assert list(store.list("ab")) == list(store.list("none")) == []


def test_names_are_the_distinct_next_segments(store: Store) -> None:
    for path in ("t/k2/result", "t/k1/result", "t/k1/attempts/1", "t/one", "tt/k3/result"):
        store.put(path, b"x")
    assert store.names("t") == ["k1", "k2", "one"]
    assert store.names("") == ["t", "tt"]
    assert store.names("t/one") == store.names("none") == []


def test_delete_removes_one_object_and_an_absent_one_is_fine(store: Store) -> None:
    store.put("a/b", b"x")
    store.put("a/bb", b"x")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/there")
    assert list(store.list("")) == ["a/bb"]
    assert store.put_once("a/b", b"again")


def test_delete_tree_removes_all_below_and_nothing_beside(store: Store) -> None:
    for path in ("k/checkpoint/1", "k/checkpoint/2/x", "k/checkpoint-old", "k/result"):
        store.put(path, b"x")
    store.delete_tree("k/checkpoint")
    store.delete_tree("k/checkpoint")
    store.delete_tree("k/result")
    assert list(store.list("k")) == ["k/checkpoint-old", "k/result"]


def test_the_whole_store_cannot_be_deleted_as_a_tree(store: Store) -> None:
    with pytest.raises(ValueError, match="illegal path"):
        store.delete_tree("")


def test_a_tag_stays_with_its_content_and_changes_with_it(store: Store) -> None:
    store.put("x", b"one")
    first = store.get_tagged("x")
    assert first == store.get_tagged("x")
    assert first[0] == b"one"
    store.put("x", b"two")
    assert store.get_tagged("x")[1] != first[1]


def test_compare_and_swap_writes_only_over_the_version_it_was_shown(store: Store) -> None:
    assert store.put_if("d/x", b"0", "a tag of nothing") is None
    assert not store.exists("d/x")
    first = store.put_if("d/x", b"1", None)
    assert first == store.get_tagged("d/x")[1]
    assert store.put_if("d/x", b"2", None) is None
    second = store.put_if("d/x", b"2", first)
    assert store.get_tagged("d/x") == (b"2", second)
    assert store.put_if("d/x", b"3", first) is None
    store.delete("d/x")
    assert store.put_if("d/x", b"3", second) is None
    assert not store.exists("d/x")


@pytest.mark.parametrize("conditional", [False, True], ids=["put_once", "put_if"])
def test_of_many_threads_one_wins_and_its_object_is_whole(store: Store, conditional: bool) -> None:
    def write(path: str, data: bytes) -> bool:
        return store.put_if(path, data, None) is not None if conditional else store.put_once(path, data)

    contents = [bytes([65 + n]) * 50_000 for n in range(4)]
    for turn in range(20 if isinstance(store, LocalStore) else 2):
        won = at_once([partial(write, f"race/{turn}", data) for data in contents])
        assert won.count(True) == 1
        assert store.get(f"race/{turn}") == contents[won.index(True)]


RACER = """
import pickle, sys
store = pickle.loads(bytes.fromhex(sys.argv[1]))
store.exists("warm")
print("ready", flush=True)
sys.stdin.readline()
for turn in range(6):
    if store.put_once(f"race/{turn}", (sys.argv[2] * 50_000).encode()):
        print(turn)
"""


def test_of_many_processes_one_wins_and_its_object_is_whole(addressed: Store) -> None:
    racers = {name: script(RACER, pickle.dumps(addressed).hex(), name) for name in "ABC"}
    for racer in racers.values():
        assert racer.stdout and racer.stdout.readline() == "ready\n"
    for racer in racers.values():
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    winners: dict[int, str] = {}
    for name, racer in racers.items():
        for turn in map(int, racer.communicate(timeout=60)[0].split()):
            assert winners.setdefault(turn, name) == name
        assert racer.returncode == 0
    assert {turn: addressed.get(f"race/{turn}") for turn in range(6)} == {
        turn: (name * 50_000).encode() for turn, name in winners.items()
    }


def test_increments_by_compare_and_swap_are_never_lost(store: Store) -> None:
    store.put("counter", b"0")

    def increment() -> None:
        for _ in range(8):
            tag = None
            while tag is None:
                value, seen = store.get_tagged("counter")
                tag = store.put_if("counter", str(int(value) + 1).encode(), seen)

    at_once([increment] * 4)
    assert store.get("counter") == b"32"


def test_a_reader_sees_the_old_or_the_new_object_and_never_half(store: Store) -> None:
    versions = [b"a" * 300_000, b"b" * 7, b"c" * 150_000]
    store.put("x", versions[0])
    done = threading.Event()

    def write() -> None:
        for turn in range(30):
            store.put("x", versions[turn % 3])
        done.set()

    def read() -> None:
        while not done.is_set():
            assert store.get("x") in versions

    at_once([write, read])


ILLEGAL = ["", "/", "/a", "a/", "a//b", "..", "a/../b", ".", "a/./b", ".a", "a/.b", "a\nb", "a\0b", "\ud800"]


def test_illegal_paths_are_refused_by_every_method(store: Store) -> None:
    calls: list[Callable[[str], object]] = [
        lambda path: store.put_once(path, b""),
        lambda path: store.put(path, b""),
        store.get,
        store.exists,
        store.delete,
        store.delete_tree,
        store.get_tagged,
        lambda path: store.put_if(path, b"", None),
        lambda path: list(store.get_many([path])),
        lambda path: list(store.list(path or "/")),
        lambda path: store.names(path or "/"),
    ]
    for path in ILLEGAL:
        for call in calls:
            with pytest.raises(ValueError, match="illegal path"):
                call(path)


def test_a_store_pickles_as_its_address_even_when_it_is_in_use(addressed: Store) -> None:
    addressed.put("a/b", b"x")
    pickled = pickle.dumps(addressed)
    assert len(pickled) < 500
    again = pickle.loads(pickled)
    assert again.get("a/b") == b"x"
    assert again.url == addressed.url
    assert list(open_store(addressed.url).list("")) == ["a/b"]


def test_get_many_keeps_the_order_and_leaves_absent_ones_out(store: Store) -> None:
    for n in range(0, 100, 2):
        store.put(f"n/{n}", str(n).encode())
    asked = [f"n/{n}" for n in reversed(range(100))]
    assert list(store.get_many(asked)) == [(f"n/{n}", str(n).encode()) for n in reversed(range(0, 100, 2))]
    some = store.get_many(iter(asked))
    assert next(some) == ("n/98", b"98")
    some.close()  # type: ignore[attr-defined]


class StoreMachine(RuleBasedStateMachine):
    """A store compared with a dictionary."""

    fresh: Callable[[], Store]
    paths = st.builds("/".join, st.tuples(st.sampled_from(["a", "a-b", "ü"]), st.sampled_from(["x", "y y"])))
    prefixes = st.sampled_from(["", "a", "a-b", "ü", "a/x", "b"])
    contents = st.binary(max_size=3)

    def __init__(self) -> None:
        super().__init__()
        self.store = type(self).fresh()
        self.model: dict[str, bytes] = {}

    @rule(path=paths, data=contents)
    def put(self, path: str, data: bytes) -> None:
        self.store.put(path, data)
        self.model[path] = data

    @rule(path=paths, data=contents)
    def put_once(self, path: str, data: bytes) -> None:
        assert self.store.put_once(path, data) == (path not in self.model)
        self.model.setdefault(path, data)

    @rule(path=paths, data=contents, other=contents)
    def put_if(self, path: str, data: bytes, other: bytes) -> None:
        if path not in self.model:
            return
        tag = self.store.get_tagged(path)[1]
        assert self.store.put_if(path, data, None) is None
        assert self.store.put_if(path, data, tag) == self.store.get_tagged(path)[1]
        if data != self.model[path]:
            assert self.store.put_if(path, other, tag) is None
        self.model[path] = data

    @rule(path=paths)
    def delete(self, path: str) -> None:
        self.store.delete(path)
        self.model.pop(path, None)

    @rule(prefix=prefixes.filter(bool))
    def delete_tree(self, prefix: str) -> None:
        self.store.delete_tree(prefix)
        self.model = {path: data for path, data in self.model.items() if not path.startswith(f"{prefix}/")}

    @rule(path=paths)
    def get(self, path: str) -> None:
        assert dict(self.store.get_many([path])).get(path) == self.model.get(path)
        assert self.store.exists(path) == (path in self.model)

    @rule(prefix=prefixes)
    def listed(self, prefix: str) -> None:
        start = f"{prefix}/" if prefix else ""
        below = sorted(path for path in self.model if path.startswith(start))
        assert list(self.store.list(prefix)) == below
        assert self.store.names(prefix) == sorted({path[len(start) :].split("/")[0] for path in below})

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert dict(self.store.get_many(self.store.list(""))) == self.model


@pytest.mark.parametrize(("url", "examples"), [("folder_url", 30), ("moto_url", 4), ("memory", 30)])
def test_any_history_of_calls_ends_as_in_a_dictionary(request: pytest.FixtureRequest, url: str, examples: int) -> None:
    base = None if url == "memory" else open_store(request.getfixturevalue(url))

    class Machine(StoreMachine):
        fresh = staticmethod(lambda: MemoryStore() if base is None else _below(base))

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def _below(base: Store) -> Store:
    return open_store(f"{base.url}/{uuid.uuid4().hex}")


def test_a_folder_opens_by_path_and_by_file_url(tmp_path: Path) -> None:
    open_store(str(tmp_path / "a b")).put("x", b"1")
    url = (tmp_path / "a b").as_uri()
    assert "%20" in url
    assert open_store(url).get("x") == b"1"


def test_a_relative_folder_is_still_found_from_another_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("runs")
    store.put("x", b"1")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(store)).get("x") == open_store(store.url).get("x") == b"1"


def test_an_absent_folder_is_empty_until_something_is_put_there(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "runs"))
    assert not list(store.list("")) and not store.names("trials") and not store.exists("x")
    with pytest.raises(ObjectNotFound):
        store.get("x")
    assert not (tmp_path / "runs").exists()
    assert store.put_once("a/x", b"1")
    assert open_store(str(tmp_path / "runs")).get("a/x") == b"1"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        open_store(str(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "legal are"),
        ("gs://bucket/x", "legal are"),
        ("file://elsewhere/data", "names the host elsewhere"),
        ("s3://", "s3://bucket/prefix"),
        ("s3://bucket/prefix?endpoint_override=x", "AWS_ENDPOINT_URL_S3"),
        ("/dev/null/runs", "Not a directory"),
    ],
)
def test_an_address_of_no_store_is_refused_with_the_fix(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        open_store(url)
    assert_no_chain(caught.value)


def test_opening_a_bucket_asks_the_server_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    assert open_store("s3://bucket/a/b/").url == "s3://bucket/a/b"
    assert open_store("s3://bucket").url == "s3://bucket"


def test_a_folder_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; from sweep.store import open_store; from sweep.store.lease import Lease; open_store('/tmp');"
        "print(*sorted({'boto3', 'botocore', 'ray', 'optuna', 'torch', 'numpy'} & set(sys.modules)))"
    )
    assert script(code).communicate(timeout=60)[0] == "\n"
