"""What stands before the routes: HEAD, `/`, other origins, a proxy's prefix, and what a refused request counts for."""

import asyncio
import logging
import re
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect

from igsp_serve.http.keys import Keys
from igsp_serve.http.request_log import RequestLog
from igsp_serve.http.route_path import route_path

from ..conftest import Ask

KEY = {"Authorization": "Bearer secret"}
ORIGIN = "https://shop.example"


@pytest.mark.parametrize(
    "path", ["/", "/health/live", "/health/ready", "/metrics", "/v1/tasks", "/v2/health/live", "/docs"]
)
def test_head_answers_as_get_without_a_body(ask: Ask, path: str) -> None:
    client = ask()
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]


def test_head_needs_the_key_that_get_needs_and_get_to_be_there(ask: Ask) -> None:
    assert ask(api_keys=("secret",)).head("/v1/tasks").status_code == 401
    refused = ask().head("/v1/classify")
    assert refused.status_code == 405
    assert refused.headers["allow"] == "POST"
    assert "HEAD" in ask().post("/metrics").headers["allow"]


@pytest.mark.parametrize("prefix", ["", "/igsp"])
def test_the_first_page_says_where_to_look_without_a_key(ask: Ask, prefix: str) -> None:
    client = ask(api_keys=("secret",), root_path=prefix)
    found = client.get("/").json()
    assert found["name"] == "igsp-deploy"
    assert f"{prefix}/docs" in found["paths"]
    page = client.get("/", headers={"Accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert f'href="{prefix}/docs"' in page.text
    assert "docs" not in ask(docs=False).get("/").text


def test_pages_of_an_allowed_origin_may_ask_with_a_key(ask: Ask, photo: bytes) -> None:
    client = ask(api_keys=("secret",), cors_origin=(ORIGIN,))
    asking = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, x-api-key, content-type",
    }
    preflight = client.options("/v1/classify", headers=asking)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    files = [("images", ("x.png", photo))]
    answer = client.post("/v1/classify", files=files, headers={**KEY, "Origin": ORIGIN})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
    # A page must be able to read why it was refused.
    refused = client.post("/v1/classify", files=files, headers={"Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("options", [{}, {"cors_origin": (ORIGIN,)}])
def test_pages_of_other_origins_may_not(ask: Ask, options: dict[str, Any]) -> None:
    asking = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = ask(**options).options("/v1/classify", headers=asking)
    assert answer.status_code in (400, 405)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("prefix", ["", "/igsp"])
def test_a_prefix_may_be_stripped_or_not(ask: Ask, prefix: str, photo: bytes) -> None:
    client = ask(api_keys=("secret",), root_path="/igsp")
    assert client.get(f"{prefix}/health/ready").status_code == 200
    assert client.get(f"{prefix}/v1/tasks").status_code == 401
    assert client.get(f"{prefix}/v1/tasks", headers=KEY).status_code == 200
    answer = client.post(f"{prefix}/v1/classify", files=[("images", ("x.png", photo))], headers=KEY)
    assert answer.status_code == 200
    assert "error" in client.get(f"{prefix}/v2/models/nobody", headers=KEY).json()
    assert "url: '/igsp/openapi.json'" in client.get(f"{prefix}/docs", headers=KEY).text
    assert client.get(f"{prefix}/openapi.json", headers=KEY).json()["servers"] == [{"url": "/igsp"}]


@pytest.mark.parametrize(
    "path", ["/v1/tasks", "/igsp/v1/tasks", "/igsp/igsp/v1/tasks", "/igsp//v1/tasks", "//v1/tasks"]
)
def test_no_prefix_gets_past_the_admin_keys(ask: Ask, path: str) -> None:
    client = ask(api_keys=("secret",), root_path="/igsp")
    answer = client.request("POST", f"http://testserver{path}", json={"bundle": "x", "task": "y"}, headers=KEY)
    assert answer.status_code in (403, 404)


@pytest.mark.parametrize(
    ("path", "root", "seen"),
    [
        ("/v1/x", "", "/v1/x"),
        ("/v1/x", "/igsp", "/v1/x"),
        ("/igsp/v1/x", "/igsp", "/v1/x"),
        ("/igspv1/x", "/igsp", "/igspv1/x"),
        ("/igsp", "/igsp", ""),
        ("/igsp/igsp/v1", "/igsp", "/igsp/v1"),
    ],
)
def test_layers_and_router_read_the_same_path(path: str, root: str, seen: str) -> None:
    from starlette._utils import get_route_path

    scope = {"path": path, "root_path": root}
    assert route_path(scope) == get_route_path(scope) == seen


def counted(client: TestClient, headers: dict[str, str]) -> dict[tuple[str, str], float]:
    """Requests by route and status."""
    text = client.get("/metrics", headers=headers).text
    found = re.findall(r'igsp_requests_total\{route="([^"]*)",status="(\d+)"\} (\S+)', text)
    return {(route, status): float(value) for route, status, value in found}


def test_what_is_refused_before_its_route_counts_for_it(ask: Ask, photo: bytes) -> None:
    client = ask(api_keys=("secret",), max_body_bytes=5000, body_timeout_s=5.0)
    asked = [
        ("/v1/classify", "401", lambda: client.post("/v1/classify", content=b"x")),
        ("/v1/classify", "413", lambda: client.post("/v1/classify", content=bytes(6000), headers=KEY)),
        (
            "/v1/embed",
            "415",
            lambda: client.post("/v1/embed", content=b"x", headers={**KEY, "Content-Encoding": "br"}),
        ),
        (
            "/v2/models/{name}/infer",
            "400",
            lambda: client.post("/v2/models/igsp/infer", content=b"x", headers={**KEY, "Content-Encoding": "gzip"}),
        ),
        ("/v1/classify", "405", lambda: client.get("/v1/classify", headers=KEY)),
        ("/docs", "200", lambda: client.get("/docs", headers=KEY)),
        ("/openapi.json", "200", lambda: client.get("/openapi.json", headers=KEY)),
        ("/v1/tasks/{name}", "403", lambda: client.delete("/v1/tasks/some", headers=KEY)),
        ("unmatched", "404", lambda: client.get("/any/thing", headers=KEY)),
    ]
    before = counted(client, KEY)
    for route, status, send in asked:
        assert send().status_code == int(status), route
    after = counted(client, KEY)
    for route, status, _ in asked:
        assert after[route, status] == before.get((route, status), 0) + 1, route


def test_a_client_that_goes_away_is_a_line_at_info(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ClientDisconnect

    seen: list[tuple[str, int]] = []
    log = RequestLog(app, observe=lambda route, status, _: seen.append((route, status)), draining=lambda: False)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": "/demo/upload", "headers": []}
    with caplog.at_level(logging.INFO):
        asyncio.run(log(scope, receive, send))
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert all(record.exc_info is None for record in caplog.records)
    assert seen == [("/demo", 499)]
    assert not sent


def test_top_k_is_cut_before_anything_is_made_for_it(ask: Ask, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from igsp_deploy.runtime.classifier import Classifier

    asked: list[int] = []
    predict = Classifier.predict

    def noted(self: Classifier, *args: Any) -> Any:
        asked.append(args[2])
        return predict(self, *args)

    monkeypatch.setattr(Classifier, "predict", noted)
    files = [("images", ("x.png", photo))]
    answer = ask().post("/v1/classify", files=files, data={"top_k": 100_000})
    assert len(answer.json()["results"][0]["predictions"]) <= 4
    assert ask().post("/v1/classify", files=files, data={"top_k": 9, "prompts": ["a", "b"]}).status_code == 200
    assert asked == [4, 2]


def test_keys_may_be_a_password_in_any_base64() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send("let in")

    got: list[Any] = []

    async def send(message: Any) -> None:
        got.append(message)

    keys = Keys(app, keys=["k?>"], admin_keys=[])
    for text in (b"YTprPz4=", b"YTprPz4", b"YTpr\tPz4="):
        scope = {"type": "http", "method": "GET", "path": "/docs", "headers": [(b"authorization", b"Basic " + text)]}
        asyncio.run(keys(scope, None, send))  # type: ignore[arg-type]
    assert got == ["let in"] * 3


def test_the_document_has_json_schemas_own_limits_and_says_who_needs_a_key(ask: Ask) -> None:
    document = ask(api_keys=("secret",), public_metrics=True).get("/openapi.json", headers=KEY).json()

    def keywords(value: Any) -> set[str]:
        if isinstance(value, dict):
            inner = [keywords(part) for key, part in value.items() if key != "properties"]
            inner += [keywords(part) for part in value.get("properties", {}).values()]
            return set(value).union(*inner)
        return set().union(*map(keywords, value)) if isinstance(value, list) else set()

    found = keywords(document)
    assert {"minimum", "maximum", "exclusiveMinimum"} <= found
    assert not {"ge", "le", "gt", "lt"} & found
    assert set(document["components"]["securitySchemes"]) == {"bearer", "api_key"}
    both: list[dict[str, list[str]]] = [{"bearer": []}, {"api_key": []}]
    security = {(m, p): operation["security"] for p, ms in document["paths"].items() for m, operation in ms.items()}
    assert security["post", "/v1/classify"] == security["post", "/v1/tasks"] == both
    assert security["get", "/health/ready"] == security["get", "/metrics"] == security["get", "/"] == []
    without = ask().get("/openapi.json").json()["paths"]
    assert without["/v1/classify"]["post"]["security"] == [*both, {}]
    assert without["/v1/drift"]["get"]["security"] == both
