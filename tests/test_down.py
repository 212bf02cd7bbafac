"""What `status` says of machines: those that are there, and after `down` that the sweep was taken down."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from places import on_hosts
from test_remote import Machines

from sweep import heads, places
from sweep.exits import DONE, INTERRUPTED
from sweep.heads import Head, Node
from sweep.store import LocalStore, StoreError, open_store
from sweep.verbs.running import down, status

NODES = (Node("10.0.0.2", since=1.0), Node("10.0.0.3", since=1.0, alive=False, until=2.0))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "onprem.yaml"
    found = on_hosts(str(tmp_path / "store")).model_dump(mode="json")
    body = {"name": found["name"], "studies": [{**found["studies"][0], "name": "s"}]}
    path.write_text(yaml.safe_dump({"storage": found["storage"], "cluster": found["cluster"], "sweep": body}))
    return path


def stands(monkeypatch: pytest.MonkeyPatch, *up: str) -> Machines:
    """A place where these machines are up."""
    place = Machines(up=list(up))
    monkeypatch.setattr(places, "place_of", lambda sweep: place)
    return place


def store_of(config: Path) -> LocalStore:
    store = open_store(str(config.parent / "store"))
    assert isinstance(store, LocalStore)
    return store


def said(config: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    status(config)
    return next(line for line in capsys.readouterr().out.splitlines() if " on the head: " in line)


@pytest.mark.parametrize("state", ["starting", "running", "reporting"])
def test_a_head_that_could_not_speak_any_more_is_spoken_for(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: heads.State
) -> None:
    heads.write(store_of(config), "table-1", Head(3, state, running=2, nodes=NODES, trials=4, to_run=4))
    place = stands(monkeypatch, "a head")
    monkeypatch.setenv("USER", "ada")
    down(config, yes=True)
    assert place.up == []
    head = heads.read(store_of(config), "table-1")
    assert head is not None
    assert (head.launch, head.state, head.exit_code, head.running, head.to_run) == (3, "ended", INTERRUPTED, 0, 4)
    assert not any(node.alive for node in head.nodes) and head.nodes[1] == NODES[1]
    line = said(config, capsys)
    assert "ended 0 s ago with exit code 130: taken down by ada@" in line and "heard" not in line


def test_a_head_that_was_stopped_in_order_has_ended_for_that_and_one_that_was_done_before_has_not(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, place = store_of(config), stands(monkeypatch, "a head")
    place.removing = lambda: heads.write(store, "table-1", Head(3, "ended", exit_code=INTERRUPTED, cause="stopped"))
    down(config, yes=True)
    assert "with exit code 130: taken down by " in (line := said(config, capsys)) and line.endswith("; stopped")
    for done in (Head(4, "ended", exit_code=DONE), Head(4, "ended", exit_code=INTERRUPTED, cause="by Ctrl-C")):
        heads.write(store, "table-1", done)
        kept = heads.read(store, "table-1")
        time.sleep(0.01)  # a clock's step: it ended before
        place.up, place.removing = ["a disk"], lambda: None
        down(config, yes=True)
        assert heads.read(store, "table-1") == kept


def test_machines_that_went_by_themselves_are_told_of_a_head_that_is_silent_alone(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_of(config)
    stands(monkeypatch)
    heads.write(store, "table-1", Head(3, "running"))
    down(config, yes=True)
    assert "running for" in said(config, capsys), "another account may be asked than the one that it runs in"
    monkeypatch.setattr("sweep.watching.SILENT_SECONDS", -1.0)
    down(config, yes=True)
    assert "its machines were gone when" in said(config, capsys)


def test_status_counts_the_slots_of_machines_that_are_there(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown() -> tuple[str, dict[str, object]]:
        capsys.readouterr()
        status(config)
        text = capsys.readouterr().out
        status(config, as_json=True)
        return text, json.loads(capsys.readouterr().out)

    text, found = shown()
    assert "no machine for it is there now" in text and (found["slots"], found["seconds"]) == (0, None)
    heads.write(store_of(config), "table-1", Head(3, "running", slots=3, nodes=NODES))
    text, found = shown()
    assert " on 3 slots of 1 CPU core" in text and found["slots"] == 3
    heads.close(store_of(config), "table-1", "taken down")
    assert shown()[1]["slots"] == 0


def test_a_store_that_cannot_be_reached_keeps_no_machine(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreached(storage: str) -> LocalStore:
        raise StoreError("no route to the store")

    place = stands(monkeypatch, "a head")
    monkeypatch.setattr("sweep.store.open_store", unreached)
    down(config, yes=True)
    assert place.up == []
    out = capsys.readouterr().out
    assert "removed:\n  a head" in out and "`status` will not say so: no route to the store" in out
