"""Calls that change what is served, and `GET /v1/drift`. `keys.py` lets only admin keys come here."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi import Path as InPath

from igsp_deploy.errors import UserError
from igsp_serve.client_answers import Changed, Model
from igsp_serve.failures import RequestError
from igsp_serve.http.context import Context, Has, problems
from igsp_serve.http.inputs import BadInput
from igsp_serve.http.problems import request_id
from igsp_serve.http.schemas import AddTask, ReplaceBundle

router = APIRouter(tags=["admin"])


@router.post("/v1/tasks", summary="Add a task", responses=problems(400, 401, 403, 408, 413, 415, 422, 500, 503))
async def add_task(wanted: AddTask, request: Request, has: Has) -> Changed:
    """Learn a task from another export of the same model, while serving. Requests under way do not see it."""
    folder = await anyio.to_thread.run_sync(find_bundle, wanted.bundle, has.settings.bundle_roots)
    try:
        return _changed(has, request, await has.service.add_task(folder, wanted.task))
    except UserError as error:
        raise _without_paths(error, folder, wanted.bundle, has) from error


@router.delete("/v1/tasks/{name}", summary="Remove a task", responses=problems(401, 403, 404, 422, 500, 503))
async def remove_task(
    name: Annotated[str, InPath(max_length=200, examples=["digits"])], request: Request, has: Has
) -> Changed:
    """Forget a task while serving. Requests under way keep it to their end."""
    if name not in has.service.snapshot().names:
        raise BadInput(404, "there is no such task. GET /v1/tasks lists them.")
    return _changed(has, request, await has.service.remove_task(name))


@router.post(
    "/v1/models", summary="Replace the bundle", responses=problems(400, 401, 403, 408, 413, 415, 422, 500, 503)
)
async def replace_bundle(wanted: ReplaceBundle, request: Request, has: Has) -> Changed:
    """Serve another bundle: opened and warmed up beside, then swapped in one step."""
    folder = await anyio.to_thread.run_sync(find_bundle, wanted.bundle, has.settings.bundle_roots)
    try:
        return _changed(has, request, await has.service.replace_bundle(folder))
    except UserError as error:
        raise _without_paths(error, folder, wanted.bundle, has) from error


@router.get("/v1/drift", summary="Is what comes still what was learned?", responses=problems(401, 403, 500, 503))
async def drift(has: Has) -> dict[str, Any]:
    """The latest samples the model was unsure of, newest first. Shares over time are in the metrics."""
    return {"model": asdict(has.service.model()), **has.drift.report()}


def find_bundle(given: str, roots: tuple[Path, ...]) -> Path:
    """The folder a caller means, if it may be loaded.

    Args:
        given: a path inside one of `roots`, relative to it or whole.
        roots: folders from which bundles may be loaded.

    Raises:
        BadInput: outside of all roots, or with a link in it (403).
        RequestError: there is no such folder.
    """
    forbidden = BadInput(403, "bundles may only be loaded from the server's bundle roots, without links or `..`.")
    if "\0" in given or ".." in Path(given).parts:
        raise forbidden
    for root in roots:
        base = root.resolve()
        try:
            inside = (base / given).relative_to(base)
        except ValueError:
            continue
        path = base
        try:
            for part in inside.parts:
                path = path / part
                if path.is_symlink():
                    raise forbidden
            if not path.is_dir():
                continue
            if any(p.is_symlink() for p in path.rglob("*")):
                raise forbidden
        except OSError:  # a name that is too long, a folder that may not be read
            continue
        return path
    if Path(given).is_absolute() or not roots:
        raise forbidden
    raise RequestError("there is no such folder in the server's bundle roots.")


def _without_paths(error: UserError, folder: Path, given: str, has: Context) -> RequestError:
    text = str(error).replace(str(folder), given)
    for path in (has.service.engine.folder, has.service.engine.folder.resolve()):
        text = text.replace(str(path), "the bundle in use")
    return RequestError(text)


def _changed(has: Context, request: Request, model: Model) -> Changed:
    return Changed(model=model, tasks=tuple(has.service.snapshot().names), request_id=request_id(request.scope))
