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

from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.model.selector import Selector
from igsp_deploy.names import PLAIN
from igsp_train.metrics import summary
from igsp_train.research.study.method import Setting
from igsp_train.research.study.pooled import split_features
from igsp_train.research.study.tokens import CHUNK, TrunkTokens


def selector_report(setting: Setting, folder: ModelFolder, tasks: list[TrunkTokens]) -> dict[str, Any]:
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
    learned = LearnedClip.open(folder, setting.backbone)
    total = {way: np.zeros((count, count)) for way in ("given", "vocabulary", "looks")}
    open_last, left = np.zeros(count), np.zeros((count, count))
    right_task = np.zeros(count)
    for i, task in enumerate(tasks):
        features = split_features(setting, task, "test")
        looks = torch.stack([_chosen(selector, features) for selector in selectors])
        words = torch.stack([_chosen(s, features, [i] if i <= j else []) for j, s in enumerate(selectors)])
        told = torch.stack([torch.full((len(features),), i if i <= j else PLAIN) for j in range(count)])
        right = {
            t: _right(learned, i, t, task, looks == t if t not in (i, PLAIN) else None) for t in (PLAIN, *range(count))
        }
        for way, choice in (("given", told), ("vocabulary", words), ("looks", looks)):
            total[way][:, i] = _hits(right, choice)
        left[:, i] = (looks == PLAIN).double().mean(1).numpy()
        right_task[i] = float((looks[-1] == i).double().mean())
        mine = (looks[-1] == i) & right[i]
        offset = sum(len(t.classes) for t in tasks[:i])
        plain = looks[-1] == PLAIN
        open_last[i] = float((mine | (plain & _open_right(learned, task, offset))).double().mean())
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


def _right(learned: LearnedClip, of: int, under: int, task: TrunkTokens, chosen: Tensor | None) -> Tensor:
    """Whether each test image of a task is classified rightly under some task, only where a selector chose that."""
    tokens, labels = task.splits["test"]
    right = torch.zeros(len(labels), dtype=torch.bool)
    rows = torch.arange(len(labels)) if chosen is None else chosen.any(0).nonzero().flatten()
    for part in rows.split(CHUNK):
        features, read = learned.embed(tokens[part], under), learned.read(tokens[part])
        right[part] = learned.compare(features, read, of, under).argmax(1) == labels[part]
    return right


def _hits(right: dict[int, Tensor], chosen: Tensor) -> NDArray[np.float64]:
    """Share of right answers under each row of choices `[T, N]`."""
    hit = torch.zeros(chosen.shape, dtype=torch.bool)
    for adapter, answers in right.items():
        hit |= (chosen == adapter) & answers
    shares: NDArray[np.float64] = hit.double().mean(1).numpy()
    return shares


def _open_right(learned: LearnedClip, task: TrunkTokens, offset: int) -> Tensor:
    """Whether plain CLIP finds the class of each test image among those of all tasks."""
    return torch.cat(
        [learned.predict(tokens, PLAIN).argmax(1) == labels + offset for tokens, labels in task.chunks("test")]
    )


def _percent(values: NDArray[np.float64]) -> Any:
    return np.round(100.0 * values, 2).tolist()
