"""More images, and more classes, for a task that was learned: by its closed-form head and the selector alone.

A ridge regression keeps no image, only sums, and those of the images that a task was learned from can be had from what
is kept of them (remembered.py). New images are added to them; experts, routers and every other task stay as they are.

Shapes: N images, F numbers of a summary, C classes, M images that set a threshold.
"""

import dataclasses
import time
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from igsp_deploy.data import TaskData, canonical_source, eval_chunks
from igsp_deploy.data.counts import counts_table
from igsp_deploy.data.frozen import FrozenSplit
from igsp_deploy.data.sources import load_new_images
from igsp_deploy.errors import UserError
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.head import Head
from igsp_deploy.model.learned import Learned, LearnedClip
from igsp_deploy.model.record import TaskRecord
from igsp_deploy.model.selector import TaskStatistics, task_statistics
from igsp_deploy.model_path import locked_model, require_model
from igsp_train.device import find_device
from igsp_train.features import trunk_and_labels
from igsp_train.head import (
    FOLDS,
    MEASURED,
    NO_SPREAD,
    WEIGHT_OF_FEW,
    WEIGHTS,
    RidgeSums,
    best_weight,
    measure,
    spread_of,
    take_in,
    weight_of,
)
from igsp_train.prompts import check_prompts
from igsp_train.remembered import remembered
from igsp_train.statistics import chunked_summaries, spread


def extend_task(
    model_path: Path, name: str, source: str, *, console: Console | None = None, device: str = "auto"
) -> TaskRecord:
    """Teach a learned task the images that came to its source, and their classes.

    Args:
        model_path: the model folder.
        name: of the task.
        source: where all of its images are now, the new ones among the old.
        console: where progress goes; stderr by default.
        device: where to compute, see `find_device`.

    Returns:
        What is known of the task now.

    Raises:
        UserError: there is no such task or image, the task has a probe in place of words, its statistics are of an
            older version, or the disk cannot be written; the model is as before.
    """
    console = console or Console(stderr=True)
    started = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{name}: {text}", markup=False, highlight=False, soft_wrap=True)

    require_model(model_path)
    place = find_device(device)
    with locked_model(model_path):
        folder = ModelFolder.open(model_path)
        index = folder.task_index(name)
        before, split, statistics = _extendable(folder, index)
        known = {content for keys in split.parts.values() for _, content in keys}
        shares = {key: before.data[key] for key in ("val_share", "test_share", "seed")}
        data = load_new_images(name, source, known, **shares)
        classes, names = _classes(before, data, source)
        for note in data.notes:
            say(note)
        console.print(counts_table(name, data.counts))
        backbone = folder.load_backbone().to(place)
        words = dataclasses.replace(data, classes=classes, display_names=names, templates=before.templates)
        check_prompts(words, backbone, say)
        clip = Clip(backbone, folder.sites)
        features, labels = chunked_summaries(clip, eval_chunks(data.train, backbone.preprocess, on_skip=say))
        at = [classes.index(label) for label in data.classes]
        labels = torch.tensor(at)[labels]
        _check_new_classes(before, classes, labels)
        keep = folder.selector_config.calibration_images
        merged = merged_statistics(statistics, task_statistics(features, labels, len(classes), keep=keep), keep)
        task = Learned(experts=folder.experts(index), display_names=names, templates=before.templates)
        measured = trunk_and_labels(clip, data.train.subset(spread(len(data.train), MEASURED)), backbone.preprocess)
        assert measured is not None, "some of them was read a moment ago"
        learned = LearnedClip(backbone, folder.sites, [task], head_features=folder.config.head_features)
        tempered = float(before.metrics.get("temperature", 1.0))
        had = folder.head(index)
        old = remembered(statistics, learned.head_features, None if had is None else had.vectors)
        new = RidgeSums(len(classes), len(old.gram))
        take_in(new, learned, features, labels)
        sums = old.widened(len(classes)).plus([new])
        head = extended_head(learned, had, tempered, sums, measured[0], torch.tensor(at)[measured[1]])
        record = dataclasses.replace(
            before,
            classes=classes,
            display_names=names,
            kept_parameters=before.kept_parameters + _parameters(head) - _parameters(had),
            selector_parameters=merged.means.numel(),
            source=canonical_source(source),
            images=_counts(before, data),
            metrics={
                **before.metrics,
                "head_weight": weight_of(head, tempered),
                "extended_by": before.metrics.get("extended_by", 0) + len(data.train),
            },
        )
        folder.extend_task(record, head, merged, _joined(split, data))
    more = [label for label in classes if label not in before.classes]
    added = f" and {len(more)} classes ({', '.join(more[:5])}{', ...' if len(more) > 5 else ''})" if more else ""
    seconds = time.monotonic() - started
    say(f"{len(data.train)} images{added} added in {seconds:.0f} s; no expert and no other task moved")
    return record


def _extendable(folder: ModelFolder, index: int) -> tuple[TaskRecord, FrozenSplit, TaskStatistics]:
    record, split, statistics = folder.tasks[index], folder.split(index), folder.statistics(index)
    head = folder.head(index)
    if head is not None and head.probe is not None:
        raise UserError(
            f"{record.name!r} was imported and is told apart by its probe, which cannot be added to. Fit the probe "
            "again with the new images, and import it under another name."
        )
    if split is None or not int(statistics.sizes.sum()):
        raise UserError(
            f"{record.name!r} was learned by a version that kept too little of its images to add to them. Learn it "
            "again with all images under another name."
        )
    return record, split, statistics


def _classes(before: TaskRecord, data: TaskData, source: str) -> tuple[list[str], list[str]]:
    """Classes and what they are called: the learned ones in their order, then the new ones."""
    gone = [label for label in before.classes if label not in data.classes]
    if gone:
        raise UserError(
            f"task {before.name!r}: {source} has no {', '.join(gone[:5])}. Give the place of all of its images, the "
            "new ones among the old; a task of its own is learned with --task."
        )
    new = [label for label in data.classes if label not in before.classes]
    called = dict(zip(data.classes, data.display_names, strict=True))
    return [*before.classes, *new], [*before.display_names, *(called[label] for label in new)]


def _check_new_classes(before: TaskRecord, classes: list[str], labels: Tensor) -> None:
    """Refuse a new class without an image: all are damaged, or are copies of images that were there."""
    there = set(labels.tolist())
    empty = [label for i, label in enumerate(classes) if label not in before.classes and i not in there]
    if empty:
        raise UserError(
            f"task {before.name!r}: of the new class {empty[0]} no training image can be read that was not there "
            "before. Put some into its folder, or take the class out of the source."
        )


def merged_statistics(old: TaskStatistics, new: TaskStatistics, keep: int) -> TaskStatistics:
    """Those of the images behind both, as if they had been seen together.

    Args:
        old: of `C` classes.
        new: of these and maybe more.
        keep: images at most that set the threshold, of both by their share.
    """
    more = len(new.means) - len(old.means)
    means = torch.cat([old.means, torch.zeros(more, old.means.shape[1])]).double()
    sizes = torch.cat([old.sizes, torch.zeros(more, dtype=torch.long)])
    total = (sizes + new.sizes).clamp(min=1).double()
    apart = new.means.double() - means
    # The scatter around a common mean is more by what the two means lie apart.
    between = (sizes.double() * new.sizes.double() / total)[:, None] * apart
    share = round(keep * old.count / max(old.count + new.count, 1))
    rows = [spread(len(part.labels), limit) for part, limit in ((old, share), (new, keep - share))]
    parts = [(part.calibration[at], part.labels[at]) for part, at in zip((old, new), rows, strict=True)]
    return TaskStatistics(
        means=((sizes[:, None] * means + new.sizes[:, None] * new.means.double()) / total[:, None]).float(),
        scatter=(old.scatter.double() + new.scatter.double() + apart.T @ between).float(),
        count=old.count + new.count,
        calibration=torch.cat([features for features, _ in parts]),
        labels=torch.cat([labels for _, labels in parts]),
        sizes=sizes + new.sizes,
    )


@torch.no_grad()
def extended_head(
    learned: LearnedClip, before: Head | None, tempered: float, sums: RidgeSums, tokens: Tensor, labels: Tensor
) -> Head | None:
    """The ridge over all images, old and new, weighed against the words and as sure as before.

    Where words were alone so far, the weight is the one with the least loss on new training images, each told apart by
    a ridge without its fifth of them, and by plain CLIP's words, which saw none.

    Args:
        learned: the frozen CLIP with the task's experts and the words of all of its classes, without a head.
        before: the head so far.
        tempered: the temperature in it.
        sums: over all training images.
        tokens: trunk tokens of new ones among them, `[N, n, d]`.
        labels: their classes, `[N]`.

    Returns:
        It, or None where words alone are as good.
    """
    words, plain, read = measure(learned, tokens)
    vectors = sums.solve()
    scale, spreads = learned.clip.logit_scale, (spread_of(words), spread_of(read @ vectors.T))
    if spreads[1] * scale < NO_SPREAD:
        return None
    weight = 0.0
    if before is not None:
        weight = weight_of(before, tempered)
    else:
        ridge, folds = torch.zeros_like(words), torch.arange(len(labels)) % FOLDS
        for fold in folds.unique().tolist():
            own = RidgeSums(*sums.sums.shape)
            own.add(read[folds == fold], labels[folds == fold])
            ridge[folds == fold] = read[folds == fold] @ sums.without(own).solve().T
        weight = best_weight(scale * plain, ridge, labels, [w for w in WEIGHTS if w <= WEIGHT_OF_FEW])
    if not weight:
        return None
    head = Head(vectors=vectors * (weight * spreads[0] / spreads[1]), text_share=1.0 - weight)
    return head if before is None else head.tempered(tempered)


def _parameters(head: Head | None) -> int:
    return 0 if head is None else head.num_parameters()


def _counts(before: TaskRecord, data: TaskData) -> dict[str, object]:
    """Images of each class, old and new."""
    counts = dict(before.images)
    for label, count in data.counts.items():
        new, old = count.to_json(), before.images.get(label, {})
        counts[label] = {
            **new,
            **{part: old.get(part, 0) + new[part] for part in ("learned", "held_out", "tested")},
        }
    return counts


def _joined(split: FrozenSplit, data: TaskData) -> FrozenSplit:
    assert data.split is not None, "new images were looked at"
    return FrozenSplit({part: [*keys, *data.split.parts[part]] for part, keys in split.parts.items()})
