"""A first look at every image of a task: its content, how it looks in small, and whether it is damaged."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igsp_deploy.bundle.preprocess import ImageError, load_image
from igsp_deploy.data.items import ImageRef, StoredImage

CONTENT_BYTES = 8
"""Of the SHA-256 of an image's content: among a million images, two differ in it but with a chance of 3e-8."""

SMALL_SIDE = 32
"""Side of the small grey picture."""
_CHUNK = 512


@dataclass(frozen=True)
class Look:
    """What was seen of one image.

    Attributes:
        content: the first bytes of the SHA-256 of the file, or of the pixels where there is no file; none where it
            cannot be read.
        small: grey uint8 `[32, 32]`; None where it cannot be decoded.
        problem: why not, in a word or two.
    """

    content: bytes
    small: NDArray[np.uint8] | None = None
    problem: str | None = None


def look_at(images: Sequence[ImageRef], *, decode: bool = True) -> list[Look]:
    """Look at every image, on several threads.

    Args:
        images: where they are.
        decode: also make the small pictures, and find out which images are damaged.
    """
    found: list[Look] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(images), _CHUNK):
            with warnings.catch_warnings():  # `load_image` changes the filters for a moment, in every thread
                found += pool.map(lambda image: _look(image, decode), images[start : start + _CHUNK])
    return found


def _look(image: ImageRef, decode: bool) -> Look:
    try:
        held = image.read() if isinstance(image, StoredImage) else image
        source = held.read_bytes() if isinstance(held, Path) else held
    except (OSError, ValueError, KeyError, IndexError, RuntimeError):
        return Look(b"", problem="not readable")
    content = source if isinstance(source, bytes) else f"{source.mode} {source.size} ".encode() + source.tobytes()
    key = hashlib.sha256(content).digest()[:CONTENT_BYTES]
    if not decode:
        return Look(key)
    try:
        picture = load_image(source, least=2 * SMALL_SIDE)
    except ImageError as error:
        return Look(key, problem=error.kind)
    grey = picture.convert("L").resize((SMALL_SIDE, SMALL_SIDE), Image.Resampling.BILINEAR)
    return Look(key, small=np.asarray(grey))
