"""Applications on a real bundle, asked without a socket; what they log and trace."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from igsp_serve.http.app import create_app
from igsp_serve.settings import Settings

from .traces import Collector, Lines

Ask = Callable[..., TestClient]


@pytest.fixture(scope="module")
def ask(bundled: Any) -> Iterator[Ask]:
    """Makes clients of applications; the same options give the same one."""
    clients: dict[str, TestClient] = {}

    def make(bundle: Path = bundled.bundle, **options: Any) -> TestClient:
        key = repr((bundle, sorted(options.items())))
        if key not in clients:
            app = create_app(bundle, Settings(provider="cpu", **options))
            clients[key] = TestClient(app, raise_server_exceptions=False)
            clients[key].__enter__()
        return clients[key]

    yield make
    for client in clients.values():
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def photo(bundled: Any) -> bytes:
    """A file of the task colors."""
    data: bytes = bundled.images("colors")[0].read_bytes()
    return data


@pytest.fixture
def log() -> Iterator[Lines]:
    """What the server logs from info on."""
    logger, handler = logging.getLogger("igsp_serve"), Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Takes spans between its `start` and `stop`."""
    made = Collector()
    yield made
    made.close()
