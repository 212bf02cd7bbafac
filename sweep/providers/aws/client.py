"""Clients of AWS with short timeouts, and their errors as text.

boto3 takes half a second to import, so it is imported when the first client is requested.
"""

from __future__ import annotations

from typing import Any

from sweep.store.aws_session import aws_client, aws_session, aws_settings

SECONDS = 5  # timeout of a connection; short, because a user waits for `plan` and `check`
THROTTLED = frozenset({
    "EC2ThrottledException", "PriorRequestNotComplete", "RequestLimitExceeded", "RequestThrottled",
    "SlowDown", "Throttling", "ThrottlingException", "TooManyRequestsException",
})  # fmt: skip


def client(service: str, region: str) -> Any:
    """Return a client of one service; endpoint and credentials are configured as for every AWS tool."""
    from botocore.config import Config

    config = Config(
        connect_timeout=SECONDS, read_timeout=2 * SECONDS, retries={"mode": "standard", "total_max_attempts": 2}
    )
    return aws_client(service, region_name=region, config=config)


def partition(region: str) -> str:
    """Return the partition of a region for ARNs: "aws", "aws-cn" or "aws-us-gov".

    Raises:
        BotoCoreError: the region is unknown.
    """
    return str(aws_session(aws_settings()).get_partition_for_region(region))


def has_credentials() -> bool:
    """Return True if there are credentials; AWS is not asked if they are valid."""
    from botocore.exceptions import BotoCoreError

    try:
        return aws_session(aws_settings()).get_credentials() is not None
    except BotoCoreError:
        return False


def errors(*also: type[Exception]) -> tuple[type[Exception], ...]:
    """Return the exceptions that calls of a client raise, and more exceptions to catch with them."""
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError, *also


def may_pass(error: Exception) -> bool:
    """Return True if the same call may succeed later: no connection, too many calls, or a failure of AWS."""
    from botocore import exceptions

    unanswered = exceptions.ConnectionError, exceptions.HTTPClientError
    response = getattr(error, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return isinstance(error, unanswered) or code(error) in THROTTLED or status >= 500


def code(error: Exception) -> str:
    """Return AWS's name of an error, such as "AccessDenied"; "" if the error is no answer of AWS."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def error_text(error: Exception) -> str:
    """Return an error of AWS, or of the connection to it, as one line."""
    response = getattr(error, "response", None) or {}
    message = response.get("Error", {}).get("Message") or str(error)
    return " ".join(f"{code(error)} {message}".split())
