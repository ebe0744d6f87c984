"""A model folder as files: what its tasks are and where their images lie. Read without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igsp_deploy.bundle.manifest import Manifest
from igsp_deploy.errors import UserError
from igsp_deploy.files import read_json, remove_folder
from igsp_deploy.locks import try_lock
from igsp_deploy.model_path import LOCK, current_folder, require_model, task_fingerprint


@dataclass(frozen=True, kw_only=True)
class ModelTask:
    """One learned task of a model folder.

    Attributes:
        folder: its files.
        name: its name.
        classes: labels, in order.
        source: where its images lay.
        fingerprint: as in the manifest of a bundle.
        parameters: numbers it added.
        metrics: what was measured while it was learned.
    """

    folder: Path
    name: str
    classes: list[str]
    source: Path
    fingerprint: str
    parameters: int
    metrics: dict[str, Any]


def read_model_tasks(model: Path) -> list[ModelTask]:
    """The tasks of a model folder, in order.

    Raises:
        UserError: not a model folder, or damaged.
    """
    require_model(model)
    folders = [path for path in (model / "tasks").glob("*-*") if path.is_dir() and not path.name.startswith(".")]
    tasks = []
    for folder in sorted(folders, key=_number):
        values = read_json(current_folder(folder) / "task.json", "task record")
        try:
            words = [values[key] for key in ("name", "classes", "display_names", "templates")]
            tasks.append(
                ModelTask(
                    folder=folder,
                    name=values["name"],
                    classes=values["classes"],
                    source=Path(values.get("source") or "/nowhere"),
                    fingerprint=task_fingerprint(folder, words),
                    parameters=values["kept_parameters"],
                    metrics=values.get("metrics") or {},
                )
            )
        except (KeyError, TypeError, OSError) as error:
            raise UserError(f"{folder} is damaged ({error}). Restore the model folder from a copy.") from error
    return tasks


def check_same_model(model: Path, tasks: Sequence[ModelTask], manifest: Manifest) -> None:
    """Whether what the model folder learns can be added to the bundle.

    Raises:
        UserError: another backbone, or the bundle has a task that is not the folder's.
    """
    known = {task.name: task.fingerprint for task in tasks}
    missing = [task.name for task in manifest.tasks if known.get(task.name) != task.fingerprint]
    config = read_json(model / "config.json", "model configuration")
    backbone = config.get("backbone", {}) if isinstance(config, dict) else {}
    if missing or backbone.get("weight_hash") != manifest.backbone.weight_hash:
        what = f"it lacks {', '.join(missing)} as the bundle has it" if missing else "its backbone is another one"
        raise UserError(
            f"{model} is not the model folder this bundle was made from: {what}. Give the right folder, or make the "
            f"bundle again: `igsp export {model} BUNDLE`."
        )


def take_back_last(model: Path, name: str, source: Path) -> bool:
    """Remove the task learned last, if it is `name` and learned from `source`: nothing can use its experts yet.

    Returns:
        Whether it was there and is gone.
    """
    with try_lock(model / LOCK) as ours:
        if not ours:
            return False  # somebody is learning the next task already
        folders = sorted((p for p in (model / "tasks").glob("*-*") if not p.name.startswith(".")), key=_number)
        if not folders or folders[-1].name.partition("-")[2] != name:
            return False
        if Path(read_json(folders[-1] / "task.json", "task record").get("source") or "/") != source.resolve():
            return False  # a task of that name that somebody else taught it
        remove_folder(folders[-1])
        return True


def _number(folder: Path) -> int:
    number = folder.name.partition("-")[0]
    return int(number) if number.isdecimal() else 1 << 30
