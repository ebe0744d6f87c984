"""One task from its images to its record: augmented views, the steps of `TaskRun`, its head, what is measured of it."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from igsp_deploy.config import LearnConfig, RunConfig
from igsp_deploy.data import TaskData, canonical_source, eval_chunks
from igsp_deploy.data.counts import counts_table
from igsp_deploy.data.items import Items
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.experts import frozen
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.head import Head
from igsp_deploy.model.learned import Learned, LearnedClip
from igsp_deploy.model.record import TaskRecord
from igsp_deploy.names import PLAIN
from igsp_train.checkpoint import clear_checkpoint
from igsp_train.consolidate import consolidate
from igsp_train.data.views import TrainViews
from igsp_train.data.workers import WorkerViews
from igsp_train.evaluate import accuracies
from igsp_train.features import CHUNK, Labelled, TrunkViews, trunk_and_labels, views_seen
from igsp_train.head import FEW, FOLDS, MEASURED, predicted, task_head, temperature, weight_of
from igsp_train.learn import TaskRun
from igsp_train.memory import PeakMemory
from igsp_train.progress import step_progress
from igsp_train.prompts import check_prompts
from igsp_train.prune import LOSS_IMAGES
from igsp_train.ranks import ALONE, Ranks
from igsp_train.statistics import chunked_summaries, spread
from igsp_train.steps import LearnResult, Reporter, StepReport, in_steps
from igsp_train.task_warnings import task_warnings

CACHED_VIEWS_BYTES = 2 << 30
"""Memory the trunk outputs of cached views may take; fewer views are kept where they do not fit."""
LATER = (("learn", "epochs", 0), ("data", "augment", "crops"), ("data", "balance", "none"))
"""Settings that older versions lack, and their defaults: unfinished tasks of these versions go on."""


def learn_task(
    backbone: Backbone,
    folder: ModelFolder,
    task: TaskData,
    config: RunConfig,
    *,
    console: Console,
    report: Reporter | None = None,
    follow: Reporter | None = None,
    stop: Callable[[], bool] | None = None,
    ranks: Ranks = ALONE,
) -> TaskRecord:
    """Learn one task and add it to the model.

    `report` and `follow` get every step; with the first the table of counts is not printed.

    Raises:
        UserError: unreadable data, full disk, or an unfinished task of other settings in the folder.
    """

    def warn(message: str) -> None:
        console.print(message, markup=False, highlight=False, soft_wrap=True)

    started, memory = time.monotonic(), PeakMemory(backbone.device)
    for note in task.notes:
        warn(f"{task.name}: {note}")
    if report is None:  # who follows the steps reads the counts in the record
        console.print(counts_table(task.name, task.counts))
    check_prompts(task, backbone, lambda text: warn(f"{task.name}: {text}"))
    views = _train_views(task.train, backbone, config, warn)
    if config.learn.epochs:
        learn = in_steps(config.learn, len(views))
        warn(f"{task.name}: {config.learn.epochs} epochs of {len(views)} images: {learn.steps} steps")
        config = dataclasses.replace(config, learn=learn)
    clip = Clip(backbone, folder.sites)
    held_out = trunk_and_labels(clip, task.val.subset(spread(len(task.val), LOSS_IMAGES)), backbone.preprocess)
    reports = [one for one in (report, follow) if one is not None]
    result, read = _take_steps(backbone, folder, task, config, views, held_out, console, reports, stop, ranks)
    if not ranks.first:  # the first process measures and writes
        ranks.wait()
        folder.refresh()
        return folder.tasks[-1]
    seen = chunked_summaries(clip, eval_chunks(views.items, backbone.preprocess))
    learned, tempered = _learned(backbone, folder, task, result), 1.0
    if config.learn.head == "blend":
        head = _head(learned, views.items, held_out, seen, read)
        learned = _learned(backbone, folder, task, result, head)
        if head is not None and held_out is not None and len(held_out[1]) >= FEW:
            tempered = temperature(predicted(learned, held_out[0]), held_out[1])
            learned = _learned(backbone, folder, task, result, head.tempered(tempered))
    metrics = _metrics(learned, tempered, task, result, warn)
    metrics |= {"seconds": time.monotonic() - started, **memory.measured(), "learn": dataclasses.asdict(config.learn)}
    record = consolidate(
        folder,
        result,
        name=task.name,
        classes=task.classes,
        display_names=task.display_names,
        templates=task.templates,
        train=seen,
        head=learned.tasks[0].head,
        source=canonical_source(config.tasks[task.name]),
        data=dataclasses.asdict(config.data),
        metrics=metrics,
        images={name: count.to_json() for name, count in task.counts.items()},
        skipped=task.skipped,
        split=task.split,
    )
    clear_checkpoint(folder.path)
    ranks.wait()
    for line in _lines(result, metrics, config.learn.steps):
        warn(f"{task.name}: {line}")
    return record


def _train_views(train: Items, backbone: Backbone, config: RunConfig, warn: Callable[[str], None]) -> TrainViews:
    data = config.data
    return TrainViews(
        train,
        backbone.preprocess,
        scale=(data.crop_scale, 1.0),
        horizontal_flip=data.horizontal_flip,
        augment=data.augment,
        seed=config.learn.seed,
        on_skip=warn,
        cache_bytes=data.cache_mib << 20,
    )


def _take_steps(
    backbone: Backbone,
    folder: ModelFolder,
    task: TaskData,
    config: RunConfig,
    views: TrainViews,
    held_out: Labelled | None,
    console: Console,
    reports: list[Reporter],
    stop: Callable[[], bool] | None,
    ranks: Ranks,
) -> tuple[LearnResult, list[Tensor]]:
    """Take all steps that are left; with it, what a head reads of the training images in each cached view."""
    learn = config.learn
    workers = WorkerViews(views, config.data.num_workers)
    trunk = TrunkViews(
        Clip(backbone, folder.sites, exact=False),
        workers,
        # No more than there are epochs: where classes are balanced, the images of small ones come more often.
        cached_views=views_seen(learn.cached_views, len(views), learn.steps, learn.batch_size),
        limit_bytes=CACHED_VIEWS_BYTES,
        precision=learn.precision,
        ranks=ranks,
    )
    run = TaskRun(
        backbone,
        folder,
        learn,
        views=trunk,
        labels=views.items.labels,
        prompts=[task.templates[0].format(name) for name in task.display_names],
        fingerprint=_fingerprint(folder, task, config),
        held_out=held_out,
        ranks=ranks,
        balanced=config.data.balance == "classes",
    )
    begun = run.progress.step
    if begun:
        console.print(f"{task.name}: continuing after step {begun}", markup=False, highlight=False, soft_wrap=True)
    if not trunk.cached_views:
        workers.follow(lambda step: list(ranks.part(run.order.pairs(step))), begun)
    with workers, step_progress(console, task.name, learn.steps, begun) as bar:

        def all_of_them(step_report: StepReport) -> None:
            for one in (bar, *reports):
                one(step_report)

        result = run.run(all_of_them, stop)
        return result, _views_read(Clip(backbone, folder.sites), trunk, learn, len(result.curves["loss"]))


def _head(
    learned: LearnedClip, train: Items, held_out: Labelled | None, seen: tuple[Tensor, Tensor], read: list[Tensor]
) -> Head | None:
    """The task's head, weighed by the held-out images, or where they are few by parts of the training images."""
    if held_out is not None and len(held_out[1]) >= FEW:
        return task_head(learned, seen, read, held_out)
    rows = spread(len(train), MEASURED)
    weighed = trunk_and_labels(learned.clip, train.subset(rows), learned.backbone.preprocess)
    return task_head(learned, seen, read, weighed, folds=torch.from_numpy(rows) % FOLDS)


def _views_read(clip: Clip, trunk: TrunkViews, learn: LearnConfig, steps: int) -> list[Tensor]:
    """What a head reads of the training images in each cached view, `[N, F]` each."""
    if learn.head == "text":
        return []
    seen = trunk.seen(steps, learn.batch_size)
    return [torch.cat([clip.summary(part.float()).cpu() for part in tokens.split(CHUNK)]) for tokens in seen]


def _learned(
    backbone: Backbone, folder: ModelFolder, task: TaskData, result: LearnResult, head: Head | None = None
) -> LearnedClip:
    """The task alone."""
    experts = frozen(result.learner.experts(), backbone.device)
    own = Learned(experts=experts, display_names=task.display_names, templates=task.templates, head=head)
    return LearnedClip(backbone, folder.sites, [own], head_features=folder.config.head_features)


def _metrics(
    learned: LearnedClip, tempered: float, task: TaskData, result: LearnResult, warn: Callable[[str], None]
) -> dict[str, Any]:
    measured: dict[str, Any] = {"val_accuracy": None, "val_zero_shot": None}
    if len(task.val):
        held_out = eval_chunks(task.val, learned.backbone.preprocess, on_skip=warn)
        found = accuracies(learned, (0, PLAIN), held_out)
        if found is not None:
            measured = dict(zip(measured, found, strict=True))
    reused, new = result.learner.num_experts()
    return {
        **measured,
        "head_weight": weight_of(learned.tasks[0].head, tempered),
        "temperature": tempered,
        "experts_reused": reused,
        "experts_new": new,
        "phase1_steps": result.phase1_steps,
        "learn_seconds": result.seconds,
        "mean_gates": result.mean_gates,
        "kept": result.kept,
        "warnings": task_warnings(
            task.counts, measured["val_accuracy"], measured["val_zero_shot"], result.curves.get("accuracy", [])
        ),
        "back_at_step": None if result.back_at is None else result.back_at.step,
        "looks": [dataclasses.asdict(look) for look in result.looks],
        "curves": {name: [round(value, 5) for value in curve] for name, curve in result.curves.items()},
    }


def _lines(result: LearnResult, metrics: dict[str, Any], steps: int) -> list[str]:
    """What a person is told in the end."""
    lines = []
    if result.back_at is not None:
        lines.append(
            f"ended after {result.looks[-1].step} of {steps} steps, and is as it was after {result.back_at.step}, when "
            "the loss on held-out images was lowest (learn.patience)"
        )
    reused, new, before, after = (
        metrics[key] for key in ("experts_reused", "experts_new", "val_zero_shot", "val_accuracy")
    )
    measured = "" if after is None else f"validation {before:.1f} % -> {after:.1f} %, "
    lines.append(f"learned; {measured}{reused} experts reused, {new} new, {metrics['seconds']:.0f} s")
    return lines + [f"warning: {text}." for text in metrics["warnings"]]


def _fingerprint(folder: ModelFolder, task: TaskData, config: RunConfig) -> str:
    settings = dataclasses.asdict(config.data)
    content: dict[str, Any] = {
        "task": task.name,
        "learned": [t.name for t in folder.tasks],
        # By place in the source and content, so that the source may move in between.
        "images": task.split.to_json()["parts"]["train"] if task.split else [str(i) for i in task.train.images],
        "labels": task.train.labels.tolist(),
        "names": [task.display_names, task.templates],
        "learn": dataclasses.asdict(config.learn),
        # How images are read does not change them.
        "data": {k: v for k, v in settings.items() if k not in ("num_workers", "cache_mib")},
    }
    for section, name, default in LATER:
        if content[section][name] == default:
            del content[section][name]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
