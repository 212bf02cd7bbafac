"""Fixtures of hostile inputs: a command that runs in this process."""

from __future__ import annotations

import pytest

from sweep.cli.app import main
from tests.support.inputs import Run


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process, as a user does; returns its exit code and all that it printed."""
    monkeypatch.delenv("SWEEP_DEBUG", raising=False)

    def call(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["sweep", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return call
