"""A collector of spans and a reader of log lines, in this process."""

import json
import logging
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from igsp_serve import tracing
from igsp_serve.http.request_log import JsonLines

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Lines(logging.Handler):
    """Keeps log lines as the server writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


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

    def start(self) -> None:
        """Send spans here from now on."""
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = self.url
        tracing.start_tracing()

    def stop(self) -> None:
        """No spans any more; all are here."""
        tracing.stop_tracing()
        os.environ.pop("OTEL_EXPORTER_OTLP_ENDPOINT", None)

    def check_request(self, name: str) -> Any:
        """The span of the request with `TRACEPARENT`, once it is what it must be: a child of the caller's, with the
        three parts in their order below it."""
        by_name = {span.name: span for span in self.spans if span.trace_id.hex() == TRACE}
        assert sorted(by_name) == sorted([name, "decode", "infer", "queue"])
        request = by_name[name]
        assert request.parent_span_id.hex() == PARENT
        decode, waited, infer = (by_name[part] for part in ("decode", "queue", "infer"))
        between = 1e9  # ns: that may pass between the readings of two clocks
        for part in (decode, waited, infer):
            assert part.parent_span_id == request.span_id
            assert request.start_time_unix_nano - between <= part.start_time_unix_nano
            assert part.start_time_unix_nano <= part.end_time_unix_nano <= request.end_time_unix_nano + between
        assert decode.end_time_unix_nano <= infer.start_time_unix_nano == waited.end_time_unix_nano
        return request

    def close(self) -> None:
        """End it."""
        self.stop()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
