"""Trace ids in the log, and spans as a collector gets them."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from igsp_deploy.errors import UserError
from igsp_serve import tracing
from igsp_serve.http.app import create_app
from igsp_serve.settings import Settings

from .traces import PARENT, TRACE, TRACEPARENT, Collector, Lines


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (TRACEPARENT, TRACE),
        (f" {TRACEPARENT} ", TRACE),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", TRACE),
        (f"00-{TRACE}-{PARENT}-01-more", ""),
        (f"ff-{TRACE}-{PARENT}-01", ""),
        (f"00-{'0' * 32}-{PARENT}-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE.upper()}-{PARENT}-01", ""),
        (f"00-{TRACE[:-1]}-{PARENT}-01", ""),
        ("", ""),
        ("x" * 10_000, ""),
    ],
)
def test_a_traceparent_is_read_as_w3c_says(header: str, found: str) -> None:
    assert tracing.trace_id(header) == found


@pytest.fixture
def client(bundled: Any) -> Iterator[TestClient]:
    with TestClient(create_app(bundled.bundle, Settings(provider="cpu"))) as client:
        yield client


def test_the_trace_id_of_the_caller_is_in_the_log(client: TestClient, log: Lines) -> None:
    client.get("/v1/tasks", headers={"traceparent": TRACEPARENT})
    client.get("/v1/models")
    traced, untraced = [line for line in log.lines if line["message"] == "request"]
    assert traced["trace_id"] == TRACE
    assert "trace_id" not in untraced


def test_a_collector_gets_the_request_and_its_parts(
    client: TestClient, collector: Collector, log: Lines, bundled: Any
) -> None:
    collector.start()
    photo = bundled.images("colors")[0].read_bytes()
    answer = client.post("/v1/classify", files={"images": photo}, headers={"traceparent": TRACEPARENT})
    assert answer.status_code == 200
    client.post("/v1/classify", content=b"x")
    collector.stop()
    collector.check_request("POST /v1/classify")
    (refused,) = (span for span in collector.spans if span.trace_id.hex() != TRACE)
    values = {row.key: row.value for row in refused.attributes}
    assert values["http.response.status_code"].int_value == 415
    assert values["http.route"].string_value == "/v1/classify"
    assert collector.services == {"igsp"}
    # Who sends no trace id gets the one of the span.
    lines = [line for line in log.lines if line["message"] == "request"]
    assert [line["trace_id"] for line in lines] == [TRACE, refused.trace_id.hex()]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_sent_where_nobody_asked(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    tracing.start_tracing()
    assert tracing._spans.tracer is None


def test_a_protocol_we_do_not_speak_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(UserError, match="must be http/protobuf"):
        tracing.start_tracing()
