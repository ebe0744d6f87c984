"""`GET /v1/tasks` and `GET /v1/models`: what is served."""

from dataclasses import fields

from fastapi import APIRouter

from igsp_serve.client_answers import Model, ModelInfo, Task
from igsp_serve.http.context import Has, problems
from igsp_serve.http.schemas import AllTasks, ModelsAnswer

router = APIRouter(tags=["model"])


@router.get("/v1/tasks", summary="List the tasks", responses=problems(401, 500, 503))
async def tasks(has: Has) -> AllTasks:
    """The tasks the model knows now, in the order they were learned, with their classes."""
    snapshot = has.service.snapshot()
    return AllTasks(
        model=Model(name=has.settings.name, version=snapshot.version),
        tasks=[
            Task(**{field.name: getattr(task, field.name) for field in fields(Task)})
            for task in snapshot.known.task_set.entries
        ],
    )


@router.get("/v1/models", summary="List the models", responses=problems(401, 500, 503))
async def models(has: Has) -> ModelsAnswer:
    """The one model that is served, its version, and what it runs on."""
    snapshot = has.service.snapshot()
    engine, manifest = snapshot.classifier.engine, snapshot.classifier.manifest
    info = ModelInfo(
        name=has.settings.name,
        version=snapshot.version,
        backbone=manifest.backbone.name,
        provider=engine.provider,
        precision=engine.variant.precision,
        image_size=snapshot.size,
        embed_dim=manifest.backbone.embed_dim,
        tasks=tuple(snapshot.names),
    )
    return ModelsAnswer(models=[info])
