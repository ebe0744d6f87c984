"""`POST /v1/embed`."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from igsp_serve.failures import RequestError
from igsp_serve.http.classify import form_schema
from igsp_serve.http.context import Has, body_of, problems
from igsp_serve.http.inputs import content_type, decode_images, read_form, read_json
from igsp_serve.http.problems import request_id
from igsp_serve.http.schemas import EmbedAnswer, EmbedOptions, EmbedRequest, embed_answer

router = APIRouter(tags=["inference"])


@router.post(
    "/v1/embed",
    response_model=EmbedAnswer,
    summary="Embed images or texts",
    responses=problems(400, 401, 408, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra=body_of(
        **{
            "multipart/form-data": {"schema": form_schema(EmbedOptions) | {"required": ["images"]}},
            "application/json": {"schema": EmbedRequest.model_json_schema()},
        }
    ),
)
async def embed(request: Request, has: Has) -> Response:
    """Embed images under the named or chosen task's experts, or texts."""
    options: EmbedOptions
    texts: list[str] | None = None
    if content_type(request) == "application/json":
        options = asked = await read_json(request, EmbedRequest)
        if (asked.images is None) == (asked.texts is None):
            raise RequestError("give images or texts, one of them.")
        images = decode_images(asked.images or [], max_images=has.settings.max_images)
        texts = asked.texts
    else:
        images, options = await read_form(request, EmbedOptions, max_images=has.settings.max_images)
    if texts is not None:
        answer = await has.service.embed_texts(texts, task=options.task or "none", timeout_s=options.timeout_s)
    else:
        answer = await has.service.embed_images(images, task=options.task or "auto", timeout_s=options.timeout_s)
    return JSONResponse(embed_answer(answer, request_id(request.scope)))
