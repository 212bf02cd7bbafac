"""A program named nvidia-smi that lists the cards a test wants, first on PATH."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPT = """#!/bin/sh
case "$1" in
--query-gpu=index,uuid,name,compute_cap,memory.used,memory.total,utilization.gpu) printf '%s\\n' {cards} ;;
--query-compute-apps=gpu_uuid,pid) printf '%s\\n' {processes} ;;
*) exit 2 ;;
esac
"""


class NvidiaSmi:
    """Cards are numbered from 0; the id of number n is GPU-n0000000-aaaa."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        self._program = folder / "nvidia-smi"
        self.lists()

    def lists(
        self,
        *names: tuple[str, float],
        processes: dict[int, int] | None = None,
        mib: dict[int, str] | None = None,
        percent: dict[int, str] | None = None,
    ) -> None:
        """From now on these are there.

        Args:
            names: name and compute capability of each card, which has 80,000 MiB.
            processes: number of the card to the id of a process on it.
            mib, percent: number of the card to its used memory and its utilisation, as the program prints it.
        """
        cards = [
            f"'{n}, {uuid(n)}, {name}, {capability}, {(mib or {}).get(n, '3')}, 80000, {(percent or {}).get(n, '0')}'"
            for n, (name, capability) in enumerate(names)
        ]
        running = [f"'{uuid(n)}, {pid}'" for n, pid in (processes or {}).items()]
        self._program.write_text(SCRIPT.format(cards=" ".join(cards), processes=" ".join(running)))
        self._program.chmod(0o755)


def uuid(number: int) -> str:
    """Id of a card."""
    return f"GPU-{number}0000000-aaaa"
