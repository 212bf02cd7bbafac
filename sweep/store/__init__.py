"""Objects, leases and records: where a sweep's results live."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from urllib.parse import unquote

from sweep.store.base import Store, StoreError
from sweep.store.local import LocalStore


def open_store(url: str) -> Store:
    """Open the store at an address.

    Args:
        url: a folder ("runs", "~/runs", "file:///data/runs") or "s3://bucket/prefix".

    Returns:
        The store.  A folder that is not there is an empty one, made by the first object put into it;
        S3 is not asked anything yet.

    Raises:
        StoreError: if there is something else in the folder's place, or nothing here reads such an address.
    """
    if url.startswith("s3://"):
        from sweep.store.s3 import S3Store  # boto3 costs 0.5 s, and machines with a folder may lack it

        return S3Store.from_url(url)
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
            raise StoreError(f"{url} names the host {host}; a folder of this machine is file:///its/path")
        return slash + unquote(path)
    if "://" in url or not url:
        raise StoreError(f"cannot open {url!r} as a store: legal are FOLDER, file:///FOLDER, s3://BUCKET/PREFIX")
    return os.path.expanduser(url)
