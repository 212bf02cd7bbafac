"""Objects in S3, or in any server that offers S3's API with conditional writes.

`put_once` uses `If-None-Match: *`, compare-and-swap uses `If-Match`.  The endpoint, region and
credentials come from the usual settings of AWS tools: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL,
AWS_PROFILE, instance roles and so on.
"""

from __future__ import annotations

import builtins
import os
import random
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as NoConnectionError

from sweep.store.aws_session import Settings, aws_client, aws_settings
from sweep.store.base import ObjectNotFound, Store, StoreError, check_path, is_legal_path

ATTEMPTS = 8  # tries of one request, with half a minute of waiting in total; AWS_MAX_ATTEMPTS overrides it
THREADS = 16  # threads of get_many: each small object takes a round trip, and hardly any bandwidth
DELETE_BATCH = 1000  # most keys that S3 accepts in one DeleteObjects request

_BROKEN_BODY = (ReadTimeoutError, ResponseStreamingError, IncompleteReadError, FlexibleChecksumError)
_ABSENT = ("NoSuchKey", "404")
_CHECK_ENDPOINT = "check the network, AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL"
_RESUME = "what is stored is kept: run the same command again to go on"


class S3Store(Store):
    """Store whose objects are under `s3://bucket/prefix`.  The bucket must exist.

    Throttling, 5xx, timeouts and lost connections are retried with exponential backoff and jitter.
    botocore's "standard" mode does this; in its "adaptive" mode one throttled key would slow down every
    thread.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._base = f"{check_path(prefix)}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self._bucket_seen = False

    @classmethod
    def from_url(cls, url: str) -> S3Store:
        """Open "s3://bucket" or "s3://bucket/prefix" without sending a request to the server.

        Raises:
            StoreError: if the address has no bucket, or has a query, which other tools use for endpoints.
        """
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket or "?" in url:
            raise StoreError(f"{url} is not of the form s3://bucket/prefix; set an endpoint by AWS_ENDPOINT_URL_S3")
        return cls(bucket, prefix.rstrip("/"))

    def put_once(self, path: str, data: bytes) -> bool:
        return self._put_conditionally(path, data, IfNoneMatch="*") is not None

    def put(self, path: str, data: bytes) -> None:
        with self._explain("write", path) as client:
            client.put_object(Bucket=self._bucket, Key=self._key(path), Body=data)

    def get(self, path: str) -> bytes:
        return self.get_tagged(path)[0]

    def exists(self, path: str) -> bool:
        with self._explain("look for", path) as client:
            try:
                client.head_object(Bucket=self._bucket, Key=self._key(path))
            except ClientError as error:
                if _code(error) not in _ABSENT:
                    raise
                if not self._bucket_seen:  # this 404 may also mean that the bucket does not exist
                    client.head_bucket(Bucket=self._bucket)
                    self._bucket_seen = True
                return False
            return True

    def list(self, prefix: str) -> Iterator[str]:
        with self._explain("list", prefix) as client:
            # Sort here: not every server sorts, and servers with real folders list "a/c" before "a-b".
            yield from sorted(
                key[len(self._base) :]
                for page in self._pages(client, prefix)
                for key in _keys(page)
                # Web consoles mark a "folder" by an empty object of that name, which is no legal path.
                if is_legal_path(key[len(self._base) :])
            )

    def names(self, prefix: str) -> builtins.list[str]:
        start = len(self._under(prefix))
        with self._explain("list", prefix) as client:
            found: set[str] = set()
            for page in self._pages(client, prefix, Delimiter="/"):
                folders = [folder["Prefix"] for folder in page.get("CommonPrefixes", [])]
                found.update(name[start:].rstrip("/") for name in [*folders, *_keys(page)])
            return sorted(filter(is_legal_path, found))

    def delete(self, path: str) -> None:
        with self._explain("delete", path) as client:
            client.delete_object(Bucket=self._bucket, Key=self._key(path))

    def delete_tree(self, prefix: str) -> None:
        check_path(prefix)
        with self._explain("delete", prefix) as client:
            keys = iter([key for page in self._pages(client, prefix) for key in _keys(page)])
            while batch := [{"Key": key} for key in islice(keys, DELETE_BATCH)]:
                answer = client.delete_objects(Bucket=self._bucket, Delete={"Objects": batch, "Quiet": True})
                for problem in answer.get("Errors", []):
                    raise ClientError({"Error": problem}, "DeleteObjects")

    def get_tagged(self, path: str) -> tuple[bytes, str]:
        with self._explain("read", path) as client:
            for attempt in range(ATTEMPTS):
                try:
                    answer = client.get_object(Bucket=self._bucket, Key=self._key(path))
                except ClientError as error:
                    if _code(error) not in _ABSENT:
                        raise
                    raise ObjectNotFound(f"no object {path} in {self.url}") from None
                try:
                    return answer["Body"].read(), answer["ETag"]
                except _BROKEN_BODY:  # botocore retries a request, but not reading the body of its answer
                    if attempt + 1 == ATTEMPTS:
                        raise
                    _back_off(attempt)
        raise AssertionError("the last attempt returns or raises")

    def put_if(self, path: str, data: bytes, tag: str | None) -> str | None:
        if tag is None:
            return self._put_conditionally(path, data, IfNoneMatch="*")
        return self._put_conditionally(path, data, IfMatch=tag)

    def get_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        waiting: deque[tuple[str, Future[bytes]]] = deque()
        with ThreadPoolExecutor(THREADS, "s3-get") as pool:
            try:
                for path in paths:
                    waiting.append((path, pool.submit(self.get, path)))
                    if len(waiting) >= 4 * THREADS:  # enough to keep the threads busy, few enough for memory
                        yield from _present(*waiting.popleft())
                while waiting:
                    yield from _present(*waiting.popleft())
            finally:
                for _, future in waiting:
                    future.cancel()

    def __reduce__(self) -> tuple[type[S3Store], tuple[str, str]]:
        return S3Store, (self._bucket, self._base.rstrip("/"))

    def _put_conditionally(self, path: str, data: bytes, **condition: str) -> str | None:
        """Write under a condition, and return the new ETag; None if the condition did not hold.

        A write whose answer was lost is repeated, and may then find the object that its first try wrote.  The
        token, which is stored with the object, distinguishes our object from others.
        """
        token = uuid.uuid4().hex
        address = {"Bucket": self._bucket, "Key": self._key(path)}
        with self._explain("write", path) as client:
            for attempt in range(ATTEMPTS):
                try:
                    answer = client.put_object(**address, Body=data, Metadata={"token": token}, **condition)
                    return str(answer["ETag"])
                except ClientError as error:
                    if _code(error) == "ConditionalRequestConflict" and attempt + 1 < ATTEMPTS:
                        _back_off(attempt)  # two writes collided inside S3, which asks for a repeat
                    elif _code(error) not in ("PreconditionFailed", "412", *_ABSENT):
                        raise
                    elif attempt or error.response["ResponseMetadata"].get("RetryAttempts"):
                        return self._tag_of_own(client, address, token)
                    else:
                        return None
        raise AssertionError("the last attempt returns or raises")

    def _tag_of_own(self, client: Any, address: dict[str, str], token: str) -> str | None:
        try:
            found = client.head_object(**address)
        except ClientError as error:
            if _code(error) not in _ABSENT:
                raise
            return None
        return str(found["ETag"]) if found["Metadata"].get("token") == token else None

    def _key(self, path: str) -> str:
        return self._base + check_path(path)

    def _under(self, prefix: str) -> str:
        return f"{self._key(prefix)}/" if prefix else self._base

    def _pages(self, client: Any, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        pages = client.get_paginator("list_objects_v2")
        yield from pages.paginate(Bucket=self._bucket, Prefix=self._under(prefix), **options)

    @contextmanager
    def _explain(self, action: str, path: str) -> Iterator[Any]:
        """Yield the client, and turn its errors into StoreErrors."""
        try:
            yield _client(aws_settings())
        except (BotoCoreError, ClientError) as error:
            where = f"{self.url}/{path}" if path else self.url
            raise StoreError(f"cannot {action} {where}: {_problem_and_fix(error, self._bucket)}") from None


@lru_cache(maxsize=4)
def _client(settings: Settings) -> Any:
    """Return the one client for all stores and threads of a process: it takes 0.1 s, and workers open many stores."""
    tries = int(dict(settings).get("AWS_MAX_ATTEMPTS", ATTEMPTS))
    config = Config(
        retries={"mode": "standard", "total_max_attempts": tries},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=2 * THREADS,
    )
    try:
        return aws_client("s3", config=config)
    except ValueError as error:  # botocore raises this for a malformed AWS_ENDPOINT_URL
        raise StoreError(f"cannot make an S3 client: {error}; {_CHECK_ENDPOINT}") from None


os.register_at_fork(after_in_child=_client.cache_clear)  # connections cannot be shared with a parent


def _problem_and_fix(error: Exception, bucket: str) -> str:
    """Describe what went wrong in S3, and what the user can do about it."""
    if isinstance(error, ClientError):
        code = _code(error)
        if code in ("NoSuchBucket", "404"):
            return f"there is no bucket {bucket}; correct `storage`, or create the bucket: aws s3 mb s3://{bucket}"
        if code in ("AccessDenied", "403", "AllAccessDisabled"):
            return (
                f"access denied; these credentials need s3:ListBucket on {bucket}, and s3:GetObject, "
                f"s3:PutObject and s3:DeleteObject on {bucket}/*"
            )
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
            return f"the server rejects these credentials ({code}); set valid ones, or sign in again"
        return f"S3 answers {code}: {error.response['Error'].get('Message', '')}; {_RESUME}"
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)):
        return (
            f"{error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
            "or use a machine whose role may read and write the bucket"
        )
    if isinstance(error, (NoConnectionError, HTTPClientError)):
        return f"{error}; {_CHECK_ENDPOINT}; {_RESUME}"
    return f"{error}; {_RESUME}"


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _keys(page: dict[str, Any]) -> list[str]:
    return [entry["Key"] for entry in page.get("Contents", [])]


def _present(path: str, read: Future[bytes]) -> Iterator[tuple[str, bytes]]:
    try:
        yield path, read.result()
    except ObjectNotFound:
        return


def _back_off(attempt: int) -> None:
    time.sleep(random.uniform(0, min(20.0, 0.1 * 2**attempt)))
