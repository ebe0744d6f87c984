"""Errors as answers: RFC 9457 problem documents, `{"error": ...}` under /v2. Never a path or a trace of the server."""

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

from igsp_deploy.errors import UserError
from igsp_serve.failures import (
    DeadlineExceeded,
    EngineFailed,
    Overloaded,
    TooLarge,
    Unavailable,
    without_paths,
)
from igsp_serve.http.route_path import is_under, route_path

PROBLEM = "application/problem+json"
TITLES = {413: "Content Too Large", 422: "Unprocessable Content", 431: "Request Header Fields Too Large"}
"""Where Python's names differ from version to version."""


class Refused(Exception):
    """A request that is not passed on.

    Attributes:
        status: HTTP status.
        detail: why, and what to do.
        began: some of its body was read.
    """

    def __init__(self, status: int, detail: str) -> None:
        """Say why."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.began = False


def problem(
    scope: Scope,
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Mapping[str, Any]] | None = None,
) -> Response:
    """An error as the answer to a request.

    Args:
        scope: the request's ASGI scope.
        status: HTTP status.
        detail: what was wrong and what to do.
        headers: more headers of the answer.
        errors: fields that are wrong, each with `field` and `detail`.
    """
    if is_v2(scope):
        return Response(
            json.dumps({"error": detail}), status_code=status, headers=headers, media_type="application/json"
        )
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": TITLES.get(status) or _phrase(status),
        "status": status,
        "detail": detail,
        "instance": request_id(scope),
    }
    if errors:
        body["errors"] = list(errors)
    return Response(json.dumps(body), status_code=status, headers=headers, media_type=PROBLEM)


def failure(scope: Scope, error: Exception) -> Response:
    """What the service raised, as the answer. Anything it does not know is a 500 without a word of the cause."""
    if isinstance(error, Overloaded):
        return problem(scope, 429, str(error), headers={"Retry-After": str(math.ceil(error.retry_after_s))})
    if isinstance(error, (Unavailable, EngineFailed)):
        return problem(scope, 503, str(error), headers={"Retry-After": "1"})
    if isinstance(error, DeadlineExceeded):
        return problem(scope, 504, str(error))
    if isinstance(error, TooLarge):
        return problem(scope, 413, str(error))
    if isinstance(error, UserError):
        return problem(scope, 400 if is_v2(scope) else 422, without_paths(str(error)))
    return problem(scope, 500, "The server made a mistake. Its log has it under the request id.")


def request_id(scope: Scope) -> str:
    """Id of a request, given to it by `RequestLog`."""
    return str(scope.get("state", {}).get("request_id", ""))


def is_v2(scope: Scope) -> bool:
    """The request is one of the Open Inference Protocol."""
    return is_under(route_path(scope), "/v2")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
