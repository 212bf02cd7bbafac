"""Requests to AWS: service, action and access key of a request, and AWS's formats of a refusal."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

from werkzeug.wrappers import Request, Response

_CREDENTIAL = re.compile(r"Credential=([^/]+)/[^/]+/([^/]+)/([^/]+)/aws4_request")
S3_SETTINGS = frozenset({
    "location", "publicAccessBlock", "policy", "acl", "versioning", "lifecycle", "encryption", "tagging", "cors",
})  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A request of a client of AWS.

    Attributes:
        request: HTTP request.
        access_key: access key that signed it.
        region, service: region and service that it is signed for, e.g. "ec2".
    """

    request: Request
    access_key: str
    region: str
    service: str

    @classmethod
    def read(cls, request: Request) -> Call | None:
        """Read a request; returns None if it is not signed."""
        match = _CREDENTIAL.search(request.headers.get("Authorization", ""))
        return None if match is None else cls(request, *match.groups())

    @cached_property
    def body(self) -> bytes:
        return self.request.get_data(cache=True)

    @cached_property
    def form(self) -> dict[str, str]:
        """Parameters of the query protocol, which EC2, IAM and STS use."""
        return dict(parse_qsl(self.body.decode(errors="replace"), keep_blank_values=True))

    @cached_property
    def action(self) -> str:
        """Name of the action as in policies, e.g. "ec2:RunInstances"."""
        if self.service == "s3":
            return f"s3:{self._s3_action()}"
        target = self.request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        return f"{self.service}:{target or self.form.get('Action', '')}"

    @property
    def bucket(self) -> str:
        return unquote(self.request.path.lstrip("/").partition("/")[0])

    @property
    def object_key(self) -> str:
        return unquote(self.request.path.lstrip("/").partition("/")[2])

    @property
    def sets_up_bucket(self) -> bool:
        """True if the request is for the bucket itself, and not for its objects."""
        return self.service == "s3" and not self.object_key and bool(S3_SETTINGS & set(self.request.args))

    def numbered(self, prefix: str) -> list[str]:
        """Return the values of a list in order: PREFIX.1, PREFIX.2, ..."""
        found = {key: value for key, value in self.form.items() if re.fullmatch(rf"{re.escape(prefix)}\.\d+", key)}
        return [found[key] for key in sorted(found, key=lambda key: int(key.rpartition(".")[2]))]

    def tags(self, kind: str) -> dict[str, str]:
        """Return the tags that a new resource of this kind shall have."""
        found: dict[str, str] = {}
        for key, value in self.form.items():
            match = re.fullmatch(r"(TagSpecification\.\d+)\.ResourceType", key)
            if match and value == kind:
                tag = re.compile(rf"{re.escape(match[1])}\.Tag\.\d+\.Key")
                found.update(
                    {name: self.form.get(f"{k[:-3]}Value", "") for k, name in self.form.items() if tag.fullmatch(k)}
                )
        return found

    def refusal(self, status: int, code: str, message: str) -> Response:
        """Return a refusal in the format of the service."""
        if self.service == "s3":
            text = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        elif self.service == "ec2":
            error = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
            text = f"<Response><Errors>{error}</Errors><RequestID>lab</RequestID></Response>"
        elif "X-Amz-Target" in self.request.headers:
            return Response(json.dumps({"__type": code, "message": message}), status, content_type="application/json")
        else:
            error = f"<Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message>"
            text = f"<ErrorResponse><Error>{error}</Error><RequestId>lab</RequestId></ErrorResponse>"
        body = "" if self.request.method == "HEAD" else f'<?xml version="1.0" encoding="UTF-8"?>{text}'
        return Response(body, status, content_type="application/xml")

    def environ(self, **form: str) -> dict[str, Any]:
        """Return the environment for the next WSGI application, with replaced parameters of the query protocol."""
        from io import BytesIO
        from urllib.parse import urlencode

        body = urlencode({**self.form, **form}).encode() if form else self.body
        return {**self.request.environ, "wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body))}

    def _s3_action(self) -> str:
        method, arguments = self.request.method, self.request.args
        if not self.object_key:
            if method == "POST" and "delete" in arguments:
                return "DeleteObject"
            if self.sets_up_bucket:
                return f"{method.title()}BucketSettings"
            return {"GET": "ListBucket", "HEAD": "ListBucket"}.get(method, f"{method.title()}Bucket")
        if method == "DELETE" and "uploadId" in arguments:
            return "AbortMultipartUpload"
        return {"GET": "GetObject", "HEAD": "GetObject", "DELETE": "DeleteObject"}.get(method, "PutObject")
