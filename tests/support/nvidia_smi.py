"""A program named nvidia-smi, first on PATH, that lists the GPUs of a test."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPT = """#!/bin/sh
case "$1" in
--query-gpu=index,uuid,name,compute_cap,memory.used,memory.total,utilization.gpu) printf '%s\\n' {gpus} ;;
--query-compute-apps=gpu_uuid,pid) printf '%s\\n' {processes} ;;
*) exit 2 ;;
esac
"""


class NvidiaSmi:
    """Stand-in for nvidia-smi.  GPUs are numbered from 0; the UUID of number n is GPU-n0000000-aaaa."""

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
        """List these GPUs from now on.

        Args:
            names: name and compute capability of each GPU, which has 80,000 MiB.
            processes: id of a process on a GPU, by the GPU's number.
            mib, percent: used memory and utilisation, by the GPU's number, as the program prints them.
        """
        gpus = [
            f"'{n}, {uuid(n)}, {name}, {capability}, {(mib or {}).get(n, '3')}, 80000, {(percent or {}).get(n, '0')}'"
            for n, (name, capability) in enumerate(names)
        ]
        running = [f"'{uuid(n)}, {pid}'" for n, pid in (processes or {}).items()]
        self._program.write_text(SCRIPT.format(gpus=" ".join(gpus), processes=" ".join(running)))
        self._program.chmod(0o755)


def uuid(number: int) -> str:
    """Return the UUID of a GPU."""
    return f"GPU-{number}0000000-aaaa"
