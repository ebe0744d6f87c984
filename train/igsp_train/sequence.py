"""Learning a sequence of tasks into one model folder: what `igsp train` does."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.config import LearnConfig, ModelConfig, RunConfig, SelectorConfig
from igsp_deploy.data import TaskData, canonical_source, eval_chunks, load_task_data
from igsp_deploy.data.counts import counts_table
from igsp_deploy.data.items import Items
from igsp_deploy.data.test_items import check_same_images
from igsp_deploy.errors import UserError
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.experts import frozen
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.head import Head
from igsp_deploy.model.learned import Learned, LearnedClip
from igsp_deploy.model.loading import load_backbone, settled
from igsp_deploy.model.record import TaskRecord
from igsp_deploy.model_path import locked_model, weights_at
from igsp_deploy.names import PLAIN
from igsp_train.checkpoint import FOLDER as IN_PROGRESS
from igsp_train.checkpoint import clear_checkpoint, load_checkpoint
from igsp_train.consolidate import consolidate
from igsp_train.data.order import step_pairs
from igsp_train.data.views import TrainViews
from igsp_train.data.workers import WorkerViews
from igsp_train.evaluate import accuracies
from igsp_train.features import CHUNK, TrunkViews, image_trunk
from igsp_train.head import FEW, FOLDS, MEASURED, task_head
from igsp_train.learn import TaskRun, discard_unfinished
from igsp_train.memory import PeakMemory
from igsp_train.progress import step_progress
from igsp_train.prompts import check_prompts
from igsp_train.prune import LOSS_IMAGES
from igsp_train.ranks import ALONE, Ranks
from igsp_train.statistics import chunked_summaries, spread
from igsp_train.steps import LearnResult, Reporter, StepReport
from igsp_train.task_warnings import task_warnings

CACHED_VIEWS_BYTES = 2 << 30
"""Memory the trunk outputs of cached views may take; fewer views are kept where they do not fit."""


def train_sequence(
    model_path: Path,
    config: RunConfig,
    *,
    console: Console | None = None,
    discard: bool = False,
    report: Reporter | None = None,
    stop: Callable[[], bool] | None = None,
    ranks: Ranks = ALONE,
) -> ModelFolder:
    """Learn the tasks of `config` one after another into the model at `model_path`, which is made if it is not there.

    Tasks that the model already has are passed over, so the same command continues a run that was interrupted; their
    data may be gone, or lie in another source by now.

    Args:
        model_path: the model folder.
        config: all settings and the tasks.
        console: where progress goes; stderr by default.
        discard: drop an unfinished task of other settings instead of refusing.
        report: gets every step's report, besides the progress bar.
        stop: asked after every step; True ends after a checkpoint.
        ranks: processes that learn together, all of which call this; only the first writes and prints.

    Returns:
        The model with all tasks.

    Raises:
        UserError: whatever is wrong with tasks, data, settings or disk. What was learned before it stays.
    """
    console = console or Console(stderr=True)
    if not ranks.first:
        console = Console(quiet=True)
    if not config.tasks:
        raise UserError("there is nothing to learn: give at least one task, for example --task shoes=data/shoes")
    learned = _learned_names(model_path)
    data = {name: _load(name, config) for name in config.tasks if name not in learned}
    config = dataclasses.replace(config, model=settled(config.model))
    fresh = not (model_path / "config.json").exists()
    # Before the folder is made, for what is wrong with it is said before anything is written.
    backbone = load_backbone(*_named(config.model)) if fresh and ranks.first else None
    with locked_model(model_path) if ranks.first else nullcontext():
        if ranks.first:
            folder, backbone = open_or_create(model_path, config, backbone)
            if discard:
                discard_unfinished(model_path)
        ranks.wait()
        if not ranks.first:
            _check_shared(model_path, ranks)
            folder, backbone = open_or_create(model_path, config, None)
        assert backbone is not None
        if ranks.device is not None:
            backbone.to(ranks.device)
        elif torch.cuda.is_available():
            backbone.to("cuda")
        for name, source in config.tasks.items():
            known = {record.name: record for record in folder.tasks}
            if name in known:
                check_same_images(known[name], source, folder.split(known[name].index))
                console.print(f"{name}: already learned, passed over", markup=False)
                continue
            task = data[name] if name in data else _load(name, config)
            learn_task(backbone, folder, task, config, console=console, report=report, stop=stop, ranks=ranks)
    return folder


def _learned_names(model_path: Path) -> set[str]:
    """Names of the tasks of a model at first sight: their data is not read again."""
    return {path.parent.name.partition("-")[2] for path in model_path.glob("tasks/[0-9]*-*/task.json")}


def _load(name: str, config: RunConfig) -> TaskData:
    data, source = config.data, config.tasks[name]
    return load_task_data(
        name, source, val_share=data.val_share, test_share=data.test_share, seed=data.seed, shots=data.shots
    )


def _named(config: ModelConfig) -> tuple[str, str | None, str | None]:
    return config.backbone, config.pretrained, config.preprocess


def open_or_create(model_path: Path, config: RunConfig, backbone: Backbone | None) -> tuple[ModelFolder, Backbone]:
    """The model as it is under the lock: another process may have made it, or added to it, since the first look."""
    if not (model_path / "config.json").exists():
        backbone = backbone or load_backbone(*_named(config.model))
        return ModelFolder.create(model_path, backbone, config.model, config.selector), backbone
    folder = ModelFolder.open(model_path)
    _check_same_settings(folder, config)
    if backbone is None:
        with weights_at(Path(config.model.pretrained) if config.model.pretrained else None):
            return folder, folder.load_backbone()
    folder.check_backbone(backbone)
    return folder, backbone


def learn_task(
    backbone: Backbone,
    folder: ModelFolder,
    task: TaskData,
    config: RunConfig,
    *,
    console: Console,
    report: Reporter | None = None,
    stop: Callable[[], bool] | None = None,
    ranks: Ranks = ALONE,
) -> TaskRecord:
    """Learn one task and add it to the model.

    Raises:
        UserError: unreadable data, full disk, or an unfinished task of other settings in the folder.
    """

    def warn(message: str) -> None:
        console.print(message, markup=False, highlight=False, soft_wrap=True)

    started = time.monotonic()
    memory = PeakMemory()
    source = canonical_source(config.tasks[task.name])
    settings = dataclasses.asdict(config.data)
    for note in task.notes:
        warn(f"{task.name}: {note}")
    if report is None:  # who follows the steps reads the counts in the record
        console.print(counts_table(task.name, task.counts))
    check_prompts(task, backbone, lambda text: warn(f"{task.name}: {text}"))
    views = TrainViews(
        task.train,
        backbone.preprocess,
        scale=(config.data.crop_scale, 1.0),
        horizontal_flip=config.data.horizontal_flip,
        seed=config.learn.seed,
        on_skip=warn,
        cache_bytes=config.data.cache_mib << 20,
    )
    workers = WorkerViews(views, config.data.num_workers)
    trunk = TrunkViews(
        Clip(backbone, folder.sites, exact=False),
        workers,
        cached_views=config.learn.cached_views,
        limit_bytes=CACHED_VIEWS_BYTES,
        precision=config.learn.precision,
        ranks=ranks,
    )
    held_out = task.val.subset(spread(len(task.val), LOSS_IMAGES))
    clip = Clip(backbone, folder.sites)
    held_out_tokens = _trunk_and_labels(clip, held_out, backbone.preprocess)
    run = TaskRun(
        backbone,
        folder,
        config.learn,
        views=trunk,
        labels=views.items.labels,
        prompts=[task.templates[0].format(name) for name in task.display_names],
        fingerprint=_fingerprint(folder, task, config),
        held_out=held_out_tokens,
        ranks=ranks,
    )
    if run.progress.step:
        warn(f"{task.name}: continuing after step {run.progress.step}")
    if not trunk.cached_views:
        order = partial(step_pairs, len(views), config.learn.batch_size, run.seed)
        workers.follow(lambda step: list(ranks.part(order(step))), run.progress.step)
    with workers, step_progress(console, task.name, config.learn.steps, run.progress.step) as bar:

        def both(step_report: StepReport) -> None:
            bar(step_report)
            if report is not None:
                report(step_report)

        result = run.run(both, stop)
        views_read = _views_read(clip, trunk, config.learn, len(result.curves["loss"]))
    if not ranks.first:  # the first process measures and writes
        ranks.wait()
        folder.refresh()
        return folder.tasks[-1]
    seen = chunked_summaries(clip, eval_chunks(views.items, backbone.preprocess))
    learned = _learned(backbone, folder, task, result)
    if config.learn.head == "blend":
        rows, held = spread(len(views), MEASURED), len(held_out) >= FEW
        weighed = held_out_tokens
        if not held:
            weighed = _trunk_and_labels(clip, views.items.subset(rows), backbone.preprocess)
        folds = None if held else torch.from_numpy(rows) % FOLDS
        head = task_head(learned, seen, views_read, weighed, folds=folds)
        learned = _learned(backbone, folder, task, result, head)
    metrics = _metrics(learned, task, result, warn)
    metrics["seconds"] = time.monotonic() - started
    metrics.update(memory.measured())
    metrics["learn"] = dataclasses.asdict(config.learn)
    record = consolidate(
        folder,
        result,
        name=task.name,
        classes=task.classes,
        display_names=task.display_names,
        templates=task.templates,
        train=seen,
        head=learned.tasks[0].head,
        source=source,
        data=settings,
        metrics=metrics,
        images={name: count.to_json() for name, count in task.counts.items()},
        skipped=task.skipped,
        split=task.split,
    )
    clear_checkpoint(folder.path)
    if result.back_at is not None:
        warn(
            f"{task.name}: ended after {result.looks[-1].step} of {config.learn.steps} steps, and is as it was after "
            f"{result.back_at.step}, when the loss on held-out images was lowest (learn.patience)"
        )
    reused, new = result.learner.num_experts()
    zero_shot, learned_accuracy = metrics["val_zero_shot"], metrics["val_accuracy"]
    measured = "" if learned_accuracy is None else f"validation {zero_shot:.1f} % -> {learned_accuracy:.1f} %, "
    ranks.wait()
    warn(f"{task.name}: learned; {measured}{reused} experts reused, {new} new, {metrics['seconds']:.0f} s")
    for text in metrics["warnings"]:
        warn(f"{task.name}: warning: {text}.")
    return record


def _trunk_and_labels(clip: Clip, items: Items, spec: PreprocessSpec) -> tuple[Tensor, Tensor] | None:
    """Trunk tokens `[M, n, d]` and labels `[M]` of images without augmentation; None where there are none."""
    parts = [(image_trunk(clip, images), torch.from_numpy(labels)) for images, labels in eval_chunks(items, spec)]
    if not parts:
        return None
    return torch.cat([tokens for tokens, _ in parts]), torch.cat([labels for _, labels in parts])


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
    return LearnedClip(backbone, folder.sites, [own])


def _metrics(learned: LearnedClip, task: TaskData, result: LearnResult, warn: Callable[[str], None]) -> dict[str, Any]:
    measured: dict[str, Any] = {"val_accuracy": None, "val_zero_shot": None}
    if len(task.val):
        held_out = eval_chunks(task.val, learned.backbone.preprocess, on_skip=warn)
        found = accuracies(learned, (0, PLAIN), held_out)
        if found is not None:
            measured = dict(zip(measured, found, strict=True))
    reused, new = result.learner.num_experts()
    return {
        **measured,
        "head_weight": 0.0 if learned.tasks[0].head is None else 1.0 - learned.tasks[0].head.text_share,
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


def _fingerprint(folder: ModelFolder, task: TaskData, config: RunConfig) -> str:
    settings = dataclasses.asdict(config.data)
    content = {
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
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_same_settings(folder: ModelFolder, config: RunConfig) -> None:
    """Settings of the model are fixed by its first task; other ones given now would be ignored, so they are refused."""
    pairs: list[tuple[str, Any, Any, Any]] = [
        ("model", config.model, folder.config, ModelConfig()),
        ("selector", config.selector, folder.selector_config, SelectorConfig()),
    ]
    for section, given, stored, default in pairs:
        for field in dataclasses.fields(given):
            if field.name == "pretrained":
                continue  # a checkpoint may have moved: the hash of its weights decides
            value = getattr(given, field.name)
            if value != getattr(default, field.name) and value != getattr(stored, field.name):
                raise UserError(
                    f"{folder.path} was made with {section}.{field.name} = {getattr(stored, field.name)!r}, "
                    f"got {value!r}. Leave it out, or start a new model folder."
                )


def _check_shared(model_path: Path, ranks: Ranks) -> None:
    if not (model_path / "config.json").exists():
        raise UserError(
            f"process {ranks.rank} does not see {model_path}, which process 0 made. All machines must see the model "
            "folder under the same path, on a shared file system."
        )


def unfinished_task(model_path: Path) -> dict[str, Any] | None:
    """State of the task that was interrupted in this model folder, or None."""
    if not (model_path / IN_PROGRESS).is_dir():
        return None
    found = load_checkpoint(model_path)
    return found[0] if found else None
