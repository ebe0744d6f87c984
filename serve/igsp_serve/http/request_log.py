"""The outermost layer: a request's id, its line in the log, its place in the metrics, an answer whatever happens."""

import asyncio
import contextvars
import json
import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from igsp_serve.http.problems import failure, problem
from igsp_serve.http.route_path import is_under, route_path
from igsp_serve.tracing import current_trace, request_span

logger = logging.getLogger("igsp_serve.access")
errors = logging.getLogger("igsp_serve.errors")

MAX_REQUESTS = 2048
"""Requests in progress; beyond it 503."""
CLIENT_LEFT = 499
"""Status in log and metrics of a request whose client left before the answer."""
current_request: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""Id of the request that is being served, for log lines."""
QUIET = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"})
"""Paths asked every few seconds by machines: in the log only when something is wrong."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Ids of callers that are kept."""


class RequestLog:
    """ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        observe: Callable[[str, int, float], None],
        draining: Callable[[], bool],
        route_of: Callable[[Scope], str] = lambda _: "unmatched",
        root_path: str = "",
        max_requests: int = MAX_REQUESTS,
        send_timeout_s: float = 60.0,
    ) -> None:
        """Wrap `app`.

        Args:
            app: what answers.
            observe: told route, status and seconds of each request.
            draining: answers close their connections.
            route_of: path of the route that a request asks for, where no route was reached.
            root_path: path at which a proxy shows the server.
            max_requests: requests in progress; more are answered 503. Health is always answered.
            send_timeout_s: time a client has to take a part of an answer.
        """
        self._app = app
        self._observe = observe
        self._draining = draining
        self._route_of = route_of
        self._root_path = root_path
        self._max_requests = max_requests
        self._send_timeout_s = send_timeout_s
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._root_path:
            # Whether the proxy stripped it or not, the path is whole: applications mounted below rely on it.
            scope["root_path"] = self._root_path
            if not is_under(scope["path"], self._root_path):
                scope["path"] = self._root_path + scope["path"]
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        identity = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        # Starlette shares the state of the application with every request: a copy is ours.
        scope["state"] = {**scope.get("state", {}), "request_id": identity}
        current_request.set(identity)
        answer = _Answer(send, identity, closing=self._draining, timeout_s=self._send_timeout_s)
        start = time.monotonic()
        self._active += 1
        method = scope["method"]
        with request_span(method, headers, {"http.request.method": method}) as span:
            try:
                await self._serve(scope, receive, answer)
            finally:
                self._active -= 1
                route, status = self._route(scope), answer.status or CLIENT_LEFT
                told = {"http.route": route, "http.response.status_code": status}
                span.ended(f"{method} {route}", told, failed=status >= 500)
                self._done(scope, route, status, time.monotonic() - start, answer.sent_bytes)

    async def _serve(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            if self._active > self._max_requests and not is_under(route_path(scope), "/health"):
                detail = "Too many requests are in progress. Try again later."
                await problem(scope, 503, detail, headers={"Retry-After": "1"})(scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        except ClientDisconnect:
            errors.info("the client left")
        except Exception as error:
            if not isinstance(error, TimeoutError):  # of the answer: a client that does not read
                errors.exception("a request failed")
            if not answer.status:
                await failure(scope, error)(scope, receive, answer)

    def _done(self, scope: Scope, route: str, status: int, seconds: float, sent_bytes: int) -> None:
        self._observe(route, status, seconds)
        if status == 200 and route_path(scope) in QUIET:
            return
        client = scope.get("client")
        fields = {
            "method": scope["method"],
            "path": route_path(scope)[:500],
            "status": status,
            "ms": round(1000 * seconds, 1),
            "bytes": sent_bytes,
            "client": client[0] if client else None,
        }
        logger.info("request", extra={"fields": fields})

    def _route(self, scope: Scope) -> str:
        """What a request counts for: the path of its route, not its own, of which there may be any number."""
        if is_under(route_path(scope), "/demo"):
            return "/demo"
        return getattr(scope.get("route"), "path", None) or self._route_of(scope)


class _Answer:
    """What is sent of one answer, with the request's id, within a time for each part."""

    def __init__(self, send: Send, identity: str, *, closing: Callable[[], bool], timeout_s: float) -> None:
        self._send = send
        self._identity = identity
        self._closing = closing
        self._timeout_s = timeout_s
        self.status = 0
        self.sent_bytes = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message["headers"], (b"x-request-id", self._identity.encode())]}
            if self._closing():
                message["headers"].append((b"connection", b"close"))
        elif message["type"] == "http.response.body":
            self.sent_bytes += len(message.get("body", b""))
        async with asyncio.timeout(self._timeout_s):
            await self._send(message)


class JsonLines(logging.Formatter):
    """A log record as one line of JSON: time, level, logger, message, request id, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if identity := current_request.get():
            line["request_id"] = identity
        if trace := current_trace.get():
            line["trace_id"] = trace
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
