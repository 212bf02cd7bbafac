"""The audit grid: the same trained detectors under every evaluation and selection."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sweep.leaderboard.audit import audits
from sweep.leaderboard.board import build
from sweep.report.markdown import render_markdown
from sweep.report.terminal import render_terminal
from tests.leaderboard.test_board import rows

WAYS = {
    ("clean", "last"): 0.6, ("clean", "oracle"): 0.65,
    ("legacy_ordered", "last"): 0.8, ("legacy_ordered", "oracle"): 0.9,
}  # fmt: skip
GRID = [
    found
    for (evaluation, selection), value in WAYS.items()
    for found in rows({"0": (value, value + 0.02), "1": (value, value)}, evaluation=evaluation, selection=selection)
]
CLEAN = rows({"0": (0.5,), "1": (0.5,)}, "knn")


def test_class_means_stand_side_by_side_in_a_fixed_order() -> None:
    (audit,) = audits(GRID + CLEAN)
    assert audit.ways == tuple(WAYS)
    ((line, means),) = audit.lines
    assert line.detector == "ganomaly", "a detector with one evaluation only is not audited"
    assert {way: cell.mean for way, cell in means.items()} == pytest.approx(
        {way: value + 0.005 for way, value in WAYS.items()}
    )


def test_there_is_no_audit_of_clean_scores_alone() -> None:
    assert audits(CLEAN) == ()
    assert audits([]) == ()


def test_the_audit_is_printed_below_the_board_with_what_it_means() -> None:
    board, audited = build(GRID + CLEAN), audits(GRID + CLEAN)
    console = Console(width=100, file=io.StringIO())
    console.print(render_terminal(board, 100, audited))
    assert isinstance(console.file, io.StringIO)
    for text in (console.file.getvalue(), render_markdown(board, audited=audited)):
        assert "digits D1: AUROC, audit" in text
        assert "0.905" in text
        assert "protocol, not detection" in " ".join(text.split())
    assert "| legacy ordered, oracle |" in render_markdown(board, audited=audited)
    assert "audit" not in render_markdown(board)
