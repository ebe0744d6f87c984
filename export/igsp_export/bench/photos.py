"""`igsp bench --photos`: how long a photo takes to be prepared, and whether decoding it scaled changes the answer."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igsp_deploy.bundle.preprocess import ImageError, PreprocessSpec, read_pixels
from igsp_deploy.errors import UserError
from igsp_deploy.names import PLAIN
from igsp_deploy.runtime.classifier import BATCH, Classifier
from igsp_deploy.runtime.image_files import find_images
from igsp_deploy.runtime.providers import Provider

NO_PHOTOS = "{place} holds no image that can be read. Give a folder of photos."


@dataclass(frozen=True, kw_only=True)
class PhotoRow:
    """Photos of one size.

    Attributes:
        size: width x height, for people.
        photos: how many.
        plain_ms: median time to read, decode, resize and cut one with plain Pillow.
        scaled_ms: the same with JPEGs decoded to a part of their size (`preprocess.decoding: scaled`).
        smallest_cosine: of plain CLIP's features of both.
        same_top1: photos with the same best class, the task chosen.
    """

    size: str
    photos: int
    plain_ms: float
    scaled_ms: float
    smallest_cosine: float
    same_top1: int


def measure_photos(
    bundle: Path, places: Sequence[Path], provider: Provider = "auto", say: Callable[[str], None] = lambda _: None
) -> list[PhotoRow]:
    """Prepare every photo twice, with plain Pillow and scaled, in turns, and classify both.

    Args:
        bundle: the bundle.
        places: photos, or folders of them.
        provider: where the graphs run.
        say: gets a line about files that are passed over.

    Raises:
        UserError: no bundle, or no photo that can be read.
    """
    classifier = Classifier.open(bundle, provider)
    spec = classifier.manifest.preprocess
    groups: dict[str, list[Path]] = {}
    for path in find_images(places, say):
        try:
            with Image.open(path) as image:
                groups.setdefault(f"{image.width} x {image.height}", []).append(path)
        except OSError as error:
            say(f"{path} is passed over: {error}")
    rows = [_measure(classifier, spec, size, paths, say) for size, paths in groups.items()]
    found = [row for row in rows if row is not None]
    if not found:
        raise UserError(NO_PHOTOS.format(place=" ".join(map(str, places))))
    return sorted(found, key=lambda row: -row.plain_ms)


def _measure(
    classifier: Classifier, spec: PreprocessSpec, size: str, paths: list[Path], say: Callable[[str], None]
) -> PhotoRow | None:
    ways = [dataclasses.replace(spec, decoding="plain"), dataclasses.replace(spec, decoding="scaled")]
    times: list[list[float]] = [[], []]
    cosines: list[NDArray[np.float32]] = []
    same = 0
    for start in range(0, len(paths), BATCH):
        pixels: list[list[NDArray[np.uint8]]] = [[], []]
        for path in paths[start : start + BATCH]:
            try:
                _prepare(path, ways, times, pixels)
            except ImageError as error:
                say(str(error))
        if not pixels[0]:
            continue
        plain = np.full(len(pixels[0]), PLAIN, dtype=np.int64)
        one, other = (classifier.engine.run_images(np.stack(images), plain).features for images in pixels)
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        cosines.append((one * other).sum(axis=1) / lengths)
        best = [[found.labels[0] for found in classifier.classify(images, "auto", top_k=1)] for images in pixels]
        same += sum(a == b for a, b in zip(*best, strict=True))
    if not cosines:
        return None
    return PhotoRow(
        size=size,
        photos=len(times[0]),
        plain_ms=1000 * float(np.median(times[0])),
        scaled_ms=1000 * float(np.median(times[1])),
        smallest_cosine=float(np.concatenate(cosines).min()),
        same_top1=same,
    )


def _prepare(
    path: Path, ways: list[PreprocessSpec], times: list[list[float]], pixels: list[list[NDArray[np.uint8]]]
) -> None:
    taken = []
    for way in ways:
        begin = time.perf_counter()
        image = read_pixels(path, way)
        taken.append((time.perf_counter() - begin, image))
    for number, (seconds, image) in enumerate(taken):
        times[number].append(seconds)
        pixels[number].append(image)


def photo_table(rows: Sequence[PhotoRow]) -> Any:
    """The rows as a table for a terminal."""
    from rich.table import Table

    table = Table(title="preparing a photo: median, and what scaled decoding changes", title_justify="left")
    for title in ("size", "photos", "plain Pillow", "scaled", "faster", "smallest cosine", "same top-1"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.size,
            str(row.photos),
            f"{row.plain_ms:.1f} ms",
            f"{row.scaled_ms:.1f} ms",
            f"{row.plain_ms / row.scaled_ms:.1f} x",
            f"{row.smallest_cosine:.5f}",
            f"{row.same_top1}/{row.photos}",
        )
    return table
