"""Bodies of `/v2` infer calls: JSON and Triton's binary extension <-> tensors.

A body is JSON, or JSON of the length in `Inference-Header-Content-Length` followed by the binary tensors in order.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from igsp_serve.base64_text import from_base64
from igsp_serve.failures import RequestError
from igsp_serve.http.inputs import uncollected
from igsp_serve.http.unpack import stated_length
from igsp_serve.oip.tensors import (
    MAX_DIMENSIONS,
    NAMES,
    InferRequest,
    check_input,
    check_parameters,
    from_bytes,
    from_values,
    to_bytes,
)

FILES = ("image_bytes",)
"""Inputs whose bytes are base64 in JSON, which has no bytes. Other BYTES are texts as they are."""
BINARY_OUTPUT = "binary_data_output"
"""Parameter of a request: outputs are binary unless they say otherwise."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """In what form the outputs are wanted.

    Attributes:
        binary: by default.
        by_name: of those that say so.
    """

    binary: bool
    by_name: Mapping[str, bool]

    def of(self, name: str) -> bool:
        """Whether an output is to be binary."""
        return self.by_name.get(name, self.binary)


def read_request(body: bytes, header_length: str | None, expected: Mapping[str, str]) -> tuple[InferRequest, Form]:
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
        with uncollected():
            values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError("the request is not JSON.") from error
    if not isinstance(values, dict) or not isinstance(values.get("inputs"), list):
        raise RequestError("the request must be a JSON object with a list of inputs.")
    parameters = dict(_mapping(values, "parameters"))
    binary = parameters.pop(BINARY_OUTPUT, False)
    if type(binary) is not bool:
        raise RequestError(f"{BINARY_OUTPUT} must be true or false.")
    inputs = _inputs(values["inputs"], rest, expected)
    identity = values.get("id", "")
    asked = _asked(values.get("outputs"))
    request = InferRequest(
        identity=identity if isinstance(identity, str) else "",
        inputs=inputs,
        outputs=None if asked is None else tuple(asked),
        parameters=parameters,
    )
    by_name = {name: own for name, own in (asked or {}).items() if own is not None}
    return request, Form(binary=binary, by_name=by_name)


def write_response(
    described: dict[str, Any], outputs: Sequence[tuple[str, NDArray[Any]]], form: Form
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON if tensors follow it.

    Args:
        described: model's name and version, id, parameters.
        outputs: name, tensor.
        form: which of them are binary.
    """
    rows: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, tensor in outputs:
        row: dict[str, Any] = {"name": name, "datatype": NAMES[tensor.dtype], "shape": list(tensor.shape)}
        if form.of(name):
            parts.append(to_bytes(tensor))
            row["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            row["data"] = [_json_value(value) for value in tensor.ravel().tolist()]
        rows.append(row)
    header = json.dumps({**described, "outputs": rows}).encode()
    return (b"".join((header, *parts)), len(header)) if parts else (header, None)


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    length = stated_length(header_length)
    if length is None or length > len(body):
        raise RequestError("Inference-Header-Content-Length must be the length of the JSON at the body's start.")
    return body[:length], body[length:]


def _inputs(given: list[Any], rest: bytes, expected: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    inputs: dict[str, NDArray[Any]] = {}
    offset = 0
    for described in given:
        if not isinstance(described, dict):
            raise RequestError("an input must be a JSON object.")
        name, datatype, shape = check_input(
            described.get("name"), described.get("datatype"), described.get("shape"), expected
        )
        if name in inputs:
            raise RequestError(f"input {name} came twice.")
        own = _mapping(described, "parameters")
        check_parameters(own, ("binary_data_size",), f"input {name}")
        size = own.get("binary_data_size")
        if size is None:
            inputs[name] = _from_json(name, datatype, shape, described.get("data"))
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest) - offset:
            raise RequestError(f"binary_data_size of input {name} is {str(size)[:40]}, more than came.")
        inputs[name] = from_bytes(name, datatype, shape, rest[offset : offset + size])
        offset += size
    if offset != len(rest):
        raise RequestError(f"{len(rest) - offset} bytes came that belong to no input.")
    return inputs


def _from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> NDArray[Any]:
    if not isinstance(data, list):
        raise RequestError(f"input {name} has no data.")
    flat = _flatten(data, name)
    if len(flat) == math.prod(shape) and datatype == "BYTES":
        flat = [_bytes(name, text) for text in flat]
    return from_values(name, datatype, shape, flat)


def _bytes(name: str, text: Any) -> bytes:
    if name in FILES:
        try:
            return from_base64(text)
        except ValueError:
            raise RequestError(f"input {name} must hold files in base64 when it comes as JSON.") from None
    try:
        return str.encode(text)
    except (TypeError, UnicodeEncodeError):
        raise RequestError(f"input {name} must hold texts.") from None


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _asked(given: Any) -> dict[str, bool | None] | None:
    """Outputs asked for, and whether as binary; None where they do not say."""
    if given is None:
        return None
    if not isinstance(given, list):
        raise RequestError("outputs must be a list.")
    asked: dict[str, bool | None] = {}
    for row in given:
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise RequestError("an output must be a JSON object with a name.")
        own = _mapping(row, "parameters")
        check_parameters(own, ("binary_data",), "an output")
        binary = own.get("binary_data")
        if binary is not None and type(binary) is not bool:
            raise RequestError("binary_data of an output must be true or false.")
        asked[row["name"]] = binary
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
