"""The application: routes, errors, and the layers before them.

From outside to inside: `RequestLog` (id, log, metrics, number of requests), CORS, `Head`, `Keys`, `Body` (bytes, time,
client left), routes. Each is plain ASGI.
"""

import importlib
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, compile_path
from starlette.types import Scope

from igsp_deploy import __version__
from igsp_deploy.errors import UserError
from igsp_deploy.installed import install_command
from igsp_serve.drift import Drift
from igsp_serve.failures import DeadlineExceeded, EngineFailed, Overloaded, Unavailable
from igsp_serve.http import admin, classify, embed, health, tasks
from igsp_serve.http.body import Body
from igsp_serve.http.context import Context
from igsp_serve.http.head import Head
from igsp_serve.http.inputs import BadInput, wrong_fields
from igsp_serve.http.keys import Keys
from igsp_serve.http.openapi import describe
from igsp_serve.http.problems import failure, is_v2, problem
from igsp_serve.http.request_log import RequestLog
from igsp_serve.http.route_path import route_path
from igsp_serve.metrics import Metrics
from igsp_serve.oip import http as v2
from igsp_serve.oip.statistics import Statistics
from igsp_serve.service import Service
from igsp_serve.settings import Settings

DESCRIPTION = "Classify images with one model of many tasks. Errors are RFC 9457 problem documents."
ROUTERS = (*(part.router for part in (classify, embed, tasks, admin, health)), *v2.routers)
"""What the server answers, in the order of its documentation."""
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    served: Service | Path, settings: Settings | None = None, *, lifespan: Lifespan | None = None
) -> FastAPI:
    """The whole server as an ASGI application.

    Args:
        served: an open service, or a bundle to open.
        settings: options; those of the service by default.
        lifespan: what to do at start and end; by default warm up and close.

    Raises:
        UserError: the bundle or a key file cannot be read.
    """
    service = served if isinstance(served, Service) else Service.open(served, settings)
    settings = settings or service.settings
    context = Context(
        service=service,
        settings=settings,
        metrics=Metrics(service),
        drift=Drift(settings.drift_images),
        statistics=Statistics(service),
    )
    service.watchers.add(context.drift)
    app = FastAPI(
        title="igsp-deploy",
        version=__version__,
        description=DESCRIPTION,
        docs_url="/docs" if settings.docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
        lifespan=lifespan or _serve_alone(service),
        separate_input_output_schemas=False,
    )
    app.state.context = context
    paths = _Paths.of([*app.router.routes, *(route for router in ROUTERS for route in router.routes)])
    for router in ROUTERS:
        app.include_router(router)
    _handle_errors(app, paths)
    _add_layers(app, context, paths)
    if settings.demo:
        mount_demo(app, service, settings)
    return app


def _add_layers(app: FastAPI, context: Context, paths: "_Paths") -> None:
    """What a request passes before its route, and the document that says who needs a key.

    Raises:
        UserError: a key file cannot be read.
    """
    settings = context.settings
    also_open = ("/metrics",) if settings.public_metrics else ()
    keys, admin_keys = settings.all_api_keys(), settings.all_admin_keys()
    describe(app, keys=bool(keys), public=frozenset(also_open))
    # The last one added is the outermost.
    app.add_middleware(
        Body,
        max_bytes=settings.max_body_bytes,
        max_buffered_bytes=settings.max_buffered_bytes,
        timeout_s=settings.body_timeout_s,
    )
    app.add_middleware(Keys, keys=keys, admin_keys=admin_keys, also_open=also_open)
    app.add_middleware(Head)
    if settings.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origin,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("Authorization", "X-API-Key", "X-Request-ID", "Content-Type", "traceparent", "tracestate"),
            expose_headers=("X-Request-ID", "Retry-After", "Inference-Header-Content-Length"),
        )
    app.add_middleware(
        RequestLog,
        observe=context.metrics.request,
        draining=lambda: context.service.draining,
        route_of=paths.route,
        root_path=settings.root_path,
        send_timeout_s=settings.body_timeout_s,
    )


def mount_demo(app: FastAPI, service: Service, settings: Settings) -> None:
    """Serve the Gradio demo at /demo, through the same service and within the server's limits.

    Raises:
        UserError: this installation has no demo.
    """
    try:
        backend, page, mount, uploads = (
            importlib.import_module(f"igsp_serve.demo.{part}") for part in ("backend", "page", "mount", "uploads")
        )
    except ModuleNotFoundError as error:
        raise UserError(
            f"the demo needs {error.name}, which is not installed. Install it with: {install_command('demo')}"
        ) from error
    limits = uploads.Limits(
        body_bytes=settings.max_body_bytes, total_bytes=settings.max_buffered_bytes, time_s=settings.body_timeout_s
    )
    mount.mount_demo(app, page.build_demo(backend.ServiceBackend(service)), limits=limits)


def _serve_alone(service: Service) -> Lifespan:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.warm_up()
        yield
        service.close()
        app.state.context.drift.close()

    return lifespan


@dataclass(frozen=True)
class _Paths:
    """The routes of an application by their paths, for what is answered before or without the router."""

    patterns: tuple[tuple[re.Pattern[str], str, frozenset[str]], ...]

    @classmethod
    def of(cls, routes: Iterable[BaseRoute]) -> "_Paths":
        return cls(
            tuple(
                (compile_path(route.path)[0], route.path, frozenset(route.methods or ()))
                for route in routes
                if isinstance(route, Route)
            )
        )

    def route(self, scope: Scope) -> str:
        """Path of the route that a request asks for, with whatever method."""
        path = route_path(scope)
        return next((name for pattern, name, _ in self.patterns if pattern.match(path)), "unmatched")

    def methods(self, path: str) -> list[str]:
        """Methods of all routes at a path; where there is GET, there is HEAD."""
        found = {method for pattern, _, methods in self.patterns if pattern.match(path) for method in methods}
        return sorted(found | ({"HEAD"} if "GET" in found else set()))


def _handle_errors(app: FastAPI, paths: _Paths) -> None:
    async def known(request: Request, error: Exception) -> Response:
        return failure(request.scope, error)

    async def bad_input(request: Request, error: Exception) -> Response:
        assert isinstance(error, BadInput)
        status = 400 if error.status == 422 and is_v2(request.scope) else error.status
        return problem(request.scope, status, error.detail, errors=error.errors)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await bad_input(request, wrong_fields(error.errors()))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail, headers = str(error.detail), dict(error.headers or {})
        if error.status_code == 404:
            detail = "There is nothing at this path. GET /openapi.json lists what there is."
        if error.status_code == 405:
            # Starlette names the methods of the first route at this path alone.
            headers["Allow"] = ", ".join(paths.methods(route_path(request.scope))) or headers.get("Allow", "")
            detail = f"This path takes {headers['Allow']}, not {request.method}."
        return problem(request.scope, error.status_code, detail, headers=headers)

    handlers: dict[Any, Callable[[Request, Exception], Any]] = {
        **dict.fromkeys((UserError, Overloaded, DeadlineExceeded, Unavailable, EngineFailed), known),
        BadInput: bad_input,
        RequestValidationError: invalid,
        HTTPException: http_error,
        Exception: known,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
