"""Answers of S3: which ones only S3 gives, which errors may pass, and what a user can do about the others.

A proxy, a captive portal or a broken connection can answer in the place of S3.  botocore takes any answer with status
200 for a success, even a page of HTML, and any 404 for an absent object.
"""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Mapping
from typing import Any

import urllib3.exceptions
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    InvalidRegionError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.httpchecksum import StreamingChecksumBody
from botocore.parsers import ResponseParserError

from sweep.console import printable
from sweep.store.retry import Transient

# Everything that botocore raises: its own errors, those of urllib3 that it lets through when the body of an error is
# cut, and those of its parsers for an answer that is not of S3's form.
FAILURES = (
    BotoCoreError, ClientError, ResponseParserError, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError,
    ValueError, LookupError, AttributeError, TypeError,
)  # fmt: skip
CHECK_ENDPOINT = "check the network, AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL"
RESUME = "what is stored is kept: run the same command again to go on"
NOT_IMPLEMENTED = 501

_PASSING = (
    NoConnectionError, HTTPClientError, IncompleteReadError, FlexibleChecksumError, MetadataRetrievalError,
    InvalidRegionError,  # a redirect to no region
)  # fmt: skip
_PASSING_CODES = frozenset({
    "BadDigest", "BandwidthLimitExceeded", "ConditionalRequestConflict", "IncompleteBody", "InternalError",
    "OperationAborted", "RequestLimitExceeded", "RequestTimeout", "RequestTimeTooSkewed", "ServiceUnavailable",
    "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "XAmzContentSHA256Mismatch",
})  # fmt: skip
_EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"})
_NO_CREDENTIALS = (CredentialRetrievalError, NoCredentialsError, TokenRetrievalError)
Seen = tuple[str, str]  # MD5 and ETag of a body that was read


class NotFromS3(Transient):
    """Answer that S3 does not give, or a body that is not what S3 sent."""


def tag_of(answer: Mapping[str, Any]) -> str:
    """Return the ETag of an answer; S3 gives one for each object that is written or read.

    Raises:
        NotFromS3: there is none.
    """
    if not answer.get("ETag"):
        raise NotFromS3(f"the answer has no ETag, so it is not from S3 ({_status(answer)})")
    return str(answer["ETag"])


def fits(tag: str, data: bytes, answer: Mapping[str, Any]) -> bool:
    """Return True if an ETag may be that of `data`: it is the MD5, unless S3 encrypts with a key of its key service."""
    return tag.strip('"') == _md5(data) or answer.get("ServerSideEncryption", "").startswith("aws:")


def checked_tag(data: bytes, answer: Mapping[str, Any], before: list[Seen], *, exact: bool) -> str:
    """Return the ETag of a body that was read, after a check of the body.

    The body must fit the checksum that S3 sent with it, or the ETag if that is the MD5.  Without either, two reads must
    be equal.

    Args:
        data: the body.
        answer: the answer with this body.
        before: bodies that earlier tries of the call have read; this one is appended.
        exact: check the ETag, too, although the body fits its checksum.

    Raises:
        NotFromS3: the body is not what S3 sent.
    """
    tag = tag_of(answer)
    if isinstance(answer["Body"], StreamingChecksumBody) and not exact:  # botocore has compared it while it was read
        return tag
    seen = (_md5(data), tag)
    if fits(tag, data, answer) or (seen in before and answer["ResponseMetadata"].get("RequestId")):
        return tag
    before.append(seen)
    raise NotFromS3("the body that was read does not fit its ETag")


def is_part(answer: Mapping[str, Any]) -> bool:
    """Return True if an answer is the part of an object that was asked for."""
    return bool(answer["ResponseMetadata"]["HTTPStatusCode"] == http.HTTPStatus.PARTIAL_CONTENT and tag_of(answer))


def check_deleted(answer: Mapping[str, Any]) -> None:
    """Check the answer to a deletion.

    Raises:
        NotFromS3: it is not that of S3.
    """
    if answer["ResponseMetadata"]["HTTPStatusCode"] != http.HTTPStatus.NO_CONTENT:
        raise NotFromS3(f"the answer to a deletion is not from S3 ({_status(answer)})")


def check_batch_deleted(answer: Mapping[str, Any], count: int) -> None:
    """Check the answer to the deletion of several objects.

    Raises:
        NotFromS3: it does not name `count` objects.
        ClientError: an object was not deleted.
    """
    for problem in answer.get("Errors", []):
        raise ClientError({"Error": problem, "ResponseMetadata": answer["ResponseMetadata"]}, "DeleteObjects")
    if len(answer.get("Deleted", [])) != count:
        raise NotFromS3(f"the answer does not name the objects that were deleted ({_status(answer)})")


def checked_page(answer: dict[str, Any]) -> dict[str, Any]:
    """Return a page of a listing.

    Raises:
        NotFromS3: the answer is no listing.
    """
    more = answer.get("IsTruncated")
    if more is None or not answer.get("Name") or (more and not answer.get("NextContinuationToken")):
        raise NotFromS3(f"the answer is not a list of objects ({_status(answer)})")
    folders_of(answer)
    keys_of(answer)
    return answer


def keys_of(page: Mapping[str, Any]) -> list[str]:
    """Return the keys of the objects of a page."""
    return [entry["Key"] for entry in page.get("Contents", [])]


def folders_of(page: Mapping[str, Any]) -> list[str]:
    """Return the common prefixes of a page."""
    return [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]


def code_of(error: BaseException) -> str:
    """Return S3's name of an error, such as "NoSuchKey"; "" if S3 gave none.

    botocore puts the status in the place of a name that is missing.
    """
    code = str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""
    return "" if code.isdigit() else code


def may_pass(error: BaseException) -> bool:
    """Return True if the same request may succeed later."""
    if isinstance(error, ClientError):
        code, status = code_of(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return not code or code in _PASSING_CODES or (status >= 500 and status != NOT_IMPLEMENTED)
    return isinstance(error, _PASSING) or not isinstance(error, BotoCoreError)


def needs_new_credentials(error: BaseException) -> bool:
    """Return True if the credentials have expired or were not found: they may stand in their file by now."""
    return isinstance(error, _NO_CREDENTIALS) or code_of(error) in _EXPIRED_CODES


def one_line(error: BaseException) -> str:
    """Return what is wrong as one line."""
    if isinstance(error, ClientError):
        name = code_of(error) or "an error without a code"
        message = error.response.get("Error", {}).get("Message", "")
        text = f"S3 answers {name} ({_status(error.response)}): {message}".removesuffix(": ")
    elif isinstance(error, (BotoCoreError, Transient)):
        text = str(error)
    else:  # such as KeyError, whose message is only a word
        text = f"the answer cannot be read ({type(error).__name__}: {error})"
    return " ".join(printable(text).split())


def problem_and_fix(error: BaseException, bucket: str) -> str:
    """Describe what went wrong in S3, and what the user can do about it."""
    code = code_of(error)
    if code == "NoSuchBucket":
        return f"there is no bucket {bucket}; correct `storage`, or create the bucket: aws s3 mb s3://{bucket}"
    if code in ("AccessDenied", "AllAccessDisabled"):
        return (
            f"access denied; these credentials need s3:ListBucket on {bucket}, and s3:GetObject, "
            f"s3:PutObject and s3:DeleteObject on {bucket}/*"
        )
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", *_EXPIRED_CODES):
        return f"the server rejects these credentials ({code}); set valid ones, or sign in again"
    if isinstance(error, (*_NO_CREDENTIALS, PartialCredentialsError, ProfileNotFound)):
        return (
            f"{one_line(error)}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
            "or use a machine whose role may read and write the bucket"
        )
    if isinstance(error, ClientError) and code:
        return f"{one_line(error)}; {RESUME}"
    return f"{one_line(error)}; {CHECK_ENDPOINT}; {RESUME}"


def _status(answer: Mapping[str, Any]) -> str:
    return f"HTTP {answer.get('ResponseMetadata', {}).get('HTTPStatusCode', 'status unknown')}"


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
