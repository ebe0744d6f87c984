"""A client of `igsp serve`, for programs: typed answers, and retries that do what the server says.

    with Client("http://127.0.0.1:8000", key="secret") as client:
        answer = client.classify("photo.jpg", top_k=3)
        print(answer.results[0].labels[0].label, answer.model.version)

`AsyncClient` has the same calls to `await`. Both take an overloaded or restarting server for what it is: they wait as
long as `Retry-After` says, or ever longer without it, and give up when `retry_for_s` would be over.
"""

import asyncio
import ssl
import urllib.request
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx2

from igsp_deploy.errors import UserError
from igsp_serve import client_calls as calls
from igsp_serve.client_answers import (
    Changed,
    Classified,
    Embedded,
    ImageResult,
    Label,
    Model,
    ModelInfo,
    ServerProblem,
    ServerUnreachable,
    Task,
    Timings,
)
from igsp_serve.client_calls import Call, Source
from igsp_serve.client_retries import NEVER, AsyncRetryingTransport, RetryingTransport

__all__ = [
    "AsyncClient",
    "Changed",
    "Classified",
    "Client",
    "Embedded",
    "ImageResult",
    "Label",
    "Model",
    "ModelInfo",
    "ServerProblem",
    "ServerUnreachable",
    "Source",
    "Task",
    "Timings",
]

T = TypeVar("T")

MARGIN_S = 5.0
"""Longer than the server's own limit, so that its answer, not our impatience, says what happened."""
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
"""Requests queue in the server, which bounds them, and not here without a word."""


class Client:
    """Asks a server. It may be used from several threads."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout_s: float = 30.0,
        retry_for_s: float = 30.0,
        verify: ssl.SSLContext | bool = True,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """Connects with the first call.

        Args:
            url: of the server, for example http://127.0.0.1:8000.
            key: API key; an admin key for the calls that change what is served.
            timeout_s: time of one try.
            retry_for_s: time in all, from the first try to the start of the last; 0 tries once.
            verify: how TLS is checked.
            transport: what sends instead of sockets.

        Raises:
            UserError: no server can have that URL, or the key is not one line of text.
        """
        _check_url(url)
        self._timeout_s = timeout_s
        inner = transport or httpx2.HTTPTransport(verify=verify, limits=_LIMITS, proxy=_proxy(url))
        self._http = httpx2.Client(**_options(url, key, timeout_s), transport=RetryingTransport(inner, retry_for_s))

    def __enter__(self) -> "Client":
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def classify(
        self,
        images: Source | Sequence[Source],
        *,
        task: str = "auto",
        top_k: int = 5,
        prompts: Sequence[str] | None = None,
        template: str | None = None,
        min_score: float = 0.0,
    ) -> Classified:
        """Classify one image, or several; there is a result for each.

        Args:
            images: a file, bytes or an image of pillow; or a list of these.
            task: `auto`, `none` (plain CLIP) or a name.
            top_k: labels to return for an image.
            prompts: words or sentences to choose among instead of learned classes.
            template: sentence with `{}` around each of `prompts`, as in `Classifier.classify`.
            min_score: probability under which the best label is called unsure.

        Raises:
            ServerProblem: refused, or failed; also when it was still overloaded at the end of `retry_for_s`.
            ServerUnreachable: nobody answered.
        """
        return self._send(calls.classify(images, task, top_k, prompts, template, min_score, self._timeout_s))

    def embed_images(self, images: Source | Sequence[Source], *, task: str = "auto") -> Embedded:
        """Embed images under the named or chosen task's experts. Errors as in `classify`."""
        return self._send(calls.embed_images(images, task, self._timeout_s))

    def embed_texts(self, texts: Sequence[str], *, task: str = "none") -> Embedded:
        """Embed texts under a task's experts, or plain CLIP's. Errors as in `classify`."""
        return self._send(calls.embed_texts(texts, task, self._timeout_s))

    def tasks(self) -> tuple[Task, ...]:
        """The tasks known now. Errors as in `classify`."""
        return self._send(calls.TASKS)

    def model(self) -> ModelInfo:
        """The model that is served. Errors as in `classify`."""
        return self._send(calls.MODEL)

    def ready(self) -> bool:
        """Whether traffic may come; never tried again, never an error."""
        try:
            return self._http.get("/health/ready", extensions={NEVER: True}).status_code == 200
        except httpx2.TransportError:
            return False

    def add_task(self, bundle: str, task: str) -> Changed:
        """Add a task of a bundle in the server's roots, while serving. Needs an admin key. Errors as in `classify`."""
        return self._send(calls.change("POST", "/v1/tasks", {"bundle": bundle, "task": task}))

    def remove_task(self, task: str) -> Changed:
        """Remove a task while it serves. Needs an admin key. Errors as in `classify`."""
        return self._send(calls.change("DELETE", f"/v1/tasks/{quote(task, safe='')}", None))

    def replace_bundle(self, bundle: str) -> Changed:
        """Serve another bundle from the server's roots. Needs an admin key. Errors as in `classify`."""
        return self._send(calls.change("POST", "/v1/models", {"bundle": bundle}))

    def _send(self, call: Call[T]) -> T:
        try:
            response: httpx2.Response | httpx2.RequestError = self._http.request(**call.arguments())
        except httpx2.RequestError as error:
            response = error
        return calls.result(call, response, str(self._http.base_url))


class AsyncClient:
    """Asks a server from an event loop: the calls of `Client`, to `await`."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout_s: float = 30.0,
        retry_for_s: float = 30.0,
        verify: ssl.SSLContext | bool = True,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """Connects with the first call; arguments and errors as those of `Client`."""
        _check_url(url)
        self._timeout_s = timeout_s
        inner = transport or httpx2.AsyncHTTPTransport(verify=verify, limits=_LIMITS, proxy=_proxy(url))
        retrying = AsyncRetryingTransport(inner, retry_for_s)
        self._http = httpx2.AsyncClient(**_options(url, key, timeout_s), transport=retrying)

    async def __aenter__(self) -> "AsyncClient":
        """Itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def classify(
        self,
        images: Source | Sequence[Source],
        *,
        task: str = "auto",
        top_k: int = 5,
        prompts: Sequence[str] | None = None,
        template: str | None = None,
        min_score: float = 0.0,
    ) -> Classified:
        """See `Client.classify`."""
        # Files are read, and pillow's images packed, in a thread.
        asked = (images, task, top_k, prompts, template, min_score, self._timeout_s)
        return await self._send(await asyncio.to_thread(calls.classify, *asked))

    async def embed_images(self, images: Source | Sequence[Source], *, task: str = "auto") -> Embedded:
        """See `Client.embed_images`."""
        return await self._send(await asyncio.to_thread(calls.embed_images, images, task, self._timeout_s))

    async def embed_texts(self, texts: Sequence[str], *, task: str = "none") -> Embedded:
        """See `Client.embed_texts`."""
        return await self._send(calls.embed_texts(texts, task, self._timeout_s))

    async def tasks(self) -> tuple[Task, ...]:
        """See `Client.tasks`."""
        return await self._send(calls.TASKS)

    async def model(self) -> ModelInfo:
        """See `Client.model`."""
        return await self._send(calls.MODEL)

    async def ready(self) -> bool:
        """See `Client.ready`."""
        try:
            return (await self._http.get("/health/ready", extensions={NEVER: True})).status_code == 200
        except httpx2.TransportError:
            return False

    async def add_task(self, bundle: str, task: str) -> Changed:
        """See `Client.add_task`."""
        return await self._send(calls.change("POST", "/v1/tasks", {"bundle": bundle, "task": task}))

    async def remove_task(self, task: str) -> Changed:
        """See `Client.remove_task`."""
        return await self._send(calls.change("DELETE", f"/v1/tasks/{quote(task, safe='')}", None))

    async def replace_bundle(self, bundle: str) -> Changed:
        """See `Client.replace_bundle`."""
        return await self._send(calls.change("POST", "/v1/models", {"bundle": bundle}))

    async def _send(self, call: Call[T]) -> T:
        try:
            response: httpx2.Response | httpx2.RequestError = await self._http.request(**call.arguments())
        except httpx2.RequestError as error:
            response = error
        return calls.result(call, response, str(self._http.base_url))


def _options(url: str, key: str | None, timeout_s: float) -> dict[str, Any]:
    if key is not None and (not key.strip() or not key.isprintable()):
        raise UserError("the key must be one line of text that is not empty. Leave the line break of its file out.")
    headers = {} if key is None else {b"Authorization": f"Bearer {key}".encode()}
    timeout = httpx2.Timeout(timeout_s + MARGIN_S, connect=min(timeout_s, 5.0))
    return {"base_url": url.rstrip("/"), "headers": headers, "timeout": timeout}


def _check_url(url: str) -> None:
    try:
        httpx2.URL(url).host.encode("idna")
    except (httpx2.InvalidURL, ValueError) as error:
        raise UserError(f"{url!r} is no URL of a server ({error}). Example: http://127.0.0.1:8000") from error


def _proxy(url: str) -> str | None:
    """The proxy that the environment has for a URL (HTTPS_PROXY, NO_PROXY, ...)."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
