"""The requests of a client of `igsp serve`, and how their answers are read."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx2
from PIL import Image

from igsp_deploy.errors import UserError
from igsp_serve.client_answers import (
    Changed,
    Classified,
    Embedded,
    ServerProblem,
    ServerUnreachable,
    read_changed,
    read_classified,
    read_embedded,
    read_info,
    read_tasks,
)
from igsp_serve.client_retries import ONCE

T = TypeVar("T")
Source = str | Path | bytes | Image.Image
"""An image: a file, its bytes, or opened by pillow."""

_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T]):
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
        extensions = {} if self.repeatable else {ONCE: True}
        body = {"files": self.files, "data": self.data, "json": self.json}
        return {"method": self.method, "url": self.path, "extensions": extensions, **body}


def _files(images: Source | Sequence[Source]) -> list[tuple[str, tuple[str, bytes]]]:
    if isinstance(images, (str, bytes, Path, Image.Image)):
        images = [images]
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


def classify(
    images: Source | Sequence[Source],
    task: str,
    top_k: int,
    prompts: Sequence[str] | None,
    template: str | None,
    min_score: float,
    timeout_s: float,
) -> Call[Classified]:
    data: dict[str, Any] = {"task": task, "top_k": str(top_k), "timeout_s": str(timeout_s)}
    if min_score:
        data["min_score"] = str(min_score)
    if prompts is not None:
        data["prompts"] = list(prompts)
    if template is not None:
        data["template"] = template
    return Call(method="POST", path="/v1/classify", files=_files(images), data=data, read=read_classified)


def embed_images(images: Source | Sequence[Source], task: str, timeout_s: float) -> Call[Embedded]:
    data = {"task": task, "timeout_s": str(timeout_s)}
    return Call(method="POST", path="/v1/embed", files=_files(images), data=data, read=read_embedded)


def embed_texts(texts: Sequence[str], task: str, timeout_s: float) -> Call[Embedded]:
    values = {"texts": list(texts), "task": task, "timeout_s": timeout_s}
    return Call(method="POST", path="/v1/embed", json=values, read=read_embedded)


def change(method: str, path: str, values: Mapping[str, Any] | None) -> Call[Changed]:
    return Call(method=method, path=path, json=values, read=read_changed, repeatable=False)


def result(call: Call[T], response: httpx2.Response | httpx2.RequestError, url: str) -> T:
    if isinstance(response, httpx2.RequestError):
        raise ServerUnreachable(
            f"{url} did not answer ({type(response).__name__}: {response}). Is `igsp serve` running there?"
        ) from response
    if response.is_success:
        try:
            return call.read(response.json())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ServerUnreachable(f"{url} answered something that `igsp serve` does not. Check the URL.") from error
    raise _problem(response)


def _problem(response: httpx2.Response) -> ServerProblem:
    try:
        values = response.json()
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):  # of a proxy
        values = {"detail": f"the server answered {response.status_code} {response.reason_phrase}."}
    wrong = values.get("errors")
    rows = [row for row in wrong if isinstance(row, dict)] if isinstance(wrong, list) else []
    return ServerProblem(
        status=response.status_code,
        title=str(values.get("title") or response.reason_phrase),
        detail=str(values.get("detail") or ""),
        request_id=str(values.get("instance") or response.headers.get("x-request-id", "")),
        errors={str(row.get("field", "")): str(row.get("detail", "")) for row in rows},
    )


TASKS = Call(method="GET", path="/v1/tasks", read=read_tasks)
MODEL = Call(method="GET", path="/v1/models", read=read_info)
