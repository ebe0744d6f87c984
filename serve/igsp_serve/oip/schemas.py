"""What `/v2` takes and answers, as the OpenAPI document says it."""

from typing import Any

from pydantic import BaseModel, Field

from igsp_serve.http.schemas import PIXEL
from igsp_serve.oip.infer import MAX_TOP_K, TOP_K
from igsp_serve.oip.model import INPUTS, OUTPUTS, VERSION


class Error(BaseModel):
    """What was wrong, and what to do."""

    error: str


class ServerMetadata(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """It is alive."""

    live: bool


class Ready(BaseModel):
    """It takes traffic."""

    ready: bool


class ModelIndex(BaseModel):
    """One model of the repository."""

    name: str
    version: str
    state: str = Field(examples=["READY"])
    reason: str


class TensorMetadata(BaseModel):
    """An input or output; -1 is any size, the first one is the batch."""

    name: str
    datatype: str
    shape: list[int]


class BundleParameters(BaseModel):
    """Which bundle is behind the version."""

    bundle_version: str


class ModelMetadata(BaseModel):
    """The model."""

    name: str
    versions: list[str] = Field(examples=[[VERSION]])
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: BundleParameters


class Duration(BaseModel):
    """How often, and for how long in all."""

    count: int
    ns: int


class InferStatistics(BaseModel):
    """Where the time of requests went."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class BatchStatistics(BaseModel):
    """Calls of the model with so many images."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ModelStatistics(BaseModel):
    """Counts and times since the start; `last_inference` in ms since 1970."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: list[BatchStatistics]


class AllStatistics(BaseModel):
    """Of all models, of which there is one."""

    model_stats: list[ModelStatistics]


class InferAnswerParameters(BaseModel):
    """Which bundle answered; the tasks of the columns of `task_scores`, as a JSON list."""

    bundle_version: str
    tasks: str | None = None


class BinaryParameters(BaseModel):
    """Of a tensor that follows the JSON."""

    binary_data_size: int


class OutputTensor(BaseModel):
    """One output: its values in a row, or how many bytes of it follow the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float | str | None] | None = None
    parameters: BinaryParameters | None = None


class InferAnswer(BaseModel):
    """The answer to an infer call."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: InferAnswerParameters
    outputs: list[OutputTensor]


def _data(depth: int) -> dict[str, Any]:
    """Values in one list, or in lists nested as the shape."""
    kinds: list[dict[str, Any]] = [{"type": "integer"}, {"type": "string"}]
    if depth > 1:
        kinds.append(_data(depth - 1))
    return {"type": "array", "items": {"anyOf": kinds}}


def _parameters(title: str, **known: dict[str, Any]) -> dict[str, Any]:
    return {"title": title, "type": "object", "properties": known, "additionalProperties": False}


REQUEST: dict[str, Any] = {
    "title": "InferRequest",
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "title": "InputTensor",
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": {
                    "name": {"type": "string", "enum": list(INPUTS)},
                    "shape": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
                    "datatype": {"type": "string", "enum": sorted(set(INPUTS.values()))},
                    "data": _data(4),
                    "parameters": _parameters("InputParameters", binary_data_size={"type": "integer", "minimum": 0}),
                },
            },
        },
        "outputs": {
            "type": "array",
            "items": {
                "title": "RequestedOutput",
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "enum": list(OUTPUTS)},
                    "parameters": _parameters("OutputParameters", binary_data={"type": "boolean"}),
                },
            },
        },
        "parameters": _parameters(
            "InferParameters",
            task={"type": "string", "description": "A task of all images: its name, `auto` or `none`."},
            top_k={
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_TOP_K,
                "default": TOP_K,
                "description": "Labels of an image.",
            },
            prompts={
                "type": "string",
                "description": "Words or sentences to choose among instead of learned classes: a JSON list, as a text.",
                "examples": ['["cat", "dog"]'],
            },
            template={"type": "string", "description": "Put around every prompt, with {} where it goes."},
            timeout={"type": "integer", "minimum": 0, "description": "Time to answer, in µs; 0 is the server's."},
            binary_data_output={"type": "boolean", "description": "Outputs follow the JSON as bytes."},
        ),
    },
}
"""Body of an infer call."""
EXAMPLE: dict[str, Any] = {
    "summary": "One file in base64",
    "value": {
        "inputs": [{"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [PIXEL]}],
        "outputs": [{"name": "labels"}, {"name": "scores"}],
        "parameters": {"task": "auto", "top_k": 3},
    },
}
