"""A client of `igsp serve`, for programs: typed answers, and retries that do what the server says.

    with Client("http://127.0.0.1:8000", key="secret") as client:
        answer = client.classify([Path("photo.jpg")], top_k=3)
        print(answer.results[0].labels[0].label, answer.model.version)

`AsyncClient` has the same calls to `await`. Both take an overloaded or restarting server for what it is: they wait as
long as `Retry-After` says, or ever longer without it, and give up when `retry_for_s` would be over.
"""

import asyncio
import io
import random
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2
from PIL import Image

from igsp_deploy.errors import UserError

T = TypeVar("T")
Source = str | Path | bytes | Image.Image
"""An image: a file, its bytes, or opened by pillow."""

RETRIED = frozenset({429, 502, 503})
"""Statuses that say: the same request may be answered later. 502 and 503 may come from a load balancer."""
FIRST_WAIT_S = 0.1
MOST_WAIT_S = 10.0
"""Longest wait where the server does not say how long."""
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
MARGIN_S = 5.0
"""Longer than the server's own limit, so that its answer, not our impatience, says what happened."""


class ServerProblem(UserError):
    """The server refused or failed; its problem document (RFC 9457) in parts.

    Attributes:
        status: HTTP status.
        title: kind of problem.
        detail: what was wrong and what to do.
        request_id: under which the server's log has it.
        errors: fields that were wrong: name -> why.
    """

    def __init__(self, status: int, title: str, detail: str, request_id: str, errors: Mapping[str, str]) -> None:
        """From a problem document."""
        super().__init__(f"{detail} (HTTP {status}{f', request {request_id}' if request_id else ''})")
        self.status = status
        self.title = title
        self.detail = detail
        self.request_id = request_id
        self.errors = dict(errors)


class ServerUnreachable(UserError):
    """Nobody answered, or not with what an `igsp serve` answers."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What answered."""

    name: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Where the time went inside the server, in ms."""

    queue_ms: float
    decode_ms: float
    inference_ms: float
    total_ms: float


@dataclass(frozen=True, kw_only=True)
class Label:
    """One label: its probability among the candidates, and the task it belongs to (None for a prompt)."""

    label: str
    score: float
    task: str | None


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """What was found for one image.

    Attributes:
        task: whose experts were used; None for plain CLIP.
        zero_shot: no learned task was used.
        labels: best first.
        task_scores: selector score of each task minus its threshold; at least 0: the task would take the image.
    """

    task: str | None
    zero_shot: bool
    labels: tuple[Label, ...]
    task_scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Classified:
    """Answer of `classify`: a result for each image, in order."""

    model: Model
    results: tuple[ImageResult, ...]
    timings: Timings
    request_id: str


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Answer of `embed_images` and `embed_texts`.

    Attributes:
        model: what answered.
        embeddings: of length 1, one an image or text.
        tasks: used for each; None for plain CLIP.
        timings: where the time went.
        request_id: under which the server's log has it.
    """

    model: Model
    embeddings: tuple[tuple[float, ...], ...]
    tasks: tuple[str | None, ...]
    timings: Timings
    request_id: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task the model knows."""

    name: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    experts: int
    experts_new: int
    size_bytes: int
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The model that is served, and what it runs on."""

    name: str
    version: str
    backbone: str
    provider: str
    precision: str
    image_size: int
    embed_dim: int
    tasks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Changed:
    """Answer of the calls that change what is served: its version and tasks now."""

    model: Model
    tasks: tuple[str, ...]
    request_id: str


@dataclass(frozen=True, kw_only=True)
class _Call(Generic[T]):
    """A request and how to read its answer.

    Attributes:
        repeatable: may be sent again when nobody knows whether it was carried out.
    """

    method: str
    path: str
    read: Callable[[Any], T]
    files: Sequence[tuple[str, tuple[str, bytes]]] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    repeatable: bool = True

    def arguments(self) -> dict[str, Any]:
        """Of httpx2."""
        return {"method": self.method, "url": self.path, "files": self.files, "data": self.data, "json": self.json}


class _Attempts:
    """When to try again, and when to stop."""

    def __init__(self, retry_for_s: float) -> None:
        self._end = time.monotonic() + retry_for_s
        self._wait_s = FIRST_WAIT_S

    def wait_s(self, asked_s: float | None) -> float | None:
        """Seconds to wait before the next try; None: no more.

        Args:
            asked_s: what the server asked for.
        """
        # Spread, so that those who were refused together do not come back together.
        wait = self._wait_s * random.uniform(0.5, 1.0) if asked_s is None else asked_s * random.uniform(1.0, 1.2)
        self._wait_s = min(MOST_WAIT_S, 2 * self._wait_s)
        return wait if time.monotonic() + wait <= self._end else None


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
        """
        self._retry_for_s = retry_for_s
        self._timeout_s = timeout_s
        self._http = httpx2.Client(**_options(url, key, timeout_s), verify=verify, transport=transport)

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
        images: Sequence[Source],
        *,
        task: str = "auto",
        top_k: int = 5,
        prompts: Sequence[str] | None = None,
    ) -> Classified:
        """Classify one or many images.

        Args:
            images: files, bytes or pillow's images.
            task: `auto`, `none` (plain CLIP) or a name.
            top_k: labels to return for an image.
            prompts: texts to choose among instead of learned classes.

        Raises:
            ServerProblem: refused, or failed; also when it was still overloaded at the end of `retry_for_s`.
            ServerUnreachable: nobody answered.
        """
        return self._send(_classify(images, task, top_k, prompts, self._timeout_s))

    def embed_images(self, images: Sequence[Source], *, task: str = "auto") -> Embedded:
        """Embed images under the named or chosen task's experts. Errors as in `classify`."""
        return self._send(_embed_images(images, task, self._timeout_s))

    def embed_texts(self, texts: Sequence[str], *, task: str = "none") -> Embedded:
        """Embed texts under a task's experts, or plain CLIP's. Errors as in `classify`."""
        return self._send(_embed_texts(texts, task, self._timeout_s))

    def tasks(self) -> tuple[Task, ...]:
        """The tasks known now. Errors as in `classify`."""
        return self._send(_TASKS)

    def model(self) -> ModelInfo:
        """The model that is served. Errors as in `classify`."""
        return self._send(_MODEL)

    def ready(self) -> bool:
        """Whether traffic may come; never tried again, never an error."""
        try:
            return self._http.get("/health/ready").status_code == 200
        except httpx2.TransportError:
            return False

    def add_task(self, bundle: str, task: str) -> Changed:
        """Add a task of a bundle in the server's roots, while serving. Needs an admin key. Errors as in `classify`."""
        return self._send(_change("POST", "/v1/tasks", {"bundle": bundle, "task": task}))

    def remove_task(self, task: str) -> Changed:
        """Remove a task while it serves. Needs an admin key. Errors as in `classify`."""
        return self._send(_change("DELETE", f"/v1/tasks/{quote(task, safe='')}", None))

    def replace_bundle(self, bundle: str) -> Changed:
        """Serve another bundle from the server's roots. Needs an admin key. Errors as in `classify`."""
        return self._send(_change("POST", "/v1/models", {"bundle": bundle}))

    def _send(self, call: _Call[T]) -> T:
        attempts = _Attempts(self._retry_for_s)
        while True:
            try:
                response: httpx2.Response | httpx2.TransportError = self._http.request(**call.arguments())
            except httpx2.TransportError as error:
                response = error
            wait = _again(call, response, attempts)
            if wait is None:
                return _result(call, response, str(self._http.base_url))
            time.sleep(wait)


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
        """Connects with the first call; arguments as those of `Client`."""
        self._retry_for_s = retry_for_s
        self._timeout_s = timeout_s
        self._http = httpx2.AsyncClient(**_options(url, key, timeout_s), verify=verify, transport=transport)

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
        images: Sequence[Source],
        *,
        task: str = "auto",
        top_k: int = 5,
        prompts: Sequence[str] | None = None,
    ) -> Classified:
        """See `Client.classify`."""
        # Files are read, and pillow's images packed, in a thread.
        return await self._send(await asyncio.to_thread(_classify, images, task, top_k, prompts, self._timeout_s))

    async def embed_images(self, images: Sequence[Source], *, task: str = "auto") -> Embedded:
        """See `Client.embed_images`."""
        return await self._send(await asyncio.to_thread(_embed_images, images, task, self._timeout_s))

    async def embed_texts(self, texts: Sequence[str], *, task: str = "none") -> Embedded:
        """See `Client.embed_texts`."""
        return await self._send(_embed_texts(texts, task, self._timeout_s))

    async def tasks(self) -> tuple[Task, ...]:
        """See `Client.tasks`."""
        return await self._send(_TASKS)

    async def model(self) -> ModelInfo:
        """See `Client.model`."""
        return await self._send(_MODEL)

    async def ready(self) -> bool:
        """See `Client.ready`."""
        try:
            return (await self._http.get("/health/ready")).status_code == 200
        except httpx2.TransportError:
            return False

    async def add_task(self, bundle: str, task: str) -> Changed:
        """See `Client.add_task`."""
        return await self._send(_change("POST", "/v1/tasks", {"bundle": bundle, "task": task}))

    async def remove_task(self, task: str) -> Changed:
        """See `Client.remove_task`."""
        return await self._send(_change("DELETE", f"/v1/tasks/{quote(task, safe='')}", None))

    async def replace_bundle(self, bundle: str) -> Changed:
        """See `Client.replace_bundle`."""
        return await self._send(_change("POST", "/v1/models", {"bundle": bundle}))

    async def _send(self, call: _Call[T]) -> T:
        attempts = _Attempts(self._retry_for_s)
        while True:
            try:
                response: httpx2.Response | httpx2.TransportError = await self._http.request(**call.arguments())
            except httpx2.TransportError as error:
                response = error
            wait = _again(call, response, attempts)
            if wait is None:
                return _result(call, response, str(self._http.base_url))
            await asyncio.sleep(wait)


def retry_after_s(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header, which holds seconds or a date; None when it is not there or not one."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _options(url: str, key: str | None, timeout_s: float) -> dict[str, Any]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    # Requests queue in the server, which bounds them, and not here without a word.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
    timeout = httpx2.Timeout(timeout_s + MARGIN_S, connect=min(timeout_s, 5.0))
    return {"base_url": url.rstrip("/"), "headers": headers, "limits": limits, "timeout": timeout}


def _again(call: _Call[Any], response: httpx2.Response | httpx2.TransportError, attempts: _Attempts) -> float | None:
    """Seconds to wait before the same request is sent again; None when its answer stands."""
    if isinstance(response, httpx2.TransportError):
        # Without a connection nothing was sent; after that only what changes nothing may be sent twice.
        unsent = isinstance(response, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout))
        again = unsent or (call.repeatable and not isinstance(response, httpx2.TimeoutException))
        return attempts.wait_s(None) if again and not isinstance(response, httpx2.UnsupportedProtocol) else None
    if response.status_code not in RETRIED:
        return None
    return attempts.wait_s(retry_after_s(response.headers.get("retry-after")))


def _result(call: _Call[T], response: httpx2.Response | httpx2.TransportError, url: str) -> T:
    if isinstance(response, httpx2.TransportError):
        raise ServerUnreachable(
            f"{url} did not answer ({type(response).__name__}: {response}). Is `igsp serve` running there?"
        ) from response
    if response.is_success:
        try:
            return call.read(response.json())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServerUnreachable(f"{url} answered something that `igsp serve` does not. Check the URL.") from error
    raise _problem(response)


def _problem(response: httpx2.Response) -> ServerProblem:
    try:
        values = response.json()
    except ValueError:
        values = None
    if not isinstance(values, dict):  # of a proxy
        values = {"detail": f"the server answered {response.status_code} {response.reason_phrase}."}
    return ServerProblem(
        status=response.status_code,
        title=str(values.get("title") or response.reason_phrase),
        detail=str(values.get("detail") or ""),
        request_id=str(values.get("instance") or response.headers.get("x-request-id", "")),
        errors={row["field"]: row["detail"] for row in values.get("errors") or ()},
    )


def _files(images: Sequence[Source]) -> list[tuple[str, tuple[str, bytes]]]:
    if isinstance(images, (str, bytes, Path, Image.Image)):
        raise UserError("images must be a list, also of one image.")
    return [("images", (f"{index}", _bytes(image))) for index, image in enumerate(images)]


def _bytes(image: Source) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, Path)):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise UserError(f"{image} cannot be read ({error.strerror}). Give an image file.") from error
    packed = io.BytesIO()
    if image.mode not in _PNG_MODES:
        image = image.convert("RGB")
    image.save(packed, "PNG", compress_level=1)
    return packed.getvalue()


def _classify(
    images: Sequence[Source], task: str, top_k: int, prompts: Sequence[str] | None, timeout_s: float
) -> _Call[Classified]:
    data: dict[str, Any] = {"task": task, "top_k": str(top_k), "timeout_s": str(timeout_s)}
    if prompts is not None:
        data["prompts"] = list(prompts)
    return _Call(method="POST", path="/v1/classify", files=_files(images), data=data, read=_classified)


def _embed_images(images: Sequence[Source], task: str, timeout_s: float) -> _Call[Embedded]:
    data = {"task": task, "timeout_s": str(timeout_s)}
    return _Call(method="POST", path="/v1/embed", files=_files(images), data=data, read=_embedded)


def _embed_texts(texts: Sequence[str], task: str, timeout_s: float) -> _Call[Embedded]:
    values = {"texts": list(texts), "task": task, "timeout_s": timeout_s}
    return _Call(method="POST", path="/v1/embed", json=values, read=_embedded)


def _change(method: str, path: str, values: Mapping[str, Any] | None) -> _Call[Changed]:
    return _Call(method=method, path=path, json=values, read=_changed, repeatable=False)


def _model(values: Any) -> Model:
    return Model(name=values["name"], version=values["version"])


def _timings(values: Any) -> Timings:
    return Timings(**{name: float(values[name]) for name in Timings.__dataclass_fields__})


def _classified(values: Any) -> Classified:
    results = tuple(
        ImageResult(
            task=row["task"],
            zero_shot=row["zero_shot"],
            labels=tuple(
                Label(label=found["label"], score=found["score"], task=found["task"]) for found in row["predictions"]
            ),
            task_scores=dict(row["task_scores"]),
        )
        for row in values["results"]
    )
    return Classified(
        model=_model(values["model"]),
        results=results,
        timings=_timings(values["timings"]),
        request_id=values["request_id"],
    )


def _embedded(values: Any) -> Embedded:
    return Embedded(
        model=_model(values["model"]),
        embeddings=tuple(tuple(row) for row in values["embeddings"]),
        tasks=tuple(values["task"]),
        timings=_timings(values["timings"]),
        request_id=values["request_id"],
    )


def _tasks(values: Any) -> tuple[Task, ...]:
    return tuple(_known(Task, row) for row in values["tasks"])


def _info(values: Any) -> ModelInfo:
    (row,) = values["models"]
    return _known(ModelInfo, row)


def _known(kind: Callable[..., T], row: Mapping[str, Any]) -> T:
    """A dataclass from the fields it knows: a newer server may send more."""
    names: Mapping[str, Any] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return kind(**{name: tuple(row[name]) if isinstance(row[name], list) else row[name] for name in names})


def _changed(values: Any) -> Changed:
    return Changed(model=_model(values["model"]), tasks=tuple(values["tasks"]), request_id=values["request_id"])


_TASKS = _Call(method="GET", path="/v1/tasks", read=_tasks)
_MODEL = _Call(method="GET", path="/v1/models", read=_info)
