"""One gRPC call: its key, id, place, bytes, deadline, status, and its line in the log, whatever it asks."""

import asyncio
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from igsp_deploy.errors import UserError
from igsp_serve.failures import DeadlineExceeded, EngineFailed, Overloaded, RequestError, Unavailable
from igsp_serve.http.context import Context
from igsp_serve.http.keys import KeyRing
from igsp_serve.http.request_log import MAX_REQUESTS, REQUEST_ID, current_request
from igsp_serve.oip.messages import HEALTH, SERVICE
from igsp_serve.oip.model import UnknownModel
from igsp_serve.tracing import RequestSpan, request_span

logger = logging.getLogger("igsp_serve.access")
errors = logging.getLogger("igsp_serve.errors")

QUIET = frozenset(
    {f"/{SERVICE}/ServerLive", f"/{SERVICE}/ServerReady", f"/{HEALTH}/Check"},
)
"""Asked every few seconds by probes: they need no key and no place, and are in the log only when something is wrong."""
Status = grpc.StatusCode
_OURS = frozenset({Status.DEADLINE_EXCEEDED, Status.INTERNAL, Status.UNAVAILABLE})
"""What is the server's fault in a trace, of what it answers; as OpenTelemetry has it."""


class NoKey(Exception):
    """The call needs a key that it does not carry."""


class Door:
    """What calls share: keys, places, bytes held, and the end of the server."""

    def __init__(self, has: Context) -> None:
        """Open it.

        Raises:
            UserError: a key file cannot be read.
        """
        self.has = has
        self.stopping = asyncio.Event()
        self._ring = KeyRing(has.settings.all_api_keys(), has.settings.all_admin_keys())
        self.most_calls, self._active = MAX_REQUESTS, 0
        self.most_bytes, self._buffered = has.settings.max_buffered_bytes, 0

    def handler(self, path: str, serve: Callable[["Call"], Awaitable[None]]) -> grpc.RpcMethodHandler:
        """What grpc calls for a method. All are streams of bytes: so a message is read after the key is known.

        Args:
            path: `/SERVICE/METHOD`.
            serve: answers one call.
        """

        async def behaviour(_: Any, context: Any) -> None:
            await self._serve(path, serve, Call(self, context))

        return grpc.stream_stream_rpc_method_handler(behaviour)

    async def _serve(self, path: str, serve: Callable[["Call"], Awaitable[None]], call: "Call") -> None:
        current_request.set(call.identity)
        service, _, method = path[1:].partition("/")
        told = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        with request_span(path[1:], call.trace_headers(), told) as span:
            status, failed = await self._answer(path, serve, call, span)
        if failed is not None:
            await call.context.abort(status, details(failed), _pushback(failed))

    async def _answer(
        self, path: str, serve: Callable[["Call"], Awaitable[None]], call: "Call", span: RequestSpan
    ) -> tuple[grpc.StatusCode, Exception | None]:
        """Serve a call: its status, and what it failed with. Log, metrics and span have it by then."""
        start = time.monotonic()
        status, failed = Status.OK, None
        self._active += 1
        try:
            await call.context.send_initial_metadata((("x-request-id", call.identity),))
            if path not in QUIET:
                self._admit(call)
            await serve(call)
        except asyncio.CancelledError:
            left = call.time_left()
            status = Status.DEADLINE_EXCEEDED if left is not None and left <= 0 else Status.CANCELLED
            raise
        except Exception as error:
            status, failed = status_of(error), error
        finally:
            self._active -= 1
            call.done()
            self.record(path, status, time.monotonic() - start, call, span)
        return status, failed

    def _admit(self, call: "Call") -> None:
        if not (self._ring.open or self._ring.user(call.headers) or self._ring.admin(call.headers)):
            raise NoKey("This needs an API key: send it as metadata, `authorization: Bearer KEY` or `x-api-key: KEY`.")
        if self._active > self.most_calls:
            raise Overloaded(1.0)

    def hold(self, size: int) -> None:
        """Count bytes of a message, until `release`.

        Raises:
            Overloaded: all messages together are too large.
        """
        if self._buffered + size > self.most_bytes:
            raise Overloaded(1.0)
        self._buffered += size

    def release(self, size: int) -> None:
        """The message is not worked on any more."""
        self._buffered -= size

    def record(self, path: str, status: grpc.StatusCode, seconds: float, call: "Call", span: RequestSpan) -> None:
        """Count a call, or a message of a stream, write its line and end its span."""
        self.has.metrics.request(path, status.name, seconds)
        span.ended(path[1:], {"rpc.grpc.status_code": status.value[0]}, failed=status in _OURS)
        if path in QUIET and status == Status.OK:
            return
        fields = {
            "method": "gRPC",
            "path": path,
            "status": status.name,
            "ms": round(1000 * seconds, 1),
            "bytes": call.sent,
            "client": call.client(),
        }
        logger.info("request", extra={"fields": fields})


class Call:
    """One call, from its first message to its status."""

    def __init__(self, door: Door, context: Any) -> None:
        """Take what grpc gives."""
        self.door, self.context = door, context
        self.sent = 0
        self.headers = [
            (key.encode(), value.encode() if isinstance(value, str) else value)
            for key, value in context.invocation_metadata()
        ]
        given = dict(self.headers).get(b"x-request-id", b"").decode("latin-1")
        self.identity = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self._held = 0

    def trace_headers(self) -> dict[str, str]:
        """`traceparent` and `tracestate`, where they came."""
        return {
            name.decode(): value.decode("latin-1")
            for name, value in self.headers
            if name in (b"traceparent", b"tracestate")
        }

    def time_left(self) -> float | None:
        """Seconds to the caller's deadline; None without one."""
        left = self.context.time_remaining()
        return None if left is None else float(left)

    async def one(self, kind: Any) -> Any:
        """The message of a call that has one; its bytes count until the call is done.

        Raises:
            RequestError: none came, or not one of this kind.
            DeadlineExceeded: it took too long to come.
        """
        try:
            async with asyncio.timeout(self.door.has.settings.body_timeout_s):
                data = await self.context.read()
        except TimeoutError:
            raise DeadlineExceeded("The message took too long to come.") from None
        if data is grpc.aio.EOF:
            raise RequestError("the call came without its message.")
        self.door.hold(len(data))
        self._held += len(data)
        return parse(kind, data)

    async def data(self) -> AsyncIterator[bytes]:
        """The messages of a stream, until it ends or the server does."""
        stop = asyncio.ensure_future(self.door.stopping.wait())
        try:
            while True:
                read = asyncio.ensure_future(self.context.read())
                try:
                    await asyncio.wait({read, stop}, return_when=asyncio.FIRST_COMPLETED)
                    if not read.done():
                        raise Unavailable("The server is shutting down.")
                    data = read.result()
                finally:
                    read.cancel()
                if data is grpc.aio.EOF:
                    return
                yield data
        finally:
            stop.cancel()

    async def write(self, message: Any) -> None:
        """Send a message.

        Raises:
            DeadlineExceeded: the client does not read.
        """
        data = message.SerializeToString()
        self.sent += len(data)
        try:
            async with asyncio.timeout(self.door.has.settings.body_timeout_s):
                await self.context.write(data)
        except TimeoutError:
            raise DeadlineExceeded("The answer took too long to be read.") from None

    def done(self) -> None:
        """Its message is not worked on any more."""
        self.door.release(self._held)

    def client(self) -> str | None:
        """Address without the port: `ipv4:1.2.3.4:5` or `ipv6:[::1]:5`."""
        peer = unquote(self.context.peer() or "")
        return peer.partition(":")[2].rpartition(":")[0].strip("[]") or None


def parse(kind: Any, data: bytes) -> Any:
    """A message from its bytes.

    Raises:
        RequestError: they are no such message.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        raise RequestError(f"the message is not a {kind.DESCRIPTOR.full_name}.") from None


def status_of(error: Exception) -> grpc.StatusCode:
    """What the service raised, as a status of gRPC. What it does not know goes to the log, not to the caller."""
    for kind, status in (
        (NoKey, Status.UNAUTHENTICATED),
        (UnknownModel, Status.NOT_FOUND),
        (UserError, Status.INVALID_ARGUMENT),
        (Overloaded, Status.RESOURCE_EXHAUSTED),
        (DeadlineExceeded, Status.DEADLINE_EXCEEDED),
        ((Unavailable, EngineFailed), Status.UNAVAILABLE),
    ):
        if isinstance(error, kind):
            return status
    errors.error("a call failed", exc_info=error)
    return Status.INTERNAL


def details(error: Exception) -> str:
    """What a caller is told."""
    known = isinstance(error, (NoKey, UserError, Overloaded, DeadlineExceeded, Unavailable, EngineFailed))
    return str(error) if known else "The server made a mistake. Its log has it under the request id."


def _pushback(error: Exception) -> tuple[tuple[str, str], ...]:
    """When to come back, as gRPC's own retries read it."""
    if isinstance(error, Overloaded):
        return (("grpc-retry-pushback-ms", str(math.ceil(1000 * error.retry_after_s))),)
    return ()
