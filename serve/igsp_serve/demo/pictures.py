"""Example images of the tasks: from where they were learned, where those folders are still there."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from igsp_deploy.bundle.preprocess import ImageError, load_image
from igsp_deploy.runtime.classifier import Classifier
from igsp_deploy.runtime.image_files import SUFFIXES
from igsp_serve.demo.model_files import ModelTask
from igsp_serve.demo.uploads import new_file

CARD_SIDE = 112
"""Side of a small picture on a card, in pixels; shown at half of it, for sharp screens."""
EXAMPLE_SIDE = 384
"""Longest side of an example to be classified."""
PER_TASK = 6
"""Pictures on a card."""


def example_files(source: Path, classes: Sequence[str], limit: int) -> list[tuple[str, Path]]:
    """Up to `limit` images of a folder of class folders, of different classes and from the test split if there is one.

    Returns:
        Class and file of each; empty where the folder is gone or is something else.
    """
    root = next(
        (source / part for part in ("test", "val", "train", ".") if (source / part / classes[0]).is_dir()), None
    )
    if root is None:
        return []
    every = max(1, len(classes) / limit)
    picked = [classes[int(k * every)] for k in range(min(limit, len(classes)))]
    found = []
    for label in picked:
        files = sorted(p for p in (root / label).glob("*") if p.suffix.lower() in SUFFIXES)
        if files:
            found.append((label, files[len(files) // 2]))
    return found


def card_pictures(task: ModelTask) -> list[tuple[str, str]]:
    """Small pictures of a task: class and data URL."""
    shown = []
    for label, path in example_files(task.source, task.classes, PER_TASK):
        try:
            image = load_image(path)
        except ImageError:
            continue
        shown.append((label, small_picture(image)))
    return shown


def small_picture(image: Image.Image) -> str:
    """The middle of an image as a data URL."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    buffer = io.BytesIO()
    square.resize((CARD_SIDE, CARD_SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def most_telling_first(classifier: Classifier, files: Sequence[tuple[str, Path]]) -> list[Path]:
    """The images, first one that the model gets right, by itself, and plain CLIP wrong: the surest such.

    Args:
        classifier: the model.
        files: class and file of each; those that cannot be read are left out.
    """
    readable, pixels = [], []
    for label, path in files:
        try:
            pixels.append(classifier.load(path))
        except ImageError:
            continue
        readable.append((label, path))
    if not readable:
        return []
    gains = []
    for (label, _), found, plain in zip(
        readable, classifier.classify(pixels, "auto"), classifier.classify(pixels, "none"), strict=True
    ):
        gains.append(found.scores[0] if found.labels[0] == label != plain.labels[0] else 0.0)
    first = gains.index(max(gains))
    paths = [path for _, path in readable]
    return [paths[first], *paths[:first], *paths[first + 1 :]]


def copy_examples(files: Sequence[Path]) -> list[Path]:
    """Small copies among the page's files: visitors get those, not the folders the images lie in."""
    copies = []
    for number, path in enumerate(files):
        try:
            image = load_image(path)
        except ImageError:
            continue
        image.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
        copies.append(new_file(f"{number:03d}.png"))
        image.save(copies[-1])
    return copies
