"""Whether a path is a model folder, and the lock of one: what every command that takes a MODEL asks first. No torch."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from igsp_deploy.errors import UserError
from igsp_deploy.files import explain_os_error, sha256_file
from igsp_deploy.locks import try_lock

LOCK = ".lock"
EXTENDED = "extended"
"""Folders inside a task's folder, `extended-001` and so on: what more images have changed of it."""
HEAD = "head.safetensors"
"""File of a task's head, where it has one."""
SPLIT = "split.json"
"""File of a task's split, where it was kept."""
_WEIGHTS: ContextVar[str | None] = ContextVar("weights", default=None)


@contextmanager
def weights_at(place: Path | None) -> Iterator[None]:
    """Look for the checkpoint of a model's backbone there, not where it lay when the model was made.

    Whether it is the right one is decided by the hash of its weights, not by its name.
    """
    token = _WEIGHTS.set(None if place is None else str(place))
    try:
        yield
    finally:
        _WEIGHTS.reset(token)


def weights_place() -> str | None:
    """What `weights_at` says, or None."""
    return _WEIGHTS.get()


def require_model(path: Path) -> None:
    """Refuse what does not look like a model folder.

    Raises:
        UserError: it is absent, a bundle, or something else; says which and what to give.
    """
    if (path / "config.json").is_file():
        return
    if not path.exists():
        raise UserError(
            f"{path} is not a model folder: it does not exist. "
            f"`igsp train {path} --task NAME=FOLDER` makes one of that name."
        )
    if (path / "manifest.json").is_file():
        raise UserError(f"{path} is not a model folder but a bundle. Give the model folder it was exported from.")
    raise UserError(f"{path} is not a model folder (it has no config.json). Give the folder that `igsp train` made.")


@contextmanager
def locked_model(path: Path) -> Iterator[None]:
    """Keep every other process from changing the model folder: from opening it to committing what was learned.

    The folder is made if it is not there, and goes again if nothing was put into it. What holds the lock may take it
    again.

    Raises:
        UserError: another process is learning into it, or it cannot be written.
    """
    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, path) from error
    with try_lock(path / LOCK) as ours:
        if not ours:
            raise UserError(f"another process is learning into {path}. Wait for it, or stop it first.")
        try:
            yield
        finally:
            if made and not (path / "config.json").exists():
                with suppress(OSError):  # not empty: not ours to remove
                    _remove_empty(path)


def is_unused(path: Path) -> bool:
    """Whether a folder holds nothing but a lock, an empty `tasks`, and what a file system puts into each."""
    return all(
        entry.name.startswith(".") or entry.name == "lost+found" or (entry.name == "tasks" and not any(entry.iterdir()))
        for entry in path.iterdir()
    )


def _remove_empty(path: Path) -> None:
    if {entry.name for entry in path.iterdir()} <= {LOCK, f"{LOCK}.soft"}:
        (path / LOCK).unlink()
        (path / f"{LOCK}.soft").unlink(missing_ok=True)
        path.rmdir()


def current_folder(folder: Path) -> Path:
    """Where the record, the head and the statistics of a task are: its last extension, or its own folder."""
    extensions = folder.glob(f"{EXTENDED}-[0-9]*")
    return max(extensions, key=lambda path: int(path.name.removeprefix(f"{EXTENDED}-")), default=folder)


def task_fingerprint(folder: Path, words: list[Any]) -> str:
    """SHA-256 of what a task computes: its numbers, its classes and prompts; not where its images lay.

    Args:
        folder: of the task.
        words: its name, classes, display names and templates.
    """
    now = current_folder(folder)
    files = [folder / "experts.safetensors", folder / "router.safetensors", now / "selector.safetensors"]
    files += [now / HEAD] if (now / HEAD).is_file() else []
    sums = [sha256_file(file) for file in files]
    return hashlib.sha256(json.dumps([sums, words]).encode()).hexdigest()
