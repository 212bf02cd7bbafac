"""The only address of AWS in the lab: it refuses as AWS does; otherwise moto answers, or SeaweedFS for objects."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from tests.lab.calls import Call
from tests.lab.capacity import Capacity
from tests.lab.identities import LAPTOP, Identities
from tests.lab.timeline import Timeline

HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "keep-alive"})


class Api:
    """A WSGI application.

    Args:
        s3: address of a server that accepts every request.
        identities: known access keys.
        capacity: capacity of the zones.
        default_subnet: subnet of instances that name none.
        zone_of: returns the zone of a subnet.
        problem: returns why an identity may not make a call; None if it may.
        launched: called after every successful RunInstances, with the new instances.
        timeline: records refusals.
    """

    def __init__(
        self,
        s3: str,
        identities: Identities,
        capacity: Capacity,
        default_subnet: str,
        zone_of: Callable[[str], str],
        problem: Callable[[str, Call], str | None],
        launched: Callable[[Call, Sequence[str]], None],
        timeline: Timeline,
    ) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._s3 = urlsplit(s3).netloc
        self._identities = identities
        self._capacity = capacity
        self._default_subnet = default_subnet
        self._zone_of = zone_of
        self._problem = problem
        self._launched = launched
        self._timeline = timeline
        self._one_launch = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        call = Call.read(request)
        answer = Response("not signed", 403) if call is None else self._answer(call)
        body: Iterable[bytes] = answer(environ, start_response)
        return body

    def _answer(self, call: Call) -> Response:
        refusal = self._refusal(call)
        if refusal is not None:
            return refusal
        if call.service == "s3" and not call.sets_up_bucket:
            if call.action == "s3:PutBucket":
                self._ask_moto(call)  # SeaweedFS has the objects, and moto the settings of buckets
            return self._ask_s3(call)
        if call.action == "ec2:RunInstances":
            return self._launch(call)
        if call.service == "pricing":  # moto does not have it
            return call.refusal(400, "AccessDeniedException", "pricing:GetProducts is not allowed")
        if call.action == "ec2:TerminateInstances":
            self._timeline.add("asked to terminate", " ".join(call.numbered("InstanceId")), f"by {self._who(call)}")
        return self._ask_moto(call)

    def _refusal(self, call: Call) -> Response | None:
        """Return the refusal if this identity may not make the call; None if it may."""
        credentials = self._identities.of(call.access_key)
        if credentials is None:
            code = "InvalidAccessKeyId" if call.service == "s3" else "InvalidClientTokenId"
            return call.refusal(403, code, "The security token included in the request is invalid.")
        if self._identities.has_expired(credentials):
            code = "RequestExpired" if call.service == "ec2" else "ExpiredToken"
            return call.refusal(400, code, "The security token included in the request is expired")
        problem = self._problem(credentials.identity, call) if credentials.identity != LAPTOP else None
        if call.service == "s3" and self._identities.is_denied_buckets(credentials):
            problem = "a policy denies it explicitly"
        if problem is None:
            return None
        self._timeline.add("denied", credentials.identity, f"{call.action} {call.request.path}: {problem}")
        code = "UnauthorizedOperation" if call.service == "ec2" else "AccessDenied"
        return call.refusal(403, code, f"{credentials.identity} may not {call.action}: {problem}")

    def _who(self, call: Call) -> str:
        credentials = self._identities.of(call.access_key)
        return credentials.identity if credentials else "nobody"

    def _launch(self, call: Call) -> Response:
        """Start as many instances as there is capacity for; moto itself would start the minimum."""
        form = call.form
        market = form.get("InstanceMarketOptions.MarketType", "on-demand")
        subnet = form.get("SubnetId", self._default_subnet)
        zone = self._zone_of(subnet)
        least, most = int(form["MinCount"]), int(form["MaxCount"])
        with self._one_launch:
            given = self._capacity.take(zone, form["InstanceType"], market, least, most)
            if not given:
                self._timeline.add("refused", form["InstanceType"], f"{market} in {zone}")
                message = f"We currently do not have sufficient {form['InstanceType']} capacity in {zone}."
                return call.refusal(500, "InsufficientInstanceCapacity", message)
            answer = self._ask_moto(call, MinCount=str(given), MaxCount=str(given), SubnetId=subnet)
            if answer.status_code == 200:
                self._launched(call, re.findall("<instanceId>([^<]+)", answer.get_data(as_text=True)))
            return answer

    def _ask_moto(self, call: Call, **form: str) -> Response:
        return Response.from_app(self._moto, call.environ(**form), buffered=True)

    def _ask_s3(self, call: Call) -> Response:
        environ = call.request.environ
        path = environ.get("REQUEST_URI") or environ["RAW_URI"]
        headers = {name: value for name, value in call.request.headers.items() if name.lower() not in HOP_BY_HOP}
        connection = http.client.HTTPConnection(self._s3, timeout=60)
        try:
            connection.request(call.request.method, path, call.body or None, headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        response = Response(body, answer.status, kept)
        if call.request.method == "HEAD":  # the header must keep the length of the body that is not sent
            response.headers["Content-Length"] = answer.getheader("Content-Length", "0")
        return response


class ApiServer:
    """Server of an application on a socket, with threads."""

    def __init__(self, listener: socket.socket, application: Api) -> None:
        class Quiet(MotoRequestHandler):
            protocol_version = "HTTP/1.1"

            def log(self, *_: object) -> None:
                """Print nothing."""

        address, port = listener.getsockname()[:2]
        self._server = make_server(
            address, port, application, threaded=True, request_handler=Quiet, fd=listener.detach()
        )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
