"""Reading image files, leaving out those that cannot be read and saying so."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igsp_deploy.bundle.preprocess import ImageError, PreprocessSpec, load_image, to_uint8
from igsp_deploy.errors import UserError
from igsp_train.data.items import Items

T = TypeVar("T")

_CHUNK = 128

Report = Callable[[str], None]
"""Gets one line for people."""


@dataclass(frozen=True)
class Skipped:
    """A file that could not be read, and why."""

    path: Path
    reason: str


def read_eval_images(
    items: Items, spec: PreprocessSpec, on_skip: Report | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[Skipped]]:
    """Read images exactly as they are classified: resized and cut by `igsp_deploy.bundle.preprocess`.

    Args:
        items: the files.
        spec: how an image becomes an input of side S.
        on_skip: gets one line if files were left out.

    Returns:
        Images uint8 `[N, S, S, 3]` and labels `[N]` of the files that can be read, and those that cannot.

    Raises:
        UserError: there are files and none can be read.
    """
    images = np.empty((len(items), spec.size, spec.size, 3), dtype=np.uint8)
    kept: list[int] = []
    skipped: list[Skipped] = []
    for index, result in enumerate(decode_all(items.paths, lambda image: to_uint8(image, spec))):
        if isinstance(result, Skipped):
            skipped.append(result)
        else:
            images[len(kept)] = result
            kept.append(index)
    report_skipped(skipped, len(items), on_skip)
    return images[: len(kept)], items.labels[np.array(kept, dtype=np.int64)], skipped


def decode_all(paths: Iterable[Path], then: Callable[[Image.Image], T]) -> Iterator[T | Skipped]:
    """Decode every file and apply `then`, on several threads, in the order of `paths`."""

    def one(path: Path) -> T | Skipped:
        try:
            return then(load_image(path))
        except ImageError as error:
            return Skipped(path, str(error))

    files = list(paths)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        # In chunks: map() would decode everything ahead of a slower reader, into memory.
        for start in range(0, len(files), _CHUNK):
            # load_image changes the process's warning filters for a moment; threads could restore each other's.
            with warnings.catch_warnings():
                results = list(pool.map(one, files[start : start + _CHUNK]))
            yield from results


def report_skipped(skipped: list[Skipped], total: int, on_skip: Report | None) -> None:
    """Say in one line how many files were left out.

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
