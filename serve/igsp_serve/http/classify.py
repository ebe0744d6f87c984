"""`POST /v1/classify`."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from igsp_serve.http.context import Has, body_of, problems
from igsp_serve.http.inputs import content_type, decode_images, read_form, read_json
from igsp_serve.http.problems import request_id
from igsp_serve.http.schemas import ClassifyAnswer, ClassifyOptions, ClassifyRequest, classify_answer

router = APIRouter(tags=["inference"])


def form_schema(options: type[Any]) -> dict[str, Any]:
    """A model's fields as those of a form, with files."""
    schema: dict[str, Any] = options.model_json_schema()
    files = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
    properties = {"images": files | {"description": "Files: JPEG, PNG, and what else pillow reads."}}
    for name, field in schema["properties"].items():
        # A form has no null: a field is there or it is not.
        kept: dict[str, Any] = next((kind for kind in field.get("anyOf", []) if kind.get("type") != "null"), {})
        properties[name] = {k: v for k, v in (field | kept).items() if k not in ("anyOf", "default", "title")}
    return {"type": "object", "properties": properties, "additionalProperties": False}


@router.post(
    "/v1/classify",
    response_model=ClassifyAnswer,
    summary="Say what is in images",
    responses=problems(400, 401, 408, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra=body_of(
        **{
            "multipart/form-data": {"schema": form_schema(ClassifyOptions) | {"required": ["images"]}},
            "application/json": {"schema": ClassifyRequest.model_json_schema()},
        }
    ),
)
async def classify(request: Request, has: Has) -> Response:
    """Classify one or many images, each in the task that is named or chosen for it."""
    options: ClassifyOptions
    if content_type(request) == "application/json":
        options = asked = await read_json(request, ClassifyRequest)
        images = decode_images(asked.images, max_images=has.settings.max_images)
    else:
        images, options = await read_form(request, ClassifyOptions, max_images=has.settings.max_images)
    identity = request_id(request.scope)
    answer = await has.service.classify(
        images,
        task=options.task,
        top_k=options.top_k,
        prompts=options.prompts,
        template=options.template,
        min_score=options.min_score,
        timeout_s=options.timeout_s,
        request_id=identity,
    )
    return JSONResponse(classify_answer(answer, identity))
