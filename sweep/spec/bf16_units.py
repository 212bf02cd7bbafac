"""Units of this machine's CPU for products in bfloat16.

Each kind rounds in its own way, so it is part of a trial's key.
After one epoch of GANomaly from one seed, AMX, AVX-512 and a CPU without such units gave AUROCs that differ in the
second digit.
"""

from __future__ import annotations

import os
from pathlib import Path

NO_UNITS = "emulated"
UNITS = {  # flags of /proc/cpuinfo, the best first, and the parts of oneDNN's names for what it may use
    "amx_bf16": ("AMX", "ALL", "DEFAULT"),
    "avx512_bf16": ("BF16", "FP16", "AMX", "AVX10", "ALL", "DEFAULT"),
}


def cpu_bf16_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the units that torch's CPU library, oneDNN, uses: "amx_bf16", "avx512_bf16" or "emulated" for none.

    The environment variable ONEDNN_MAX_CPU_ISA can forbid them.  Without /proc/cpuinfo the answer is "emulated".
    """
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return NO_UNITS
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    usable = (flag for flag, names in UNITS.items() if flag in flags and any(name in allowed for name in names))
    return next(usable, NO_UNITS)
