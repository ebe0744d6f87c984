"""The protocol's messages for gRPC, from `inference.proto`.

`inference.binpb` is that file compiled. Its messages live in a pool of their own: in the common one they would clash
with those of a Triton client in the same process, which have the same names.
"""

from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from numpy.typing import NDArray

from igsp_serve.failures import RequestError
from igsp_serve.oip.infer import InferAnswer
from igsp_serve.oip.model import INPUTS, VERSION
from igsp_serve.oip.tensors import (
    NAMES,
    InferRequest,
    check_input,
    check_parameters,
    from_bytes,
    from_values,
    short,
    to_bytes,
)

PROTO = Path(__file__).with_name("inference.proto")
COMPILED = PROTO.with_suffix(".binpb")
SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(COMPILED.read_bytes()).file:
        pool.Add(file)
    for known in (health_pb2, reflection_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    return pool


POOL = _pool()
"""What the services are made of; reflection tells of it."""


def message(name: str) -> Any:
    """Class of a message, by its full name."""
    return GetMessageClass(POOL.FindMessageTypeByName(name))


_CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}
"""Field of `InferTensorContents` for each datatype of an input."""
ModelInferRequest = message("inference.ModelInferRequest")
ModelInferResponse = message("inference.ModelInferResponse")
ModelStreamInferResponse = message("inference.ModelStreamInferResponse")


def filled(name: str, values: dict[str, Any]) -> Any:
    """A message with values in the protocol's own words. What only the JSON of HTTP has is left out."""
    return json_format.ParseDict(values, message(name)(), ignore_unknown_fields=True)


def read_infer(request: Any) -> InferRequest:
    """What a `ModelInferRequest` asks.

    Raises:
        RequestError: says what is wrong.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise RequestError(f"raw_input_contents has {len(raw)} tensors for {len(request.inputs)} inputs.")
    inputs: dict[str, NDArray[Any]] = {}
    for number, given in enumerate(request.inputs):
        name, datatype, shape = check_input(given.name, given.datatype, list(given.shape), INPUTS)
        if name in inputs:
            raise RequestError(f"input {name} came twice.")
        check_parameters(given.parameters, (), f"input {name}")
        if raw:
            if given.HasField("contents"):
                raise RequestError(f"input {name} has contents beside raw_input_contents. Give one of them.")
            inputs[name] = from_bytes(name, datatype, shape, raw[number])
        else:
            inputs[name] = from_values(name, datatype, shape, getattr(given.contents, _CONTENTS[datatype]))
    for output in request.outputs:
        check_parameters(output.parameters, (), "an output")
    return InferRequest(
        identity=request.id,
        inputs=inputs,
        outputs=tuple(dict.fromkeys(output.name for output in request.outputs)) or None,
        parameters={name: _value(name, given) for name, given in request.parameters.items()},
    )


def write_infer(answer: InferAnswer, *, name: str, identity: str) -> Any:
    """A `ModelInferResponse`.

    Args:
        answer: what is answered.
        name: of the model.
        identity: of the request.
    """
    made = ModelInferResponse(model_name=name, model_version=VERSION, id=identity)
    for parameter, value in answer.parameters.items():
        made.parameters[parameter].string_param = value
    for output, tensor in answer.outputs:
        made.outputs.add(name=output, datatype=NAMES[tensor.dtype], shape=tensor.shape)
        made.raw_output_contents.append(to_bytes(tensor))
    return made


def _value(name: str, given: Any) -> Any:
    choice = given.WhichOneof("parameter_choice")
    if choice is None:
        raise RequestError(f"parameter {short(name)} has no value.")
    return getattr(given, choice)
