"""What the Open Inference Protocol says of the server and its one model, the same over both transports.

Answers are plain dicts in the protocol's own words: the bodies of HTTP, and what the messages of gRPC are made from.
"""

from typing import Any

from igsp_deploy import __version__
from igsp_serve.failures import RequestError
from igsp_serve.service import Service

INPUTS = {"images": "UINT8", "image_bytes": "BYTES", "task": "BYTES"}
"""`images` `[B, S, S, 3]`, cut to the model's size, or `image_bytes` `[B]`, whole files; and `task` `[B]`: names of
tasks, `auto` (as without it) or `none`."""
OUTPUTS = {"features": "FP32", "task_scores": "FP32", "task_name": "BYTES", "labels": "BYTES", "scores": "FP32"}
"""Embeddings `[B, D]`; selector scores `[B, T]`, their tasks in the answer's parameter `tasks`; name of the task used
`[B]`, empty for plain CLIP; labels `[B, K]`, best first, empty where there are fewer; their scores `[B, K]`."""
VERSION = "1"
"""The version that is served, whatever it is: clients send it, and tools take the largest number. Which one it is
stands in the parameter `bundle_version` of answers, metadata and configuration."""
EXTENSIONS = ["binary_tensor_data", "model_configuration", "parameters", "statistics"]
UNLOADABLE = "Models are not loaded or unloaded by this protocol: POST /v1/models replaces the bundle (admin key)."


class UnknownModel(RequestError):
    """Another model or version than the one that is served."""


def check_model(service: Service, name: str, version: str) -> None:
    """Whether a model is the one that is served.

    Args:
        service: what serves.
        name: of the model.
        version: `VERSION`, or empty for any.

    Raises:
        UnknownModel: it is not.
    """
    if name != service.settings.name:
        raise UnknownModel("Request for unknown model: there is one, listed by the repository index.")
    if version not in ("", VERSION):
        raise UnknownModel(f"Request for unknown version: the model that is served is version {VERSION}.")


def server_metadata() -> dict[str, Any]:
    """Name, version, extensions."""
    return {"name": "igsp-deploy", "version": __version__, "extensions": EXTENSIONS}


def index(service: Service, *, ready: bool) -> list[dict[str, str]]:
    """The one model.

    Args:
        service: what serves.
        ready: leave out what may not be asked now.
    """
    reason = service.not_ready()
    if ready and reason is not None:
        return []
    state = "READY" if reason is None else "UNAVAILABLE"
    return [{"name": service.settings.name, "version": VERSION, "state": state, "reason": reason or ""}]


def model_metadata(service: Service) -> dict[str, Any]:
    """Inputs and outputs, dimensions with the batch."""
    shapes = _shapes(service)

    def rows(tensors: dict[str, str]) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": kind, "shape": [-1, *shapes[name]]} for name, kind in tensors.items()]

    return {
        "name": service.settings.name,
        "versions": [VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": rows(INPUTS),
        "outputs": rows(OUTPUTS),
        "parameters": {"bundle_version": service.snapshot().version},
    }


def model_config(service: Service) -> dict[str, Any]:
    """As Triton describes a model; dimensions without the batch."""
    settings, shapes = service.settings, _shapes(service)

    def rows(tensors: dict[str, str]) -> list[dict[str, Any]]:
        kinds = {"BYTES": "TYPE_STRING"}
        return [
            {"name": name, "data_type": kinds.get(kind, f"TYPE_{kind}"), "dims": shapes[name]}
            for name, kind in tensors.items()
        ]

    return {
        "name": settings.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": settings.max_images,
        "input": [row | {"optional": True} for row in rows(INPUTS)],
        "output": rows(OUTPUTS),
        "dynamic_batching": {"max_queue_delay_microseconds": int(1000 * settings.max_wait_ms)},
        "parameters": {"bundle_version": {"string_value": service.snapshot().version}},
    }


def _shapes(service: Service) -> dict[str, list[int]]:
    """Dimensions without the batch."""
    snapshot = service.snapshot()
    return {
        "images": [snapshot.size, snapshot.size, 3],
        "image_bytes": [],
        "task": [],
        "features": [snapshot.classifier.manifest.backbone.embed_dim],
        "task_scores": [len(snapshot.names)],
        "task_name": [],
        "labels": [-1],
        "scores": [-1],
    }
