"""Test images with what the model says about them: examples of a task, and the worst mistakes of all."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igsp_deploy.bundle.preprocess import PreprocessSpec, to_uint8
from igsp_deploy.data import Items, Skipped, read_eval_images
from igsp_deploy.data.images import decode_all
from igsp_deploy.data.items import place_in_source
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.model.record import TaskRecord
from igsp_deploy.names import PLAIN
from igsp_train.features import trunk_chunks
from igsp_train.report.evaluation import NamedMistake

LOOKED_AT = 96
"""Test images a task that are classified to choose examples from, spread over its test images."""

_SIDE = 112
_QUALITY = 82


@dataclass(frozen=True, kw_only=True)
class Example:
    """One test image.

    Attributes:
        picture: the image as the model sees it, a `data:` address.
        truth: display name of its class.
        predicted: display name of the best class, the task given.
        probability: of that class, in percent.
        chosen: name of the task that the selector chose; None for plain CLIP.
        right: whether `predicted` is the truth.
    """

    picture: str
    truth: str
    predicted: str
    probability: float
    chosen: str | None
    right: bool


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Examples of one task.

    Attributes:
        shown: right ones first.
        looked_at: images they were chosen from.
        wrong: how many of those were wrong.
        problem: why there are none.
    """

    shown: list[Example]
    looked_at: int = 0
    wrong: int = 0
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One of the worst mistakes of an evaluation.

    Attributes:
        task: name of the task.
        file: place of the image in the task's source.
        truth: display name of its class.
        predicted: display name of the best class, the task given.
        probability: of that class, in percent.
        picture: the image as the model sees it, a `data:` address; None where it is not there.
    """

    task: str
    file: str
    truth: str
    predicted: str
    probability: float
    picture: str | None


def name_mistakes(
    rows: Sequence[NamedMistake], records: Sequence[TaskRecord], pictures: dict[tuple[str, str], str]
) -> list[Mistake]:
    """Mistakes as a page shows them.

    Args:
        rows: of an evaluation.
        records: the tasks.
        pictures: by task and place.
    """
    words = {
        (record.name, label): name
        for record in records
        for label, name in zip(record.classes, record.display_names, strict=True)
    }
    return [
        Mistake(
            task=row.task,
            file=row.file,
            truth=words[row.task, row.label],
            predicted=words[row.task, row.predicted],
            probability=row.score,
            picture=pictures.get((row.task, row.file)),
        )
        for row in rows
    ]


def pictures_of(places: Sequence[str], items: Items, root: Path | None, spec: PreprocessSpec) -> dict[str, str]:
    """Pictures of the images at `places` below `root`; a place that two images have, or none, is left out."""
    named = [place_in_source(image, root) for image in items.images]
    found = Counter(named)
    rows = [index for index, place in enumerate(named) if place in places and found[place] == 1]
    images = decode_all([items.images[i] for i in rows], lambda image: to_uint8(image, spec), spec.decoded_side)
    return {named[i]: _picture(image) for i, image in zip(rows, images, strict=True) if not isinstance(image, Skipped)}


def find_examples(
    folder: ModelFolder, learned: LearnedClip, record: TaskRecord, items: Items, *, count: int
) -> Examples:
    """Choose examples of one task: half of them mistakes, as far as there are any.

    Args:
        folder: the model.
        learned: the same, opened.
        record: the task.
        items: its test images.
        count: images to show at most.

    Raises:
        UserError: none of those it looks at can be read.
    """
    picked = np.unique(np.linspace(0, len(items) - 1, min(len(items), LOOKED_AT)).round().astype(np.int64))
    images, labels, _ = read_eval_images(items.subset(picked), learned.backbone.preprocess)
    probabilities, chosen = _classify(learned, record.index, images)
    best = probabilities.argmax(1)
    right = best == labels
    half = min(int((~right).sum()), count // 2)
    order = [*_spread(np.flatnonzero(right), count - half), *_spread(np.flatnonzero(~right), half)]
    if len(order) < count:  # hardly any right one
        order += [int(i) for i in np.flatnonzero(~right) if i not in order][: count - len(order)]
    names = [task.name for task in folder.tasks]
    shown = [
        Example(
            picture=_picture(images[i]),
            truth=record.display_names[labels[i]],
            predicted=record.display_names[best[i]],
            probability=100.0 * float(probabilities[i, best[i]]),
            chosen=None if chosen[i] == PLAIN else names[chosen[i]],
            right=bool(right[i]),
        )
        for i in order
    ]
    return Examples(shown=shown, looked_at=len(labels), wrong=int((~right).sum()))


def _spread(indices: NDArray[np.int64], count: int) -> list[int]:
    """`count` of the indices (or all), evenly spread: images come sorted by class."""
    if count < 1 or not len(indices):
        return []
    at = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return [int(i) for i in indices[np.unique(at)]]


def _classify(
    learned: LearnedClip, task: int, images: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Probabilities of the task's classes `[N, C]` with the task given, and the task the selector chooses `[N]`."""
    probabilities, chosen = [], []
    for _, tokens in trunk_chunks(learned.clip, images):
        probabilities.append(learned.predict(tokens, task).softmax(1).float().cpu().numpy())
        chosen.append(learned.choose(tokens).cpu().numpy())
    return np.concatenate(probabilities), np.concatenate(chosen)


def _picture(image: NDArray[np.uint8]) -> str:
    small = Image.fromarray(image)
    if small.width > _SIDE:
        small = small.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
