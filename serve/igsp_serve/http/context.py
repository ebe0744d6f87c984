"""What a route finds in its application: the service and what watches it."""

from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Request

from igsp_serve.drift import Drift
from igsp_serve.http.problems import PROBLEM
from igsp_serve.http.schemas import Problem
from igsp_serve.metrics import Metrics
from igsp_serve.oip.statistics import Statistics
from igsp_serve.service import Service
from igsp_serve.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Context:
    """One application's parts."""

    service: Service
    settings: Settings
    metrics: Metrics
    drift: Drift
    statistics: Statistics


def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


Has = Annotated[Context, Depends(_context)]
"""Annotation of a route's parameter that is to be the context."""

WORDS = {
    400: "The body is broken.",
    401: "A key is needed.",
    403: "An admin key is needed, or the folder is not allowed.",
    404: "There is no such thing.",
    408: "The body took too long to come.",
    413: "Too many images, texts or bytes.",
    415: "Another content type or encoding than those accepted.",
    422: "A field or an image is wrong.",
    429: "The queue is full; see Retry-After.",
    500: "A mistake of the server.",
    503: "Warming up, shutting down, too busy, or the model fails.",
    504: "The request's time ran out.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route declares of its errors."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": WORDS[status], "model": Problem, "content": {PROBLEM: schema}} for status in statuses
    }


def body_of(**content: Any) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body itself."""
    return {"requestBody": {"required": True, "content": content}}
