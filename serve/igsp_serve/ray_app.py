"""The same server as a Ray Serve application: replicas on one or many machines. Needs the extra `ray`.

    serve run igsp_serve.ray_app:app bundle=/models/shop/bundle replicas=2
    serve run igsp_serve.ray_app:app bundle=/models/shop/bundle replicas=1 max_replicas=8 gpus=1 max_batch=64

Options of `igsp serve` may be given beside these, and variables IGSP_OPTION; those that are Ray's business are refused.
Each replica is a whole service with a batcher of its own; Ray's proxy spreads the requests. A folder must be at the
same path on every machine; of hf:USER/NAME each fetches the commit that was the newest when the command was run.

Running the command again with another bundle changes it without a gap: Ray starts replicas with the new bundle and
stops old ones as those become ready.
"""

import asyncio
import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from igsp_deploy.bundle.fetch import PREFIX, local_bundle
from igsp_deploy.errors import UsageError, UserError
from igsp_serve.http.app import create_app
from igsp_serve.http.problems import problem
from igsp_serve.http.request_log import MAX_REQUESTS, JsonLines
from igsp_serve.service import Service
from igsp_serve.settings import Settings
from igsp_serve.tracing import start_tracing, stop_tracing

# Nothing is reported to anybody. Ray reads this when it starts.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from ray import serve
from ray.serve import Application

NAME = "igsp"
HEALTH_PERIOD_S = 2.0
"""How often Ray asks a replica whether it is well."""
HEALTH_TIMEOUT_S = 30.0
"""A replica that does not answer for this long is started anew."""
_ONE_OF_MANY = "a call over HTTP would change one replica of many. Deploy again with another bundle instead"
REFUSED = {
    "host": "Ray's proxy listens, not a replica. Give the address to `serve start --http-host`",
    "port": "Ray's proxy listens, not a replica. Give the port to `serve start --http-port`",
    "grpc_port": "Ray's proxy passes on HTTP alone. Start `igsp serve --grpc-port` on each machine instead",
    "tls_key": "Ray's proxy takes the connections. End TLS at the load balancer before it",
    "tls_certificate": "Ray's proxy takes the connections. End TLS at the load balancer before it",
    "max_connections": "Ray's proxy takes the connections. Bound them at the load balancer before it",
    "shutdown_delay_s": "Ray sends a replica nothing more before it ends it. Leave it out",
    "admin_keys": _ONE_OF_MANY,
    "admin_key_file": _ONE_OF_MANY,
    "bundle_roots": _ONE_OF_MANY,
    "demo": "it keeps its state in one process. Start it with `igsp demo`",
}
"""Options of `igsp serve` that would do nothing here, or harm: why, and what to do."""


def app(args: Mapping[str, Any]) -> Application:
    """What `serve run igsp_serve.ray_app:app name=value ...` deploys.

    Args:
        args: `bundle`; `replicas` (1); `max_replicas`, beyond `replicas`: Ray adds some when there is work for more;
            `cpus` (1) and `gpus` (0) of each; and options of `igsp serve`.

    Raises:
        UsageError: an option is wrong, or one of `REFUSED`.
        UserError: the bundle has the name of a repository and cannot be fetched.
    """
    given = dict(args)
    bundle = given.pop("bundle", None)
    if not bundle:
        raise UsageError("give bundle=FOLDER.")
    replicas = _number(given, "replicas", 1, least=1)
    most = _number(given, "max_replicas", replicas, least=replicas)
    cpus, gpus = _number(given, "cpus", 1, least=0), _number(given, "gpus", 0, least=0)
    settings = Settings.read(given)
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    refused = [f"{name}: {why}." for name, why in REFUSED.items() if getattr(settings, name) != defaults[name]]
    if refused:
        raise UsageError("\n       ".join(["these options are not for Ray:", *refused]))
    scaling: dict[str, Any] = {"num_replicas": replicas}
    if most > replicas:
        # Twice what fills the largest batch: one in the model, one that forms.
        target = 2 * settings.max_batch
        scaling = {
            "autoscaling_config": {"min_replicas": replicas, "max_replicas": most, "target_ongoing_requests": target}
        }
    deployment = serve.deployment(
        name=NAME,
        # A replica refuses by itself, with 429, what its queue cannot hold.
        max_ongoing_requests=min(settings.queue, MAX_REQUESTS),
        max_queued_requests=MAX_REQUESTS,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        # Goes to `reconfigure`, which opens the bundle.
        user_config={"bundle": _place(str(bundle))},
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=settings.grace_s,
        **scaling,
    )
    return deployment(serve.ingress(_late_app)(Replica)).bind(settings)


def _place(bundle: str) -> str:
    """What every replica opens: an absolute path, or a repository at one commit."""
    folder = local_bundle(Path(bundle))
    return f"{bundle.partition('@')[0]}@{folder.name}" if bundle.startswith(PREFIX) else str(folder.resolve())


class LateApp:
    """ASGI: the application that is put into it once there is a bundle.

    Attributes:
        inner: the application.
    """

    def __init__(self) -> None:
        """Empty."""
        self.inner: FastAPI | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self.inner is None:
            await problem(scope, 503, "The replica has no bundle yet.")(scope, receive, send)
        else:
            await self.inner(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if self.inner is not None:
                    await asyncio.to_thread(self.inner.state.context.service.close)
                    self.inner.state.context.drift.close()
                stop_tracing()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _late_app() -> LateApp:
    """Called in each replica."""
    return LateApp()


class Replica:
    """One replica: a service, and what Ray asks of it. Ray adds `app`, the `LateApp`."""

    app: LateApp

    def __init__(self, settings: Settings) -> None:
        """Take the options; the bundle comes with `reconfigure`."""
        self._settings = settings
        self._bundle: str | None = None
        _set_up_logs(settings)
        start_tracing()

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Open a bundle and warm it up, or replace the one that is served.

        Raises:
            UserError: it cannot be used; the replica serves what it served.
        """
        bundle = str(config["bundle"])
        folder = await asyncio.to_thread(local_bundle, Path(bundle))
        inner = self.app.inner
        if inner is None:
            service = await asyncio.to_thread(Service.open, folder, self._settings)
            await service.warm_up()
            self.app.inner = create_app(service, self._settings)
        elif bundle != self._bundle:
            await inner.state.context.service.replace_bundle(folder)
        self._bundle = bundle

    async def check_health(self) -> None:
        """Called by Ray; an error has the replica started anew.

        Raises:
            UserError: the model hangs or fails.
        """
        if self.app.inner is None:
            return  # still opening its bundle: `reconfigure` says what is wrong
        service: Service = self.app.inner.state.context.service
        reason = service.not_live() or service.not_ready()
        if reason is not None:
            raise UserError(reason)


def _set_up_logs(settings: Settings) -> None:
    """JSON lines on stderr, which Ray keeps; its own logs stay as they are."""
    logger, handler = logging.getLogger("igsp_serve"), logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(settings.log_level.upper())


def _number(given: dict[str, Any], name: str, default: int, *, least: int) -> int:
    raw = given.pop(name, default)
    try:
        value = int(raw)
    except (TypeError, ValueError):
        raise UsageError(f"{name} must be a whole number, got {raw!r}.") from None
    if value < least:
        raise UsageError(f"{name} must be at least {least}, got {value}.")
    return value
