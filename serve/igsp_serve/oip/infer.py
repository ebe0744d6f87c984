"""An infer call of the Open Inference Protocol: tensors in, tensors out, whatever carried them."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.runtime.classifier import Prediction
from igsp_serve.answers import Ran
from igsp_serve.failures import RequestError, TooLarge
from igsp_serve.http.inputs import uncollected
from igsp_serve.labelling import Labelling
from igsp_serve.oip.model import OUTPUTS
from igsp_serve.oip.statistics import Statistics
from igsp_serve.oip.tensors import InferRequest, check_parameters, short
from igsp_serve.service import Service
from igsp_serve.snapshot import Snapshot
from igsp_serve.watchers import ImageSource

TOP_K = 5
MAX_TOP_K = 10_000
PARAMETERS = ("task", "top_k", "prompts", "template", "timeout")
"""Of a request: a task's name, `auto` or `none` for all its images; labels of an image; a JSON list of texts to choose
among instead of learned classes; what is put around them; time to answer in µs."""


@dataclass(frozen=True, kw_only=True)
class InferAnswer:
    """What is answered.

    Attributes:
        outputs: name and tensor of those that were asked for, in that order.
        parameters: `bundle_version`, and `tasks`, the names of the columns of `task_scores`, as JSON.
    """

    outputs: list[tuple[str, NDArray[Any]]]
    parameters: dict[str, str]


async def infer(
    service: Service,
    statistics: Statistics,
    asked: InferRequest,
    *,
    request_id: str = "",
    timeout_s: float | None = None,
) -> InferAnswer:
    """Answer a request. Cancelling this coroutine drops what has not reached the model.

    Args:
        service: what answers.
        statistics: where it is counted.
        asked: the request.
        request_id: for those who watch.
        timeout_s: time its transport allows; its own parameter `timeout` may allow less.

    Raises:
        RequestError: it cannot be answered as it is; says what was expected.
        Overloaded, DeadlineExceeded, Unavailable, EngineFailed: as `Service.classify` raises them.
    """
    start = time.monotonic()
    try:
        answer, ran = await _infer(service, asked, request_id, timeout_s)
    except BaseException:
        statistics.failed(time.monotonic() - start)
        raise
    statistics.succeeded(ran.timings, max(0.0, time.monotonic() - start - ran.timings.total_ms / 1e3))
    return answer


async def _infer(
    service: Service, asked: InferRequest, request_id: str, timeout_s: float | None
) -> tuple[InferAnswer, Ran]:
    check_parameters(asked.parameters, PARAMETERS, "a request")
    unknown = sorted(set(asked.outputs or ()) - set(OUTPUTS))
    if unknown:
        raise RequestError(f"there is no output {short(unknown[0])}. There are {', '.join(OUTPUTS)}.")
    outputs = asked.outputs or tuple(OUTPUTS)
    wanted = _labelling(asked, request_id)
    limits = [limit for limit in (timeout_s, _timeout_s(asked)) if limit is not None]
    snapshot = service.snapshot()
    images = _images(service, snapshot, asked)
    ran = await service.run(
        images,
        _tasks(asked, len(images)),
        wanted=wanted if {"labels", "scores"} & set(outputs) else None,
        snapshot=snapshot,
        timeout_s=min(limits, default=None),
    )
    tensors: dict[str, NDArray[Any]] = {
        "features": ran.rows.features,
        "task_scores": ran.rows.task_scores,
        "task_name": _texts([snapshot.name_of(used) or "" for used in ran.rows.task.tolist()]),
    }
    if ran.results:
        tensors |= _labels(ran.results)
    parameters = {"bundle_version": snapshot.version}
    if "task_scores" in outputs:
        parameters["tasks"] = json.dumps(snapshot.names)
    return InferAnswer(outputs=[(name, tensors[name]) for name in outputs], parameters=parameters), ran


def _labelling(asked: InferRequest, request_id: str) -> Labelling:
    """The labels that the parameters ask for. No parameter is a list: one of prompts comes as JSON in a text."""
    top_k, template = asked.parameters.get("top_k", TOP_K), asked.parameters.get("template")
    if type(top_k) is not int or not 1 <= top_k <= MAX_TOP_K:
        raise RequestError(f"top_k must be a whole number in [1, {MAX_TOP_K}], got {short(top_k)}.")
    if template is not None and not isinstance(template, str):
        raise RequestError(f"template must be a text with {{}} in it, got {short(template)}.")
    prompts, given = None, asked.parameters.get("prompts")
    if given is not None:
        try:
            with uncollected():
                prompts = json.loads(given)
        except (TypeError, ValueError, RecursionError):
            prompts = None
        if not isinstance(prompts, list) or not all(isinstance(text, str) for text in prompts):
            raise RequestError(f'prompts must be a JSON list of texts, as ["cat", "dog"], got {short(given)}.')
    return Labelling(top_k=top_k, prompts=prompts, template=template, request_id=request_id)


def _images(service: Service, snapshot: Snapshot, asked: InferRequest) -> list[ImageSource]:
    """Rows of `images`, or the files of `image_bytes`."""
    given = [name for name in ("images", "image_bytes") if name in asked.inputs]
    if len(given) != 1:
        raise RequestError("give images or image_bytes, one of them.")
    tensor, size, most = asked.inputs[given[0]], snapshot.size, service.settings.max_images
    if given[0] == "images":
        if tensor.ndim != 4 or tensor.shape[1:] != (size, size, 3):
            raise RequestError(f"images must have the shape [B, {size}, {size}, 3], got {list(tensor.shape)}.")
    elif tensor.ndim not in (1, 2) or tensor.size != len(tensor):
        raise RequestError(f"image_bytes must have the shape [B], got {list(tensor.shape)}.")
    else:
        tensor = tensor.reshape(-1)
    if not 1 <= len(tensor) <= most:
        error = TooLarge if len(tensor) else RequestError
        raise error(f"a request may hold 1 to {most} images, got {len(tensor)}.")
    return list(tensor)


def _tasks(asked: InferRequest, count: int) -> str | list[str]:
    """The tasks that were named: one for all images, or one each."""
    given, common = asked.inputs.get("task"), asked.parameters.get("task")
    if given is not None and common is not None:
        raise RequestError("give the input task (one an image) or the parameter task (for all), not both.")
    if given is None:
        if common is not None and not isinstance(common, str):
            raise RequestError(f"the parameter task must be the name of a task, auto or none, got {short(common)}.")
        return "auto" if common is None else common
    if given.size != count or given.shape not in ((count,), (count, 1)):
        raise RequestError(f"task must have the shape [{count}], one an image, got {list(given.shape)}.")
    return [name.decode("utf-8", "replace") for name in given.reshape(-1).tolist()]


def _timeout_s(asked: InferRequest) -> float | None:
    """Triton's request parameter `timeout`, in µs; 0 is none."""
    given = asked.parameters.get("timeout", 0)
    if type(given) is not int or given < 0:
        raise RequestError(f"timeout must be a whole number of microseconds, got {short(given)}.")
    return min(given, 2**63) / 1e6 or None  # larger ones may be no float


def _labels(predictions: Sequence[Prediction]) -> dict[str, NDArray[Any]]:
    """As wide as the longest answer, not as what was asked for, which may be far more than there are labels."""
    width = max(len(found.labels) for found in predictions)
    label = np.full((len(predictions), width), b"", np.object_)
    score = np.zeros((len(predictions), width), np.float32)
    for row, found in enumerate(predictions):
        label[row, : len(found.labels)] = _texts(found.labels)
        score[row, : len(found.scores)] = found.scores
    return {"labels": label, "scores": score}


def _texts(texts: Sequence[str]) -> NDArray[Any]:
    return np.array([text.encode() for text in texts], np.object_)
