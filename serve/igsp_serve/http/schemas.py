"""What goes over the wire under /v1, with examples: the OpenAPI document is made from this."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from igsp_deploy.names import DEFAULT_TEMPLATE
from igsp_deploy.runtime.prompts import MAX_TEMPLATE
from igsp_serve.answers import Classified, Embedded, ModelVersion, Timings

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mP8z8DAwMDAxMDAwMDAAAANHQEDaB7T3gAAAABJRU5ErkJggg=="
"""A PNG of 2 x 2 red pixels in base64: the image of the examples."""

Task = Annotated[
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
TimeoutS = Annotated[
    float,
    Field(gt=0, allow_inf_nan=False, description="Time to answer, in seconds; the server has a limit."),
    BeforeValidator(_no_bool),
]
Images = Annotated[
    list[str], Field(min_length=1, description="Files (JPEG, PNG, ...) in base64, or data URLs of them.")
]


class Wire(BaseModel):
    """Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class ClassifyOptions(Wire):
    """Fields of a request to classify, besides its images."""

    task: Task = "auto"
    top_k: TopK = 5
    prompts: list[str] | None = Field(
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

    task: Task | None = Field(default=None, description="For images `auto` unless given, for texts `none`.")
    timeout_s: TimeoutS | None = None


class EmbedRequest(EmbedOptions):
    """`POST /v1/embed` as JSON: images or texts."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"texts": ["a photo of a cat"]}, {"images": [PIXEL]}]}
    )

    images: Images | None = None
    texts: list[str] | None = Field(default=None, min_length=1, description="Whole sentences.")


class Model(BaseModel):
    """What answered."""

    name: str = Field(examples=["igsp"])
    version: str = Field(description="Changes whenever the graphs or the tasks do.", examples=["3f9c2a7be014"])

    @classmethod
    def of(cls, model: ModelVersion) -> "Model":
        """From the service's own."""
        return cls(name=model.name, version=model.version)


class Times(BaseModel):
    """Where the time went, in ms."""

    queue_ms: float = Field(description="Longest wait of a decoded image for the model.", examples=[1.2])
    decode_ms: float = Field(description="Decoding and resizing, all images together.", examples=[2.9])
    inference_ms: float = Field(description="Calls of the model that held its images.", examples=[8.1])
    total_ms: float = Field(description="From start to answer, inside the server.", examples=[12.9])

    @classmethod
    def of(cls, timings: Timings) -> "Times":
        """From the service's own."""
        return cls(**{name: getattr(timings, name) for name in cls.model_fields})


class Label(BaseModel):
    """One label."""

    label: str = Field(examples=["sneaker"])
    score: float = Field(description="Its probability among the candidates.", examples=[0.93])
    task: str | None = Field(description="The task it belongs to; null for a prompt.", examples=["shoes"])


class ImageResult(BaseModel):
    """What was found for one image."""

    task: str | None = Field(description="Task whose experts were used; null for plain CLIP.", examples=["shoes"])
    zero_shot: bool = Field(description="No learned task was used.", examples=[False])
    predictions: list[Label] = Field(description="Best first.")
    task_scores: dict[str, float] = Field(
        description="Selector score of each task minus its threshold; at least 0: the task would take the image.",
        examples=[{"shoes": 3.1, "digits": -88.0}],
    )


class ClassifyAnswer(BaseModel):
    """Answer of `POST /v1/classify`."""

    model: Model
    results: list[ImageResult] = Field(description="One an image, in order.")
    timings: Times
    request_id: str = Field(examples=["0f6c4e0e5f0b4a5c9a4c2b8f2f6f4d1e"])


class EmbedAnswer(BaseModel):
    """Answer of `POST /v1/embed`."""

    model: Model
    embeddings: list[list[float]] = Field(description="Of length 1, one an image or text.", examples=[[[0.6, -0.8]]])
    task: list[str | None] = Field(description="Task used for each; null for plain CLIP.", examples=[[None]])
    timings: Times
    request_id: str = Field(examples=["0f6c4e0e5f0b4a5c9a4c2b8f2f6f4d1e"])


class TaskInfo(BaseModel):
    """A task the model knows."""

    name: str = Field(examples=["shoes"])
    classes: list[str] = Field(examples=[["sneaker", "boot"]])
    templates: list[str] = Field(examples=[["a photo of a {}."]])
    experts: int = Field(description="Experts its routers use.", examples=[24])
    experts_new: int = Field(description="Those that came with it.", examples=[6])
    size_bytes: int = Field(description="What it adds to the bundle.", examples=[220_160])
    fingerprint: str = Field(description="SHA-256 of what was learned.", examples=["9f2c"])


class TasksAnswer(BaseModel):
    """Answer of `GET /v1/tasks`."""

    model: Model
    tasks: list[TaskInfo] = Field(description="In the order they were learned.")


class ModelInfo(BaseModel):
    """The model that is served."""

    name: str = Field(examples=["igsp"])
    version: str = Field(examples=["3f9c2a7be014"])
    backbone: str = Field(examples=["ViT-B-16"])
    provider: str = Field(examples=["CPUExecutionProvider"])
    precision: str = Field(examples=["fp32"])
    image_size: int = Field(description="Side of the model's input, in pixels.", examples=[224])
    embed_dim: int = Field(examples=[512])
    tasks: list[str] = Field(examples=[["shoes", "digits"]])


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


class Changed(BaseModel):
    """Answer of calls that change what is served."""

    model: Model
    tasks: list[str] = Field(description="Tasks known now.", examples=[["shoes", "digits"]])
    request_id: str = Field(examples=["0f6c4e0e5f0b4a5c9a4c2b8f2f6f4d1e"])


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
        "model": Model.of(answer.model).model_dump(),
        "results": [result.to_json() for result in answer.results],
        "timings": Times.of(answer.timings).model_dump(),
        "request_id": request_id,
    }


def embed_answer(answer: Embedded, request_id: str) -> dict[str, Any]:
    """An `EmbedAnswer` as plain values."""
    return {
        "model": Model.of(answer.model).model_dump(),
        "embeddings": answer.embeddings.tolist(),
        "task": list(answer.tasks),
        "timings": Times.of(answer.timings).model_dump(),
        "request_id": request_id,
    }
