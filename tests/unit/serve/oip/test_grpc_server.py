"""The protocol over gRPC: the same answers as over HTTP, with Triton's client and with bare calls."""

import json
import queue
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.utils import InferenceServerException

from igsp_serve.oip import messages
from igsp_serve.oip.messages import ModelInferRequest, ModelInferResponse

from .conftest import Running, Serving
from .grpc_calls import INFER, STREAM, call, client, fails, files, names, request, rows, tensor


def test_the_compiled_messages_are_those_of_the_proto_file(tmp_path: Path) -> None:
    from grpc_tools import protoc

    made = tmp_path / "made"
    proto = messages.PROTO
    assert protoc.main(["protoc", f"-I{proto.parent}", f"--descriptor_set_out={made}", proto.name]) == 0
    shipped = FileDescriptorSet.FromString(messages.COMPILED.read_bytes())
    assert FileDescriptorSet.FromString(made.read_bytes()) == shipped


def test_the_messages_are_the_published_ones_on_the_wire() -> None:
    """Every field we have, they have: number, type, repeated or not."""
    theirs = {**triton.service_pb2.DESCRIPTOR.message_types_by_name}
    theirs |= triton.model_config_pb2.DESCRIPTOR.message_types_by_name
    seen = 0

    def compare(ours: Any, other: Any) -> None:
        nonlocal seen
        for field in ours.fields:
            same = other.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (same.number, same.type, same.is_repeated), field
            if field.message_type:
                assert field.message_type.full_name == same.message_type.full_name
            seen += 1
        for nested in ours.nested_types:
            compare(nested, other.nested_types_by_name[nested.name])

    file = messages.POOL.FindFileByName("inference.proto")
    for name, ours in file.message_types_by_name.items():
        compare(ours, theirs[name])
    assert seen > 100
    enum = triton.model_config_pb2.DataType.DESCRIPTOR.values_by_name
    for value in file.enum_types_by_name["DataType"].values:
        assert enum[value.name].number == value.number
    methods = triton.service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for method in file.services_by_name["GRPCInferenceService"].methods:
        same = methods[method.name]
        assert method.input_type.full_name == same.input_type.full_name
        assert method.output_type.full_name == same.output_type.full_name
        assert method.client_streaming == same.client_streaming
        assert method.server_streaming == same.server_streaming


class TestTritonsClient:
    def test_it_finds_the_model(self, serving: Serving) -> None:
        server = serving()
        bundle = server.has.service.snapshot().version
        with client(server) as c:
            assert c.is_server_live()
            assert c.is_server_ready()
            assert c.is_model_ready("igsp")
            assert c.is_model_ready("igsp", "1")
            assert not c.is_model_ready("igsp", "2")
            assert not c.is_model_ready("other")
            metadata = c.get_server_metadata()
            assert metadata.name == "igsp-deploy"
            assert "statistics" in metadata.extensions
            assert "model_repository" not in metadata.extensions
            model = c.get_model_metadata("igsp", "1")
            assert list(model.versions) == ["1"]
            assert [(row.name, row.datatype) for row in model.inputs] == [
                ("images", "UINT8"),
                ("image_bytes", "BYTES"),
                ("task", "BYTES"),
            ]
            config = c.get_model_config("igsp").config
            assert config.max_batch_size == 64
            assert config.parameters["bundle_version"].string_value == bundle
            assert config.input[0].data_type == triton.model_config_pb2.TYPE_UINT8
            assert config.input[0].optional
            assert list(config.input[0].dims) == [32, 32, 3]
            (indexed,) = c.get_model_repository_index().models
            assert (indexed.name, indexed.version, indexed.state) == ("igsp", "1", "READY")
            for unknown in (
                lambda: c.get_model_metadata("other"),
                lambda: c.get_model_config("igsp", "2"),
                lambda: c.get_inference_statistics("other"),
            ):
                with pytest.raises(InferenceServerException) as error:
                    unknown()
                assert error.value.status() == "StatusCode.NOT_FOUND"
            with pytest.raises(InferenceServerException) as error:
                c.load_model("igsp")
            assert error.value.status() == "StatusCode.UNIMPLEMENTED"

    def test_it_infers(self, serving: Serving, bundled: Any, photo: bytes) -> None:
        server = serving()
        engine = server.has.service.engine
        classifier = server.has.service.snapshot().classifier
        pixels = np.stack([classifier.load(path) for path in bundled.images("colors")[:3]])
        expected = engine.run_images(pixels, np.array([-1, 1, -2]))
        with client(server) as c:
            inputs = [tensor("images", pixels, "UINT8"), names("auto", "stripes", "none")]
            result = c.infer("igsp", inputs, model_version="1", request_id="seven", parameters={"top_k": 2})
            assert np.allclose(result.as_numpy("features"), expected.features, atol=1e-5)
            assert np.allclose(result.as_numpy("task_scores"), expected.task_scores, rtol=1e-3)
            assert result.as_numpy("task_name").tolist()[1:] == [b"stripes", b""]
            assert result.as_numpy("labels").shape == result.as_numpy("scores").shape == (3, 2)
            response = result.get_response()
            assert (response.model_name, response.model_version, response.id) == ("igsp", "1", "seven")
            assert response.parameters["bundle_version"].string_param == server.has.service.snapshot().version
            assert json.loads(response.parameters["tasks"].string_param) == ["colors", "stripes"]
            wanted = [triton.InferRequestedOutput("scores"), triton.InferRequestedOutput("task_name")]
            one = c.infer("igsp", [files(photo)], outputs=wanted, parameters={"task": "stripes"})
            assert [row.name for row in one.get_response().outputs] == ["scores", "task_name"]
            assert one.as_numpy("task_name").tolist() == [b"stripes"]
            for algorithm in ("gzip", "deflate"):
                packed = c.infer("igsp", inputs, compression_algorithm=algorithm)
                assert np.allclose(packed.as_numpy("features"), expected.features, atol=1e-5)

    def test_many_at_once(self, serving: Serving, photo: bytes) -> None:
        server, done = serving(), queue.Queue[tuple[Any, Any]]()
        with client(server) as c:
            first = c.infer("igsp", [files(photo)]).as_numpy("features")
            for _ in range(24):
                c.async_infer("igsp", [files(photo)], lambda result, error: done.put((result, error)))
            for _ in range(24):
                result, error = done.get(timeout=120)
                assert error is None
                assert np.allclose(result.as_numpy("features"), first, atol=1e-5)

    def test_a_stream_answers_in_order_and_goes_on_after_an_error(self, serving: Serving, bundled: Any) -> None:
        server, done = serving(), queue.Queue[tuple[Any, Any]]()
        photos = {task: bundled.images(task)[0].read_bytes() for task in ("colors", "stripes")}
        with client(server) as c:
            c.start_stream(lambda result, error: done.put((result, error)))
            for number in range(100):
                task = ("colors", "stripes")[number % 2]
                wrong = number == 7
                given = [files(b"no image" if wrong else photos[task])]
                c.async_stream_infer(
                    "igsp",
                    given,
                    request_id=str(number),
                    parameters={"task": task},
                    enable_empty_final_response=number % 3 == 0,
                )
            for number in range(100):
                result, error = done.get(timeout=120)
                if number == 7:
                    assert "not an image" in error.message()
                    continue
                assert error is None
                response = result.get_response()
                assert response.id == str(number)
                assert response.parameters["triton_final_response"].bool_param
                assert result.as_numpy("task_name").tolist() == [("colors", "stripes")[number % 2].encode()]
            c.stop_stream()
        metrics = server.has.metrics.text().decode()
        assert f'igsp_requests_total{{route="{STREAM}#message",status="INVALID_ARGUMENT"}} 1.0' in metrics

    def test_its_asyncio_client_works_too(self, serving: Serving, photo: bytes) -> None:
        import asyncio

        import tritonclient.grpc.aio as aio

        async def ask() -> Any:
            async with aio.InferenceServerClient(serving().address) as c:
                return await c.infer("igsp", [files(photo)], parameters={"task": "colors"})

        assert asyncio.run(ask()).as_numpy("task_name").tolist() == [b"colors"]

    def test_statistics_are_the_same_as_over_http(self, serving: Serving, photo: bytes) -> None:
        server = serving(max_batch=8)
        with client(server) as c:
            c.infer("igsp", [files(photo, photo)])
            with pytest.raises(InferenceServerException):
                c.infer("igsp", [files(b"x")])
            (found,) = c.get_inference_statistics().model_stats
            (of_one,) = c.get_inference_statistics("igsp", "1").model_stats
        assert of_one == found
        (told,) = server.has.statistics.report()["model_stats"]
        assert found.inference_count == told["inference_count"] == 2
        assert found.execution_count == told["execution_count"]
        assert found.last_inference == told["last_inference"] > 0
        assert (found.inference_stats.success.count, found.inference_stats.fail.count) == (1, 1)
        assert found.inference_stats.success.ns == told["inference_stats"]["success"]["ns"] > 0
        assert {row.batch_size: row.compute_infer.count for row in found.batch_stats} == {
            row["batch_size"]: row["compute_infer"]["count"] for row in told["batch_stats"]
        }


def _wrong(photo: bytes) -> Iterator[tuple[str, str, Any]]:
    """Status, a word of what is said, and the request."""

    def changed(**fields: Any) -> Any:
        made = request(photo)
        for name, value in fields.items():
            setattr(made, name, value)
        return made

    def parameter(name: str, **value: Any) -> Any:
        made = request(photo)
        for kind, given in value.items():
            setattr(made.parameters[name], kind, given)
        if not value:
            made.parameters[name].SetInParent()
        return made

    def given(name: str, datatype: str, shape: list[int], raw: bytes | None = None, **contents: Any) -> Any:
        made = ModelInferRequest(model_name="igsp")
        added = made.inputs.add(name=name, datatype=datatype, shape=shape)
        for kind, values in contents.items():
            getattr(added.contents, kind).extend(values)
        if raw is not None:
            made.raw_input_contents.append(raw)
        return made

    yield "NOT_FOUND", "unknown model", changed(model_name="other")
    yield "NOT_FOUND", "unknown version", changed(model_version="2")
    yield "INVALID_ARGUMENT", "'topk'", parameter("topk", int64_param=3)
    yield "INVALID_ARGUMENT", "has no value", parameter("top_k")
    yield "INVALID_ARGUMENT", "top_k", parameter("top_k", string_param="3")
    yield "INVALID_ARGUMENT", "top_k", parameter("top_k", int64_param=0)
    yield "INVALID_ARGUMENT", "top_k", parameter("top_k", double_param=3.0)
    yield "INVALID_ARGUMENT", "'colours'", parameter("task", string_param="colours")
    yield "INVALID_ARGUMENT", "timeout", parameter("timeout", int64_param=-1)
    yield "INVALID_ARGUMENT", "JSON list of texts", parameter("prompts", string_param="cat")
    yield "INVALID_ARGUMENT", "JSON list of texts", parameter("prompts", string_param='["cat", 1]')
    yield "INVALID_ARGUMENT", "JSON list of texts", parameter("prompts", int64_param=1)
    yield "INVALID_ARGUMENT", "at least one text", parameter("prompts", string_param="[]")
    yield "INVALID_ARGUMENT", "give prompts too", parameter("template", string_param="a {}")
    yield "INVALID_ARGUMENT", "template must be a text", parameter("template", int64_param=1)
    yield "INVALID_ARGUMENT", "sequence_id", parameter("sequence_id", int64_param=1)
    yield "INVALID_ARGUMENT", "give images", ModelInferRequest(model_name="igsp")
    yield "INVALID_ARGUMENT", "no input", given("pictures", "UINT8", [1])
    yield "INVALID_ARGUMENT", "datatype UINT8", given("images", "FP32", [1, 32, 32, 3])
    yield "INVALID_ARGUMENT", "by name", given("task", "INT64", [1], int64_contents=[0])
    yield "INVALID_ARGUMENT", "whole numbers", given("images", "UINT8", [-1, 32, 32, 3])
    yield "INVALID_ARGUMENT", "whole numbers", given("images", "UINT8", [])
    yield "INVALID_ARGUMENT", "0 values", given("images", "UINT8", [1, 32, 32, 3])
    yield "INVALID_ARGUMENT", "[0, 255]", given("images", "UINT8", [1], uint_contents=[256])
    yield "INVALID_ARGUMENT", "must have the shape", given("images", "UINT8", [1, 2], uint_contents=[1, 2])
    yield "INVALID_ARGUMENT", "has 3 bytes", given("images", "UINT8", [1, 32, 32, 3], b"abc")
    yield "INVALID_ARGUMENT", "values for the shape", given("images", "UINT8", [2**39], uint_contents=[1])
    yield "INVALID_ARGUMENT", "cut off", given("image_bytes", "BYTES", [1], b"\xff\xff\xff\xffa")
    yield "INVALID_ARGUMENT", "not an image", request(b"no image")
    yield "INVALID_ARGUMENT", "empty", request(b"")
    yield "INVALID_ARGUMENT", "1 to 64 images", request(*[photo] * 65)
    yield "INVALID_ARGUMENT", "1 to 64 images", request()
    yield "INVALID_ARGUMENT", "is not a", b"\xff\xff\xff"
    both = request(photo)
    both.raw_input_contents.append(b"x")
    yield "INVALID_ARGUMENT", "beside", both
    both = request(photo)
    both.raw_input_contents.extend([b"x", b"y"])
    yield "INVALID_ARGUMENT", "2 tensors for 1", both
    twice = request(photo)
    twice.inputs.add().CopyFrom(twice.inputs[0])
    yield "INVALID_ARGUMENT", "twice", twice
    shared = request(photo)
    shared.inputs[0].parameters["shared_memory_region"].string_param = "x"
    yield "INVALID_ARGUMENT", "shared memory", shared
    for name, word in (("classification", "classification"), ("shared_memory_region", "shared"), ("x", "'x'")):
        output = request(photo)
        output.outputs.add(name="labels").parameters[name].int64_param = 3
        yield "INVALID_ARGUMENT", word, output
    output = request(photo)
    output.outputs.add(name="used_task")
    yield "INVALID_ARGUMENT", "no output", output


def test_what_is_wrong_is_said_and_nothing_else_happens(serving: Serving, photo: bytes) -> None:
    server = serving()
    for status, word, message in _wrong(photo):
        error = fails(server, message)
        assert error.code().name == status, (word, error)
        assert word in error.details(), error
    assert call(server, request(photo))[0].model_version == "1"


def test_bare_contents_and_raw_ones_are_the_same(serving: Serving, photo: bytes) -> None:
    typed = request(photo)
    task = typed.inputs.add(name="task", datatype="BYTES", shape=[1, 1])
    task.contents.bytes_contents.append(b"stripes")
    first, _ = call(serving(), typed)
    raw = ModelInferRequest(model_name="igsp")
    for given, value in zip(typed.inputs, (photo, b"stripes"), strict=True):
        raw.inputs.add(name=given.name, datatype="BYTES", shape=given.shape)
        raw.raw_input_contents.append(len(value).to_bytes(4, "little") + value)
    second, _ = call(serving(), raw)
    assert rows(first)["labels"] == rows(second)["labels"]
    assert rows(first)["task_name"] == b"\x07\0\0\0stripes"


def test_a_removed_task_is_an_error_never_another_task(serving: Serving, bundled: Any, tmp_path: Path) -> None:
    shutil.copytree(bundled.bundle, tmp_path / "bundle")
    server = serving(tmp_path / "bundle")
    photo = bundled.images("stripes")[0].read_bytes()
    before, _ = call(server, request(photo, parameters={"task": {"string_param": "stripes"}}))
    server.do(server.has.service.remove_task("colors"))
    after, _ = call(server, request(photo, parameters={"task": {"string_param": "stripes"}}))
    assert rows(after)["labels"] == rows(before)["labels"]
    assert json.loads(after.parameters["tasks"].string_param) == ["stripes"]
    error = fails(server, request(photo, parameters={"task": {"string_param": "colors"}}))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "no task 'colors'" in error.details()


def test_reflection_tells_of_every_service_and_message(serving: Serving) -> None:
    with grpc.insecure_channel(serving().address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert services == {messages.SERVICE, messages.HEALTH, messages.REFLECTION}
        # A client that knows nothing makes its messages from this alone.
        pool = DescriptorPool(database)
        for name in services:
            pool.FindServiceByName(name)
        method = pool.FindServiceByName(messages.SERVICE).methods_by_name["ModelStreamInfer"]
        assert (method.client_streaming, method.server_streaming) == (True, True)
        found = FileDescriptorProto()
        pool.FindFileContainingSymbol("inference.ModelConfig").CopyToProto(found)
        assert found == FileDescriptorSet.FromString(messages.COMPILED.read_bytes()).file[0]


class TestHealthAndTheEnd:
    def test_health_is_readiness_and_ends_with_the_server(self, bundled: Any, photo: bytes) -> None:
        server = Running(bundled.bundle, full_batches=True, max_batch=3)
        serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        try:
            with grpc.insecure_channel(server.address) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                for name in ("", messages.SERVICE):
                    assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=120).status == serving
                with pytest.raises(grpc.RpcError) as unknown:
                    health.Check(health_pb2.HealthCheckRequest(service="other"), timeout=120)
                assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
                watched = health.Watch(health_pb2.HealthCheckRequest(), timeout=120)
                assert next(watched).status == serving
                idle = threading.Event()

                def one() -> Iterator[bytes]:
                    yield request(photo, id="in the stream").SerializeToString()
                    idle.wait(120)

                stream = channel.stream_stream(STREAM)(one(), timeout=120)
                accepted = channel.unary_unary(INFER).future(request(photo).SerializeToString(), timeout=120)
                end = time.monotonic() + 120
                while server.has.service.batcher.pending < 2:  # they wait for more images
                    assert time.monotonic() < end
                    time.sleep(0.01)
                server.has.service.drain()
                assert next(watched).status == not_serving
                assert health.Check(health_pb2.HealthCheckRequest(), timeout=120).status == not_serving
                server.start_stop(grace_s=200.0)
                # Its third image fills the batch: those two are answered after the stop began.
                server.do(server.has.service.classify([photo]))
                server.stop(grace_s=200.0)  # streams that are open do not hold it: `stop` waits for less than the grace
                # What was accepted is answered, in the stream too.
                assert ModelInferResponse.FromString(accepted.result()).model_name == "igsp"
                answer = messages.ModelStreamInferResponse.FromString(next(stream))
                assert answer.infer_response.id == "in the stream"
                for open_stream in (stream, watched):
                    with pytest.raises(grpc.RpcError) as ended:
                        next(open_stream)
                    assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
                    assert "shutting down" in ended.value.details()
                idle.set()
                with pytest.raises(grpc.RpcError) as gone:
                    channel.unary_unary(INFER)(request(photo).SerializeToString(), timeout=120)
                assert gone.value.code() == grpc.StatusCode.UNAVAILABLE
        finally:
            server.close()

    def test_mixed_load_gives_everybody_the_right_answer(self, serving: Serving, bundled: Any) -> None:
        """Calls, streams, wrong requests and callers that leave, all at once; then nothing is held."""
        server = serving(max_batch=12)
        photos = {task: bundled.images(task)[0].read_bytes() for task in ("colors", "stripes")}
        expected = {
            task: rows(call(server, request(photo, parameters={"task": {"string_param": task}}))[0])["labels"]
            for task, photo in photos.items()
        }
        problems: list[str] = []

        def ask(number: int) -> None:
            with grpc.insecure_channel(server.address) as channel:
                unary, stream = channel.unary_unary(INFER), channel.stream_stream(STREAM)
                for turn in range(12):
                    task = ("colors", "stripes")[(number + turn) % 2]
                    good = request(photos[task], parameters={"task": {"string_param": task}}).SerializeToString()
                    kind = (number + turn) % 4
                    if kind == 0:
                        if rows(ModelInferResponse.FromString(unary(good, timeout=120)))["labels"] != expected[task]:
                            problems.append(f"wrong labels for {task}")
                    elif kind == 1:
                        for data in stream(iter([good] * 3), timeout=120):
                            answer = messages.ModelStreamInferResponse.FromString(data)
                            if rows(answer.infer_response)["labels"] != expected[task]:
                                problems.append(f"wrong labels for {task} in a stream: {answer.error_message}")
                    elif kind == 2:
                        try:
                            unary(request(b"no image").SerializeToString(), timeout=120)
                            problems.append("no image was taken")
                        except grpc.RpcError as error:
                            if error.code() != grpc.StatusCode.INVALID_ARGUMENT:
                                problems.append(str(error))
                    else:
                        unary.future(good, timeout=120).cancel()

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(250)
        assert problems == []
        end = time.monotonic() + 120
        door = server.server._door
        while (server.has.service.batcher.open_jobs, door._active, door._buffered) != (0, 0, 0):
            assert time.monotonic() < end
            time.sleep(0.02)
