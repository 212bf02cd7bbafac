"""Clients of AWS that answer soon or not at all, and their errors in words.

boto3 costs half a second, so it is imported when the first client is asked for.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

SECONDS = 5  # to connect, and to wait for an answer: a person waits for `plan` and `check`
THROTTLED = frozenset({
    "EC2ThrottledException", "PriorRequestNotComplete", "RequestLimitExceeded", "RequestThrottled",
    "SlowDown", "Throttling", "ThrottlingException", "TooManyRequestsException",
})  # fmt: skip


def client(service: str, region: str) -> Any:
    """A client of one service; the endpoint and credentials come from where every AWS tool takes them."""
    from botocore.config import Config

    config = Config(
        connect_timeout=SECONDS, read_timeout=2 * SECONDS, retries={"mode": "standard", "total_max_attempts": 2}
    )
    return _session(_settings()).client(service, region_name=region, config=config)


def _settings() -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))


@lru_cache(maxsize=2)
def _session(settings: tuple[tuple[str, str], ...]) -> Any:  # noqa: ARG001  (others, another session)
    """One for all clients: EC2's own description, of which each session reads a copy, takes a second to read."""
    import boto3

    return boto3.session.Session()


def partition(region: str) -> str:
    """Which of AWS's separate clouds a region is of, as ARNs have it: "aws", "aws-cn", "aws-us-gov".

    Raises:
        BotoCoreError: nobody knows such a region.
    """
    return str(_session(_settings()).get_partition_for_region(region))


def has_credentials() -> bool:
    """Whether there are any credentials; nobody is asked whether they are valid."""
    from botocore.exceptions import BotoCoreError

    try:
        return _session(_settings()).get_credentials() is not None
    except BotoCoreError:
        return False


def errors(*also: type[Exception]) -> tuple[type[Exception], ...]:
    """What calls of a client raise, and what else is to be caught with it."""
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError, *also


def may_pass(error: Exception) -> bool:
    """Whether the same call may succeed later as it is: no way to AWS, too many calls, or a problem of AWS's own."""
    from botocore import exceptions

    unanswered = exceptions.ConnectionError, exceptions.HTTPClientError
    response = getattr(error, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return isinstance(error, unanswered) or code(error) in THROTTLED or status >= 500


def code(error: Exception) -> str:
    """AWS's name for an error, e.g. "AccessDenied"; "" for one that is not AWS's answer."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def error_text(error: Exception) -> str:
    """One line: what AWS, or the way to it, says."""
    response = getattr(error, "response", None) or {}
    message = response.get("Error", {}).get("Message") or str(error)
    return " ".join(f"{code(error)} {message}".split())
