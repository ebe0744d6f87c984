"""Probes and metrics."""

import html

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from igsp_deploy import __version__
from igsp_serve.http.context import Has, problems
from igsp_serve.http.problems import problem
from igsp_serve.http.schemas import Health, Root

router = APIRouter(tags=["operation"])

ROOT_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>igsp-deploy</title>
<body><h1>igsp-deploy</h1><p>This server says what is in images. Programs ask at <code>POST v1/classify</code>.</p>
<ul>{links}</ul></body></html>
"""
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/", response_model=Root, summary="What is this?", responses=problems(500, 503))
async def root(request: Request, has: Has) -> Response:
    """What this server is and where to look. A small page for browsers, JSON for others."""
    prefix = str(request.scope.get("root_path", ""))
    shown = {"docs": has.settings.docs, "openapi.json": has.settings.docs, "demo": has.settings.demo}
    paths = [*(path for path, there in shown.items() if there), "health/ready", "metrics"]
    if "text/html" in request.headers.get("accept", ""):
        links = "".join(f'<li><a href="{html.escape(prefix)}/{path}">{path}</a></li>' for path in paths)
        return HTMLResponse(ROOT_PAGE.format(links=links), headers={"Vary": "Accept"})
    found = {"name": "igsp-deploy", "version": __version__, "paths": [f"{prefix}/{path}" for path in paths]}
    return JSONResponse(found, headers={"Vary": "Accept"})


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
