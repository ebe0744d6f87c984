"""Calls of the protocol over gRPC, by Triton's client and bare."""

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from igsp_serve.oip.messages import ModelInferRequest, ModelInferResponse

from .conftest import Running

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@contextlib.contextmanager
def client(server: Running) -> Iterator[Any]:
    with contextlib.closing(triton.InferenceServerClient(server.address)) as made:
        yield made


def tensor(name: str, values: Any, datatype: str) -> Any:
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def files(*photos: bytes) -> Any:
    return tensor("image_bytes", np.array(photos, np.object_), "BYTES")


def names(*tasks: str) -> Any:
    return tensor("task", np.array([task.encode() for task in tasks], np.object_), "BYTES")


def request(*photos: bytes, **more: Any) -> Any:
    """A bare request with typed contents."""
    made = ModelInferRequest(model_name="igsp", **more)
    given = made.inputs.add(name="image_bytes", datatype="BYTES", shape=[len(photos)])
    given.contents.bytes_contents.extend(photos)
    return made


def call(server: Running, message: Any, **options: Any) -> Any:
    """A bare `ModelInfer`."""
    data = message if isinstance(message, bytes) else message.SerializeToString()
    with grpc.insecure_channel(server.address) as channel:
        bare = channel.unary_unary(INFER, response_deserializer=ModelInferResponse.FromString)
        return bare.with_call(data, timeout=options.pop("timeout", 120), **options)


def fails(server: Running, message: Any, **options: Any) -> Any:
    with pytest.raises(grpc.RpcError) as error:
        call(server, message, **options)
    return error.value


def rows(response: Any) -> dict[str, Any]:
    """Outputs of a bare answer, as they lie."""
    return {row.name: raw for row, raw in zip(response.outputs, response.raw_output_contents, strict=True)}
