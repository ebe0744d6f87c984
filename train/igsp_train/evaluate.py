"""The accuracy matrix of a model folder, with the task given and with the task chosen by the selector.

Learned tasks never change, so the matrix after every task can be read off the final model: after task j, task i <= j is
classified by its own adapter and task i > j by plain CLIP; the selector after task j knows the first j + 1 tasks.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from igsp_deploy.data import Items, Skipped, read_chunks
from igsp_deploy.data.counts import first_skipped
from igsp_deploy.data.items import place_in_source
from igsp_deploy.data.source_text import source_root
from igsp_deploy.data.test_items import find_test_items
from igsp_deploy.errors import UserError
from igsp_deploy.files import check_places
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.names import PLAIN
from igsp_train.answers import Answers, calibration, of_classes, worst_mistakes, write_mistakes
from igsp_train.device import find_device
from igsp_train.features import trunk_chunks
from igsp_train.metrics import summary


@dataclass
class _Counts:
    """Right answers on the test images of one task i."""

    images: int
    zero_shot: int
    given: int
    auto: NDArray[np.int64]
    """After each task j, with the classes of task i given: `[T]`."""
    incremental: NDArray[np.int64]
    """After each task j, nothing given, over the classes of the tasks 0 to j: `[T]`; 0 for j < i."""
    chosen: NDArray[np.int64]
    """How often the last selector chose each task; the last entry counts plain CLIP: `[T + 1]`."""


def _total(parts: list[_Counts]) -> _Counts:
    """The counts of all chunks of one task's images."""
    values = [[getattr(part, field.name) for part in parts] for field in dataclasses.fields(_Counts)]
    return _Counts(*(sum(value[1:], start=value[0]) for value in values))


class _Evaluation:
    """A model, and its selector as it was after each task."""

    def __init__(self, folder: ModelFolder, learned: LearnedClip) -> None:
        self.folder = folder
        self.learned = learned
        selectors = [folder.selector(j + 1) for j in range(len(folder.tasks))]
        self.selectors = [selector.to(learned.device) for selector in selectors if selector is not None]

    def count(self, task: int, images: NDArray[np.uint8], items: Items) -> tuple[_Counts, Answers]:
        """Classify the test images of one task in every way the report needs."""
        folder, learned = self.folder, self.learned
        total, labels = len(folder.tasks), items.labels
        answers = Answers.blank(items.images, labels)
        counts = _Counts(len(labels), 0, 0, *(np.zeros(total + more, np.int64) for more in (0, 0, 1)))
        plain_classes = learned.class_vectors(PLAIN)
        ends = np.cumsum([len(record.classes) for record in folder.tasks]).tolist()
        offset = ends[task] - len(folder.tasks[task].classes)
        for rows, tokens in trunk_chunks(learned.clip, images):
            target = torch.from_numpy(labels[rows]).to(tokens.device)
            summary = learned.clip.summary(tokens)
            read = learned.for_heads(summary)
            chosen = torch.stack([selector.choose(summary) for selector in self.selectors])
            answers.chosen[rows] = chosen[-1].cpu().numpy()
            for adapter in [PLAIN, *range(total)]:
                picked = (chosen == adapter).any(0)
                if adapter in (PLAIN, task):
                    picked = torch.ones_like(picked)
                if not picked.any():
                    continue
                features = learned.embed(tokens[picked], adapter)
                scores = learned.compare(features, read[picked], task, under=adapter)
                right = scores.argmax(1) == target[picked]
                if adapter == PLAIN:
                    counts.zero_shot += int(right.sum())
                if adapter == task:
                    counts.given += int(right.sum())
                    answers.given[rows], answers.score[rows] = self._best(scores)
                mine = chosen[:, picked] == adapter
                counts.auto += (mine & right).sum(1).cpu().numpy()
                counts.chosen[adapter if adapter != PLAIN else total] += int(mine[-1].sum())
                if adapter == task:
                    counts.incremental[task:] += (mine[task:] & right).sum(1).cpu().numpy()
                if adapter == PLAIN:
                    similar = features @ plain_classes.T
                    for j in range(task, total):
                        hit = similar[:, : ends[j]].argmax(1) == target + offset
                        counts.incremental[j] += int((mine[j] & hit).sum())
                if mine[-1].any():
                    at = np.arange(rows.start, rows.stop)[picked.cpu().numpy()][mine[-1].cpu().numpy()]
                    self._answer(answers, at, learned.compare(features, read[picked], adapter)[mine[-1]], adapter)
        return counts, answers

    def _best(self, scores: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The best label of each row and its probability, `[B]` each, from cosines `[B, C]`."""
        probability, label = (self.learned.clip.logit_scale * scores.cpu().double()).softmax(1).max(1)
        return label.numpy(), probability.numpy()

    def _answer(self, answers: Answers, at: NDArray[np.int64], scores: Tensor, chosen: int) -> None:
        """Fill in what is answered with nothing given on the images `at`, for which `chosen` was chosen."""
        label, score = self._best(scores)
        answers.answer_score[at] = score
        if chosen == PLAIN:
            tasks = [(t, c) for t, record in enumerate(self.folder.tasks) for c in range(len(record.classes))]
            answers.answer_task[at], answers.answer[at] = np.array(tasks, np.int64)[label].T
        else:
            answers.answer_task[at], answers.answer[at] = chosen, label


def accuracies(
    learned: LearnedClip, tasks: Sequence[int], chunks: Iterable[tuple[NDArray[np.uint8], NDArray[np.int64]]]
) -> list[float] | None:
    """Share of images whose best class is their label, in percent, under each of `tasks`; None without images.

    Args:
        learned: a model.
        tasks: indices, or `PLAIN`, whose classes are those of the labels.
        chunks: uint8 images `[N, S, S, 3]` and labels `[N]`.
    """
    right, total = dict.fromkeys(tasks, 0), 0
    for images, labels in chunks:
        total += len(labels)
        for rows, tokens in trunk_chunks(learned.clip, images):
            for task in tasks:
                best = learned.predict(tokens, task).argmax(1).cpu().numpy()
                right[task] += int((best == labels[rows]).sum())
    return [100.0 * count / total for count in right.values()] if total else None


def evaluate_model(
    model_path: Path,
    sources: dict[str, str] | None = None,
    *,
    errors: Path | None = None,
    console: Console | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Measure a model on the test images of its tasks.

    Args:
        model_path: the model folder.
        sources: task name -> folder or manifest to use in place of the one it was learned from.
        errors: CSV file that gets a row for each image that is wrong (see `write_mistakes`).
        console: where progress goes; stderr by default.
        device: where to compute, see `find_device`.

    Returns:
        All accuracies in percent:
        `given` and `auto`: A[j][i], accuracy on task i after task j, with the task given and chosen by the selector
        (the classes of task i known in both, as MTIL does);
        `class_incremental`: A[j][i], accuracy on task i after task j >= i, nothing given, over the classes of all tasks
        learned by then; None for i > j, whose classes are not known yet;
        `open_last`: its last row;
        `zero_shot`, `selector_accuracy`, `left_to_plain`: per task; `confusion`: [task][chosen task..., plain] counts;
        `metrics`: Transfer, Average, Last, backward transfer and forgetting of `given` and `auto`; all but Transfer of
        `class_incremental`;
        `per_class`: per task, see `answers.of_classes`; `calibration`: per task, see `answers.calibration`;
        `worst`: of all tasks, see `answers.worst_mistakes`; `skipped`: per task, the test images that cannot be read,
        as `count` and `first`, a list of `[place in the source, reason]`;
        `parameters`: trained, kept and reused per task.

    Raises:
        UserError: no such device, no tasks learned, unknown task name, or test images missing.
    """
    console, place = console or Console(stderr=True), find_device(device)
    folder = ModelFolder.open(model_path)
    if not folder.tasks:
        raise UserError(f"{model_path} has no learned task yet; `igsp train {model_path} --task name=folder` adds one.")
    for name in sources or {}:
        folder.task_index(name)
    check_places(errors)
    backbone = folder.load_backbone().to(place)
    evaluation = _Evaluation(folder, LearnedClip.open(folder, backbone))
    counts: list[_Counts] = []
    answers: list[Answers] = []
    skipped: list[list[tuple[str, str]]] = []
    roots = [source_root((sources or {}).get(record.name, record.source)) for record in folder.tasks]
    for record, root in zip(folder.tasks, roots, strict=True):
        items = find_test_items(record, (sources or {}).get(record.name), folder.split(record.index), _say(console))
        unread: list[Skipped] = []
        chunks = read_chunks(items, backbone.preprocess, on_skip=_say(console), skipped=unread)
        parts = [evaluation.count(record.index, images, kept) for images, kept in chunks]
        counts.append(_total([part for part, _ in parts]))
        answers.append(Answers.joined([part for _, part in parts]))
        skipped.append([(place_in_source(one.image, root), one.kind) for one in unread])
        console.print(f"{record.name}: {counts[-1].images} test images", markup=False, highlight=False)
    if errors is not None:
        rows = write_mistakes(errors, folder.tasks, answers)
        console.print(f"{errors}: {rows} images with a wrong answer", markup=False, highlight=False)
    return {
        **_report(folder, counts, answers),
        "worst": worst_mistakes(folder.tasks, answers, roots),
        "skipped": [dataclasses.asdict(first_skipped(files)) for files in skipped],
    }


def _say(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, markup=False, highlight=False)


def _percent(values: NDArray[np.float64]) -> Any:
    return np.round(100.0 * values, 2).tolist()


def _report(folder: ModelFolder, counts: list[_Counts], answers: list[Answers]) -> dict[str, Any]:
    total = len(counts)
    images = np.array([c.images for c in counts], dtype=np.float64)
    given = np.zeros((total, total))
    for i, c in enumerate(counts):
        given[:, i] = [(c.given if j >= i else c.zero_shot) / c.images for j in range(total)]
    auto = np.stack([c.auto for c in counts], axis=1) / images
    incremental = np.stack([c.incremental for c in counts], axis=1) / images
    confusion = np.stack([c.chosen for c in counts])
    parameters = [
        {
            "trained": record.trained_parameters,
            "kept": record.kept_parameters,
            "selector": record.selector_parameters,
            "experts_new": record.metrics.get("experts_new"),
            "reused": record.metrics.get("experts_reused"),
        }
        for record in folder.tasks
    ]
    rounded = {
        name: {k: None if v is None else round(100 * v, 2) for k, v in summary(m).items()}
        for name, m in (("given", given), ("auto", auto))
    }
    seen = [incremental[j, : j + 1].mean() for j in range(total)]
    change = summary(incremental)
    whole = {
        "average": float(np.mean(seen)),
        "last": float(seen[-1]),
        "backward_transfer": change["backward_transfer"],
        "forgetting": change["forgetting"],
    }
    rounded["class_incremental"] = {k: None if v is None else round(100 * v, 2) for k, v in whole.items()}
    return {
        "tasks": [record.name for record in folder.tasks],
        "test_images": [c.images for c in counts],
        "given": _percent(given),
        "auto": _percent(auto),
        "zero_shot": _percent(np.array([c.zero_shot for c in counts]) / images),
        "class_incremental": [
            [value if i <= j else None for i, value in enumerate(row)] for j, row in enumerate(_percent(incremental))
        ],
        "open_last": _percent(incremental[-1]),
        "selector_accuracy": _percent(np.array([confusion[i, i] for i in range(total)]) / images),
        "left_to_plain": _percent(confusion[:, -1] / images),
        "confusion": confusion.tolist(),
        "per_class": [of_classes(a, record.classes) for a, record in zip(answers, folder.tasks, strict=True)],
        "calibration": [calibration(a) for a in answers],
        "metrics": rounded,
        "parameters": parameters,
    }
