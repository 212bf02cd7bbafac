"""Files are written completely or not at all, and only as readable as asked for."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from sweep.files import replacing, write_atomically


def test_a_file_is_replaced_with_the_permissions_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("before")
    before = os.umask(0o022)
    try:
        assert write_atomically(path, b"after", mode=0o600) == path
        write_atomically(tmp_path / "open", b"")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o644
    assert sorted(os.listdir(tmp_path)) == ["open", "secret"]


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "before"
        _ = 1 / 0
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_killed_process_has_left_is_no_obstacle(tmp_path: Path) -> None:
    with suppress(ZeroDivisionError), replacing(tmp_path / "file") as temporary:
        left = temporary
        _ = 1 / 0
    left.write_text("left")
    write_atomically(tmp_path / "file", b"after")
    assert (tmp_path / "file").read_bytes() == b"after" and os.listdir(tmp_path) == ["file"]
