"""What uvicorn does not bound: the number of open connections, and the time and bytes of a request's headers.

A protocol around uvicorn's own: it passes everything on, and closes connections that are too many, or on which headers
come too slowly or are too long. So a client with a thousand connections and a byte a minute on each holds nothing for
long.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

_ANSWER = (
    "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\n"
    "{more}connection: close\r\n\r\n"
)


class Connections:
    """Open connections of one server. Its `protocol` is what uvicorn takes as `http`.

    Attributes:
        open: how many there are.
    """

    def __init__(
        self,
        make: Callable[..., asyncio.Protocol],
        *,
        most: int,
        header_timeout_s: float,
        max_header_bytes: int,
    ) -> None:
        """Bound what `make` makes.

        Args:
            make: uvicorn's protocol class.
            most: open connections; more are told so and closed.
            header_timeout_s: time for the headers of a request, from its first byte or from the connection's start.
            max_header_bytes: bytes of a request's line and headers, about.
        """
        self._make = make
        self.most = most
        self.header_timeout_s = header_timeout_s
        self.max_header_bytes = max_header_bytes
        self.open = 0

    def protocol(self, **arguments: Any) -> asyncio.Protocol:
        """A protocol for one connection."""
        return _Guarded(self, self._make(**arguments))


class _Guarded(asyncio.Protocol):
    """One connection."""

    def __init__(self, connections: Connections, inner: Any) -> None:
        self._connections = connections
        self._inner = inner
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._connections.open += 1
        if self._connections.open > self._connections.most:
            self._refused = True
            self._close("503 Service Unavailable", "Too many connections are open.", "retry-after: 1\r\n")
            return
        self._inner.connection_made(transport)
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._inner.data_received(data)
        cycle = self._inner.cycle
        if cycle is not None and not cycle.response_complete:
            # Its headers are whole; for the body others watch.
            self._forget_timer()
            self._header_bytes = 0
            return
        self._header_bytes += len(data)
        if self._header_bytes > self._connections.max_header_bytes:
            self._refused = True
            self._close("431 Request Header Fields Too Large", "The headers are too long.")
        else:
            self._wait_for_headers()

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.open -= 1
        self._forget_timer()
        if self._inner.transport is not None:
            self._inner.connection_lost(error)

    def eof_received(self) -> bool | None:
        return None if self._refused else self._inner.eof_received()

    def pause_writing(self) -> None:
        if not self._refused:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if not self._refused:
            self._inner.resume_writing()

    def _wait_for_headers(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._connections.header_timeout_s, self._too_slow)

    def _too_slow(self) -> None:
        self._timer = None
        cycle = self._inner.cycle
        if self._transport.is_closing() or (cycle is not None and not cycle.response_complete):
            return
        if self._header_bytes:
            self._close("408 Request Timeout", "The headers took too long to come.")
        else:
            self._transport.close()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self, status: str, detail: str, more: str = "") -> None:
        code, _, title = status.partition(" ")
        body = json.dumps(
            {"type": "about:blank", "title": title, "status": int(code), "detail": detail, "instance": ""}
        )
        self._transport.write((_ANSWER.format(status=status, length=len(body), more=more) + body).encode())
        self._transport.close()
