"""Reading images, leaving out those that cannot be read and saying so."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igsp_deploy.bundle.preprocess import ImageError, PreprocessSpec, load_image, to_uint8
from igsp_deploy.data.items import ImageRef, Items, StoredImage
from igsp_deploy.errors import UserError

T = TypeVar("T")

_CHUNK = 128

EVAL_CHUNK = 1024
"""Images that evaluation holds in memory at a time: 154 MB at 224 pixels."""

Report = Callable[[str], None]
"""Gets one line for people."""


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and why: as a sentence, and in a word or two."""

    image: ImageRef
    reason: str
    kind: str


def open_image(image: ImageRef, least: int | None = None) -> Image.Image:
    """Decode an image to RGB, wherever it is (see `load_image`, also for `least`).

    Raises:
        ImageError: it cannot be used; names the file or its place in the data set.
    """
    decode = load_image if least is None else partial(load_image, least=least)
    if not isinstance(image, StoredImage):
        return decode(image)
    try:
        return decode(image.read())
    except ImageError as error:
        raise ImageError(str(error).replace("the image", image.name, 1)) from error
    except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise ImageError(f"{image.name} cannot be read ({error}). Restore the data set.") from error


def read_eval_images(
    items: Items, spec: PreprocessSpec, on_skip: Report | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[Skipped]]:
    """Read images exactly as they are classified: resized and cut by `igsp_deploy.bundle.preprocess`.

    Args:
        items: the images.
        spec: how an image becomes an input of side S.
        on_skip: gets one line if images were left out.

    Returns:
        Images uint8 `[N, S, S, 3]` and labels `[N]` of the images that can be read, and those that cannot.

    Raises:
        UserError: there are images and none can be read.
    """
    images = np.empty((len(items), spec.size, spec.size, 3), dtype=np.uint8)
    kept: list[int] = []
    skipped: list[Skipped] = []
    for index, result in enumerate(decode_all(items.images, lambda image: to_uint8(image, spec), spec.decoded_side)):
        if isinstance(result, Skipped):
            skipped.append(result)
        else:
            images[len(kept)] = result
            kept.append(index)
    report_skipped(skipped, len(items), on_skip)
    return images[: len(kept)], items.labels[np.array(kept, dtype=np.int64)], skipped


def eval_chunks(
    items: Items, spec: PreprocessSpec, on_skip: Report | None = None, size: int = EVAL_CHUNK
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """The same in chunks of `size` images, so that memory holds one of them, whatever the number of images.

    Yields:
        Images uint8 `[n, S, S, 3]` and labels `[n]` of the images that can be read, n at most `size`, at least 1.

    Raises:
        UserError: there are images and none can be read.
    """
    for images, kept in read_chunks(items, spec, on_skip, size):
        yield images, kept.labels


def read_chunks(
    items: Items,
    spec: PreprocessSpec,
    on_skip: Report | None = None,
    size: int = EVAL_CHUNK,
    skipped: list[Skipped] | None = None,
) -> Iterator[tuple[NDArray[np.uint8], Items]]:
    """As `eval_chunks`, with the items in place of their labels; `skipped` gets the images that cannot be read."""
    skipped = [] if skipped is None else skipped
    for start in range(0, len(items), size):
        part = items.subset(range(start, min(start + size, len(items))))
        kept: list[int] = []
        images: list[NDArray[np.uint8]] = []
        for index, result in enumerate(decode_all(part.images, lambda image: to_uint8(image, spec), spec.decoded_side)):
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                images.append(result)
                kept.append(index)
        if kept:
            yield np.stack(images), part.subset(kept)
    report_skipped(skipped, len(items), on_skip)


def decode_all(
    images: Iterable[ImageRef], then: Callable[[Image.Image], T], least: int | None = None
) -> Iterator[T | Skipped]:
    """Decode every image (see `load_image`) and apply `then`, on several threads, in the order of `images`."""

    def one(image: ImageRef) -> T | Skipped:
        try:
            return then(open_image(image, least))
        except ImageError as error:
            return Skipped(image, str(error), error.kind)

    files = list(images)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        # In chunks: map() would decode everything ahead of a slower reader, into memory.
        for start in range(0, len(files), _CHUNK):
            # load_image changes the process's warning filters for a moment; threads could restore each other's.
            with warnings.catch_warnings():
                results = list(pool.map(one, files[start : start + _CHUNK]))
            yield from results


def report_skipped(skipped: list[Skipped], total: int, on_skip: Report | None) -> None:
    """Say in one line how many images were left out.

    Raises:
        UserError: all of them were.
    """
    if not skipped:
        return
    first = skipped[0].reason
    if len(skipped) == total:
        raise UserError(f"none of the {total} images can be read. The first: {first}")
    if on_skip is not None:
        on_skip(f"{len(skipped)} of {total} images cannot be read and are left out. The first: {first}")
