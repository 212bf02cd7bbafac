"""The kernel's memory limit and its count of killed processes, in both versions of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep.engine.tuner.memory_limit import count_kills, find_limit


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def version_2(tmp_path: Path) -> tuple[Path, Path]:
    write(tmp_path / "own", "0::/job_7/step_0\n")
    write(tmp_path / "groups/job_7/memory.max", "4000000000\n")
    write(tmp_path / "groups/job_7/step_0/memory.max", "max\n")
    write(
        tmp_path / "groups/job_7/step_0/memory.events", "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"
    )
    return tmp_path / "groups", tmp_path / "own"


@pytest.fixture
def version_1(tmp_path: Path) -> tuple[Path, Path]:
    write(tmp_path / "own", "5:devices:/job\n4:memory:/job\n0::/\n")
    write(tmp_path / "groups/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(tmp_path / "groups/memory/job/memory.limit_in_bytes", "2000000000\n")
    write(tmp_path / "groups/memory/job/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    return tmp_path / "groups", tmp_path / "own"


def test_the_smallest_limit_of_all_parents_counts(version_2: tuple[Path, Path]) -> None:
    assert (count_kills(*version_2), find_limit(*version_2)) == (2, 4_000_000_000)


def test_version_1_is_read_as_well(version_1: tuple[Path, Path]) -> None:
    assert (count_kills(*version_1), find_limit(*version_1)) == (1, 2_000_000_000)


def test_in_a_container_the_root_is_the_own_group(tmp_path: Path) -> None:
    write(tmp_path / "own", "0::/docker/of/the/host\n")
    write(tmp_path / "groups/memory.max", "1000\n")
    write(tmp_path / "groups/memory.events", "oom_kill 5\n")
    assert (count_kills(tmp_path / "groups", tmp_path / "own"), find_limit(tmp_path / "groups", tmp_path / "own")) == (
        5, 1000,
    )  # fmt: skip


@pytest.mark.parametrize("own", ["", "nonsense\n", "0::/\n"])
def test_without_control_groups_nothing_was_killed_and_there_is_no_limit(own: str, tmp_path: Path) -> None:
    write(tmp_path / "own", own)
    assert (count_kills(tmp_path, tmp_path / "own"), find_limit(tmp_path, tmp_path / "own")) == (0, None)
    assert (count_kills(tmp_path, tmp_path / "none"), find_limit(tmp_path, tmp_path / "none")) == (0, None)
