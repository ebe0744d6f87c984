"""What it costs not to be told the task, per sample: with the label space as evidence, without it, over all classes.

Four ways to classify an image of task i after task j, all by the same experts:
`given`       the task is told;
`vocabulary`  the classes are told, and where they are those of a learned task they speak for it; where no learned task
              has them, plain CLIP answers;
`looks`       the classes are told, the task is chosen by the image alone;
`open`        nothing is told: the task is chosen by the image, the answer is one of the classes of all tasks.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igsp_deploy.model.adapter import TaskAdapter
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.selector import Selector
from igsp_deploy.model.towers import class_embeddings, encode_from_trunk
from igsp_deploy.names import PLAIN
from igsp_train.metrics import summary
from igsp_train.research.study.method import Setting
from igsp_train.research.study.pooled import split_features
from igsp_train.research.study.tokens import TaskTokens


def selector_report(setting: Setting, folder: ModelFolder, tasks: list[TaskTokens]) -> dict[str, Any]:
    """Measure all four ways on the test images.

    Args:
        setting: backbone and settings.
        folder: the pool, all `tasks` learned.
        tasks: in the order they were learned.

    Returns:
        `matrices`: A[j][i] in percent for `given`, `vocabulary` and `looks`; `metrics`: their Transfer, Average and
        Last; `open_last`: per task; `right_task`: share of images for which the last selector chose the right task;
        `false_alarm`: share it left to plain CLIP, per task; `unseen_left_to_plain`: share of the images of task j + 1
        and later that the selector after task j leaves to plain CLIP, per j.
    """
    count = len(tasks)
    selectors = [folder.selector(j + 1) for j in range(count)]
    adapters: dict[int, TaskAdapter | None] = {PLAIN: None, **{t: folder.adapter(t) for t in range(count)}}
    total = {way: np.zeros((count, count)) for way in ("given", "vocabulary", "looks")}
    open_last, left = np.zeros(count), np.zeros((count, count))
    right_task = np.zeros(count)
    all_plain = _all_classes(setting, tasks)
    for i, task in enumerate(tasks):
        features = split_features(setting, task, "test")
        looks = torch.stack([_chosen(selector, features) for selector in selectors])
        words = torch.stack([_chosen(s, features, [i] if i <= j else []) for j, s in enumerate(selectors)])
        told = torch.stack([torch.full((len(features),), i if i <= j else PLAIN) for j in range(count)])
        right = _right(setting, adapters, task, {i, PLAIN}, looks)
        for way, choice in (("given", told), ("vocabulary", words), ("looks", looks)):
            total[way][:, i] = _hits(right, choice)
        left[:, i] = (looks == PLAIN).double().mean(1).numpy()
        right_task[i] = float((looks[-1] == i).double().mean())
        mine = (looks[-1] == i) & right[i]
        offset = sum(len(t.classes) for t in tasks[:i])
        plain = looks[-1] == PLAIN
        open_last[i] = float((mine | (plain & _open_right(setting, task, all_plain, offset))).double().mean())
    unseen = [float(left[j, j + 1 :].mean()) for j in range(count - 1)]
    return {
        "matrices": {way: _percent(matrix) for way, matrix in total.items()},
        "metrics": {way: summary(100 * matrix) for way, matrix in total.items()},
        "open_last": _percent(open_last),
        "right_task": _percent(right_task),
        "false_alarm": _percent(left[-1]),
        "unseen_left_to_plain": _percent(np.array(unseen)),
    }


def _chosen(selector: Selector | None, features: Tensor, among: list[int] | None = None) -> Tensor:
    assert selector is not None, "there is a task"
    return selector.choose(features, among)


def _right(
    setting: Setting,
    adapters: dict[int, TaskAdapter | None],
    task: TaskTokens,
    always: set[int],
    looks: Tensor,
) -> dict[int, Tensor]:
    """For each adapter, whether it classifies each test image rightly; only where some selector chose it."""
    tokens, labels = task.splits["test"]
    found: dict[int, Tensor] = {}
    for adapter, what in adapters.items():
        wanted = torch.ones(len(labels), dtype=torch.bool) if adapter in always else (looks == adapter).any(0)
        found[adapter] = torch.zeros(len(labels), dtype=torch.bool)
        if wanted.any():
            classes = class_embeddings(setting.backbone, what, task.classes, task.templates)
            rows = wanted.nonzero().flatten()
            for part in rows.split(256):
                with torch.no_grad():
                    features = encode_from_trunk(setting.backbone, tokens[part], what, setting.first_block)
                found[adapter][part] = (features @ classes.T).argmax(1) == labels[part]
    return found


def _hits(right: dict[int, Tensor], chosen: Tensor) -> NDArray[np.float64]:
    """Share of right answers under each row of choices `[T, N]`."""
    hit = torch.zeros(chosen.shape, dtype=torch.bool)
    for adapter, answers in right.items():
        hit |= (chosen == adapter) & answers
    shares: NDArray[np.float64] = hit.double().mean(1).numpy()
    return shares


def _all_classes(setting: Setting, tasks: list[TaskTokens]) -> Tensor:
    return torch.cat([class_embeddings(setting.backbone, None, t.classes, t.templates) for t in tasks])


def _open_right(setting: Setting, task: TaskTokens, classes: Tensor, offset: int) -> Tensor:
    parts = []
    for tokens, labels in task.chunks("test"):
        with torch.no_grad():
            features = encode_from_trunk(setting.backbone, tokens, None, setting.first_block)
        parts.append((features @ classes.T).argmax(1) == labels + offset)
    return torch.cat(parts)


def _percent(values: NDArray[np.float64]) -> Any:
    return np.round(100.0 * values, 2).tolist()
