"""Tensors of the Open Inference Protocol v2: JSON and Triton's binary extension <-> numpy.

A body is JSON, or JSON of the length in `Inference-Header-Content-Length` followed by the binary tensors in order.
"""

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igsp_serve.failures import RequestError

DATATYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
NAMES = {np.dtype(kind): name for name, kind in DATATYPES.items()}
MAX_DIMENSIONS = 8


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """A request, read but not understood.

    Attributes:
        identity: the caller's id; empty when none came.
        inputs: name -> tensor; BYTES are arrays of `bytes`.
        outputs: name -> as binary or not, of those asked for; None asks for all.
        binary: outputs are binary unless they say otherwise.
        parameters: of the request.
    """

    identity: str
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, bool] | None
    binary: bool
    parameters: dict[str, Any]


def read_request(body: bytes, header_length: str | None, expected: Mapping[str, str]) -> InferRequest:
    """Read the body of an infer call.

    Args:
        body: all of it.
        header_length: `Inference-Header-Content-Length`; None when the body is JSON alone.
        expected: input -> datatype of those that there are; others are errors.

    Raises:
        RequestError: says what is wrong.
    """
    text, rest = _split(body, header_length)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError("the request is not JSON.") from error
    if not isinstance(values, dict) or not isinstance(values.get("inputs"), list):
        raise RequestError("the request must be a JSON object with a list of inputs.")
    parameters = _mapping(values, "parameters")
    binary = parameters.get("binary_data_output", False) is True
    inputs: dict[str, NDArray[Any]] = {}
    offset = 0
    for described in values["inputs"]:
        name, datatype, shape = _described(described, expected)
        if name in inputs:
            raise RequestError(f"input {name} came twice.")
        own = _mapping(described, "parameters")
        if any(str(key).startswith("shared_memory") for key in own):
            raise RequestError("shared memory is not supported. Send the tensor in the body.")
        size = own.get("binary_data_size")
        if size is None:
            inputs[name] = _from_json(name, datatype, shape, described.get("data"))
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest) - offset:
            raise RequestError(f"binary_data_size of input {name} is {_short(size)}, more than came.")
        inputs[name] = _from_bytes(name, datatype, shape, rest[offset : offset + size])
        offset += size
    if offset != len(rest):
        raise RequestError(f"{len(rest) - offset} bytes came that belong to no input.")
    identity = values.get("id", "")
    return InferRequest(
        identity=identity if isinstance(identity, str) else "",
        inputs=inputs,
        outputs=_asked(values.get("outputs"), binary),
        binary=binary,
        parameters=parameters,
    )


def write_response(
    described: dict[str, Any], outputs: Sequence[tuple[str, NDArray[Any], bool]]
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON if tensors follow it.

    Args:
        described: model's name and version, id.
        outputs: name, tensor, binary or not.
    """
    rows: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, tensor, binary in outputs:
        row: dict[str, Any] = {"name": name, "datatype": NAMES[tensor.dtype], "shape": list(tensor.shape)}
        if binary:
            parts.append(_to_bytes(tensor))
            row["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            row["data"] = [_json_value(value) for value in tensor.ravel().tolist()]
        rows.append(row)
    header = json.dumps({**described, "outputs": rows}).encode()
    return (b"".join((header, *parts)), len(header)) if parts else (header, None)


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not header_length.isascii() or not header_length.isdigit() or int(header_length[:20]) > len(body):
        raise RequestError("Inference-Header-Content-Length must be the length of the JSON at the body's start.")
    return body[: int(header_length)], body[int(header_length) :]


def _described(values: Any, expected: Mapping[str, str]) -> tuple[str, str, tuple[int, ...]]:
    if not isinstance(values, dict):
        raise RequestError("an input must be a JSON object.")
    name, datatype, shape = values.get("name"), values.get("datatype"), values.get("shape")
    if not isinstance(name, str) or name not in expected:
        raise RequestError(f"there is no input {_short(name)}. There are {', '.join(expected)}.")
    if datatype != expected[name]:
        raise RequestError(f"input {name} must have the datatype {expected[name]}, got {_short(datatype)}.")
    if (
        not isinstance(shape, list)
        or not 0 < len(shape) <= MAX_DIMENSIONS
        or not all(type(d) is int and 0 <= d < 2**40 for d in shape)
    ):
        raise RequestError(f"the shape of input {name} must be a list of whole numbers.")
    return name, expected[name], tuple(shape)


def _from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> NDArray[Any]:
    if not isinstance(data, list):
        raise RequestError(f"input {name} has no data.")
    flat = _flatten(data, name)
    if len(flat) != math.prod(shape):
        raise RequestError(f"input {name} has {len(flat)} values for the shape {list(shape)}.")
    if datatype == "BYTES":
        return _object_array([_from_base64(name, text) for text in flat], shape)
    if not all(type(value) is int for value in flat):
        raise RequestError(f"input {name} must hold whole numbers ({datatype}).")
    limits = np.iinfo(DATATYPES[datatype])
    if flat and not (limits.min <= min(flat) and max(flat) <= limits.max):
        raise RequestError(f"input {name} must hold numbers in [{limits.min}, {limits.max}] ({datatype}).")
    return np.array(flat, DATATYPES[datatype]).reshape(shape)


def _from_bytes(name: str, datatype: str, shape: tuple[int, ...], data: bytes) -> NDArray[Any]:
    count = math.prod(shape)
    if datatype == "BYTES":
        values: list[bytes] = []
        at = 0
        while at < len(data) and len(values) <= count:
            size = struct.unpack_from("<I", data, at)[0] if at + 4 <= len(data) else len(data)
            at += 4
            if at + size > len(data):
                raise RequestError(f"input {name} is cut off.")
            values.append(data[at : at + size])
            at += size
        if len(values) != count:
            raise RequestError(f"input {name} has {len(values)} values for the shape {list(shape)}.")
        return _object_array(values, shape)
    kind = np.dtype(DATATYPES[datatype]).newbyteorder("<")
    if len(data) != count * kind.itemsize:
        raise RequestError(f"input {name} has {len(data)} bytes; {list(shape)} {datatype} are {count * kind.itemsize}.")
    return np.frombuffer(data, kind).reshape(shape)


def _to_bytes(tensor: NDArray[Any]) -> bytes:
    if tensor.dtype == np.object_:
        return b"".join(struct.pack("<I", len(value)) + value for value in tensor.ravel().tolist())
    return np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).tobytes()


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _asked(given: Any, binary: bool) -> dict[str, bool] | None:
    if given is None:
        return None
    if not isinstance(given, list):
        raise RequestError("outputs must be a list.")
    asked: dict[str, bool] = {}
    for row in given:
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise RequestError("an output must be a JSON object with a name.")
        own = _mapping(row, "parameters")
        if "classification" in own or any(str(key).startswith("shared_memory") for key in own):
            raise RequestError("classification and shared memory are not supported for outputs. Ask for labels.")
        asked[row["name"]] = own.get("binary_data", binary) is True
    return asked


def _mapping(values: dict[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise RequestError(f"{name} must be a JSON object.")
    return found


def _flatten(data: list[Any], name: str) -> list[Any]:
    for _ in range(MAX_DIMENSIONS):
        if not any(isinstance(value, list) for value in data):
            return data
        if not all(isinstance(value, list) for value in data):
            break
        data = [inner for value in data for inner in value]
    raise RequestError(f"the data of input {name} must be one list, or lists nested as its shape.")


def _from_base64(name: str, text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise RequestError(f"input {name} must hold files in base64 when it comes as JSON.") from None


def _object_array(values: list[bytes], shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.empty(len(values), np.object_)
    for index, value in enumerate(values):
        array[index] = value
    return array.reshape(shape)


def _short(value: Any) -> str:
    return repr(value)[:60]
