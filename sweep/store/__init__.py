"""Objects, leases and records: the storage of a sweep's results."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from urllib.parse import unquote

from sweep.store.base import Store, StoreError
from sweep.store.local import LocalStore
from sweep.store.retry import OUTAGE_SECONDS


def open_store(url: str, outage_seconds: float = OUTAGE_SECONDS) -> Store:
    """Open the store at an address.

    Args:
        url: a folder ("runs", "~/runs", "file:///data/runs") or "s3://bucket/prefix".
        outage_seconds: seconds for which a call to S3 is tried again if it fails; `budget.outage_seconds` of a sweep.

    Returns:
        The store.  A folder that does not exist counts as an empty store; the first object put into it
        creates the folder.  For S3, no request is sent yet.

    Raises:
        StoreError: if something else than a folder has that path, or the address is of no known kind.
    """
    if url.startswith("s3://"):
        from sweep.store.s3 import S3Store  # boto3 takes 0.5 s, and machines that use a folder may lack it

        return S3Store.from_url(url, outage_seconds)
    store = LocalStore(_folder_of(url))
    with store._explain("open", "the folder"), suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(store.url).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    store.remove_leftovers()
    return store


def _folder_of(url: str) -> str:
    if url.startswith("file://"):
        host, slash, path = url.removeprefix("file://").partition("/")
        if host not in ("", "localhost"):
            raise StoreError(f"{url} names the host {host}; write a folder of this machine as file:///its/path")
        return slash + unquote(path)
    if "://" in url or not url:
        raise StoreError(f"cannot open {url!r} as a store; legal are FOLDER, file:///FOLDER and s3://BUCKET/PREFIX")
    return os.path.expanduser(url)
