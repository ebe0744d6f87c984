"""gRPC servers on a real bundle, each in an event loop of its own, in this process."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from igsp_serve.http.app import create_app
from igsp_serve.http.context import Context
from igsp_serve.oip.grpc_server import GrpcServer
from igsp_serve.settings import Settings


class Running:
    """A gRPC server, and the loop it runs in."""

    def __init__(self, bundle: Path, *, full_batches: bool = False, **options: Any) -> None:
        """Start it; with `full_batches` an image waits for as many as fill a batch, however long that takes."""
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        # The context is what HTTP has: one service, one set of counts.
        if full_batches:
            options.setdefault("timeout_s", 200.0)
        self.has: Context = create_app(bundle, Settings(provider="cpu", **options)).state.context
        if full_batches:
            self.has.service.batcher._max_wait_s = 3600.0
        self.do(self.has.service.warm_up())
        self.server: GrpcServer = self.do(GrpcServer.start(self.has, 0))
        self.address = f"127.0.0.1:{self.server.port}"

    def do(self, work: Any) -> Any:
        """Await something in its loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(240)

    def start_stop(self, grace_s: float) -> None:
        """Begin to end the server."""

        async def begin() -> None:
            self.server.stop(grace_s)
            await asyncio.sleep(0)

        self.do(begin())

    def stop(self, grace_s: float = 5.0) -> None:
        """End the server; fails where that takes longer than 100 s."""

        async def stop() -> None:
            await self.server.stop(grace_s)

        asyncio.run_coroutine_threadsafe(stop(), self.loop).result(100)

    def close(self) -> None:
        """End all of it."""
        self.stop(0.0)
        self.has.service.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


Serving = Callable[..., Running]


@pytest.fixture(scope="module")
def serving(bundled: Any) -> Iterator[Serving]:
    """Starts servers; the same options give the same one."""
    servers: dict[str, Running] = {}

    def start(bundle: Path = bundled.bundle, **options: Any) -> Running:
        key = repr((bundle, sorted(options.items())))
        if key not in servers:
            servers[key] = Running(bundle, **options)
        return servers[key]

    yield start
    for server in servers.values():
        server.close()
