"""The same server as a Ray Serve application: replicas on one or many machines. Needs the extra `ray`.

    serve run igsp_serve.ray_app:app bundle=/models/shop/bundle replicas=2
    serve run igsp_serve.ray_app:app bundle=/models/shop/bundle replicas=1 max_replicas=8 gpus=1 max_batch=64

Every option of `igsp serve` may be given beside these, and every variable IGSP_OPTION. Each replica is a whole service
with a batcher of its own; Ray's proxy spreads the requests. The bundle must be at the same path on every machine.

Running the command again with another bundle changes it without a gap: Ray starts replicas with the new bundle and
stops old ones as those become ready. What must be the same in all replicas cannot be changed over HTTP, where a call
reaches one of them: so there are no admin keys here.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from igsp_deploy.errors import UsageError, UserError
from igsp_serve.http.app import create_app
from igsp_serve.http.problems import problem
from igsp_serve.http.request_log import MAX_REQUESTS
from igsp_serve.service import Service
from igsp_serve.settings import Settings

# Nothing is reported to anybody. Ray reads this when it starts.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from ray import serve
from ray.serve import Application

NAME = "igsp"
HEALTH_PERIOD_S = 2.0
"""How often Ray asks a replica whether it is well."""
HEALTH_TIMEOUT_S = 30.0
"""A replica that does not answer for this long is started anew."""


def app(args: Mapping[str, Any]) -> Application:
    """What `serve run igsp_serve.ray_app:app name=value ...` deploys.

    Args:
        args: `bundle`; `replicas` (1); `max_replicas`, beyond `replicas`: Ray adds some when there is work for more;
            `cpus` (1) and `gpus` (0) of each; and options of `igsp serve`.

    Raises:
        UsageError: an option is wrong, or one that would change a single replica.
    """
    given = dict(args)
    bundle = given.pop("bundle", None)
    if not bundle:
        raise UsageError("give bundle=FOLDER.")
    replicas = _number(given, "replicas", 1, least=1)
    most = _number(given, "max_replicas", replicas, least=replicas)
    cpus, gpus = _number(given, "cpus", 1, least=0), _number(given, "gpus", 0, least=0)
    settings = Settings.read(given)
    if settings.admin_keys or settings.admin_key_file or settings.bundle_roots:
        raise UsageError(
            "admin_keys and bundle_roots are not for Ray: a call over HTTP would change one replica of many. "
            "Deploy again with another bundle instead."
        )
    if settings.demo:
        raise UsageError("the demo keeps its state in one process. Start it with `igsp demo`.")
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
        user_config={"bundle": str(Path(bundle).resolve())},
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=settings.grace_s,
        **scaling,
    )
    return deployment(serve.ingress(_late_app)(Replica)).bind(settings)


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
        self._bundle: Path | None = None

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Open a bundle and warm it up, or replace the one that is served.

        Raises:
            UserError: it cannot be used; the replica serves what it served.
        """
        bundle = Path(config["bundle"])
        inner = self.app.inner
        if inner is None:
            service = await asyncio.to_thread(Service.open, bundle, self._settings)
            await service.warm_up()
            self.app.inner = create_app(service, self._settings)
        elif bundle != self._bundle:
            await inner.state.context.service.replace_bundle(bundle)
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


def _number(given: dict[str, Any], name: str, default: int, *, least: int) -> int:
    raw = given.pop(name, default)
    try:
        value = int(raw)
    except (TypeError, ValueError):
        raise UsageError(f"{name} must be a whole number, got {raw!r}.") from None
    if value < least:
        raise UsageError(f"{name} must be at least {least}, got {value}.")
    return value
