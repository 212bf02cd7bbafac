"""One boto3 session for all clients of AWS in a process.

A session reads AWS's descriptions of its services, which takes up to a second.  boto3 itself costs half a second and is
imported with the first session.
"""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from typing import Any

Settings = tuple[tuple[str, str], ...]
_LOCK = threading.Lock()  # a session makes one client at a time


def aws_settings() -> Settings:
    """Return the environment variables that configure AWS; another value needs another session."""
    return tuple((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))


def aws_client(service: str, **options: Any) -> Any:
    """Return a new client of one service of AWS; options as for `boto3.session.Session.client`."""
    with _LOCK:
        return aws_session(aws_settings()).client(service, **options)


def _forget_after_fork() -> None:
    """Make a new session in a forked child: the parent's lock may be held there for ever."""
    global _LOCK
    _LOCK = threading.Lock()
    forget_sessions()


def forget_sessions() -> None:
    """Have the next client read the settings and credentials again."""
    aws_session.cache_clear()


@lru_cache(maxsize=4)
def aws_session(settings: Settings) -> Any:  # noqa: ARG001  (the key of the cache)
    """Return the session for these settings, made once."""
    import boto3

    return boto3.session.Session()


os.register_at_fork(after_in_child=_forget_after_fork)
