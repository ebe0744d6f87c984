"""A request's body: read whole before anybody works on it, within bytes and time, and unpacked.

So a client that sends slowly holds a connection and nothing else, and one that leaves frees what its request held.
"""

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from igsp_serve.http.problems import Refused, problem
from igsp_serve.http.route_path import is_under, route_path
from igsp_serve.http.unpack import PIECE, Unpacker, stated_length, too_large

_DISCARD_S = 1.0
"""Time to read on what will not be used, so that the client is there to read why."""
_BODILESS = ("GET", "HEAD", "OPTIONS", "DELETE")


class Body:
    """ASGI middleware."""

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, max_buffered_bytes: int, timeout_s: float, streamed: str = "/demo"
    ) -> None:
        """Wrap `app`.

        Args:
            app: what answers; it gets the body in one piece, unpacked.
            max_bytes: bytes of one body, packed and unpacked.
            max_buffered_bytes: bytes of all bodies held at once.
            timeout_s: time for a body to come.
            streamed: path below which bodies are passed on as they come.
        """
        self._app = app
        self._max_bytes = max_bytes
        self._max_buffered = max_buffered_bytes
        self._timeout_s = timeout_s
        self._streamed = streamed
        self._buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body and pass the request on."""
        if scope["type"] != "http" or is_under(route_path(scope), self._streamed):
            await self._app(scope, receive, send)
            return
        if scope["method"] in _BODILESS and not _has_body(scope):
            await self._app(scope, receive, send)
            return
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            if self._buffered + count > self._max_buffered:
                raise Refused(503, "The server holds too many bodies at once. Try again later.")
            held += count
            self._buffered += count

        try:
            try:
                async with asyncio.timeout(self._timeout_s):
                    body = await self._read(scope, receive, hold)
            except TimeoutError:
                await self._answer(scope, receive, send, Refused(408, "The body took too long to come."))
                return
            except Refused as refused:
                await self._answer(scope, receive, send, refused)
                return
            if body is None:
                return  # the client left
            _describe(scope, len(body))
            await self._serve(scope, body, receive, send)
        finally:
            self._buffered -= held

    async def _read(self, scope: Scope, receive: Receive, hold: Callable[[int], None]) -> bytes | None:
        headers = Headers(scope=scope)
        if (stated_length(headers.get("content-length", "")) or 0) > self._max_bytes:
            raise too_large(self._max_bytes)
        unpacker = Unpacker(", ".join(headers.getlist("content-encoding")), self._max_bytes)
        try:
            return await self._read_parts(unpacker, receive, hold)
        except Refused as refused:
            refused.began = True
            raise

    async def _read_parts(self, unpacker: Unpacker, receive: Receive, hold: Callable[[int], None]) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            for piece in unpacker.feed(message.get("body", b"")):
                if len(body) + len(piece) > self._max_bytes:
                    raise too_large(self._max_bytes)
                hold(len(piece))
                body += piece
                if len(piece) == PIECE:
                    await asyncio.sleep(0)  # others are served meanwhile
            if not message.get("more_body", False):
                break
        unpacker.finish()
        return bytes(body)

    async def _serve(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Give the body to the application; cancel it when the client leaves."""
        task = asyncio.current_task()
        assert task is not None
        given = left = False

        async def replay() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            return await asyncio.shield(watch)

        async def watching() -> Message:
            nonlocal left
            message = await receive()
            while message["type"] != "http.disconnect":
                message = await receive()
            if not finished:
                left = True
                task.cancel()
            return message

        finished = False
        watch = asyncio.create_task(watching())
        try:
            await self._app(scope, replay, send)
        except asyncio.CancelledError:
            if not left:
                raise
            task.uncancel()
        finally:
            finished = True
            watch.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send, refused: Refused) -> None:
        # Who expects 100 has not sent the body, unless it was read: to ask for it now would be to invite it.
        unsent = Headers(scope=scope).get("expect", "").lower() == "100-continue" and not refused.began
        try:
            async with asyncio.timeout(_DISCARD_S):
                while refused.status != 408 and not unsent:
                    message = await receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        break
        except TimeoutError:
            pass
        headers = {"Connection": "close"}
        if refused.status == 503:
            headers["Retry-After"] = "1"
        response: Response = problem(scope, refused.status, refused.detail, headers=headers)
        await response(scope, receive, send)


def _has_body(scope: Scope) -> bool:
    names = {name for name, _ in scope["headers"]}
    return b"transfer-encoding" in names or b"content-length" in names


def _describe(scope: Scope, length: int) -> None:
    """Make the headers those of a body that is there in one piece and not packed."""
    names = (b"content-encoding", b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in names]
    scope["headers"] = [*headers, (b"content-length", str(length).encode())]
