"""A child that does not outlive its parent."""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
DIES_WITH_PARENT = sys.platform == "linux"  # even when the parent is killed; elsewhere nobody promises that


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills this process when its parent ends."""
    if DIES_WITH_PARENT:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
