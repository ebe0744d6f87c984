"""What a client of `igsp serve` gets: typed answers, and errors with the server's own words.

The parts whose fields say what they hold and give an example are what the server answers with, too: they are its
OpenAPI document. No numpy and no pydantic here, so that a client starts at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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


def _shown(example: Any, description: str = "") -> dict[str, Any]:
    """What the OpenAPI document says of a field."""
    return {"examples": [example]} | ({"description": description} if description else {})


REQUEST_ID = _shown("0f6c4e0e5f0b4a5c9a4c2b8f2f6f4d1e", "Under which the server's log has it.")


@dataclass(frozen=True, kw_only=True)
class Model:
    """What answered."""

    name: str = field(metadata=_shown("igsp", "Name the server was given for its model."))
    version: str = field(metadata=_shown("3f9c2a7be014", "Changes whenever the graphs or the tasks do."))


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Where the time went, in ms."""

    queue_ms: float = field(metadata=_shown(1.2, "Longest wait of a decoded image for the model."))
    decode_ms: float = field(metadata=_shown(2.9, "Decoding and resizing, all images together."))
    inference_ms: float = field(metadata=_shown(8.1, "Calls of the model that held its images."))
    total_ms: float = field(metadata=_shown(12.9, "From start to answer, inside the server."))


@dataclass(frozen=True, kw_only=True)
class Label:
    """One label."""

    label: str = field(metadata=_shown("sneaker"))
    score: float = field(metadata=_shown(0.93, "Its probability among the candidates."))
    task: str | None = field(metadata=_shown("shoes", "The task it belongs to; null for a prompt."))


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """What was found for one image.

    Attributes:
        task: whose experts were used; None for plain CLIP.
        zero_shot: no learned task was used.
        unsure: the best score is lower than the `min_score` that was asked for.
        labels: best first.
        task_scores: selector score of each task minus its threshold; at least 0: the task would take the image.
    """

    task: str | None
    zero_shot: bool
    unsure: bool
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

    name: str = field(metadata=_shown("shoes"))
    classes: tuple[str, ...] = field(metadata=_shown(["sneaker", "boot"]))
    templates: tuple[str, ...] = field(metadata=_shown(["a photo of a {}."]))
    experts: int = field(metadata=_shown(24, "Experts its routers use."))
    experts_new: int = field(metadata=_shown(6, "Those that came with it."))
    size_bytes: int = field(metadata=_shown(220_160, "What it adds to the bundle."))
    fingerprint: str = field(metadata=_shown("9f2c", "SHA-256 of what was learned."))


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The model that is served, and what it runs on."""

    name: str = field(metadata=_shown("igsp"))
    version: str = field(metadata=_shown("3f9c2a7be014"))
    backbone: str = field(metadata=_shown("ViT-B-16"))
    provider: str = field(metadata=_shown("CPUExecutionProvider"))
    precision: str = field(metadata=_shown("fp32"))
    image_size: int = field(metadata=_shown(224, "Side of the model's input, in pixels."))
    embed_dim: int = field(metadata=_shown(512))
    tasks: tuple[str, ...] = field(metadata=_shown(["shoes", "digits"]))


@dataclass(frozen=True, kw_only=True)
class Changed:
    """Answer of the calls that change what is served."""

    model: Model
    tasks: tuple[str, ...] = field(metadata=_shown(["shoes", "digits"], "Tasks known now."))
    request_id: str = field(metadata=REQUEST_ID)


def read_classified(values: Any) -> Classified:
    results = tuple(
        ImageResult(
            task=row["task"],
            zero_shot=row["zero_shot"],
            unsure=row.get("unsure", False),  # older servers do not know it
            labels=tuple(_known(Label, found) for found in row["predictions"]),
            task_scores=dict(row["task_scores"]),
        )
        for row in values["results"]
    )
    return Classified(
        model=_known(Model, values["model"]),
        results=results,
        timings=_known(Timings, values["timings"]),
        request_id=values["request_id"],
    )


def read_embedded(values: Any) -> Embedded:
    return Embedded(
        model=_known(Model, values["model"]),
        embeddings=tuple(tuple(row) for row in values["embeddings"]),
        tasks=tuple(values["task"]),
        timings=_known(Timings, values["timings"]),
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
    return Changed(model=_known(Model, values["model"]), tasks=tuple(values["tasks"]), request_id=values["request_id"])
