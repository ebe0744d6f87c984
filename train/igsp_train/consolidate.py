"""What was learned becomes part of the model: experts frozen in the pool, statistics of the selector, one record."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from igsp_deploy.data.counts import first_skipped
from igsp_deploy.data.frozen import FrozenSplit
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.head import Head
from igsp_deploy.model.record import TaskRecord
from igsp_deploy.model.selector import task_statistics
from igsp_train.steps import LearnResult


def consolidate(
    folder: ModelFolder,
    result: LearnResult,
    *,
    name: str,
    classes: list[str],
    display_names: list[str],
    templates: list[str],
    train: tuple[Tensor, Tensor],
    head: Head | None = None,
    source: str = "",
    data: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    images: dict[str, Any] | None = None,
    skipped: Sequence[tuple[str, str]] = (),
    split: FrozenSplit | None = None,
) -> TaskRecord:
    """Add a learned task to a model, by one rename.

    Args:
        folder: the model so far.
        result: what learning gave.
        name: of the task.
        classes: class names as in the data, in label order.
        display_names: the names put into prompts.
        templates: prompt templates.
        train: selector features of the training images, `[N, F]`, and their labels, `[N]`.
        head: of its classes.
        source: where the images came from.
        data: settings of the split.
        metrics: what was measured while learning.
        images: images of each class: learned, held out, tested, skipped.
        skipped: place in the source and reason of every file that was not used.
        split: which image was in which part.

    Raises:
        UserError: the disk is full or cannot be written; the model is as before.
    """
    statistics = task_statistics(*train, len(classes), keep=folder.selector_config.calibration_images)
    learned = dataclasses.replace(result.learner.learned(folder.pool, statistics), head=head)
    record = TaskRecord(
        index=len(folder.tasks),
        name=name,
        classes=classes,
        display_names=display_names,
        templates=templates,
        ids=learned.ids,
        trained_parameters=result.trained_parameters,
        kept_parameters=result.learner.num_parameters() + (0 if head is None else head.num_parameters()),
        selector_parameters=statistics.means.numel(),
        source=source,
        data=data or {},
        metrics=metrics or {},
        images=images or {},
        skipped=first_skipped(skipped),
    )
    folder.add_task(record, learned, split)
    return record
