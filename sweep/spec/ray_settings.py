"""Settings of every Ray that a sweep starts, and the room that Ray's sockets need.  Does not import Ray."""

from __future__ import annotations

RAY_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",  # machines may have no internet
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # otherwise `uv run` rebuilds the environment in every worker
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # the user's own detectors are imported from the code's folder
    "RAY_ROTATION_MAX_BYTES": "5000000",  # a trial may print without end; Ray keeps the last two files of this size
    "RAY_ROTATION_BACKUP_COUNT": "1",
    "PYTHONWARNINGS": "ignore",
}
"""Environment variables of Ray's processes, and so of trials."""

SOCKET_PATH = 107  # bytes that the path of a Unix socket may have
# Ray puts its sockets into a folder whose name contains the time and the process id, of at most seven digits.
SOCKET = "/session_2026-11-30_20-56-18_123456_1234567/sockets/plasma_store"
LONGEST_RAY_FOLDER = SOCKET_PATH - len(SOCKET)
"""Most bytes in the path of Ray's folder for temporary files."""
