"""The tensors of a run that stopped between two steps, and the run made of them again."""

from collections.abc import Mapping

import torch
from torch import Tensor

from igsp_deploy.config import LearnConfig
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.sites import Site, read_site, site_name
from igsp_train.convergence import GateTracker
from igsp_train.learner import TaskLearner, rebuild_task_learner
from igsp_train.optimiser import load_optimiser_tensors, make_optimiser, optimiser_tensors


def pack(learner: TaskLearner, optimiser: torch.optim.AdamW, tracker: GateTracker) -> dict[str, Tensor]:
    """Everything of a run that is a tensor, by name."""
    tensors: dict[str, Tensor] = {f"learner.{name}": p for name, p in learner.named_parameters()}
    tensors.update({f"optimiser.{k}": v for k, v in optimiser_tensors(optimiser, _names(learner)).items()})
    for age, gates in enumerate(tracker.state()):
        tensors.update({f"gates.{age:04d}.{site_name(site)}": g for site, g in gates.items()})
    return tensors


def unpack_learner(
    folder: ModelFolder, layout: dict[str, dict[str, object]], tensors: Mapping[str, Tensor]
) -> TaskLearner:
    """The learner, with the frozen experts of `folder`.

    Args:
        folder: the model that the task is learned upon.
        layout: what `TaskLearner.layout` gave.
        tensors: what `pack` gave.
    """
    learner = rebuild_task_learner(folder, layout)
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            parameter.copy_(tensors[f"learner.{name}"])
    return learner


def unpack_optimiser(
    learner: TaskLearner, config: LearnConfig, tensors: Mapping[str, Tensor], *, train_router: bool
) -> torch.optim.AdamW:
    """The optimiser of `learner`, with its moments."""
    optimiser = make_optimiser(learner, config, train_router=train_router)
    moments = {k.removeprefix("optimiser."): v for k, v in tensors.items() if k.startswith("optimiser.")}
    load_optimiser_tensors(optimiser, _names(learner), moments)
    return optimiser


def unpack_tracker(tensors: Mapping[str, Tensor], curve: list[float]) -> GateTracker:
    """The moving averages of the gates.

    Args:
        tensors: what `pack` gave.
        curve: how far they had moved after each step.
    """
    ages: dict[str, dict[Site, Tensor]] = {}
    for name in sorted(tensors):
        if name.startswith("gates."):
            _, age, site = name.split(".", 2)
            ages.setdefault(age, {})[read_site(site)] = tensors[name]
    tracker = GateTracker()
    tracker.load([ages[age] for age in sorted(ages)], curve)
    return tracker


def _names(learner: TaskLearner) -> dict[int, str]:
    return {id(parameter): name for name, parameter in learner.named_parameters()}
