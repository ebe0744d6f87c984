"""The Open Inference Protocol over gRPC, with health and reflection, in the event loop of the HTTP server."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from igsp_deploy.errors import UserError
from igsp_serve.failures import Unavailable
from igsp_serve.http.context import Context
from igsp_serve.http.request_log import MAX_REQUESTS
from igsp_serve.http.server import KEEP_ALIVE_S, MAX_HEADER_BYTES
from igsp_serve.oip import model as core
from igsp_serve.oip.grpc_call import Call, Door, Status, details, parse, status_of
from igsp_serve.oip.infer import infer
from igsp_serve.oip.messages import (
    HEALTH,
    POOL,
    REFLECTION,
    SERVICE,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
    filled,
    message,
    read_infer,
    write_infer,
)
from igsp_serve.oip.tensors import read_aside
from igsp_serve.tracing import RequestSpan, message_span

STREAM_DEPTH = 32
"""Messages of one stream that are worked on at once; it is read on as they are answered."""
WATCH_S = 0.25
"""How often `Watch` looks whether health has changed."""
_FINAL = "triton_enable_empty_final_response"
"""Parameter of a stream's request: mark the last answer to it. There is one answer to each, so each is the last."""


class GrpcServer:
    """A running server.

    Attributes:
        port: where it listens.
    """

    def __init__(self, server: Any, door: Door, port: int) -> None:
        """Use `start`."""
        self._server, self._door = server, door
        self.port = port
        self._end: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, has: Context, port: int) -> "GrpcServer":
        """Listen on `settings.host`, in the running event loop.

        Args:
            has: the service, and what counts and watches it.
            port: 0 takes a free one.

        Raises:
            UserError: the port cannot be had, or a key file cannot be read.
        """
        settings, door = has.settings, Door(has)
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", MAX_HEADER_BYTES),
                ("grpc.absolute_max_metadata_size", MAX_HEADER_BYTES),
                # Of one connection: more than there are places, so that probes on it are answered when all are taken.
                ("grpc.max_concurrent_streams", MAX_REQUESTS + 100),
                ("grpc.max_connection_idle_ms", 1000 * KEEP_ALIVE_S),
                # A client that is gone without a word is noticed.
                ("grpc.keepalive_time_ms", 1000 * KEEP_ALIVE_S),
                # Two servers on one port would share its calls in silence.
                ("grpc.so_reuseport", 0),
            )
        )
        health = _Health(door)
        for service, calls in (
            (SERVICE, _inference(door)),
            (HEALTH, {"Check": health.check, "Watch": health.watch}),
            (REFLECTION, {"ServerReflectionInfo": _reflect}),
        ):
            handlers = {name: door.handler(f"/{service}/{name}", serve) for name, serve in calls.items()}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            if settings.tls_certificate is None or settings.tls_key is None:
                taken = server.add_insecure_port(f"{host}:{port}")
            else:
                pair = (Path(settings.tls_key).read_bytes(), Path(settings.tls_certificate).read_bytes())
                taken = server.add_secure_port(f"{host}:{port}", grpc.ssl_server_credentials([pair]))
        except RuntimeError as error:
            raise UserError(
                f"cannot listen on {settings.host} port {port}. Choose another with --grpc-port; 0 takes a free one."
            ) from error
        await server.start()
        return cls(server, door, taken)

    def stop(self, grace_s: float) -> Awaitable[None]:
        """Take no more calls, answer those that came within `grace_s`, end streams. May be called twice."""
        self._door.stopping.set()
        if self._end is None:
            self._end = asyncio.ensure_future(self._server.stop(grace_s))
        return self._end


Serve = Callable[[Call], Awaitable[None]]


def _inference(door: Door) -> dict[str, Serve]:
    """The methods of the protocol."""
    service = door.has.service

    def answers(name: str, work: Callable[[Any], dict[str, Any]]) -> Serve:
        """A method that answers at once."""
        request, response = message(f"inference.{name}Request"), f"inference.{name}Response"

        async def serve(call: Call) -> None:
            await call.write(filled(response, work(await call.one(request))))

        return serve

    def of_model(work: Callable[[], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
        def checked(request: Any) -> dict[str, Any]:
            core.check_model(service, request.name, request.version)
            return work()

        return checked

    def model_ready(request: Any) -> dict[str, Any]:
        try:
            core.check_model(service, request.name, request.version)
        except core.UnknownModel:
            return {"ready": False}
        return {"ready": service.not_ready() is None}

    def statistics(request: Any) -> dict[str, Any]:
        if request.name:
            core.check_model(service, request.name, request.version)
        return door.has.statistics.report()

    return {
        "ServerLive": answers("ServerLive", lambda _: {"live": service.not_live() is None}),
        "ServerReady": answers("ServerReady", lambda _: {"ready": service.not_ready() is None}),
        "ModelReady": answers("ModelReady", model_ready),
        "ServerMetadata": answers("ServerMetadata", lambda _: core.server_metadata()),
        "ModelMetadata": answers("ModelMetadata", of_model(lambda: core.model_metadata(service))),
        "ModelConfig": answers("ModelConfig", of_model(lambda: {"config": core.model_config(service)})),
        "ModelStatistics": answers("ModelStatistics", statistics),
        "RepositoryIndex": answers("RepositoryIndex", lambda r: {"models": core.index(service, ready=r.ready)}),
        "ModelInfer": _infer,
        "ModelStreamInfer": _stream_infer,
    }


async def _answer(call: Call, request: Any) -> Any:
    """`ModelInferResponse` to a `ModelInferRequest`."""
    has = call.door.has
    core.check_model(has.service, request.model_name, request.model_version)
    asked = await read_aside(request.ByteSize(), lambda: read_infer(request))
    answer = await infer(has.service, has.statistics, asked, request_id=call.identity, timeout_s=call.time_left())
    return write_infer(answer, name=has.settings.name, identity=request.id)


async def _infer(call: Call) -> None:
    await call.write(await _answer(call, await call.one(ModelInferRequest)))


async def _stream_infer(call: Call) -> None:
    """Several messages at once, answered in their order; what is wrong with one does not end the stream."""
    waiting: asyncio.Queue[asyncio.Task[Any] | Exception | None] = asyncio.Queue(STREAM_DEPTH)
    tasks: set[asyncio.Task[Any]] = set()

    async def read() -> None:
        try:
            async for data in call.data():
                task = asyncio.create_task(_stream_answer(call, data))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await waiting.put(task)
        except Unavailable as error:  # after what was accepted
            await waiting.put(error)
        else:
            await waiting.put(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await waiting.get()) is not None:
            if isinstance(task, Exception):
                raise task
            await call.write(await task)
    finally:
        for task in (reader, *tasks):
            task.cancel()


async def _stream_answer(call: Call, data: bytes) -> Any:
    """`ModelStreamInferResponse` to one message of a stream."""
    path = f"/{SERVICE}/ModelStreamInfer#message"
    with message_span(path[1:]) as span:
        return await _message_answer(call, data, path, span)


async def _message_answer(call: Call, data: bytes, path: str, span: RequestSpan) -> Any:
    start, status, identity = time.monotonic(), Status.OK, ""
    door, held = call.door, 0
    try:
        door.hold(len(data))
        held = len(data)
        request = parse(ModelInferRequest, data)
        identity = request.id
        if _FINAL in request.parameters:
            del request.parameters[_FINAL]
        answer = await _answer(call, request)
        answer.parameters["triton_final_response"].bool_param = True
        return ModelStreamInferResponse(infer_response=answer)
    except asyncio.CancelledError:
        status = Status.CANCELLED
        raise
    except Exception as error:
        status = status_of(error)
        return ModelStreamInferResponse(error_message=details(error), infer_response=ModelInferResponse(id=identity))
    finally:
        door.release(held)
        door.record(path, status, time.monotonic() - start, call, span)


class _Health:
    """`grpc.health.v1`: serving as long as the server is ready."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._request = message(f"{HEALTH.rpartition('.')[0]}.HealthCheckRequest")

    def _status(self, request: Any) -> str:
        if request.service not in ("", SERVICE, HEALTH):
            return "SERVICE_UNKNOWN"
        return "SERVING" if self._door.has.service.not_ready() is None else "NOT_SERVING"

    def _response(self, status: str) -> Any:
        return filled(f"{HEALTH.rpartition('.')[0]}.HealthCheckResponse", {"status": status})

    async def check(self, call: Call) -> None:
        status = self._status(await call.one(self._request))
        if status == "SERVICE_UNKNOWN":
            raise core.UnknownModel(f"there is no such service. There is {SERVICE}.")
        await call.write(self._response(status))

    async def watch(self, call: Call) -> None:
        request, last = await call.one(self._request), ""
        while not self._door.stopping.is_set():
            status = self._status(request)
            if status != last:
                await call.write(self._response(status))
            last = status
            await asyncio.sleep(WATCH_S)
        raise Unavailable("The server is shutting down.")


async def _reflect(call: Call) -> None:
    """What services there are, and of what messages."""
    told = reflection.aio.ReflectionServicer((SERVICE, HEALTH, REFLECTION), pool=POOL)

    async def requests() -> Any:
        async for data in call.data():
            yield parse(reflection_pb2.ServerReflectionRequest, data)

    async for response in told.ServerReflectionInfo(requests(), None):
        await call.write(response)
