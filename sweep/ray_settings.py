"""How Ray's processes are set up on machines that are not a cloud's: others work there, too."""

from __future__ import annotations

OBJECT_STORE = 150 * 2**20  # bytes of each machine's memory: results are small, images are mapped from a cache
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",  # there may be no internet
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run` rebuilds the environment in every worker
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # detectors of the user's own are imported from the code's folder
    "PYTHONWARNINGS": "ignore",
}


def exported(**more: str) -> str:
    """One line of shell that sets the environment of all that is started there; values are words of a shell."""
    return " ".join(["export", *(f"{name}={value}" for name, value in {**SETTINGS, **more}.items())])
