"""What every gRPC call passes: keys, limits, deadlines, ids, the log, counts and traces."""

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from igsp_serve.failures import EngineFailed
from igsp_serve.oip import messages

from ..traces import TRACE, TRACEPARENT
from .conftest import Running, Serving
from .grpc_calls import INFER, STREAM, call, client, fails, request


class TestKeys:
    @pytest.fixture
    def server(self, serving: Serving) -> Running:
        return serving(api_keys=("secret", "other"), admin_keys=("boss",))

    @pytest.mark.parametrize(
        "metadata",
        [
            (("authorization", "Bearer secret"),),
            (("authorization", "bearer other"),),
            (("x-api-key", "secret"),),
            (("authorization", "Bearer boss"),),
            (("x-api-key", "boss"),),
        ],
    )
    def test_both_kinds_of_keys_open(self, server: Running, photo: bytes, metadata: Any) -> None:
        assert call(server, request(photo), metadata=metadata)[0].model_name == "igsp"

    @pytest.mark.parametrize(
        "metadata", [(), (("x-api-key", "wrong"),), (("authorization", "Bearer"),), (("authorization", "secret"),)]
    )
    def test_every_method_but_the_probes_needs_one(self, server: Running, photo: bytes, metadata: Any) -> None:
        file = messages.POOL.FindFileByName("inference.proto")
        paths = [
            f"/{m.containing_service.full_name}/{m.name}" for s in file.services_by_name.values() for m in s.methods
        ]
        paths += ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]
        paths += ["/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]
        probes = {path for path in paths if path.endswith(("/ServerLive", "/ServerReady", "/Check"))}
        assert len(paths) == 13
        assert len(probes) == 3
        with grpc.insecure_channel(server.address) as channel:
            for path in paths:
                answers = channel.stream_stream(path)(iter([b""]), metadata=metadata, timeout=120)
                if path in probes:
                    assert len(list(answers)) == 1
                    continue
                with pytest.raises(grpc.RpcError) as error:
                    list(answers)
                assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED, path
                assert "x-api-key" in error.value.details()

    def test_without_a_key_nothing_of_the_message_is_read(self, server: Running) -> None:
        """It never comes: who waited for it would answer that it did not."""
        with grpc.insecure_channel(server.address) as channel:
            never = threading.Event()

            def nothing() -> Iterator[bytes]:
                never.wait(120)
                yield b""

            answers = channel.stream_stream(INFER)(nothing(), timeout=100)
            with pytest.raises(grpc.RpcError) as error:
                list(answers)
            never.set()
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED


class TestLimits:
    def test_the_callers_deadline_is_the_batchers(self, serving: Serving, photo: bytes) -> None:
        server = serving(full_batches=True, max_batch=4)
        with grpc.insecure_channel(server.address) as channel:
            grpc.channel_ready_future(channel).result(120)  # or the time may run out before the call is there
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(INFER)(request(photo).SerializeToString(), timeout=3)
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        # The caller leaves at its deadline: the server sees its own clock run out, or the caller go first.
        self.settles(server, "igsp_queue_images 0.0")
        self.sums(server, 1.0, *(f'igsp_dropped_images_total{{why="{why}"}}' for why in ("expired", "cancelled")))
        ends = ("DEADLINE_EXCEEDED", "CANCELLED")
        self.sums(server, 1.0, *(f'igsp_requests_total{{route="{INFER}",status="{end}"}}' for end in ends))
        assert "igsp_batch_images_count 0.0" in server.has.metrics.text().decode()

    def test_tritons_timeout_is_the_batchers(self, serving: Serving, photo: bytes) -> None:
        """In µs."""
        server = serving(full_batches=True, max_batch=7)
        error = fails(server, request(photo, parameters={"timeout": {"int64_param": 300_000}}))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        self.settles(server, 'igsp_dropped_images_total{why="expired"} 1.0', "igsp_queue_images 0.0")
        self.settles(server, f'igsp_requests_total{{route="{INFER}",status="DEADLINE_EXCEEDED"}} 1.0')
        assert "igsp_batch_images_count 0.0" in server.has.metrics.text().decode()

    def test_a_cancelled_call_leaves_the_queue(self, serving: Serving, photo: bytes) -> None:
        server = serving(full_batches=True, max_batch=5)
        with grpc.insecure_channel(server.address) as channel:
            running = channel.unary_unary(INFER).future(request(photo).SerializeToString(), timeout=120)
            self.settles(server, "igsp_queue_images 1.0")
            running.cancel()
            self.settles(server, "igsp_queue_images 0.0", 'igsp_dropped_images_total{why="cancelled"} 1.0')
        self.settles(server, f'igsp_requests_total{{route="{INFER}",status="CANCELLED"}} 1.0')

    def test_a_cancelled_stream_leaves_the_queue(self, serving: Serving, photo: bytes) -> None:
        server = serving(full_batches=True, max_batch=6)
        with grpc.insecure_channel(server.address) as channel:
            waiting = threading.Event()

            def two() -> Iterator[bytes]:
                yield request(photo).SerializeToString()
                yield request(photo).SerializeToString()
                waiting.wait(120)

            running = channel.stream_stream(STREAM)(two(), timeout=120)
            self.settles(server, "igsp_queue_images 2.0")
            running.cancel()
            self.settles(server, "igsp_queue_images 0.0", 'igsp_dropped_images_total{why="cancelled"} 2.0')
            waiting.set()

    def test_a_full_queue_says_when_to_come_back(self, serving: Serving, photo: bytes) -> None:
        server = serving(full_batches=True, max_batch=16, queue=2, max_images=2)
        with grpc.insecure_channel(server.address) as channel:
            first = channel.unary_unary(INFER).future(request(photo, photo).SerializeToString(), timeout=120)
            self.settles(server, "igsp_queue_images 2.0")
            error = fails(server, request(photo))
            first.cancel()
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1000

    @pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
    def test_large_messages_are_refused_packed_or_not(self, serving: Serving, photo: bytes, compression: Any) -> None:
        server = serving(max_body_bytes=100_000)
        error = fails(server, request(bytes(150_000)), compression=compression)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert call(server, request(photo))[0].model_name == "igsp"

    def test_messages_held_together_are_bounded(self, serving: Serving, photo: bytes) -> None:
        server = serving(full_batches=True, max_batch=7, max_body_bytes=10_000)
        server.server._door.most_bytes = 2 * len(request(photo).SerializeToString()) + 50
        with grpc.insecure_channel(server.address) as channel:
            first = [
                channel.unary_unary(INFER).future(request(photo).SerializeToString(), timeout=120) for _ in range(2)
            ]
            self.settles(server, "igsp_queue_images 2.0")
            error = fails(server, request(photo))
            for running in first:
                running.cancel()
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        # What they held is free again.
        self.settles(server, "igsp_queue_images 0.0")
        assert fails(server, request(b"x" * 200)).code() == grpc.StatusCode.INVALID_ARGUMENT

    def test_pixels_are_bounded(self, serving: Serving, photo: bytes) -> None:
        error = fails(serving(max_pixels=100), request(photo))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "pixels" in error.details()

    def test_calls_in_progress_are_bounded_but_for_probes(self, serving: Serving, photo: bytes) -> None:
        server = serving(full_batches=True, max_batch=9)
        server.server._door.most_calls = 1
        with grpc.insecure_channel(server.address) as channel:
            first = channel.unary_unary(INFER).future(request(photo).SerializeToString(), timeout=120)
            self.settles(server, "igsp_queue_images 1.0")
            error = fails(server, request(photo))
            with client(server) as c:
                assert c.is_server_ready()
            first.cancel()
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

    def test_a_message_that_does_not_come_ends(self, serving: Serving) -> None:
        server = serving(body_timeout_s=0.3)
        with grpc.insecure_channel(server.address) as channel:
            never = threading.Event()

            def nothing() -> Iterator[bytes]:
                never.wait(120)
                yield b""

            answers = channel.stream_stream(INFER)(nothing(), timeout=120)
            with pytest.raises(grpc.RpcError) as error:
                list(answers)
            never.set()
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "message took too long" in error.value.details()

    def settles(self, server: Running, *lines: str) -> None:
        """Counts follow what happens."""
        end = time.monotonic() + 120
        while not all(line in server.has.metrics.text().decode() for line in lines):
            assert time.monotonic() < end, server.has.metrics.text().decode()
            time.sleep(0.02)

    def sums(self, server: Running, total: float, *names: str) -> None:
        """Of several counts, of which some may not be there yet."""
        end = time.monotonic() + 120
        while True:
            lines = [line.rpartition(" ") for line in server.has.metrics.text().decode().splitlines()]
            if sum(float(value) for name, _, value in lines if name in names) == total:
                return
            assert time.monotonic() < end, lines
            time.sleep(0.02)


def test_our_mistakes_are_told_without_their_cause(
    serving: Serving, photo: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = serving()

    async def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("secret/path")

    monkeypatch.setattr(server.has.service, "run", broken)
    with caplog.at_level(logging.ERROR, "igsp_serve.errors"):
        error = fails(server, request(photo))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()
    assert "secret/path" in caplog.text

    async def failed(*_: Any, **__: Any) -> Any:
        raise EngineFailed("The model failed on this request.")

    monkeypatch.setattr(server.has.service, "run", failed)
    assert fails(server, request(photo)).code() == grpc.StatusCode.UNAVAILABLE


def test_ids_logs_and_metrics_are_as_for_http(serving: Serving, photo: bytes, caplog: pytest.LogCaptureFixture) -> None:
    server = serving(max_batch=11)
    with caplog.at_level(logging.INFO, "igsp_serve.access"):
        _, done = call(server, request(photo), metadata=(("x-request-id", "mine-1"),))
        assert dict(done.initial_metadata())["x-request-id"] == "mine-1"
        _, done = call(server, request(photo), metadata=(("x-request-id", "no good id"),))
        assert len(dict(done.initial_metadata())["x-request-id"]) == 32
        error = fails(server, request(b"x"))
        assert "x-request-id" in dict(error.initial_metadata())
        with client(server) as c:
            assert c.is_server_ready()
    lines = [record.fields for record in caplog.records if record.name == "igsp_serve.access"]  # type: ignore[attr-defined]
    assert [(line["path"], line["status"]) for line in lines] == [(INFER, "OK")] * 2 + [(INFER, "INVALID_ARGUMENT")]
    assert all(line["client"] == "127.0.0.1" and line["ms"] > 0 for line in lines)
    assert lines[0]["bytes"] > 0
    metrics = server.has.metrics.text().decode()
    assert f'igsp_requests_total{{route="{INFER}",status="OK"}} 2.0' in metrics
    assert f'igsp_requests_total{{route="{INFER}",status="INVALID_ARGUMENT"}} 1.0' in metrics
    assert f'igsp_request_seconds_count{{route="{INFER}"}} 3.0' in metrics


class TestTraces:
    def test_the_trace_id_of_the_caller_is_in_the_log(self, serving: Serving, photo: bytes, log: Any) -> None:
        server = serving()
        call(server, request(photo), metadata=(("traceparent", TRACEPARENT),))
        fails(server, request(b"no image"), metadata=(("traceparent", TRACEPARENT),))
        call(server, request(photo), metadata=(("traceparent", "nonsense"),))
        call(server, request(photo))
        lines = [line.get("trace_id") for line in log.lines if line["message"] == "request"]
        assert lines == [TRACE, TRACE, None, None]

    def test_a_collector_gets_the_call_and_its_parts(
        self, serving: Serving, photo: bytes, collector: Any, log: Any
    ) -> None:
        server = serving()
        collector.start()
        call(server, request(photo), metadata=(("traceparent", TRACEPARENT),))
        fails(server, request(b"no image"))
        collector.stop()
        request_span = collector.check_request(INFER[1:])
        values = {row.key: row.value for row in request_span.attributes}
        assert values["rpc.system"].string_value == "grpc"
        assert (values["rpc.service"].string_value, values["rpc.method"].string_value) == (
            messages.SERVICE,
            "ModelInfer",
        )
        assert values["rpc.grpc.status_code"].int_value == grpc.StatusCode.OK.value[0]
        (refused,) = (span for span in collector.spans if span.trace_id.hex() != TRACE)
        values = {row.key: row.value for row in refused.attributes}
        assert values["rpc.grpc.status_code"].int_value == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        # Who sends no trace id gets the one of the span.
        lines = [line["trace_id"] for line in log.lines if line["message"] == "request"]
        assert lines == [TRACE, refused.trace_id.hex()]

    def test_each_message_of_a_stream_has_its_parts(self, serving: Serving, photo: bytes, collector: Any) -> None:
        server, good = serving(), request(photo).SerializeToString()
        collector.start()
        with grpc.insecure_channel(server.address) as channel:
            stream = channel.stream_stream(STREAM)
            answers = stream(iter([good, b"\xff", good]), metadata=(("traceparent", TRACEPARENT),), timeout=120)
            assert len(list(answers)) == 3
        collector.stop()
        assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
        (whole,) = (span for span in collector.spans if span.name == STREAM[1:])
        one_each = [span for span in collector.spans if span.name == f"{STREAM[1:]}#message"]
        assert {span.parent_span_id for span in one_each} == {whole.span_id}
        parts = [{s.name for s in collector.spans if s.parent_span_id == one.span_id} for one in one_each]
        assert sorted(map(sorted, parts)) == [[], ["decode", "infer", "queue"], ["decode", "infer", "queue"]]

    def test_what_is_the_servers_fault_is_an_error_of_its_span(
        self, serving: Serving, photo: bytes, collector: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = serving()

        async def broken(*_: Any, **__: Any) -> Any:
            raise EngineFailed("The model failed on this request.")

        collector.start()
        fails(server, request(b"no image"))
        monkeypatch.setattr(server.has.service, "run", broken)
        fails(server, request(photo))
        collector.stop()
        assert sorted(span.status.code for span in collector.spans) == [0, 2]
