"""What goes over the wire under /v1, with examples: the OpenAPI document is made from this."""

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from igsp_deploy.names import DEFAULT_TEMPLATE
from igsp_deploy.runtime.prompts import MAX_TEMPLATE
from igsp_serve.answers import Classified, Embedded
from igsp_serve.client_answers import Label, Model, ModelInfo, Task, Timings

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mP8z8DAwMDAxMDAwMDAAAANHQEDaB7T3gAAAABJRU5ErkJggg=="
"""A PNG of 2 x 2 red pixels in base64: the image of the examples."""

ChosenTask = Annotated[
    str, Field(max_length=200, description="`auto` chooses for each image, `none` is plain CLIP, else a task's name.")
]


def _no_bool(value: Any) -> Any:
    """JSON's true is not the number 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


TopK = Annotated[
    int,
    # Limits first: those behind a validator of ours are not in the JSON schema.
    Field(ge=1, le=100_000, description="Labels to return for an image; fewer where there are fewer."),
    BeforeValidator(_no_bool),
]
MinScore = Annotated[
    float,
    Field(ge=0, le=1, description="Probability under which the best label is called unsure; it is told all the same."),
    BeforeValidator(_no_bool),
]
TimeoutS = Annotated[
    float,
    Field(gt=0, allow_inf_nan=False, description="Time to answer, in seconds; the server has a limit."),
    BeforeValidator(_no_bool),
]
# One wrong item ends the check: a body has room for millions, each of which would become an error of its own.
Texts = Annotated[list[str], Field(fail_fast=True)]
Images = Annotated[Texts, Field(min_length=1, description="Files (JPEG, PNG, ...) in base64, or data URLs of them.")]


class Wire(BaseModel):
    """Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class ClassifyOptions(Wire):
    """Fields of a request to classify, besides its images."""

    task: ChosenTask = "auto"
    top_k: TopK = 5
    prompts: Texts | None = Field(
        default=None,
        min_length=1,
        description="Words or sentences to choose among instead of learned classes.",
        examples=[["cat", "dog"]],
    )
    template: str | None = Field(
        default=None,
        max_length=MAX_TEMPLATE,
        description='Put around every prompt, with {} where it goes; "{}" leaves them as they are. '
        f'Default: "{DEFAULT_TEMPLATE}" around those that are no sentences.',
        examples=["a drawing of a {}."],
    )
    min_score: MinScore = 0.0
    timeout_s: TimeoutS | None = None


class ClassifyRequest(ClassifyOptions):
    """`POST /v1/classify` as JSON."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"images": [PIXEL], "task": "auto", "top_k": 3}]},
    )

    images: Images


class EmbedOptions(Wire):
    """Fields of a request to embed, besides its images."""

    task: ChosenTask | None = Field(default=None, description="For images `auto` unless given, for texts `none`.")
    timeout_s: TimeoutS | None = None


class EmbedRequest(EmbedOptions):
    """`POST /v1/embed` as JSON: images or texts."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"texts": ["a photo of a cat"]}, {"images": [PIXEL]}]}
    )

    images: Images | None = None
    texts: Texts | None = Field(default=None, min_length=1, description="Whole sentences.")


class ImageResult(BaseModel):
    """What was found for one image."""

    task: str | None = Field(description="Task whose experts were used; null for plain CLIP.", examples=["shoes"])
    zero_shot: bool = Field(description="No learned task was used.", examples=[False])
    unsure: bool = Field(description="The best score is lower than the `min_score` of the request.", examples=[False])
    predictions: list[Label] = Field(description="Best first.")
    task_scores: dict[str, float] = Field(
        description="Selector score of each task minus its threshold; at least 0: the task would take the image.",
        examples=[{"shoes": 3.1, "digits": -88.0}],
    )


class ClassifyAnswer(BaseModel):
    """Answer of `POST /v1/classify`."""

    model: Model
    results: list[ImageResult] = Field(description="One an image, in order.")
    timings: Timings
    request_id: str = Field(examples=["0f6c4e0e5f0b4a5c9a4c2b8f2f6f4d1e"])


class EmbedAnswer(BaseModel):
    """Answer of `POST /v1/embed`."""

    model: Model
    embeddings: list[list[float]] = Field(description="Of length 1, one an image or text.", examples=[[[0.6, -0.8]]])
    task: list[str | None] = Field(description="Task used for each; null for plain CLIP.", examples=[[None]])
    timings: Timings
    request_id: str = Field(examples=["0f6c4e0e5f0b4a5c9a4c2b8f2f6f4d1e"])


class AllTasks(BaseModel):
    """Answer of `GET /v1/tasks`."""

    model: Model
    tasks: list[Task] = Field(description="In the order they were learned.")


class ModelsAnswer(BaseModel):
    """Answer of `GET /v1/models`."""

    models: list[ModelInfo]


class AddTask(Wire):
    """`POST /v1/tasks`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"bundle": "2026-11/bundle", "task": "digits"}]}
    )

    bundle: str = Field(description="Folder of an export, inside one of the server's bundle roots.", max_length=4000)
    task: str = Field(description="The task to add.", max_length=200)


class ReplaceBundle(Wire):
    """`POST /v1/models`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"bundle": "2026-11/bundle"}]})

    bundle: str = Field(description="Folder of an export, inside one of the server's bundle roots.", max_length=4000)


class WrongField(BaseModel):
    """A field that is wrong."""

    field: str = Field(examples=["top_k"])
    detail: str = Field(examples=["Input should be greater than or equal to 1"])


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(description="What was wrong and what to do.", examples=["there is no image."])
    instance: str = Field(description="Id of the request.", examples=["0f6c4e0e5f0b4a5c9a4c2b8f2f6f4d1e"])
    errors: list[WrongField] | None = None


class Root(BaseModel):
    """Answer of `GET /`."""

    name: str = Field(examples=["igsp-deploy"])
    version: str = Field(description="Of the server.", examples=["0.1.0"])
    paths: list[str] = Field(description="Where to look.", examples=[["/docs", "/openapi.json"]])


class Health(BaseModel):
    """Answer of the probes."""

    status: str = Field(examples=["ok"])


def classify_answer(answer: Classified, request_id: str) -> dict[str, Any]:
    """A `ClassifyAnswer` as plain values."""
    return {
        "model": asdict(answer.model),
        "results": [result.to_json() for result in answer.results],
        "timings": asdict(answer.timings),
        "request_id": request_id,
    }


def embed_answer(answer: Embedded, request_id: str) -> dict[str, Any]:
    """An `EmbedAnswer` as plain values."""
    return {
        "model": asdict(answer.model),
        "embeddings": answer.embeddings.tolist(),
        "task": list(answer.tasks),
        "timings": asdict(answer.timings),
        "request_id": request_id,
    }
