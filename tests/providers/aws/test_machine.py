"""Programs on the machines: reasons to power off, and reactions to a spot notice."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from sweep.providers.aws.machine import guard as guards
from sweep.providers.aws.machine.guard import (
    HEAD_GONE_SECONDS,
    REACHED_SECONDS,
    SET_UP_SECONDS,
    SUPERVISOR_GONE_SECONDS,
    Guard,
    answers,
    head_in,
    last_touched,
    power_off,
)
from sweep.providers.aws.machine.spot_notice import MarkAndDrain, Metadata, Notice, node_id, watch

DEADLINE = 10_000.0


class Head:
    """The head of a worker, as the worker's guard sees it."""

    def __init__(self) -> None:
        self.address: str | None = None
        self.up = False

    def guard(self) -> Guard:
        return guards.worker(DEADLINE, lambda: self.address, lambda address: self.up, started=0.0)


def test_every_machine_goes_at_the_deadline() -> None:
    for guard in (Head().guard(), guards.head(DEADLINE, lambda: "now", started=0.0)):
        assert guard.reason(DEADLINE - 1, monotonic=1.0) is None
        assert "time limit" in (guard.reason(DEADLINE, monotonic=1.0) or "")


def test_a_head_that_is_given_no_sweep_goes() -> None:
    guard = guards.head(DEADLINE, lambda: None, started=0.0)
    assert guard.reason(0, SET_UP_SECONDS - 1) is None
    assert "no sweep was started" in (guard.reason(0, SET_UP_SECONDS) or "")


def test_a_head_goes_ten_minutes_after_its_supervisor_stopped_touching_the_file(tmp_path: Path) -> None:
    file = tmp_path / "supervised"
    guard = guards.head(DEADLINE, lambda: last_touched(file), started=0.0)
    assert guard.reason(0, SET_UP_SECONDS - 1) is None
    for touch in range(3):
        os.utime(file, ns=(touch, touch)) if file.exists() else file.touch()
        assert guard.reason(0, 2_000 + 500 * touch) is None
    assert guard.reason(0, 3_000 + SUPERVISOR_GONE_SECONDS - 1) is None
    assert "no sign of life" in (guard.reason(0, 3_000 + SUPERVISOR_GONE_SECONDS) or "")
    os.utime(file, ns=(5, 5))
    assert guard.reason(0, 3_000 + SUPERVISOR_GONE_SECONDS) is None, (
        "the supervisor is alive again, although its clock was set back"
    )
    file.unlink()
    assert "no sign of life" in (guard.reason(0, 3_000 + 2 * SUPERVISOR_GONE_SECONDS) or "")


def test_a_worker_that_no_head_reaches_goes_after_ten_minutes() -> None:
    guard = Head().guard()
    assert REACHED_SECONDS == HEAD_GONE_SECONDS == 600
    assert guard.reason(0, REACHED_SECONDS - 1) is None
    assert "no head has reached this worker" in (guard.reason(0, REACHED_SECONDS) or "")


def test_a_worker_stays_while_its_head_answers_and_goes_ten_minutes_after_it_stopped() -> None:
    head = Head()
    guard = head.guard()
    head.address, head.up = "10.0.0.5:6379", True
    for second in range(0, 5_000, 15):
        assert guard.reason(0, second) is None
    seen = 4_995
    head.up = False
    assert guard.reason(0, seen + HEAD_GONE_SECONDS - 1) is None
    assert "the head has not answered" in (guard.reason(0, seen + HEAD_GONE_SECONDS) or "")


def test_a_head_that_comes_back_in_time_starts_the_count_anew() -> None:
    head = Head()
    guard = head.guard()
    head.address, head.up = "10.0.0.5:6379", True
    assert guard.reason(0, 0) is None
    head.up = False
    assert guard.reason(0, HEAD_GONE_SECONDS - 1) is None
    head.up = True
    assert guard.reason(0, HEAD_GONE_SECONDS) is None
    head.up = False
    assert guard.reason(0, 2 * HEAD_GONE_SECONDS - 1) is None
    assert guard.reason(0, 2 * HEAD_GONE_SECONDS) is not None


def test_a_worker_that_was_reached_late_has_the_whole_time_from_then() -> None:
    head = Head()
    guard = head.guard()
    assert guard.reason(0, REACHED_SECONDS - 1) is None
    head.address = "10.0.0.5:6379"  # it is written before the guard asks Ray on the head for the first time
    assert guard.reason(0, REACHED_SECONDS) is None
    assert guard.reason(0, REACHED_SECONDS + HEAD_GONE_SECONDS - 1) is None
    assert guard.reason(0, REACHED_SECONDS + HEAD_GONE_SECONDS) is not None


def test_a_head_answers_where_something_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert answers(address)
    assert not answers(address)
    assert not answers("nonsense")
    assert head_in(tmp_path / "head") is None
    (tmp_path / "head").write_text(f"{address}\n")
    assert head_in(tmp_path / "head") == address


def test_power_off_tries_one_command_after_the_other(tmp_path: Path) -> None:
    def command(name: str, code: int) -> list[str]:
        code_ = f"import sys; open({str(tmp_path / 'called')!r}, 'a').write({name!r}); sys.exit({code})"
        return [sys.executable, "-c", code_]

    power_off((["/nonexistent/shutdown"], command("a", 1), command("b", 0), command("c", 0)))
    assert (tmp_path / "called").read_text() == "ab"


class Ec2(BaseHTTPRequestHandler):
    """Instance metadata, version 2, with a notice that a test sets."""

    notice: str | None = None
    token = "token-1"

    def do_PUT(self) -> None:
        asked = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._answer(200 if asked else 400, type(self).token)

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != type(self).token:
            self._answer(401, "")
        elif self.path != "/latest/meta-data/spot/instance-action" or type(self).notice is None:
            self._answer(404, "")
        else:
            self._answer(200, type(self).notice or "")

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    Ec2.notice, Ec2.token = None, "token-1"
    with ThreadingHTTPServer(("127.0.0.1", 0), Ec2) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Metadata(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


NOTICE = '{"action": "terminate", "time": "2026-11-22T10:02:00Z"}'


def test_a_notice_is_read_with_its_time(metadata: Metadata) -> None:
    assert metadata.notice() is None
    Ec2.notice = NOTICE
    assert metadata.notice() == Notice("terminate", 1_795_341_720.0)


def test_an_expired_token_is_replaced(metadata: Metadata) -> None:
    assert metadata.notice() is None
    Ec2.notice, Ec2.token = NOTICE, "token-2"
    assert metadata.notice() is None
    assert metadata.notice() is not None


@pytest.mark.parametrize("nonsense", ["", "[]", '{"action": "terminate"}', '{"action": "x", "time": "soon"}'])
def test_an_answer_that_is_no_notice_is_an_error_and_not_an_interruption(metadata: Metadata, nonsense: str) -> None:
    Ec2.notice = nonsense
    with pytest.raises(OSError, match="not a notice"):
        metadata.notice()


def test_effects_follow_once_and_errors_of_the_metadata_do_not_end_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([OSError("unreachable"), None, Notice("terminate", 5.0)])
    seen: list[Notice] = []

    class Asked(Metadata):
        def notice(self) -> Notice | None:
            answer = next(answers)
            if isinstance(answer, OSError):
                raise answer
            return answer

    class Effects:
        def handle_notice(self, notice: Notice, now: float) -> None:
            seen.append(notice)

    monkeypatch.setattr("sweep.providers.aws.machine.spot_notice.POLL_SECONDS", 0.0)
    watch(Asked(), Effects())
    assert seen == [Notice("terminate", 5.0)]


HEAD, NODE = "10.0.0.5:6379", "ab" * 28


def runs(processes: Path, pid: int, *words: str) -> None:
    """Add a process to a folder in the form of Linux's /proc."""
    (processes / str(pid)).mkdir(parents=True)
    (processes / str(pid) / "cmdline").write_text("".join(f"{word}\0" for word in words))


def raylet(head: str = HEAD, node: str = NODE) -> list[str]:
    return ["/venv/ray/raylet", "--min_worker_port=0", f"--node_id={node}", f"--gcs-address={head}", "--head"]


def test_the_node_of_this_machine_is_known_from_the_process_that_is_it(tmp_path: Path) -> None:
    runs(tmp_path, 1, "/sbin/init")
    runs(tmp_path, 2)  # a process of the kernel has no command line
    (tmp_path / "3").mkdir()  # a process that has just ended
    runs(tmp_path, 4, "python", "-m", "agent", "--node-id=another", f"--gcs-address={HEAD}")
    assert node_id(HEAD, tmp_path) is None
    runs(tmp_path, 5, *raylet("10.9.9.9:6379", "cd" * 28))
    assert node_id(HEAD, tmp_path) is None, "this node belongs to another cluster"
    runs(tmp_path, 6, *raylet())
    assert node_id(HEAD, tmp_path) == NODE
    runs(tmp_path, 7, *raylet(node="ef" * 28))
    assert node_id(HEAD, tmp_path) is None, "it is not clear which one is meant"


def test_ray_itself_finds_its_node_by_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    seen = [SimpleNamespace(info={"cmdline": raylet()})]
    monkeypatch.setattr(vars(services)["psutil"], "process_iter", lambda attrs: seen)
    assert services.find_node_ids() == {NODE}
    assert services._find_address_from_flag("--gcs-address") == {HEAD}
    assert f"{services.RAYLET_EXECUTABLE}".endswith("/raylet")


def test_a_notice_marks_the_machine_for_its_trials_and_drains_it_from_ray(tmp_path: Path) -> None:
    ray = tmp_path / "ray"
    ray.write_text(f'#!/bin/sh\necho "$@ $RAY_ADDRESS" > "{tmp_path}/asked"\n')
    ray.chmod(0o755)
    file = tmp_path / "run/interrupted"
    runs(tmp_path / "proc", 5, *raylet())
    MarkAndDrain(file, str(ray), HEAD, tmp_path / "proc").handle_notice(Notice("terminate", 1_000.0), now=880.0)
    assert json.loads(file.read_text()) == {"action": "terminate", "time": 1_000.0}
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:5] == ["drain-node", "--address", HEAD, "--node-id", NODE]
    assert asked[asked.index("--reason") + 1] == "DRAIN_NODE_REASON_PREEMPTION"
    assert int(asked[-2]) == 110
    assert asked[-1] == HEAD, "otherwise Ray might start a new cluster"
    MarkAndDrain(file, str(ray), HEAD, tmp_path / "nothing").handle_notice(Notice("terminate", 1_000.0), now=880.0)
    assert "--node-id" not in (tmp_path / "asked").read_text(), "then Ray finds the node itself"


def test_a_machine_is_marked_also_where_ray_cannot_be_asked(tmp_path: Path) -> None:
    file = tmp_path / "interrupted"
    MarkAndDrain(file, "/nonexistent/ray", "10.0.0.5:6379").handle_notice(Notice("terminate", 10.0), now=0.0)
    assert file.exists()


def test_ray_has_the_command_that_drains(tmp_path: Path) -> None:
    from ray.scripts.scripts import cli

    options = {option for parameter in cli.commands["drain-node"].params for option in parameter.opts}
    assert {"--address", "--node-id", "--reason", "--reason-message", "--deadline-remaining-seconds"} <= options
