"""The door to Gradio's application: what the page needs is let through, all else is not there.

Gradio has routes that fetch addresses, run code's editors, record screens and call components' functions. The page uses
none of them. Uploads are held to limits here, files are served from here, and no answer names the folder they lie in.
"""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette._utils import get_route_path  # the path as Starlette's own routes see it
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from igsp_deploy.errors import UserError
from igsp_serve.demo.uploads import PUBLIC, Full, Store, find_file, page_folder
from igsp_serve.http.body import Body

logger = logging.getLogger(__name__)

_API = "/gradio_api"
_UPLOAD = re.compile(rf"{_API}/upload/?")
_FILE = re.compile(rf"{_API}/file=(.*)", re.DOTALL)
_STATIC = re.compile(r"/(static|assets|svelte)/.+|/favicon\.ico|/robots\.txt")
_READ = re.compile(
    rf"/?|/config/?|(?:{_API})?/theme\.css|{_API}/(info/?|openapi\.json|app_id/?|startup-events|user/?|login_check/?|"
    r"token/?|heartbeat/[\w-]+|queue/(data|status)|call/(v2/)?[\w-]+/[\w-]+|upload_progress)"
)
_CALL = re.compile(rf"{_API}/(queue/join|call/(v2/)?[\w-]+/?|(run|api)/[\w-]+/?|cancel|reset/?)")
_CALL_BYTES = 2 << 20
"""Words and names of files; no file is in it."""
_CALLS_BYTES = 64 << 20
_SHOWN = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})
"""Files that a browser may show. All others are saved: an SVG, for one, may hold a script."""
_DISCARD_S = 1.0

POLICY = "; ".join(
    (
        "default-src 'self'",
        # Gradio's page has scripts in it, and compiles its templates.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
"""Content-Security-Policy: a browser that obeys it asks no other host for anything."""


class Gate:
    """ASGI application around Gradio's."""

    def __init__(self, app: ASGIApp, store: Store) -> None:
        """Wrap `app`, whose uploads `store` keeps within limits."""
        self._app = app
        self._store = store
        self._calls = Body(
            app,
            max_bytes=min(_CALL_BYTES, store.limits.body_bytes),
            max_buffered_bytes=_CALLS_BYTES,
            timeout_s=store.limits.time_s,
            streamed="\0",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of the page."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        send = _closed(send)
        path, method = get_route_path(scope), scope["method"]
        reads = method in ("GET", "HEAD")
        if reads and _STATIC.fullmatch(path):
            await self._app(scope, receive, send)
        elif reads and (name := _FILE.fullmatch(path)):
            await (await asyncio.to_thread(_file, name[1]))(scope, receive, send)
        elif reads and _READ.fullmatch(path):
            await self._app(_plain(scope), receive, _hidden(send))
        elif method == "POST" and _UPLOAD.fullmatch(path):
            await self._upload(_plain(scope), receive, _hidden(send))
        elif method == "POST" and _CALL.fullmatch(path):
            await self._call(_plain(scope), receive, send)
        else:
            await JSONResponse({"detail": "There is nothing here."}, status_code=404)(scope, receive, send)

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        try:
            await self._calls(scope, receive, _hidden(keep))
        except Exception as error:
            # Gradio answers a call with too few values, or of no function, with a trace in the log and no word of why.
            logger.warning("a call failed: %s", type(error).__name__, exc_info=logger.isEnabledFor(logging.DEBUG))
            detail = "The server could not make sense of this call. See the page's API."
            await JSONResponse({"detail": detail}, status_code=400)(scope, receive, send)
            return
        for message in messages:
            await send(message)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self._store.limits
        length = Headers(scope=scope).get("content-length", "")
        count = int(length) if length.isdigit() and len(length) < 20 else limits.body_bytes
        coming = _Counted(receive, limits.body_bytes, limits.time_s)
        if count > limits.body_bytes:
            coming.refuse(413)
        else:
            try:
                await asyncio.to_thread(self._store.reserve, count)
            except Full:
                coming.refuse(503)
            else:
                try:
                    await self._app(scope, coming.receive, coming.unless_refused(send))
                except ClientDisconnect:
                    if not coming.status:
                        return
                finally:
                    await asyncio.to_thread(self._store.release, count)
        if coming.status:
            await coming.discard()
            await _refusal(coming.status, limits.body_bytes)(scope, receive, send)


class _Counted:
    """A body on its way: its bytes and its time are counted."""

    def __init__(self, receive: Receive, most: int, time_s: float) -> None:
        self.status = 0
        self._receive = receive
        self._most = most
        self._end = asyncio.get_running_loop().time() + time_s
        self._over = False

    def refuse(self, status: int) -> None:
        self.status = status

    async def receive(self) -> Message:
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError:
            self.refuse(408)
            return {"type": "http.disconnect"}
        self._most -= len(message.get("body", b""))
        self._over = not message.get("more_body", False)
        if self._most < 0:
            self.refuse(413)
            return {"type": "http.disconnect"}
        return message

    def unless_refused(self, send: Send) -> Send:
        """What the application says of a body that was cut off here is not the reason."""

        async def told(message: Message) -> None:
            if not self.status:
                await send(message)

        return told

    async def discard(self) -> None:
        """Read on for a moment, so that the client is there to read why."""
        try:
            async with asyncio.timeout(_DISCARD_S):
                while self.status != 408 and not self._over:
                    self._over = not (await self._receive()).get("more_body", False)
        except TimeoutError:
            pass


def _refusal(status: int, most: int) -> Response:
    said = {
        413: f"An upload may have {most >> 20:,} MiB. Choose fewer or smaller files at a time.",
        408: "The upload took too long to come. Choose fewer or smaller files at a time.",
        503: "Too many files are on their way to this server. Try again in a minute.",
    }
    headers = {"Connection": "close", **({"Retry-After": "60"} if status == 503 else {})}
    return PlainTextResponse(said[status], status_code=status, headers=headers)


def _file(public: str) -> Response:
    try:
        path = find_file(public)
    except UserError as error:
        return JSONResponse({"detail": str(error)}, status_code=403)
    shown = path.suffix.lower() in _SHOWN
    return FileResponse(
        path,
        filename=path.name,
        media_type=None if shown else "application/octet-stream",
        content_disposition_type="inline" if shown else "attachment",
        headers={"x-content-type-options": "nosniff", "cache-control": "private"},
    )


def _plain(scope: Scope) -> Scope:
    """Without packing: what is packed could not be looked through."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
    return {**scope, "headers": headers}


def _closed(send: Send) -> Send:
    """Add the policy to the answer."""

    async def closed(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"same-origin")]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return closed


def _hidden(send: Send) -> Callable[[Message], Awaitable[None]]:
    """Call files of the page by the name they have outside, whole answers and events as they come."""
    start: Any = None
    parts: list[bytes] = []
    streams = False

    async def hidden(message: Message) -> None:
        nonlocal start, streams
        if message["type"] == "http.response.start":
            streams = b"event-stream" in Headers(raw=message["headers"]).get("content-type", "").encode()
            if streams:
                await send(message)
            else:
                start = message
            return
        if message["type"] != "http.response.body":
            await send(message)
            return
        if streams:
            await send({**message, "body": hide(message.get("body", b""))})
            return
        parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = hide(b"".join(parts))
        headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        # An answer to HEAD has the length of what is not sent.
        if body:
            headers.append((b"content-length", str(len(body)).encode()))
        await send({**start, "headers": headers})
        await send({**message, "body": body})

    return hidden


def hide(body: bytes) -> bytes:
    """`body` with the page's folder, as text, as JSON and as part of an address, replaced by its name outside."""
    return _hide(body, page_folder())


def _hide(body: bytes, folder: Path) -> bytes:
    text = str(folder)
    for form in {text, json.dumps(text)[1:-1], quote(text)}:
        body = body.replace(form.encode(), PUBLIC.encode())
    return body
