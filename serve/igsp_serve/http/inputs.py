"""Reading the two forms of a request with images: multipart/form-data and JSON with base64."""

import gc
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from igsp_serve.base64_text import from_base64
from igsp_serve.failures import TooLarge

M = TypeVar("M", bound=BaseModel)

REPEATED = ("prompts", "texts")
"""Fields of a form that may come several times."""
MAX_ERRORS = 1000
"""Wrong fields of a request that are told apart; a body has room for millions, whose list would hold up everybody."""
_READING = threading.Lock()
"""Of the body that is read without the garbage collector, which is one for all threads."""


@contextmanager
def uncollected() -> Iterator[None]:
    """For reading JSON: without Python's garbage collector, which would walk over what was made again and again.

    A body of empty lists takes ten times as long with it, and nobody else is served meanwhile.
    """
    with _READING:
        running = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if running:
                gc.enable()


class BadInput(Exception):
    """A request that cannot be read.

    Attributes:
        status: HTTP status.
        detail: what was expected.
        errors: fields that are wrong.
    """

    def __init__(self, status: int, detail: str, errors: list[dict[str, str]] | None = None) -> None:
        """Say what was expected."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors or []


def content_type(request: Request) -> str:
    """Media type of a request's body, without parameters.

    Raises:
        BadInput: neither JSON nor a form.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in ("application/json", "multipart/form-data"):
        raise BadInput(
            415,
            f"the content type must be multipart/form-data (files: `images`) or application/json, not {given[:80]!r}.",
        )
    return given


async def read_json(request: Request, model: type[M]) -> M:
    """Read and check a JSON body.

    Raises:
        BadInput: not JSON, or wrong fields; names them.
    """
    return check(model, await request.body(), json=True)


async def read_form(request: Request, options: type[M], *, max_images: int) -> tuple[list[bytes], M]:
    """Read a form: files in `images`, and the fields of `options`.

    Raises:
        BadInput: broken, or wrong fields; names them.
        TooLarge: more than `max_images` files.
    """
    body = await request.body()

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = MultiPartParser(request.headers, stream(), max_files=max_images, max_fields=10_000)
    # What is in memory already is not written to disk.
    parser.spool_max_size = len(body) + 1
    parser.max_part_size = len(body) + 1
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise TooLarge(f"a request may hold {max_images} images. Send several.") from None
        raise BadInput(400, f"the form is broken ({error.message[:200]}).") from None
    except (LookupError, ValueError, FormParserError) as error:
        raise BadInput(400, "the form is broken: its boundary or a part's header cannot be read.") from error
    images: list[bytes] = []
    values: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "images":
                    raise BadInput(422, "files go into the field images.", [_wrong(name, "is not a field for files")])
                images.append(await value.read())
            elif name == "images":
                raise BadInput(422, "images must be files.", [_wrong("images", "must be a file, with a file name")])
            elif name in REPEATED:
                values.setdefault(name, []).append(value)
            elif name in values:
                raise BadInput(422, "a field came twice.", [_wrong(name, "may come once")])
            else:
                values[name] = value
    finally:
        await form.close()
    return images, check(options, values)


def decode_images(texts: list[str], *, max_images: int) -> list[bytes]:
    """Files from base64 or data URLs.

    Raises:
        BadInput: one is not base64.
        TooLarge: more than `max_images` of them.
    """
    if len(texts) > max_images:
        raise TooLarge(f"a request may hold {max_images} images, got {len(texts)}. Send several.")
    images = []
    for index, text in enumerate(texts):
        try:
            images.append(from_base64(text))
        except ValueError:
            raise BadInput(
                422, "images must be files in base64.", [_wrong(f"images.{index}", "is not base64")]
            ) from None
    return images


def check(model: type[M], values: "Mapping[str, Any] | bytes", *, json: bool = False) -> M:
    """Values as a model of the wire.

    Raises:
        BadInput: not JSON, or wrong fields; names them.
    """
    try:
        if json:
            with uncollected():
                return model.model_validate_json(values)  # type: ignore[arg-type]
        return model.model_validate(values)
    except ValidationError as error:
        if error.error_count() > MAX_ERRORS:
            known = ", ".join(model.model_fields)
            raise BadInput(
                422, f"the body has {error.error_count()} fields that are wrong. It takes {known}."
            ) from None
        raise wrong_fields(error.errors(include_url=False, include_context=False, include_input=False)) from None


def wrong_fields(found: Any) -> BadInput:
    """From pydantic's list of errors."""
    if any(row["type"] in ("json_invalid", "json_type") for row in found):
        return BadInput(400, "the body is not JSON.")
    errors = [
        _wrong(".".join(str(part) for part in row["loc"] if part not in ("body", "path")), row["msg"])
        for row in found[:20]
    ]
    return BadInput(422, f"{errors[0]['field'] or 'the body'}: {errors[0]['detail']}", errors)


def _wrong(field: str, detail: str) -> dict[str, str]:
    return {"field": field[:100], "detail": detail[:300]}
