"""`/v2`: the Open Inference Protocol, so that the clients of Triton and KServe work unchanged.

Inputs: `images` uint8 `[B, S, S, 3]`, cut to the model's size, or `image_bytes` `[B]`, whole files; and `task` int64
`[B]`, -1 (choose) unless given, -2 for plain CLIP. Outputs as in `OUTPUTS`; K is the parameter `top_k` of the request.
"""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Request
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

from igsp_deploy import __version__
from igsp_deploy.names import AUTO
from igsp_serve.failures import RequestError, TooLarge
from igsp_serve.http.context import Context, Has, body_of
from igsp_serve.http.problems import problem
from igsp_serve.http.schemas import PIXEL
from igsp_serve.http.tensors import InferRequest, read_request, write_response
from igsp_serve.service import Ran

INPUTS = {"images": "UINT8", "image_bytes": "BYTES", "task": "INT64"}
OUTPUTS = {
    "features": "FP32",
    "used_task": "INT64",
    "task_scores": "FP32",
    "task_name": "BYTES",
    "labels": "BYTES",
    "scores": "FP32",
}
"""Embeddings `[B, D]`; index of the task used `[B]`, -2 for plain CLIP; selector scores `[B, T]`; name of the task used
`[B]`, empty for plain CLIP; labels `[B, K]`, best first, empty where there are fewer; their scores `[B, K]`."""
TOP_K = 5
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository"]

Name = Annotated[str, Path(max_length=200, examples=["igsp"])]
Version = Annotated[str, Path(max_length=200)]
_ERROR = {"schema": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": "Error.", "content": {"application/json": _ERROR}} for status in statuses}


router = APIRouter(prefix="/v2", tags=["v2"])


@router.get("", summary="Server metadata", responses=_errors(401, 500, 503))
async def server() -> dict[str, Any]:
    """Name, version, extensions."""
    return {"name": "igsp-deploy", "version": __version__, "extensions": EXTENSIONS}


@router.get("/health/live", summary="Alive?", responses=_errors(503))
async def live(request: Request, has: Has) -> Response:
    """As /health/live."""
    reason = has.service.not_live()
    return JSONResponse({"live": True}) if reason is None else problem(request.scope, 503, reason)


@router.get("/health/ready", summary="Ready for traffic?", responses=_errors(503))
async def ready(request: Request, has: Has) -> Response:
    """As /health/ready."""
    reason = has.service.not_ready()
    return JSONResponse({"ready": True}) if reason is None else problem(request.scope, 503, reason)


@router.post("/repository/index", summary="List the models", responses=_errors(401, 413, 500, 503))
async def index(has: Has) -> list[dict[str, str]]:
    """The one model."""
    model = has.service.model()
    return [{"name": model.name, "version": model.version, "state": "READY", "reason": ""}]


@router.get("/models/{name}/ready", summary="Ready?", responses=_errors(400, 401, 404, 500, 503))
async def model_ready(request: Request, name: Name, has: Has) -> Response:
    """Whether the model may be asked."""
    return _missing(request, has, name, None) or await ready(request, has)


@router.get("/models/{name}/versions/{version}/ready", summary="Ready?", responses=_errors(400, 401, 404, 500, 503))
async def version_ready(request: Request, name: Name, version: Version, has: Has) -> Response:
    """Whether this version may be asked."""
    return _missing(request, has, name, version) or await ready(request, has)


@router.get("/models/{name}", summary="Model metadata", responses=_errors(400, 401, 404, 500, 503))
async def metadata(request: Request, name: Name, has: Has) -> Response:
    """Inputs and outputs."""
    return _missing(request, has, name, None) or JSONResponse(_metadata(has))


@router.get("/models/{name}/versions/{version}", summary="Model metadata", responses=_errors(400, 401, 404, 500, 503))
async def version_metadata(request: Request, name: Name, version: Version, has: Has) -> Response:
    """Inputs and outputs."""
    return _missing(request, has, name, version) or JSONResponse(_metadata(has))


@router.get("/models/{name}/config", summary="Model configuration", responses=_errors(400, 401, 404, 500, 503))
async def config(request: Request, name: Name, has: Has) -> Response:
    """As Triton describes a model; dimensions without the batch."""
    return _missing(request, has, name, None) or JSONResponse(_config(has))


@router.get(
    "/models/{name}/versions/{version}/config", summary="Model configuration", responses=_errors(400, 401, 404, 500)
)
async def version_config(request: Request, name: Name, version: Version, has: Has) -> Response:
    """As Triton describes a model; dimensions without the batch."""
    return _missing(request, has, name, version) or JSONResponse(_config(has))


_BODY = body_of(
    **{
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "properties": {
                    "id": {"type": "string"},
                    "inputs": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["name", "shape", "datatype"],
                            "properties": {
                                "name": {"enum": list(INPUTS)},
                                "shape": {"type": "array", "items": {"type": "integer"}},
                                "datatype": {"enum": list(INPUTS.values())},
                                "data": {"type": "array"},
                                "parameters": {"type": "object"},
                            },
                        },
                    },
                    "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
                    "parameters": {"type": "object"},
                },
            },
            "examples": {
                "file": {
                    "summary": "One file in base64",
                    "value": {
                        "inputs": [{"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [PIXEL]}],
                        "outputs": [{"name": "labels"}, {"name": "scores"}],
                    },
                }
            },
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
)


@router.post(
    "/models/{name}/infer",
    summary="Run the model",
    responses=_errors(400, 401, 404, 408, 413, 415, 429, 500, 503, 504),
    openapi_extra=_BODY,
)
async def infer(request: Request, name: Name, has: Has) -> Response:
    """Run the model on tensors, JSON or binary."""
    return _missing(request, has, name, None) or await _infer(request, has)


@router.post(
    "/models/{name}/versions/{version}/infer",
    summary="Run the model",
    responses=_errors(400, 401, 404, 408, 413, 415, 429, 500, 503, 504),
    openapi_extra=_BODY,
)
async def version_infer(request: Request, name: Name, version: Version, has: Has) -> Response:
    """Run the model on tensors, JSON or binary."""
    return _missing(request, has, name, version) or await _infer(request, has)


async def _infer(request: Request, has: Context) -> Response:
    asked = read_request(await request.body(), request.headers.get("inference-header-content-length"), INPUTS)
    images = _images(asked, has)
    task = asked.inputs.get("task", np.full(len(images), AUTO, np.int64))
    if task.size != len(images) or task.shape not in ((len(images),), (len(images), 1)):
        raise RequestError(f"task must have the shape [{len(images)}], one an image, got {list(task.shape)}.")
    unknown = sorted(set(asked.outputs or ()) - set(OUTPUTS))
    if unknown:
        raise RequestError(f"there is no output {unknown[0][:60]!r}. There are {', '.join(OUTPUTS)}.")
    top_k = asked.parameters.get("top_k", TOP_K)
    if type(top_k) is not int or not 1 <= top_k <= 10_000:
        raise RequestError("top_k must be a whole number in [1, 10000].")
    ran = await has.service.run(images, task.reshape(-1).astype(np.int64), timeout_s=_timeout_s(asked))
    wanted = asked.outputs if asked.outputs else dict.fromkeys(OUTPUTS, asked.binary)
    tensors = _tensors(ran, top_k, labels=bool({"labels", "scores"} & set(wanted)))
    described: dict[str, Any] = {"model_name": has.settings.name, "model_version": ran.snapshot.version}
    if asked.identity:
        described["id"] = asked.identity
    body, length = write_response(described, [(name, tensors[name], binary) for name, binary in wanted.items()])
    if length is None:
        return Response(body, media_type="application/json")
    headers = {"Inference-Header-Content-Length": str(length)}
    return Response(body, media_type="application/octet-stream", headers=headers)


def _images(asked: InferRequest, has: Context) -> list[Any]:
    """Rows of `images`, or the files of `image_bytes`."""
    given = [name for name in ("images", "image_bytes") if name in asked.inputs]
    if len(given) != 1:
        raise RequestError("give images or image_bytes, one of them.")
    tensor = asked.inputs[given[0]]
    size = has.service.snapshot().size
    if given[0] == "images":
        if tensor.ndim != 4 or tensor.shape[1:] != (size, size, 3):
            raise RequestError(f"images must have the shape [B, {size}, {size}, 3], got {list(tensor.shape)}.")
    elif tensor.ndim not in (1, 2) or tensor.size != len(tensor):
        raise RequestError(f"image_bytes must have the shape [B], got {list(tensor.shape)}.")
    else:
        tensor = tensor.reshape(-1)
    if not 1 <= len(tensor) <= has.settings.max_images:
        error = TooLarge if len(tensor) else RequestError
        raise error(f"a request may hold 1 to {has.settings.max_images} images, got {len(tensor)}.")
    return list(tensor)


def _tensors(ran: Ran, top_k: int, *, labels: bool) -> dict[str, NDArray[Any]]:
    rows, snapshot = ran.rows, ran.snapshot
    names = [(snapshot.name_of(used) or "").encode() for used in rows.task.tolist()]
    tensors: dict[str, NDArray[Any]] = {
        "features": rows.features,
        "used_task": rows.task,
        "task_scores": rows.task_scores,
        "task_name": np.array(names, np.object_),
    }
    if labels:
        label = np.full((len(names), top_k), b"", np.object_)
        score = np.zeros((len(names), top_k), np.float32)
        for row, (features, used, evidence) in enumerate(zip(rows.features, rows.task, rows.task_scores, strict=True)):
            found = snapshot.classifier.predict(features, int(used), evidence, snapshot.labels, top_k)
            label[row, : len(found.labels)] = [text.encode() for text in found.labels]
            score[row, : len(found.scores)] = found.scores
        tensors |= {"labels": label, "scores": score}
    return tensors


def _timeout_s(asked: InferRequest) -> float | None:
    """Triton's request parameter `timeout`, in µs; 0 is none."""
    given = asked.parameters.get("timeout")
    if given is None or given == 0:
        return None
    if type(given) is not int or given < 0:
        raise RequestError("timeout must be a whole number of microseconds.")
    return given / 1e6


def _missing(request: Request, has: Context, name: str, version: str | None) -> Response | None:
    model = has.service.model()
    if name != model.name:
        return problem(
            request.scope, 404, "Request for unknown model: there is one, listed by POST /v2/repository/index."
        )
    if version not in (None, "", model.version):
        return problem(request.scope, 404, f"Request for unknown version: the model is at version {model.version}.")
    return None


def _shapes(has: Context) -> dict[str, list[int]]:
    """Dimensions without the batch."""
    snapshot = has.service.snapshot()
    size = snapshot.size
    return {
        "images": [size, size, 3],
        "image_bytes": [],
        "task": [],
        "features": [snapshot.classifier.manifest.backbone.embed_dim],
        "used_task": [],
        "task_scores": [len(snapshot.names)],
        "task_name": [],
        "labels": [-1],
        "scores": [-1],
    }


def _metadata(has: Context) -> dict[str, Any]:
    shapes, model = _shapes(has), has.service.model()

    def rows(tensors: dict[str, str]) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": kind, "shape": [-1, *shapes[name]]} for name, kind in tensors.items()]

    return {
        "name": model.name,
        "versions": [model.version],
        "platform": "onnxruntime_onnx",
        "inputs": rows(INPUTS),
        "outputs": rows(OUTPUTS),
    }


def _config(has: Context) -> dict[str, Any]:
    shapes, model = _shapes(has), has.service.model()

    def rows(tensors: dict[str, str]) -> list[dict[str, Any]]:
        kinds = {"BYTES": "TYPE_STRING"}
        return [
            {"name": name, "data_type": kinds.get(kind, f"TYPE_{kind}"), "dims": shapes[name]}
            for name, kind in tensors.items()
        ]

    return {
        "name": model.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": has.settings.max_images,
        "input": [row | {"optional": True} for row in rows(INPUTS)],
        "output": rows(OUTPUTS),
        "dynamic_batching": {"max_queue_delay_microseconds": int(1000 * has.settings.max_wait_ms)},
    }
