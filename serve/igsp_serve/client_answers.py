"""What a client of `igsp serve` gets: typed answers, and errors with the server's own words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from igsp_deploy.errors import UserError

T = TypeVar("T")


class ServerProblem(UserError):
    """The server refused or failed; its problem document (RFC 9457) in parts.

    Attributes:
        status: HTTP status.
        title: kind of problem.
        detail: what was wrong and what to do.
        request_id: under which the server's log has it.
        errors: fields that were wrong: name -> why.
    """

    def __init__(self, status: int, title: str, detail: str, request_id: str, errors: Mapping[str, str]) -> None:
        """From a problem document."""
        super().__init__(f"{detail} (HTTP {status}{f', request {request_id}' if request_id else ''})")
        self.status = status
        self.title = title
        self.detail = detail
        self.request_id = request_id
        self.errors = dict(errors)


class ServerUnreachable(UserError):
    """Nobody answered, or not with what an `igsp serve` answers."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What answered."""

    name: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Where the time went inside the server, in ms."""

    queue_ms: float
    decode_ms: float
    inference_ms: float
    total_ms: float


@dataclass(frozen=True, kw_only=True)
class Label:
    """One label: its probability among the candidates, and the task it belongs to (None for a prompt)."""

    label: str
    score: float
    task: str | None


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """What was found for one image.

    Attributes:
        task: whose experts were used; None for plain CLIP.
        zero_shot: no learned task was used.
        labels: best first.
        task_scores: selector score of each task minus its threshold; at least 0: the task would take the image.
    """

    task: str | None
    zero_shot: bool
    labels: tuple[Label, ...]
    task_scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Classified:
    """Answer of `classify`: a result for each image, in order."""

    model: Model
    results: tuple[ImageResult, ...]
    timings: Timings
    request_id: str


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Answer of `embed_images` and `embed_texts`.

    Attributes:
        model: what answered.
        embeddings: of length 1, one an image or text.
        tasks: used for each; None for plain CLIP.
        timings: where the time went.
        request_id: under which the server's log has it.
    """

    model: Model
    embeddings: tuple[tuple[float, ...], ...]
    tasks: tuple[str | None, ...]
    timings: Timings
    request_id: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task the model knows."""

    name: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    experts: int
    experts_new: int
    size_bytes: int
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The model that is served, and what it runs on."""

    name: str
    version: str
    backbone: str
    provider: str
    precision: str
    image_size: int
    embed_dim: int
    tasks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Changed:
    """Answer of the calls that change what is served: its version and tasks now."""

    model: Model
    tasks: tuple[str, ...]
    request_id: str


def _model(values: Any) -> Model:
    return Model(name=values["name"], version=values["version"])


def _timings(values: Any) -> Timings:
    return Timings(**{name: float(values[name]) for name in Timings.__dataclass_fields__})


def read_classified(values: Any) -> Classified:
    results = tuple(
        ImageResult(
            task=row["task"],
            zero_shot=row["zero_shot"],
            labels=tuple(
                Label(label=found["label"], score=found["score"], task=found["task"]) for found in row["predictions"]
            ),
            task_scores=dict(row["task_scores"]),
        )
        for row in values["results"]
    )
    return Classified(
        model=_model(values["model"]),
        results=results,
        timings=_timings(values["timings"]),
        request_id=values["request_id"],
    )


def read_embedded(values: Any) -> Embedded:
    return Embedded(
        model=_model(values["model"]),
        embeddings=tuple(tuple(row) for row in values["embeddings"]),
        tasks=tuple(values["task"]),
        timings=_timings(values["timings"]),
        request_id=values["request_id"],
    )


def read_tasks(values: Any) -> tuple[Task, ...]:
    return tuple(_known(Task, row) for row in values["tasks"])


def read_info(values: Any) -> ModelInfo:
    (row,) = values["models"]
    return _known(ModelInfo, row)


def _known(kind: Callable[..., T], row: Mapping[str, Any]) -> T:
    """A dataclass from the fields it knows: a newer server may send more."""
    names: Mapping[str, Any] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return kind(**{name: tuple(row[name]) if isinstance(row[name], list) else row[name] for name in names})


def read_changed(values: Any) -> Changed:
    return Changed(model=_model(values["model"]), tasks=tuple(values["tasks"]), request_id=values["request_id"])
