"""Trace ids in the log, and spans as a collector gets them."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fastapi.testclient import TestClient

from igsp_deploy.errors import UserError
from igsp_serve import tracing
from igsp_serve.http.app import create_app
from igsp_serve.http.request_log import JsonLines
from igsp_serve.settings import Settings

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


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


class Lines(logging.Handler):
    """Keeps log lines as the server writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@pytest.fixture
def log() -> Iterator[Lines]:
    logger, handler = logging.getLogger("igsp_serve"), Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


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


class Collector:
    """An OTLP collector in this process: keeps the spans it is sent over HTTP."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        self.spans: list[Any] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                sent = ExportTraceServiceRequest.FromString(body)
                for resource in sent.resource_spans:
                    named = {row.key: row.value.string_value for row in resource.resource.attributes}
                    collector.services.add(named["service.name"])
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                """Be quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    tracing.stop_tracing()
    made.close()


def test_a_collector_gets_the_request_and_its_parts(
    client: TestClient, collector: Collector, log: Lines, bundled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    tracing.start_tracing()
    photo = bundled.images("colors")[0].read_bytes()
    answer = client.post("/v1/classify", files={"images": photo}, headers={"traceparent": TRACEPARENT})
    assert answer.status_code == 200
    client.post("/v1/classify", content=b"x")
    tracing.stop_tracing()
    spans = [span for span in collector.spans if span.trace_id.hex() == TRACE]
    by_name = {span.name: span for span in spans}
    assert sorted(by_name) == ["POST /v1/classify", "decode", "infer", "queue"]
    request = by_name["POST /v1/classify"]
    assert request.parent_span_id.hex() == PARENT
    for name in ("decode", "queue", "infer"):
        part = by_name[name]
        assert part.parent_span_id == request.span_id
        assert request.start_time_unix_nano <= part.start_time_unix_nano <= part.end_time_unix_nano
        assert part.end_time_unix_nano <= request.end_time_unix_nano
    assert by_name["queue"].end_time_unix_nano == pytest.approx(by_name["infer"].start_time_unix_nano, abs=1e6)
    assert by_name["decode"].end_time_unix_nano <= by_name["infer"].start_time_unix_nano + 1e6
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
