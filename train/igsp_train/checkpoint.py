"""Resumable state of the task being learned: `model/.inprogress/step-000150/`, whole or absent."""

import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from igsp_deploy.errors import UserError
from igsp_deploy.files import check_sums, new_folder, read_json, remove_folder, write_json, write_sums

FOLDER = ".inprogress"


def save_checkpoint(model_path: Path, step: int, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write the state after `step` steps, then drop the older ones.

    Raises:
        UserError: the disk is full or cannot be written; the checkpoint before this one is still there.
    """
    root = model_path / FOLDER
    target = root / f"step-{step:08d}"
    if target.exists():
        shutil.rmtree(target)
    with new_folder(target) as scratch:
        try:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                scratch / "state.safetensors",
            )
        except SafetensorError as error:
            raise OSError(str(error)) from error
        write_json(scratch / "state.json", {"step": step, **state})
        write_sums(scratch)
    for old in root.iterdir():
        if old != target:
            shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(model_path: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The newest whole checkpoint, or None.

    Raises:
        UserError: the newest one is damaged.
    """
    root = model_path / FOLDER
    found = sorted(p for p in root.glob("step-*") if p.is_dir()) if root.is_dir() else []
    if not found:
        return None
    check_sums(found[-1], f"Delete {root} to learn this task from its start.")
    try:
        tensors = load_file(found[-1] / "state.safetensors")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{found[-1]} is damaged ({error}). Delete {root} to learn this task from its start."
        ) from error
    return read_json(found[-1] / "state.json", "checkpoint"), tensors


def clear_checkpoint(model_path: Path) -> None:
    """Remove the state: its task is learned. It goes by one rename, so that no half of it can be found later."""
    if (model_path / FOLDER).is_dir():
        remove_folder(model_path / FOLDER)
