"""What `trial.precision` stands for on a machine: decided when trials are planned, and without torch.

The standard library alone is needed here, as in `sweep.trialspec`.
"""

from __future__ import annotations

import os
from pathlib import Path

AMPERE = 8.0  # compute capability from which on NVIDIA GPUs multiply TF32 and bfloat16
_CPU_UNITS = frozenset({"avx512_bf16", "amx_bf16"})  # flags of /proc/cpuinfo
_KERNELS = ("BF16", "FP16", "AMX", "AVX10", "ALL", "DEFAULT")  # within an ISA that has those units, by oneDNN's names


def resolve_precision(asked: str, capability: float | None) -> str:
    """`asked` itself, or what "auto" stands for: "bf16" where the device multiplies it, else "float32".

    Args:
        asked: "auto", "float32", "tf32" or "bf16".
        capability: compute capability of the GPU that trains, None where it is the CPU.
    """
    if asked != "auto":
        return asked
    return "bf16" if multiplies_bf16(capability) else "float32"


def multiplies_bf16(capability: float | None) -> bool:
    """Whether the device has units for products in bfloat16; the arguments are those of `resolve_precision`."""
    return cpu_multiplies_bf16() if capability is None else capability >= AMPERE


def multiplies_tf32(capability: float | None) -> bool:
    """Whether the device has units for products in TF32; the arguments are those of `resolve_precision`."""
    return capability is not None and capability >= AMPERE


def cpu_multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor has units for bfloat16 that torch's CPU library, oneDNN, may use.

    ONEDNN_MAX_CPU_ISA keeps it from instructions that are there; it is respected.  Where there is no
    /proc/cpuinfo, the answer is no.
    """
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    if not any(name in most for name in _KERNELS):
        return False
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not _CPU_UNITS.isdisjoint(flags)
