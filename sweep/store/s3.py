"""Objects in S3, or in any server that offers S3's API with conditional writes.

`put_once` uses `If-None-Match: *`, compare-and-swap uses `If-Match`.  The endpoint, region and
credentials come from the usual settings of AWS tools: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL,
AWS_PROFILE, instance roles and so on.

Every request is tried again until it has an answer that only S3 gives, see `sweep.store.retry` and
`sweep.store.s3_answers`.
"""

from __future__ import annotations

import builtins
import os
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice
from typing import Any, TypeVar

from botocore.config import Config
from botocore.exceptions import ClientError

from sweep.store import s3_answers
from sweep.store.aws_session import Settings, aws_client, aws_settings, forget_sessions
from sweep.store.base import ObjectNotFound, Store, StoreError, StoreUnreachable, check_path, is_legal_path
from sweep.store.retry import OUTAGE_SECONDS, Retry, Transient
from sweep.store.s3_answers import FAILURES, Seen, code_of, folders_of, keys_of

T = TypeVar("T")
Send = Callable[..., Any]  # (operation, size in bytes, **parameters): sends one request about the bucket

CONNECT_SECONDS, READ_SECONDS = 10.0, 15.0  # time-outs of one try: of its connection, and of each wait for bytes
THREADS = 16  # threads of get_many: each small object takes a round trip, and hardly any bandwidth
DELETE_BATCH = 1000  # most keys that S3 accepts in one DeleteObjects request


class S3Store(Store):
    """Store whose objects are under `s3://bucket/prefix`.  The bucket must exist.

    Args:
        bucket: name of the bucket.
        prefix: first part of all keys; "" for none.
        retry: how long and how often a call is tried again.
    """

    def __init__(self, bucket: str, prefix: str, retry: Retry | None = None) -> None:
        self._bucket = bucket
        self._base = f"{check_path(prefix)}/" if prefix else ""
        self._retry = retry or Retry()
        self.url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"

    @classmethod
    def from_url(cls, url: str, outage_seconds: float = OUTAGE_SECONDS) -> S3Store:
        """Open "s3://bucket" or "s3://bucket/prefix" without sending a request to the server.

        Raises:
            StoreError: if the address has no bucket, or has a query, which other tools use for endpoints.
        """
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket or "?" in url:
            raise StoreError(f"{url} is not of the form s3://bucket/prefix; set an endpoint by AWS_ENDPOINT_URL_S3")
        return cls(bucket, prefix.rstrip("/"), Retry(outage_seconds))

    def within(self, seconds: float) -> S3Store:
        return self._with(replace(self._retry, seconds=min(seconds, self._retry.seconds)))

    def put_once(self, path: str, data: bytes) -> bool:
        return self._put_conditionally(path, data, IfNoneMatch="*") is not None

    def put(self, path: str, data: bytes) -> None:
        put = {"Key": self._key(path), "Body": data}
        self._ask("write", path, lambda send: s3_answers.tag_of(send("put_object", len(data), **put)))

    def get(self, path: str) -> bytes:
        key, before = self._key(path), list[Seen]()
        return self._ask("read", path, lambda send: self._read(send, key, path, before, exact=False)[0])

    def exists(self, path: str) -> bool:
        key = self._key(path)
        return self._ask("look for", path, lambda send: self._look(send, key, path))

    def list(self, prefix: str) -> Iterator[str]:
        # Sort here: not every server sorts, and servers with real folders list "a/c" before "a-b".
        yield from sorted(
            key[len(self._base) :]
            for page in self._pages("list", prefix)
            for key in keys_of(page)
            # Web consoles mark a "folder" by an empty object of that name, which is no legal path.
            if is_legal_path(key[len(self._base) :])
        )

    def names(self, prefix: str) -> builtins.list[str]:
        start = len(self._under(prefix))
        found: set[str] = set()
        for page in self._pages("list", prefix, Delimiter="/"):
            found.update(name[start:].rstrip("/") for name in [*folders_of(page), *keys_of(page)])
        return sorted(filter(is_legal_path, found))

    def delete(self, path: str) -> None:
        key = self._key(path)
        self._ask("delete", path, lambda send: s3_answers.check_deleted(send("delete_object", Key=key)))

    def delete_tree(self, prefix: str) -> None:
        check_path(prefix)
        keys = iter([key for page in self._pages("delete", prefix) for key in keys_of(page)])
        while batch := [{"Key": key} for key in islice(keys, DELETE_BATCH)]:
            self._ask("delete", prefix, partial(_delete_batch, batch))

    def get_tagged(self, path: str) -> tuple[bytes, str]:
        key, before = self._key(path), list[Seen]()
        return self._ask("read", path, lambda send: self._read(send, key, path, before, exact=True)[:2])

    def put_if(self, path: str, data: bytes, tag: str | None) -> str | None:
        if tag is None:
            return self._put_conditionally(path, data, IfNoneMatch="*")
        return self._put_conditionally(path, data, IfMatch=tag)

    def get_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        waiting: deque[tuple[str, Future[bytes]]] = deque()
        left = threading.Event()  # set when no one waits for the answers any more, as after Ctrl-C
        store = self._with(replace(self._retry, sleep=lambda seconds: self._retry.sleep(seconds) or left.is_set()))
        with ThreadPoolExecutor(THREADS, "s3-get") as pool:
            try:
                for path in paths:
                    waiting.append((path, pool.submit(store.get, path)))
                    if len(waiting) >= 4 * THREADS:  # enough to keep the threads busy, few enough for memory
                        yield from _present(*waiting.popleft())
                while waiting:
                    yield from _present(*waiting.popleft())
            finally:
                left.set()
                for _, future in waiting:
                    future.cancel()

    def __reduce__(self) -> tuple[Callable[[str, float], S3Store], tuple[str, float]]:
        return S3Store.from_url, (self.url, self._retry.seconds)

    def _with(self, retry: Retry) -> S3Store:
        return S3Store(self._bucket, self._base.rstrip("/"), retry)

    def _put_conditionally(self, path: str, data: bytes, **condition: str) -> str | None:
        """Write under a condition, and return the new ETag; None if the condition did not hold.

        A write whose answer was lost is repeated, and may then find the object that its first try wrote.  The
        token, which is stored with the object, distinguishes our object from others.
        """
        key, token, before, tries = self._key(path), uuid.uuid4().hex, list[Seen](), 0
        put = {"Key": key, "Body": data, "Metadata": {"token": token}, **condition}

        def write(send: Send) -> str | None:
            nonlocal tries
            tries += 1
            try:
                answer = send("put_object", len(data), **put)
            except ClientError as error:
                if code_of(error) not in ("PreconditionFailed", "NoSuchKey"):
                    raise
                return self._tag_of_own(send, path, token, before) if tries > 1 else None
            tag = s3_answers.tag_of(answer)
            return tag if s3_answers.fits(tag, data, answer) else self._tag_of_own(send, path, token, before) or tag

        return self._ask("write", path, write)

    def _tag_of_own(self, send: Send, path: str, token: str, before: builtins.list[Seen]) -> str | None:
        try:
            _, tag, found = self._read(send, self._key(path), path, before, exact=True)
        except ObjectNotFound:
            return None
        return tag if found == token else None

    def _read(
        self, send: Send, key: str, path: str, before: builtins.list[Seen], *, exact: bool
    ) -> tuple[bytes, str, str | None]:
        """Return an object's bytes, its ETag, and the token of `_put_conditionally`.

        Args:
            send: sends a request.
            key, path: key of the object, and its path in the store.
            before: what earlier tries of the same call have read.
            exact: check the ETag itself.

        Raises:
            ObjectNotFound: there is none.
        """
        try:
            answer = send("get_object", Key=key)
        except ClientError as error:
            if code_of(error) == "NoSuchKey":
                raise ObjectNotFound(f"no object {path} in {self.url}") from None
            raise
        data: bytes = answer["Body"].read()
        return data, s3_answers.checked_tag(data, answer, before, exact=exact), answer.get("Metadata", {}).get("token")

    def _look(self, send: Send, key: str, path: str) -> bool:
        """Return True if there is an object.

        Its first byte is read: the answer to a HEAD has no body, so that a 404 may also be about the bucket, or from a
        proxy.
        """
        try:
            answer = send("get_object", Key=key, Range="bytes=0-0")
            answer["Body"].read()
            return s3_answers.is_part(answer) or bool(self._read(send, key, path, [], exact=False))
        except ObjectNotFound:
            return False
        except ClientError as error:
            if code_of(error) in ("NoSuchKey", "InvalidRange"):
                return code_of(error) == "InvalidRange"  # an empty object has no first byte
            raise

    def _key(self, path: str) -> str:
        return self._base + check_path(path)

    def _under(self, prefix: str) -> str:
        return f"{self._key(prefix)}/" if prefix else self._base

    def _pages(self, action: str, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        options = {**options, "Prefix": self._under(prefix)}
        while True:
            page = self._ask(action, prefix, partial(_page, options))
            yield page
            if not page["IsTruncated"]:
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def _send(self, client: Any, operation: str, size: int = 0, **parameters: Any) -> Any:
        with self._retry.outage.waiting(self.url, size):
            return getattr(client, operation)(Bucket=self._bucket, **parameters)

    def _ask(self, action: str, path: str, attempt: Callable[[Send], T]) -> T:
        """Call `attempt`, again if need be, and turn the errors of S3 and of the connection into StoreErrors."""
        seconds, renewed, kind = self._retry.seconds, False, StoreError

        def once() -> T:
            nonlocal renewed
            client = _client(aws_settings(), min(CONNECT_SECONDS, seconds), min(READ_SECONDS, seconds))
            try:
                return attempt(partial(self._send, client))
            except FAILURES as error:
                if not s3_answers.may_pass(error):
                    if renewed or not s3_answers.needs_new_credentials(error):
                        raise
                    renewed = True
                    _renew(client)
                raise Transient(s3_answers.one_line(error)) from error

        try:
            return self._retry.call(self.url, once)
        except Transient as error:
            kind, why = StoreUnreachable, error.__cause__ or error
        except FAILURES as error:
            kind, why = StoreError, error
        where = f"{self.url}/{path}" if path else self.url
        raise kind(f"cannot {action} {where}: {s3_answers.problem_and_fix(why, self._bucket)}")


def _page(options: dict[str, str], send: Send) -> dict[str, Any]:
    return s3_answers.checked_page(send("list_objects_v2", **options))


def _delete_batch(batch: list[dict[str, str]], send: Send) -> None:
    s3_answers.check_batch_deleted(send("delete_objects", Delete={"Objects": batch}), len(batch))


@lru_cache(maxsize=8)
def _client(settings: Settings, connect_seconds: float, read_seconds: float) -> Any:  # noqa: ARG001  (part of the key)
    """Return the one client for all stores and threads of a process: it takes 0.1 s, and workers open many stores."""
    config = Config(
        # Retries of botocore would be over when a process has made 35 of them, whatever the reason.
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=connect_seconds,
        read_timeout=read_seconds,
        max_pool_connections=2 * THREADS,
    )
    try:
        client = aws_client("s3", config=config)
        client.meta.events.register_last("before-parameter-build.s3.HeadBucket", _do_not_redirect)
        return client
    except ValueError as error:  # botocore raises this for a malformed AWS_ENDPOINT_URL
        raise StoreError(f"cannot make an S3 client: {error}; {s3_answers.CHECK_ENDPOINT}") from None


def _do_not_redirect(context: dict[str, Any], **_: Any) -> None:
    """Follow no redirect of a HeadBucket: botocore sends it to follow another redirect, and would send it for ever."""
    context["s3_redirect"]["redirected"] = True


os.register_at_fork(after_in_child=_client.cache_clear)  # connections cannot be shared with a parent
_RENEWING = threading.Lock()


def _renew(client: Any) -> None:
    """Have the next client read the credentials again; once for each client, although many threads share it."""
    with _RENEWING:
        if not getattr(client, "_sweep_is_stale", False):
            client._sweep_is_stale = True
            _client.cache_clear()
            forget_sessions()


def _present(path: str, read: Future[bytes]) -> Iterator[tuple[str, bytes]]:
    try:
        yield path, read.result()
    except ObjectNotFound:
        return
