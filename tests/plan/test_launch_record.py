"""Launches are read back from their records, also by a version of sweep that did not write them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweep.errors import UserError
from sweep.launch.head.run import NEEDED_FIELDS
from sweep.plan.launch_record import commit, commit_caution, last_launch, launches, read_back, record
from sweep.spec.load import load
from sweep.spec.sweep import Sweep
from sweep.store import open_store
from sweep.store.ledger import Ledger
from tests.support.sweeps import ROOT, logged, platform, write_config

Written = dict[str, Any]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return load(write_config(tmp_path, [logged(epochs=1)]))


@pytest.fixture
def ledger(sweep: Sweep) -> Ledger:
    return Ledger(open_store(sweep.storage), sweep.name)


def written(sweep: Sweep) -> Written:
    return {**record(sweep, platform(sweep)), "commit": "0123abc"}


def test_what_was_written_is_read_back_with_the_store_where_it_is_now(sweep: Sweep, ledger: Ledger) -> None:
    ledger.put_spec(written(sweep))
    assert list(launches(ledger, "/elsewhere")) == [
        (sweep.model_copy(update={"storage": "/elsewhere"}), platform(sweep))
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found["sweep"]["trial"].update(patience=3), "trial: unknown key 'patience' (legal: "),
        (lambda found: found["sweep"]["trial"].update(keep="some"), "trial.keep: "),
        (lambda found: found["sweep"]["studies"][0].pop("name"), "sweep.studies[0].name: must be given"),
        (lambda found: found["sweep"]["cluster"].update(provider="moon"), "cluster.provider: unknown provider 'moon'"),
        (lambda found: found.update(sweep=None), "sweep: must be keys and values"),
        (lambda found: found.pop("sweep"), "sweep: must be given"),
        (lambda found: found.pop("platform"), "platform: must be given"),
        (lambda found: found["platform"].pop("slots"), 'it lacks "slots"'),
        (lambda found: found["platform"].update(racks=2), "'racks'"),
        (lambda found: found["platform"]["numerics"].update(rounding="up"), "'rounding'"),
        (lambda found: found.pop("argv"), "argv: must be given"),
    ],
)
def test_what_another_version_wrote_is_a_problem_with_the_fix(
    change: Callable[[Written], Any], message: str, sweep: Sweep, ledger: Ledger
) -> None:
    found = written(sweep)
    change(found)
    with pytest.raises(UserError) as refused:
        read_back(found, ledger, 3, sweep.storage, NEEDED_FIELDS)
    (problem,) = refused.value.problems
    assert message in problem
    assert "launch 3 of sweep test" in refused.value.heading
    assert "commit 0123abc: launch it again" in refused.value.heading


def test_all_of_its_problems_are_told_at_once(sweep: Sweep, ledger: Ledger) -> None:
    found = written(sweep)
    del found["platform"], found["argv"], found["sweep"]["name"]
    with pytest.raises(UserError) as refused:
        read_back(found, ledger, 1, sweep.storage, NEEDED_FIELDS)
    assert refused.value.problems == ["platform: must be given", "argv: must be given", "name: must be given"]


def test_the_last_launch_is_seen_whatever_was_launched_before(sweep: Sweep, ledger: Ledger) -> None:
    assert last_launch(ledger, sweep.storage) is None
    ledger.put_spec({"sweep": "of long ago"})
    ledger.put_spec(written(sweep))
    assert last_launch(ledger, sweep.storage) == (sweep, platform(sweep))
    with pytest.raises(UserError, match="launch 1 "):
        list(launches(ledger, sweep.storage))


def test_a_checkout_of_another_user_is_said_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit_caution() == ""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own variable for its tests
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", str(tmp_path / "gitconfig"))
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")
    assert commit() == {"commit": None, "dirty": None}
    caution = commit_caution()
    assert f"git config --global --add safe.directory {shlex.quote(str(ROOT))}" in caution
    assert "another user owns the checkout" in caution
