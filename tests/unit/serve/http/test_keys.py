"""Who may ask what: over every route the application has, whoever added it."""

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from igsp_serve.http.app import create_app
from igsp_serve.settings import Settings

Ask = Callable[..., TestClient]

OPEN = {
    ("GET", "/"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
}
ADMIN = {
    ("POST", "/v1/tasks"),
    ("DELETE", "/v1/tasks/{name}"),
    ("POST", "/v1/models"),
    ("GET", "/v1/drift"),
}
KEYS: dict[str, Any] = {"api_keys": ("user-1", "user-2"), "admin_keys": ("admin-1",)}


def routes(app: Any) -> Iterator[tuple[str, str]]:
    """Method and path of all routes, those of the documentation included."""
    for route in app.routes:
        router = getattr(route, "original_router", None)  # how newer versions of FastAPI keep an included router
        if router is not None:
            yield from routes(router)
            continue
        for method in sorted(route.methods - {"HEAD"}):
            yield method, route.path


def refused(client: TestClient, method: str, path: str, key: str | None) -> bool:
    filled = path.replace("{name}", "igsp").replace("{version}", "1")
    response = client.request(method, filled, headers={} if key is None else {"Authorization": f"Bearer {key}"})
    if response.status_code in (401, 403):
        assert ("www-authenticate" in response.headers) == (response.status_code == 401)
        return True
    return False


def test_every_route_asks_for_the_key_it_should(ask: Ask, bundled: Any) -> None:
    client = ask(**KEYS)
    found = set(routes(client.app))
    assert len(found) >= 24
    assert found >= OPEN | ADMIN | {("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/metrics")}
    documented = client.get("/openapi.json", headers={"X-API-Key": "user-1"}).json()["paths"]
    assert set(documented) <= {path for _, path in found}
    for method, path in sorted(found):
        assert refused(client, method, path, None) == ((method, path) not in OPEN), (method, path)
        assert refused(client, method, path, "wrong") == ((method, path) not in OPEN), (method, path)
        assert refused(client, method, path, "user-2") == ((method, path) in ADMIN), (method, path)
        # Last: one that is let in may remove a task.
        assert not refused(client, method, path, "admin-1"), (method, path)


def test_without_any_key_only_admin_calls_are_closed(ask: Ask) -> None:
    client = ask()
    for method, path in sorted(set(routes(client.app))):
        assert refused(client, method, path, None) == ((method, path) in ADMIN), (method, path)
        assert refused(client, method, path, "guess") == ((method, path) in ADMIN), (method, path)


@pytest.mark.parametrize(
    "path",
    ["/v1/tasks/", "/v1//classify", "/V1/x", "/nothing", "/v1/tasks/a/b", "/demo", "/demo/x", "/x//", "/%2e%2e"],
)
def test_what_is_no_route_asks_for_a_key_too(ask: Ask, path: str) -> None:
    assert ask(**KEYS).get(path).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-API-Key": "user-1"}, 200),
        ({"Authorization": "bearer user-1"}, 200),
        ({"Authorization": "Basic " + base64.b64encode(b"anyone:user-2").decode()}, 200),
        ({"Authorization": "Basic " + base64.b64encode(b"user-2").decode()}, 401),
        ({"Authorization": "Basic ###"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "user-1"}, 401),
        ({"X-API-Key": ""}, 401),
        ({"X-API-Key": "user-"}, 401),
        ({"X-API-Key": "user-11"}, 401),
        ({"X-API-Key": b"\xc3\xa9"}, 401),
    ],
)
def test_how_a_key_may_come(ask: Ask, headers: dict[Any, Any], status: int) -> None:
    assert ask(**KEYS).get("/v1/tasks", headers=headers).status_code == status


def test_a_browser_is_asked_for_a_password(ask: Ask) -> None:
    assert ask(**KEYS).get("/docs").headers["www-authenticate"].startswith("Basic")
    assert ask(**KEYS).get("/v1/tasks").headers["www-authenticate"] == "Bearer"


def test_a_body_is_not_read_before_the_key_is_checked(ask: Ask) -> None:
    client = ask(**KEYS, max_body_bytes=1024)
    assert client.post("/v1/classify", content=b"x" * 4096).status_code == 401
    assert client.post("/v1/classify", content=b"x" * 4096, headers={"X-API-Key": "user-1"}).status_code == 413


def test_metrics_may_be_opened(ask: Ask) -> None:
    assert ask(**KEYS).get("/metrics").status_code == 401
    assert ask(**KEYS, public_metrics=True).get("/metrics").status_code == 200


def test_a_route_added_later_is_closed(bundled: Any) -> None:
    app = create_app(bundled.bundle, Settings(provider="cpu", **KEYS))
    app.router.routes.append(APIRoute("/later", lambda: {"ok": True}, methods=["GET"]))
    with TestClient(app) as client:
        assert client.get("/later").status_code == 401
        assert client.get("/later", headers={"X-API-Key": "user-1"}).status_code == 200
