"""One task learned by `TaskRun` into a pool of experts, inside a study: no images, no checkpoints."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from igsp_deploy.config import LearnConfig
from igsp_deploy.model.experts import SiteExperts, frozen
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.head import Head
from igsp_deploy.model.learned import Learned, LearnedClip
from igsp_deploy.model.record import TaskRecord
from igsp_deploy.sites import Site
from igsp_train.consolidate import consolidate
from igsp_train.features import views_seen
from igsp_train.head import FEW, FOLDS, MEASURED, task_head
from igsp_train.learn import TaskRun
from igsp_train.prune import LOSS_IMAGES
from igsp_train.research.study.method import Setting
from igsp_train.research.study.tokens import CHUNK, TrunkTokens
from igsp_train.statistics import spread
from igsp_train.steps import LearnResult, Reporter


@contextmanager
def scratch_folder(setting: Setting) -> Iterator[ModelFolder]:
    """An empty model folder that is gone afterwards."""
    with TemporaryDirectory(prefix="igsp-study-") as root:
        yield ModelFolder.create(Path(root) / "model", setting.backbone, setting.model, setting.selector)


def run_task(
    setting: Setting,
    folder: ModelFolder,
    task: TrunkTokens,
    learn: LearnConfig,
    *,
    report: Reporter | None = None,
    reuse_ids: dict[Site, list[int]] | None = None,
) -> LearnResult:
    """Learn one task on top of `folder`, which stays as it is."""
    run = make_run(setting, folder, task, learn, reuse_ids=reuse_ids)
    return run.run(report)


def make_run(
    setting: Setting,
    folder: ModelFolder,
    task: TrunkTokens,
    learn: LearnConfig,
    *,
    reuse_ids: dict[Site, list[int]] | None = None,
    keep: Callable[[dict[Site, Tensor]], dict[Site, Tensor]] | None = None,
) -> TaskRun:
    """The run of `run_task`, before its first step."""
    rows = _held_out(task)
    tokens, labels = task.splits["val"]
    return TaskRun(
        setting.backbone,
        folder,
        dataclasses.replace(learn, checkpoint_every=learn.steps + 1),
        views=task,
        labels=task.labels,
        prompts=task.prompts,
        fingerprint=task.key,
        held_out=(tokens[rows], labels[rows]),
        reuse_ids=reuse_ids,
        keep=keep,
    )


def find_head(setting: Setting, task: TrunkTokens, experts: SiteExperts) -> Head | None:
    """The head that `igsp train` would give the task; None where there is none, or the setting has none."""
    if setting.learn.head == "text":
        return None
    rows, count = _held_out(task), len(task.labels)
    held = len(rows) >= FEW
    tokens, labels = task.splits["val" if held else "train"]
    rows = rows if held else torch.from_numpy(spread(count, MEASURED))
    own = Learned(experts=experts, display_names=task.classes, templates=task.templates)
    learned = LearnedClip(setting.backbone, setting.sites, [own], head_features=setting.model.head_features)
    train = (split_features(setting, task, "train"), task.splits["train"][1])
    folds = None if held else rows % FOLDS
    return task_head(learned, train, seen_views(setting, task), (tokens[rows], labels[rows]), folds=folds)


def seen_views(setting: Setting, task: TrunkTokens) -> list[Tensor]:
    """Summaries `[N, F]` of the training images in each of the views that learning sees."""
    seen = views_seen(len(task.views), len(task.labels), setting.learn.steps, setting.learn.batch_size)
    with torch.no_grad():
        return [torch.cat([setting.clip.summary(part) for part in view.split(CHUNK)]) for view in task.views[:seen]]


def open_reader(setting: Setting) -> LearnedClip:
    """The frozen CLIP without a task, for what heads read."""
    return LearnedClip(setting.backbone, setting.sites, [], head_features=setting.model.head_features)


def add_to_pool(setting: Setting, folder: ModelFolder, task: TrunkTokens, result: LearnResult) -> TaskRecord:
    """Freeze what was learned and take it into the pool, with the task's selector statistics and its head."""
    return consolidate(
        folder,
        result,
        name=task.name,
        classes=task.classes,
        display_names=task.classes,
        templates=task.templates,
        train=(split_features(setting, task, "train"), task.splits["train"][1]),
        head=find_head(setting, task, frozen(result.learner.experts(), "cpu")),
    )


def _held_out(task: TrunkTokens) -> Tensor:
    """Which held-out images prune and weigh a head, as `igsp train` picks them."""
    return torch.from_numpy(spread(len(task.splits["val"][1]), LOSS_IMAGES))


def split_features(setting: Setting, task: TrunkTokens, split: str) -> Tensor:
    """What the selector reads of a split's images, `[N, F]`."""
    with torch.no_grad():
        parts = [setting.clip.summary(tokens) for tokens, _ in task.chunks(split)]
    return torch.cat(parts) if parts else torch.zeros(0, 0)
