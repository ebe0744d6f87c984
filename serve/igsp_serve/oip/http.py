"""`/v2`: the Open Inference Protocol over HTTP, so that the clients of Triton and KServe work unchanged."""

import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import JSONResponse, Response

from igsp_serve.failures import RequestError
from igsp_serve.http.context import Context, Has, body_of
from igsp_serve.http.inputs import BadInput, uncollected
from igsp_serve.http.problems import problem, request_id
from igsp_serve.oip import model as core
from igsp_serve.oip.infer import infer as run
from igsp_serve.oip.json_body import read_request, write_response
from igsp_serve.oip.schemas import (
    EXAMPLE,
    REQUEST,
    AllStatistics,
    Error,
    InferAnswer,
    Live,
    ModelIndex,
    ModelMetadata,
    Ready,
    ServerMetadata,
)
from igsp_serve.oip.tensors import read_aside

Name = Annotated[str, Path(max_length=200, examples=["igsp"])]
Version = Annotated[str, Path(max_length=200, examples=[core.VERSION])]
_BODY = body_of(
    **{
        "application/json": {"schema": REQUEST, "examples": {"file": EXAMPLE}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
)
_INDEX_BODY = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {"title": "IndexRequest", "type": "object", "properties": {"ready": {"type": "boolean"}}},
                "examples": {"ready": {"summary": "Those that may be asked now", "value": {"ready": True}}},
            }
        }
    }
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": "Error.", "model": Error} for status in statuses}


router = APIRouter(prefix="/v2", tags=["v2"])


@router.get("", summary="Server metadata", response_model=ServerMetadata, responses=_errors(401, 500, 503))
async def server() -> Response:
    """Name, version, extensions."""
    return JSONResponse(core.server_metadata())


@router.get("/health/live", summary="Alive?", response_model=Live, responses=_errors(503))
async def live(request: Request, has: Has) -> Response:
    """As /health/live."""
    reason = has.service.not_live()
    return JSONResponse({"live": True}) if reason is None else problem(request.scope, 503, reason)


@router.get("/health/ready", summary="Ready for traffic?", response_model=Ready, responses=_errors(503))
async def ready(request: Request, has: Has) -> Response:
    """As /health/ready."""
    reason = has.service.not_ready()
    return JSONResponse({"ready": True}) if reason is None else problem(request.scope, 503, reason)


@router.post(
    "/repository/index",
    summary="List the models",
    response_model=list[ModelIndex],
    responses=_errors(400, 401, 408, 413, 415, 500, 503),
    openapi_extra=_INDEX_BODY,
)
async def index(request: Request, has: Has) -> Response:
    """The one model; with `{"ready": true}` only if it may be asked now."""
    ready = False
    if body := await request.body():
        try:
            with uncollected():
                values = json.loads(body)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict) or type(values.get("ready", False)) is not bool:
            raise RequestError('the body must be JSON: {} or {"ready": true}.')
        ready = values.get("ready", False)
    return JSONResponse(core.index(has.service, ready=ready))


@router.post("/repository/models/{name}/load", include_in_schema=False)
@router.post("/repository/models/{name}/unload", include_in_schema=False)
async def unloadable(name: Name) -> Response:
    """Say who does it."""
    raise BadInput(400, core.UNLOADABLE)


@router.get(
    "/models/stats", summary="Statistics of all models", response_model=AllStatistics, responses=_errors(401, 500, 503)
)
async def statistics(has: Has) -> Response:
    """Counts and times since the start."""
    return JSONResponse(has.statistics.report())


async def config(has: Has) -> Response:
    """As Triton describes a model; dimensions without the batch."""
    return JSONResponse(core.model_config(has.service))


async def metadata(has: Has) -> Response:
    """Inputs and outputs."""
    return JSONResponse(core.model_metadata(has.service))


async def infer(request: Request, has: Has) -> Response:
    """Run the model on tensors, JSON or binary."""
    body, length = await request.body(), request.headers.get("inference-header-content-length")
    asked, form = await read_aside(len(body), lambda: read_request(body, length, core.INPUTS))
    answer = await run(has.service, has.statistics, asked, request_id=request_id(request.scope))
    described: dict[str, Any] = {"model_name": has.settings.name, "model_version": core.VERSION}
    if asked.identity:
        described["id"] = asked.identity
    described["parameters"] = answer.parameters
    content, json_length = write_response(described, answer.outputs, form)
    if json_length is None:
        return Response(content, media_type="application/json")
    headers = {"Inference-Header-Content-Length": str(json_length)}
    return Response(content, media_type="application/octet-stream", headers=headers)


def _known(has: Context, name: str, version: str) -> None:
    try:
        core.check_model(has.service, name, version)
    except core.UnknownModel as error:
        raise BadInput(404, str(error)) from error


async def _known_model(name: Name, has: Has) -> None:
    _known(has, name, "")


async def _known_version(name: Name, version: Version, has: Has) -> None:
    _known(has, name, version)


def _of_a_model(path: str, known: Callable[..., Any]) -> APIRouter:
    """What may be asked of a model, with or without a version in its path."""
    made = APIRouter(prefix=f"/v2/models{path}", tags=["v2"], dependencies=[Depends(known)])
    errors = _errors(400, 401, 404, 500, 503)
    made.get("", summary="Model metadata", response_model=ModelMetadata, responses=errors)(metadata)
    made.get("/ready", summary="Ready?", response_model=Ready, responses=errors)(ready)
    made.get("/config", summary="Model configuration", response_model=dict[str, Any], responses=errors)(config)
    made.get("/stats", summary="Statistics", response_model=AllStatistics, responses=errors)(statistics)
    binary = {"schema": {"type": "string", "format": "binary"}}
    responses: dict[int | str, dict[str, Any]] = {200: {"content": {"application/octet-stream": binary}}}
    made.post(
        "/infer",
        summary="Run the model",
        response_model=InferAnswer,
        responses=responses | _errors(400, 401, 404, 408, 413, 415, 429, 500, 503, 504),
        openapi_extra=_BODY,
    )(infer)
    return made


# Side by side, not one in the other: a route knows the prefix of its own router alone, and metrics go by it.
routers = (
    router,
    _of_a_model("/{name}", _known_model),
    _of_a_model("/{name}/versions/{version}", _known_version),
)
