"""Tensors of the Open Inference Protocol as both transports have them: named, typed, shaped, row by row."""

import asyncio
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from igsp_serve.failures import RequestError

T = TypeVar("T")

DATATYPES: dict[str, Any] = {
    "UINT8": np.uint8,
    "FP32": np.float32,
    "BYTES": np.object_,
}
"""Datatypes of the inputs and outputs that there are, and what numpy calls them. BYTES are arrays of `bytes`."""
NAMES = {np.dtype(kind): name for name, kind in DATATYPES.items()}
MAX_DIMENSIONS = 8
_LARGE = 2**18
"""Bytes of a request from which it is read in a thread."""


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """A request, read but not understood.

    Attributes:
        identity: the caller's id; empty when none came.
        inputs: name -> tensor.
        outputs: names of those asked for; None asks for all.
        parameters: of the request, without those of the transport.
    """

    identity: str
    inputs: dict[str, NDArray[Any]]
    outputs: tuple[str, ...] | None
    parameters: dict[str, Any]


async def read_aside(size: int, read: Callable[[], T]) -> T:
    """What `read` gives, without holding up others: millions of numbers in a list take seconds to become a tensor.

    Args:
        size: bytes of the request.
        read: reads it.
    """
    return read() if size < _LARGE else await asyncio.to_thread(read)


def check_input(name: Any, datatype: Any, shape: Any, expected: Mapping[str, str]) -> tuple[str, str, tuple[int, ...]]:
    """Name, datatype and shape of an input, if there is such a one.

    Args:
        name: as it came.
        datatype: as it came.
        shape: as it came, a list.
        expected: input -> datatype of those that there are.

    Raises:
        RequestError: says what was expected.
    """
    if not isinstance(name, str) or name not in expected:
        raise RequestError(f"there is no input {short(name)}. There are {', '.join(expected)}.")
    if datatype != expected[name]:
        hint = " Tasks are given by name: an index would mean another task once one is removed."
        raise RequestError(
            f"input {name} must have the datatype {expected[name]}, got {short(datatype)}."
            f"{hint if name == 'task' else ''}"
        )
    if (
        not isinstance(shape, list)
        or not 0 < len(shape) <= MAX_DIMENSIONS
        or not all(type(d) is int and 0 <= d < 2**40 for d in shape)
    ):
        raise RequestError(f"the shape of input {name} must be a list of whole numbers.")
    return name, expected[name], tuple(shape)


def check_parameters(given: Mapping[str, Any], known: Sequence[str], of: str) -> None:
    """Refuse parameters that nobody reads: they would be ignored in silence.

    Raises:
        RequestError: names the first one and those that there are.
    """
    for name in given:
        if str(name).startswith("shared_memory"):
            raise RequestError("shared memory is not supported. Send the tensors in the body.")
        if name == "classification":
            raise RequestError("the classification extension is not supported. Ask for labels and scores.")
        if name not in known:
            takes = f"It takes {', '.join(known)}." if known else "It takes none."
            raise RequestError(f"{of} has no parameter {short(name)}. {takes}")


def from_values(name: str, datatype: str, shape: tuple[int, ...], values: Sequence[Any]) -> NDArray[Any]:
    """A tensor from its values in a row: `bytes` for BYTES, else whole numbers.

    Raises:
        RequestError: too many, too few, or not of this datatype.
    """
    if len(values) != math.prod(shape):
        raise RequestError(f"input {name} has {len(values)} values for the shape {list(shape)}.")
    if datatype == "BYTES":
        return object_array(values, shape)
    if not all(type(value) is int for value in values):
        raise RequestError(f"input {name} must hold whole numbers ({datatype}).")
    limits = np.iinfo(DATATYPES[datatype])
    if len(values) and not (limits.min <= min(values) and max(values) <= limits.max):
        raise RequestError(f"input {name} must hold numbers in [{limits.min}, {limits.max}] ({datatype}).")
    return np.array(values, DATATYPES[datatype]).reshape(shape)


def from_bytes(name: str, datatype: str, shape: tuple[int, ...], data: bytes) -> NDArray[Any]:
    """A tensor from its bytes: little-endian; BYTES have their length, uint32, before each.

    Raises:
        RequestError: too many or too few.
    """
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
        return from_values(name, datatype, shape, values)
    kind = np.dtype(DATATYPES[datatype]).newbyteorder("<")
    if len(data) != count * kind.itemsize:
        raise RequestError(f"input {name} has {len(data)} bytes; {list(shape)} {datatype} are {count * kind.itemsize}.")
    return np.frombuffer(data, kind).reshape(shape)


def to_bytes(tensor: NDArray[Any]) -> bytes:
    """The bytes of a tensor, as `from_bytes` reads them."""
    if tensor.dtype == np.object_:
        return b"".join(struct.pack("<I", len(value)) + value for value in tensor.ravel().tolist())
    return np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).tobytes()


def object_array(values: Sequence[bytes], shape: tuple[int, ...]) -> NDArray[Any]:
    """BYTES of a shape."""
    array = np.empty(len(values), np.object_)
    for index, value in enumerate(values):
        array[index] = value
    return array.reshape(shape)


def short(value: Any) -> str:
    """What came, as it may be shown in an error."""
    return repr(value)[:60]
