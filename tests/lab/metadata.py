"""The instance metadata service of EC2, version 2: it answers only requests with a token."""

from __future__ import annotations

import json
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ADDRESS = "169.254.169.254"
PORT = 80
TOKEN = "/latest/api/token"
TOKEN_LIFE = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER = "X-aws-ec2-metadata-token"


class Metadata:
    """Server of one machine's metadata, in a thread.

    Args:
        listener: socket in the machine's namespace.
        answer: returns text or JSON for a path below /latest/; None if there is nothing.
        needs_token: refuse requests without a token, as with HttpTokens required.
    """

    def __init__(
        self, listener: socket.socket, answer: Callable[[str], str | Mapping[str, Any] | None], *, needs_token: bool
    ) -> None:
        tokens: set[str] = set()

        class Request(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                if self.path != TOKEN or TOKEN_LIFE not in self.headers:
                    return self._reply(400, "")
                token = secrets.token_urlsafe()
                tokens.add(token)
                return self._reply(200, token)

            def do_GET(self) -> None:
                given = self.headers.get(TOKEN_HEADER)
                if given not in tokens and (needs_token or given is not None):
                    return self._reply(401, "")
                found = answer(self.path.removeprefix("/latest/").rstrip("/"))
                if found is None:
                    return self._reply(404, "")
                return self._reply(200, found if isinstance(found, str) else json.dumps(found))

            def _reply(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Print nothing."""

        self._server = ThreadingHTTPServer((ADDRESS, PORT), Request, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listener
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
