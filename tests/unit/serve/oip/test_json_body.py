"""Tensors of the v2 protocol: what Triton's client writes is read, what is wrong is said."""

import gc
import json
import struct
from typing import Any

import numpy as np
import pytest

from igsp_serve.failures import RequestError
from igsp_serve.oip.json_body import Form, read_request, write_response

EXPECTED = {"images": "UINT8", "image_bytes": "BYTES", "task": "BYTES"}


def body(*inputs: dict[str, Any], binary: bytes = b"", **rest: Any) -> tuple[bytes, str | None]:
    text = json.dumps({"inputs": list(inputs), **rest}).encode()
    return text + binary, str(len(text)) if binary else None


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": "UINT8", "shape": [1, 2, 1], "data": [[[1], [2]]], **changes}


def test_json_and_binary_tensors_are_read() -> None:
    files = [b"first", b""]
    packed = b"".join(struct.pack("<I", len(f)) + f for f in files)
    data, length = body(
        {"name": "images", "datatype": "UINT8", "shape": [2, 2], "parameters": {"binary_data_size": 4}},
        {"name": "image_bytes", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(packed)}},
        {"name": "task", "datatype": "BYTES", "shape": [2], "data": ["auto", "zäune"]},
        binary=bytes([1, 2, 3, 4]) + packed,
        id="seven",
        outputs=[{"name": "a"}, {"name": "b", "parameters": {"binary_data": True}}],
        parameters={"top_k": 2, "binary_data_output": False},
    )
    read, form = read_request(data, length, EXPECTED)
    assert read.inputs["images"].tolist() == [[1, 2], [3, 4]]
    assert read.inputs["image_bytes"].tolist() == files
    assert read.inputs["task"].tolist() == [b"auto", "zäune".encode()]
    assert read.identity == "seven"
    assert read.outputs == ("a", "b")
    assert (form.of("a"), form.of("b")) == (False, True)
    assert read.parameters == {"top_k": 2}


@pytest.mark.parametrize("text", ["/v8+AA==", "_v8-AA", "/v8\n+AA\r\n=="])
def test_files_in_base64_are_read_as_clients_write_them(text: str) -> None:
    data, length = body({"name": "image_bytes", "datatype": "BYTES", "shape": [1, 1], "data": [[text]]})
    read, _ = read_request(data, length, EXPECTED)
    assert read.inputs["image_bytes"].tolist() == [[b"\xfe\xff\x3e\x00"]]


def test_answers_are_read_by_tritons_client() -> None:
    from tritonclient.http import InferenceServerClient

    tensors = {
        "a": np.array([[0.5, np.nan]], np.float32),
        "b": np.array([b"x", "ü".encode()], np.object_),
        "c": np.array([1, 2], np.uint8),
    }
    for binary in (True, False):
        data, length = write_response({"model_name": "m"}, list(tensors.items()), Form(binary=binary, by_name={}))
        assert (length is not None) == binary
        result = InferenceServerClient.parse_response_body(data, header_length=length)
        for name, expected in tensors.items():
            got = result.as_numpy(name)
            if name == "b" and not binary:
                got = np.array([text.encode() for text in got], np.object_)
            assert got.shape == expected.shape
            assert np.array_equal(got, expected, equal_nan=name == "a"), (name, binary)


WRONG: list[tuple[str, tuple[bytes, str | None]]] = [
    ("not JSON", (b"{", None)),
    ("not JSON", (b"[" * 100_000, None)),
    ("list of inputs", (b"[]", None)),
    ("list of inputs", (b'{"inputs": {}}', None)),
    ("Inference-Header-Content-Length", (b"{}", "3")),
    ("Inference-Header-Content-Length", (b"{}", "-1")),
    ("Inference-Header-Content-Length", (b"{}", "²")),
    ("no input", body(tensor(name="other"))),
    ("no input", body(tensor(name=["images"]))),
    ("JSON object", (b'{"inputs": [1]}', None)),
    ("datatype UINT8", body(tensor(datatype="FP32"))),
    ("shape", body(tensor(shape=[-1, 2]))),
    ("shape", body(tensor(shape=[1.0]))),
    ("shape", body(tensor(shape=[]))),
    ("shape", body(tensor(shape=[True]))),
    ("shape", body(tensor(shape=[1] * 9))),
    ("shape", body(tensor(shape=[10**30]))),
    ("2 values", body(tensor(shape=[3]))),
    ("no data", body(tensor(data=None))),
    ("whole numbers", body(tensor(data=[1.5, 2]))),
    ("whole numbers", body(tensor(data=[True, 2]))),
    ("whole numbers", (b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1], "data": [NaN]}]}', None)),
    ("in [0, 255]", body(tensor(data=[1, 256]))),
    ("nested", body(tensor(data=[1, [2]]))),
    ("twice", body(tensor(), tensor())),
    ("shared memory", body(tensor(parameters={"shared_memory_region": "x"}))),
    ("more than came", body(tensor(parameters={"binary_data_size": 99}), binary=b"ab")),
    ("more than came", body(tensor(parameters={"binary_data_size": -1}), binary=b"ab")),
    ("belong to no input", body(tensor(), binary=b"ab")),
    ("has 1 bytes", body(tensor(parameters={"binary_data_size": 1}), binary=b"a")),
    ("base64", body({"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": ["#"]})),
    ("base64", body({"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": [5]})),
    (
        "cut off",
        body(
            {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
            binary=b"\xff\xff\xff\xffa",
        ),
    ),
    (
        "values for the shape",
        body(
            {"name": "image_bytes", "datatype": "BYTES", "shape": [2**39], "parameters": {"binary_data_size": 4}},
            binary=bytes(4),
        ),
    ),
    ("hold texts", body({"name": "task", "datatype": "BYTES", "shape": [1], "data": [0]})),
    ("hold texts", body({"name": "task", "datatype": "BYTES", "shape": [1], "data": ["\ud800"]})),
    ("given by name", body({"name": "task", "datatype": "INT64", "shape": [1], "data": [0]})),
    ("takes binary_data_size", body(tensor(parameters={"content_type": "np"}))),
    ("takes binary_data.", body(tensor(), outputs=[{"name": "a", "parameters": {"x": 1}}])),
    ("true or false", body(tensor(), outputs=[{"name": "a", "parameters": {"binary_data": 1}}])),
    ("true or false", body(tensor(), parameters={"binary_data_output": "yes"})),
    ("shared memory", body(tensor(), outputs=[{"name": "a", "parameters": {"shared_memory_region": "x"}}])),
    ("outputs must be a list", body(tensor(), outputs={})),
    ("with a name", body(tensor(), outputs=[{}])),
    ("not supported", body(tensor(), outputs=[{"name": "a", "parameters": {"classification": 3}}])),
    ("parameters must be", body(tensor(), parameters=[])),
]


def test_lists_are_made_without_the_collector_walking_over_them() -> None:
    passes: list[str] = []

    def seen(phase: str, _: object) -> None:
        passes.append(phase)

    data, length = body(tensor(data=[[]] * 100_000))
    gc.callbacks.append(seen)
    try:
        with pytest.raises(RequestError, match="0 values"):
            read_request(data, length, EXPECTED)
    finally:
        gc.callbacks.remove(seen)
    assert len(passes) < 20
    assert gc.isenabled()


def test_a_header_length_of_thousands_of_zeros_is_a_number() -> None:
    data, length = body(tensor(parameters={"binary_data_size": 2}), binary=b"ab")
    assert length is not None
    read, _ = read_request(data, "0" * 5000 + length, EXPECTED)
    assert read.inputs["images"].ravel().tolist() == [97, 98]
    with pytest.raises(RequestError, match="must be the length"):
        read_request(data, "9" * 5000, EXPECTED)


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_is_wrong_is_said(number: int) -> None:
    word, (data, length) = WRONG[number]
    with pytest.raises(RequestError) as error:
        read_request(data, length, EXPECTED)
    assert word in str(error.value)
