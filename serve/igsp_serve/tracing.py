"""Traces: the caller's trace id in every log line, and OpenTelemetry spans where the environment says where to.

With the extra `otel` and OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) set, each request over
HTTP or gRPC is a span with `decode`, `queue` and `infer` below it. All else is OpenTelemetry's own variables:
OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, OTEL_SDK_DISABLED, ...
"""

import contextvars
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from igsp_deploy.errors import UserError
from igsp_deploy.installed import install_command

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""W3C Trace Context, 3.2. A later version may have more behind a dash."""

current_trace: contextvars.ContextVar[str] = contextvars.ContextVar("trace_id", default="")
"""Trace id of the request that is being served, for log lines; empty where nobody gave one and no span is made."""


def trace_id(traceparent: str) -> str:
    """Trace id of a `traceparent` header; empty where it is not one."""
    found = _TRACEPARENT.fullmatch(traceparent.strip())
    # Version 00 has nothing behind its flags.
    if found is None or (traceparent.startswith("00") and found[2]):
        return ""
    return found[1]


@dataclass
class _Spans:
    """OpenTelemetry's parts; none of them without an exporter."""

    tracer: Any = None
    provider: Any = None


_spans = _Spans()


def start_tracing(exporter: Any = None) -> None:
    """Send spans from now on, if the environment says where to.

    Args:
        exporter: what takes them instead.

    Raises:
        UserError: OpenTelemetry is not installed, or the protocol is one we do not speak.
    """
    if exporter is None and not _wanted():
        return
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if exporter is None and protocol not in (None, "", "http/protobuf"):
        raise UserError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf, got {protocol!r}. Collectors take it on port 4318."
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise UserError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT asks for spans, which need {error.name}. Install it with: "
            f"{install_command('otel')}, or unset the variable."
        ) from error
    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "igsp"}
    provider = TracerProvider(resource=Resource.create(name), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    _spans.provider, _spans.tracer = provider, provider.get_tracer("igsp_serve")


def stop_tracing() -> None:
    """Send what waits; no spans any more."""
    if _spans.provider is not None:
        _spans.provider.shutdown()
    _spans.provider = _spans.tracer = None


@contextmanager
def request_span(name: str, headers: Mapping[str, str], attributes: Mapping[str, Any]) -> Iterator["RequestSpan"]:
    """Around the service of one request; the trace id of its headers, or of its span, is the current one.

    Args:
        name: of the span, until it is named at its end.
        headers: HTTP's headers or gRPC's metadata, at least `traceparent` and `tracestate` where they came.
        attributes: what is known at its start, in OpenTelemetry's words.
    """
    if _spans.tracer is None:
        with _current(trace_id(headers.get("traceparent", ""))):
            yield RequestSpan()
        return
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    with (
        _spans.tracer.start_as_current_span(
            name, context=extract(headers), kind=SpanKind.SERVER, attributes=attributes
        ) as span,
        _current(f"{span.get_span_context().trace_id:032x}"),
    ):
        yield RequestSpan(span)


@contextmanager
def message_span(name: str) -> Iterator["RequestSpan"]:
    """Around the service of one message of a stream, below the span of the stream."""
    if _spans.tracer is None:
        yield RequestSpan()
        return
    with _spans.tracer.start_as_current_span(name) as span:
        yield RequestSpan(span)


@contextmanager
def _current(trace: str) -> Iterator[None]:
    token = current_trace.set(trace)
    try:
        yield
    finally:
        current_trace.reset(token)


class RequestSpan:
    """One request's span, or nothing."""

    def __init__(self, span: Any = None) -> None:
        """Take it."""
        self._span = span

    def ended(self, name: str, attributes: Mapping[str, Any], *, failed: bool) -> None:
        """Name it and say how it ended; `failed` where that is the server's fault."""
        if self._span is None:
            return
        self._span.update_name(name)
        self._span.set_attributes(attributes)
        if failed:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR)


def record_parts(parts: Mapping[str, tuple[float, float]]) -> None:
    """Parts of the current request that are over.

    Args:
        parts: name -> start and end on the clock of `time.monotonic`; a start of 0 never was, and is no span.
    """
    if _spans.tracer is None:
        return
    now, wall = time.monotonic(), time.time_ns()

    def since_1970(moment: float) -> int:
        return wall - round((now - moment) * 1e9)

    for name, (start, end) in parts.items():
        if start:
            _spans.tracer.start_span(name, start_time=since_1970(start)).end(end_time=since_1970(max(start, end)))


def _wanted() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return any(os.environ.get(name) for name in names)
