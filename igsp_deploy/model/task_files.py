"""The files of a task's folder: what is learned, from and to safetensors, and what is known of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from igsp_deploy.data.frozen import FrozenSplit
from igsp_deploy.errors import UserError
from igsp_deploy.files import write_json, write_sums
from igsp_deploy.model.head import Head
from igsp_deploy.model.record import TaskRecord
from igsp_deploy.model.selector import HELD_OUT, TaskStatistics
from igsp_deploy.model_path import HEAD, SPLIT
from igsp_deploy.sites import Site, site_name

REMEDY = "Restore the folder from a copy, or delete this task's folder and every later one and learn them again."


@dataclass(frozen=True, kw_only=True)
class LearnedTask:
    """The numbers of one task, as they leave learning.

    Attributes:
        experts: block -> its new experts, `down` `[k, r, d]` and `up` `[k, d, r]`.
        ids: block -> pool ids its router uses (earlier and new ones).
        router_weights: vision block -> `[K, d]`; absent for static gates.
        router_biases: block -> `[K]`.
        statistics: of the selector.
        head: of its classes; None where words alone tell them apart.
    """

    experts: dict[Site, tuple[Tensor, Tensor]]
    ids: dict[Site, list[int]]
    router_weights: dict[Site, Tensor]
    router_biases: dict[Site, Tensor]
    statistics: TaskStatistics
    head: Head | None = None


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


def write_record(
    scratch: Path, record: TaskRecord, head: Head | None, statistics: TaskStatistics, split: FrozenSplit | None
) -> None:
    """Everything of a task but its experts and routers, and the checksums of all that is there."""
    save_tensors(scratch / "selector.safetensors", statistics_tensors(statistics))
    if head is not None:
        (scratch / HEAD).write_bytes(head.to_bytes())
    write_json(scratch / "task.json", record.to_json())
    if split is not None:
        write_json(scratch / SPLIT, split.to_json())
    write_sums(scratch)


def load_learned(path: Path, now: Path, sites: Sequence[Site], record: TaskRecord) -> LearnedTask:
    """The numbers of a task.

    Args:
        path: its folder, which has experts and routers.
        now: its last extension, or the same; has statistics and head.
        sites: blocks that may have experts.
        record: what is known of it.

    Raises:
        UserError: a file is damaged or lacks something.
    """
    experts, routers = load_tensors(path / "experts.safetensors"), load_tensors(path / "router.safetensors")
    new: dict[Site, tuple[Tensor, Tensor]] = {}
    weights: dict[Site, Tensor] = {}
    biases: dict[Site, Tensor] = {}
    try:
        for site in sites:
            key = site_name(site)
            if f"{key}.down" in experts:
                new[site] = (experts[f"{key}.down"], experts[f"{key}.up"])
            if f"{key}.weight" in routers:
                weights[site] = routers[f"{key}.weight"]
            if site in record.ids:
                biases[site] = routers[f"{key}.bias"]
        statistics = read_statistics(load_tensors(now / "selector.safetensors"))
    except KeyError as error:
        raise UserError(f"{path} lacks {error}. {REMEDY}") from error
    return LearnedTask(
        experts=new,
        ids=record.ids,
        router_weights=weights,
        router_biases=biases,
        statistics=statistics,
        head=load_head(now / HEAD, len(record.classes)),
    )
