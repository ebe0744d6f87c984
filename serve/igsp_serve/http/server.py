"""The server process: socket, TLS, logs, signals, and the order of starting and stopping."""

import asyncio
import atexit
import contextlib
import importlib
import ipaddress
import logging
import logging.config
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from igsp_deploy.errors import UserError
from igsp_deploy.installed import install_command
from igsp_serve.http.app import create_app
from igsp_serve.http.connections import Connections
from igsp_serve.http.request_log import JsonLines
from igsp_serve.service import Service
from igsp_serve.settings import Settings
from igsp_serve.tracing import start_tracing, stop_tracing

logger = logging.getLogger("igsp_serve.server")

BACKLOG = 2048
KEEP_ALIVE_S = 75
"""Time an idle connection stays open."""
MAX_HEADER_BYTES = 65_536
"""Bytes of a request's line and headers."""


@dataclass
class _Run:
    """One run of the server."""

    service: Service
    settings: Settings
    server: uvicorn.Server | None = None
    grpc: Any = None
    """The `GrpcServer`, with `grpc_port`."""
    error: Exception | None = None


def serve(bundle: Path, settings: Settings) -> None:
    """Serve a bundle until SIGTERM or SIGINT.

    The port is taken first and answers once the bundle is open; readiness follows after the warm-up. At the end: not
    ready, serve on for `shutdown_delay_s`, take no more connections, answer what was accepted within `grace_s`.

    Raises:
        UserError: the port is taken, the bundle damaged, the provider not to be had, or a key file cannot be read.
    """
    set_up_logs(settings)
    atexit.register(_drop_unwritable)
    _allow_many_files(settings.max_connections)
    _check_tls(settings)
    _check_grpc(settings)
    listener = listen(settings.host, settings.port)
    with contextlib.closing(listener), contextlib.ExitStack() as at_end:
        start_tracing()
        at_end.callback(stop_tracing)
        service = Service.open(bundle, settings)
        run = _Run(service=service, settings=settings)
        app = create_app(service, settings, lifespan=lambda app: _lifespan(app, run))
        connections = Connections(
            AutoHTTPProtocol,
            most=settings.max_connections,
            header_timeout_s=settings.header_timeout_s,
            max_header_bytes=MAX_HEADER_BYTES,
        )
        config = uvicorn.Config(
            app,
            http=connections.protocol,  # type: ignore[arg-type]  # it is called, nothing more
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(settings.grace_s)),
            ssl_keyfile=settings.tls_key,
            ssl_certfile=None if settings.tls_certificate is None else str(settings.tls_certificate),
        )
        run.server = uvicorn.Server(config)
        _announce(service, settings, listener)
        run.server.run(sockets=[listener])
    if isinstance(run.error, UserError):
        raise run.error
    if run.error is not None:
        raise UserError(
            f"the model does not run on {service.engine.provider} ({type(run.error).__name__}; see the log). "
            "Try --provider cpu, and `igsp verify` on the bundle."
        ) from run.error
    logger.info("stopped")


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """A socket that listens on an address; `option` is what named the port.

    Raises:
        UserError: the address cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(f"cannot listen on {host} ({error.strerror or error}). Check --host.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Bound is not enough: two sockets that only reuse the address may be bound to one port.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UserError(
            f"cannot listen on {host} port {port} ({error.strerror}). Choose another with {option}; 0 takes a free one."
        ) from error
    return listener


def _check_grpc(settings: Settings) -> None:
    """Whether gRPC can be had: its packages, and its port, which it takes itself when the event loop runs."""
    if settings.grpc_port is not None:
        try:
            importlib.import_module("igsp_serve.oip.grpc_server")
        except ModuleNotFoundError as error:
            raise UserError(
                f"gRPC needs {error.name}, which is not installed. Install it with: {install_command('grpc')}"
            ) from error
        listen(settings.host, settings.grpc_port, "--grpc-port").close()


def set_up_logs(settings: Settings) -> None:
    """JSON lines on stderr. A log that cannot be written (a full disk) never stops a request."""
    logging.raiseExceptions = False
    level = settings.log_level.upper()
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {"()": JsonLines}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
            "root": {"handlers": ["stderr"], "level": "WARNING" if level == "INFO" else level},
            "loggers": {"igsp_serve": {"level": level}, "uvicorn": {"level": "WARNING"}},
        }
    )


@asynccontextmanager
async def _lifespan(app: FastAPI, run: _Run) -> AsyncIterator[None]:
    """Warm up beside the first requests; take the signals."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, run, number)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    await _start_grpc(app, run)
    warming = asyncio.create_task(_warm_up(run))
    try:
        yield
    finally:
        warming.cancel()
        if run.grpc is not None:
            await run.grpc.stop(run.settings.grace_s)
        run.service.close()
        app.state.context.drift.close()


async def _start_grpc(app: FastAPI, run: _Run) -> None:
    assert run.server is not None
    if run.settings.grpc_port is None:
        return
    from igsp_serve.oip.grpc_server import GrpcServer

    try:
        run.grpc = await GrpcServer.start(app.state.context, run.settings.grpc_port)
    except UserError as error:
        run.error = error
        run.server.should_exit = True
        return
    logger.info("listening for gRPC", extra={"fields": {"grpc": f"{run.settings.host}:{run.grpc.port}"}})


async def _warm_up(run: _Run) -> None:
    assert run.server is not None
    start = time.monotonic()
    try:
        await run.service.warm_up()
    except Exception as error:
        logger.exception("the warm-up failed")
        run.error = error
        run.server.should_exit = True
        return
    logger.info("ready", extra={"fields": {"warm_up_s": round(time.monotonic() - start, 3)}})


def _drop_unwritable() -> None:
    """Let what a full disk kept in the buffers go: Python would flush it at its end, fail, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _stop(run: _Run, number: int) -> None:
    assert run.server is not None
    if run.service.draining:
        if number == signal.SIGINT:  # asked twice from the keyboard: at once
            run.server.force_exit = True
        _end(run)
        return
    logger.info("stopping", extra={"fields": {"signal": signal.Signals(number).name}})
    run.service.drain()
    delay = run.settings.shutdown_delay_s if number == signal.SIGTERM else 0.0
    asyncio.get_running_loop().call_later(delay, _end, run)


def _end(run: _Run) -> None:
    """Take no more connections; answer what was accepted."""
    assert run.server is not None
    run.server.should_exit = True
    if run.grpc is not None:
        run.grpc.stop(run.settings.grace_s)


def _announce(service: Service, settings: Settings, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    model = service.model()
    fields: dict[str, Any] = {
        "url": f"{'https' if settings.tls_certificate else 'http'}://{shown}:{port}",
        "model": model.name,
        "version": model.version,
        "tasks": len(service.tasks()),
        "provider": service.engine.provider,
        "precision": service.engine.variant.precision,
    }
    logger.info("listening", extra={"fields": fields})
    if not settings.all_api_keys() and not ipaddress.ip_address(host).is_loopback:
        logger.warning("no API key is set: everybody who reaches %s may use this server", fields["url"])


def _check_tls(settings: Settings) -> None:
    if settings.tls_certificate is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise UserError(
            f"tls_certificate {settings.tls_certificate} and tls_key {settings.tls_key} cannot be used ({error}). "
            "Give a certificate chain and its private key as PEM, without a password."
        ) from error


def _allow_many_files(connections: int) -> None:
    """Each connection is a file; systems often allow 1024 unless asked."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 256
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
