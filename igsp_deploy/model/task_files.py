"""Tensors of a task's folder, from and to safetensors."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from igsp_deploy.errors import UserError
from igsp_deploy.model.head import Head
from igsp_deploy.model.selector import HELD_OUT, TaskStatistics
from igsp_deploy.sites import Site, site_name

REMEDY = "Restore the folder from a copy, or delete this task's folder and every later one and learn them again."


def expert_tensors(experts: dict[Site, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Names and values of new experts, where there are some."""
    tensors = {}
    for site, (down, up) in experts.items():
        if len(down):
            tensors[f"{site_name(site)}.down"] = down
            tensors[f"{site_name(site)}.up"] = up
    return tensors


def router_tensors(weights: dict[Site, Tensor], biases: dict[Site, Tensor]) -> dict[str, Tensor]:
    """Names and values of a task's routers."""
    tensors = {f"{site_name(site)}.bias": bias for site, bias in biases.items()}
    tensors.update({f"{site_name(site)}.weight": weight for site, weight in weights.items()})
    return tensors


def statistics_tensors(statistics: TaskStatistics) -> dict[str, Tensor]:
    """Names and values of a task's selector statistics."""
    tensors = {name: value for name, value in vars(statistics).items() if isinstance(value, Tensor)}
    return {**tensors, "count": torch.tensor([statistics.count])}


def read_statistics(tensors: dict[str, Tensor]) -> TaskStatistics:
    """What `statistics_tensors` gave.

    Raises:
        KeyError: one is missing.
    """
    means, calibration = tensors["means"], tensors["calibration"]
    return TaskStatistics(
        means=means,
        scatter=tensors["scatter"],
        count=int(tensors["count"][0]),
        calibration=calibration,
        # A task from before thresholds came from its training images keeps the held-out ones.
        labels=tensors.get("labels", torch.full((len(calibration),), HELD_OUT)),
        sizes=tensors.get("sizes", torch.zeros(len(means), dtype=torch.long)),
    )


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file."""
    # Not save_file: it makes files that only their owner may read.
    path.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote.

    Raises:
        UserError: it is damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}). {REMEDY}") from error


def load_head(path: Path, num_classes: int) -> Head | None:
    """The head of a task; None where it has no such file.

    Raises:
        UserError: it is damaged.
    """
    try:
        return Head.from_bytes(path.read_bytes(), num_classes) if path.is_file() else None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}. {REMEDY}") from error
