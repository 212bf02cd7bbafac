"""Machines in the output of `status`: those that exist, and after `down` that the sweep was taken down."""

from __future__ import annotations

import errno
import io
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from sweep.cli import run
from sweep.cli.run import down, status
from sweep.cli.session import Session
from sweep.errors import DONE, INTERRUPTED, UserError
from sweep.store import launch_status, open_store
from sweep.store.base import StoreError
from sweep.store.launch_status import LaunchStatus, Node
from sweep.store.ledger import Ledger
from sweep.store.local import LocalStore
from tests.launch.test_remote import Machines
from tests.support.aws_sweeps import STUDY
from tests.support.providers import on_hosts

NODES = (Node("10.0.0.2", since=1.0), Node("10.0.0.3", since=1.0, alive=False, until=2.0))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "onprem.yaml"
    found = on_hosts(str(tmp_path / "store")).model_dump(mode="json")
    body = {"name": found["name"], "studies": [{**found["studies"][0], "name": "s"}]}
    path.write_text(yaml.safe_dump({"storage": found["storage"], "cluster": found["cluster"], "sweep": body}))
    return path


def with_machines(monkeypatch: pytest.MonkeyPatch, *up: str) -> Machines:
    """Let `down` use a provider on which these machines exist."""
    provider = Machines(up=list(up))
    monkeypatch.setattr("sweep.launch.down.provider_of", lambda sweep: provider)
    return provider


def store_of(config: Path) -> LocalStore:
    store = open_store(str(config.parent / "store"))
    assert isinstance(store, LocalStore)
    return store


def status_line(config: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    status(config)
    return next(line for line in capsys.readouterr().out.splitlines() if " on the head: " in line)


@pytest.mark.parametrize("state", ["starting", "running", "reporting"])
def test_a_head_that_could_not_speak_any_more_is_spoken_for(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: launch_status.State
) -> None:
    launch_status.write(store_of(config), "table-1", LaunchStatus(3, state, running=2, nodes=NODES, trials=4, to_run=4))
    provider = with_machines(monkeypatch, "a head")
    monkeypatch.setenv("USER", "ada")
    down(config, yes=True)
    assert provider.up == []
    head = launch_status.read(store_of(config), "table-1")
    assert head is not None
    assert (head.launch, head.state, head.exit_code, head.running, head.to_run) == (3, "ended", INTERRUPTED, 0, 4)
    assert not any(node.alive for node in head.nodes) and head.nodes[1] == NODES[1]
    line = status_line(config, capsys)
    assert "ended 0 s ago with exit code 130: taken down by ada@" in line and "silent" not in line


def test_a_head_that_was_stopped_in_order_has_ended_for_that_and_one_that_was_done_before_has_not(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, provider = store_of(config), with_machines(monkeypatch, "a head")
    provider.removing = lambda: launch_status.write(
        store, "table-1", LaunchStatus(3, "ended", exit_code=INTERRUPTED, cause="stopped")
    )
    down(config, yes=True)
    assert "with exit code 130: taken down by " in (line := status_line(config, capsys)) and line.endswith("; stopped")
    for done in (
        LaunchStatus(4, "ended", exit_code=DONE),
        LaunchStatus(4, "ended", exit_code=INTERRUPTED, cause="by Ctrl-C"),
    ):
        launch_status.write(store, "table-1", done)
        kept = launch_status.read(store, "table-1")
        time.sleep(0.01)  # longer than a step of the clock, so that the launch ended before `down`
        provider.up, provider.removing = ["a disk"], lambda: None
        down(config, yes=True)
        assert launch_status.read(store, "table-1") == kept


def test_machines_that_went_by_themselves_are_told_of_a_head_that_is_silent_alone(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_of(config)
    with_machines(monkeypatch)
    launch_status.write(store, "table-1", LaunchStatus(3, "running"))
    down(config, yes=True)
    assert "running for" in status_line(config, capsys), "`down` may have asked another account than that of the launch"
    monkeypatch.setattr("sweep.launch.down.SILENT_SECONDS", -1.0)
    down(config, yes=True)
    assert "its machines were gone when" in status_line(config, capsys)


def test_status_counts_the_slots_of_machines_that_are_there(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown() -> tuple[str, dict[str, object]]:
        capsys.readouterr()
        status(config)
        text = capsys.readouterr().out
        status(config, as_json=True)
        return text, json.loads(capsys.readouterr().out)

    text, found = shown()
    assert "no machine exists for it now" in text and (found["slots"], found["seconds"]) == (0, None)
    launch_status.write(store_of(config), "table-1", LaunchStatus(3, "running", slots=3, nodes=NODES))
    text, found = shown()
    assert " on 3 slots of 1 CPU core" in text and found["slots"] == 3
    launch_status.close(store_of(config), "table-1", "taken down")
    assert shown()[1]["slots"] == 0


def test_machines_of_the_last_launch_in_another_region_are_told_and_to_find_nothing_is_no_success_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, store = tmp_path / "my aws.yaml", store_of(tmp_path / "any")
    body = {"name": "n", "studies": [STUDY]}
    raw = {"storage": "s3://b/p", "cluster": {"provider": "aws"}, "budget": {"max_hours": 1}, "sweep": body}
    path.write_text(yaml.safe_dump(raw))
    monkeypatch.setattr("sweep.launch.down.open_store", lambda *_: store)
    ledger = Ledger(store, "n")
    ledger.put_spec({"sweep": {"cluster": {"provider": "aws", "region": "eu-west-1"}}, "argv": ["launch", "x.yaml"]})
    ledger.put_spec({"sweep": {"cluster": {"provider": "local"}}, "argv": ["launch", "here.yaml"]})
    launch_status.write(store, "n", replace(LaunchStatus(1, "running"), time=1.0))
    kept = launch_status.read(store, "n")
    with_machines(monkeypatch)
    with pytest.raises(UserError) as caught:
        down(path, ["budget.max_hours=2"], yes=True)
    message = (
        "the last launch of sweep n was elsewhere: provider aws, region eu-west-1; look there: "
        f"python -m sweep down '{path}' --set budget.max_hours=2 --set cluster.region=eu-west-1"
    )
    assert str(caught.value) == message
    assert "nothing of this sweep was found: provider aws, region us-east-1" in capsys.readouterr().out
    provider = with_machines(monkeypatch, "a head")
    down(path, ["budget.max_hours=2"], yes=True)
    assert provider.up == [] and message in capsys.readouterr().out
    assert launch_status.read(store, "n") == kept, "the launch may still run there"
    with_machines(monkeypatch)
    down(path, ["cluster.region=eu-west-1"], yes=True)


def test_the_machines_of_another_provider_are_looked_for_as_they_were_launched(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = {"cluster": {"provider": "aws", "region": "eu-west-1"}}
    Ledger(store_of(config), "table-1").put_spec({"sweep": last, "argv": ["launch", "aws.yaml", "-y"]})
    expected = (
        "provider aws, region eu-west-1; look there: python -m sweep down aws.yaml --set cluster.region=eu-west-1"
    )
    here = config.with_name("here.yaml")
    here.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "cluster": {"provider": "local"}}))
    with_machines(monkeypatch)
    for path in (config, here):
        with pytest.raises(UserError, match=expected):
            down(path, yes=True)


class Closed(io.StringIO):
    """Output to a terminal that is closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_who_reads_the_output_of_down_may_leave(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = with_machines(monkeypatch, "a head")
    monkeypatch.setattr(run, "out", Console(file=Closed()))
    down(config, yes=True)
    assert provider.up == []


def test_whoever_watches_goes_on_when_the_store_answers_again(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([None, StoreError("no route to the store"), None, KeyboardInterrupt()])

    def head(opened: Session) -> None:
        if (error := next(answers)) is not None:
            raise error

    monkeypatch.setattr(Session, "head", head)
    monkeypatch.setattr(run, "WATCH_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        status(config, watch=True)
    shown = capsys.readouterr()
    assert shown.out.count("table-1") == 2 and shown.err == "asking again: no route to the store\n"
    answers = iter([StoreError("no route to the store")])
    with pytest.raises(StoreError):
        status(config)


def test_a_store_that_cannot_be_reached_keeps_no_machine(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreached(*_: object) -> LocalStore:
        raise StoreError("no route to the store")

    provider = with_machines(monkeypatch, "a head")
    monkeypatch.setattr("sweep.launch.down.open_store", unreached)
    down(config, yes=True)
    assert provider.up == []
    out = capsys.readouterr().out
    assert (
        "removed:\n  a head" in out and "`status` will not show that the launch has ended: no route to the store" in out
    )
