"""Probes and metrics."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from igsp_serve.http.context import Has, problems
from igsp_serve.http.problems import problem
from igsp_serve.http.schemas import Health

router = APIRouter(tags=["operation"])

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/health/live", response_model=Health, summary="Alive?", responses=problems(503))
async def live(request: Request, has: Has) -> Response:
    """503: start the process anew."""
    reason = has.service.not_live()
    return JSONResponse({"status": "ok"}) if reason is None else problem(request.scope, 503, reason)


@router.get("/health/ready", response_model=Health, summary="Ready for traffic?", responses=problems(503))
async def ready(request: Request, has: Has) -> Response:
    """503 while warming up, while draining and while the model fails: send no traffic."""
    reason = has.service.not_ready()
    return JSONResponse({"status": "ok"}) if reason is None else problem(request.scope, 503, reason)


@router.get(
    "/metrics",
    response_class=Response,
    summary="Prometheus metrics",
    responses={
        200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **problems(401, 500, 503),
    },
)
async def metrics(has: Has) -> Response:
    """Requests, latency, queue, batches, images by task, fallbacks, selector scores."""
    return Response(has.metrics.text(), media_type=METRICS_TYPE)
