"""Bytes from strangers -> the pixels the model takes, within limits."""

import logging

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igsp_deploy.bundle.image_formats import UNSAFE_FORMATS, register_heif
from igsp_deploy.bundle.preprocess import ImageError, PreprocessSpec, read_pixels

logger = logging.getLogger(__name__)

NOT_SERVED = frozenset({*UNSAFE_FORMATS, "ICO", "ICNS", "BLP"})
"""Formats a server must not decode: ICO, ICNS and BLP hold a PNG or JPEG of any size, whatever their header says."""
MAX_JPEG_SCANS = 500
"""A progressive JPEG of a few bytes a scan takes a pass over all pixels for each of them."""


def known_formats() -> tuple[str, ...]:
    """Names of the formats that are decoded: all that pillow reads but `NOT_SERVED`."""
    Image.init()
    register_heif()
    return tuple(sorted(set(Image.OPEN) - NOT_SERVED))


def decode(
    source: bytes | Image.Image | NDArray[np.uint8],
    spec: PreprocessSpec,
    *,
    max_pixels: int,
    formats: tuple[str, ...],
) -> NDArray[np.uint8]:
    """Decode, resize and cut one image.

    Args:
        source: a file's bytes, an opened image, or pixels uint8 `[S, S, 3]`, which are taken as they are.
        spec: how the model wants its images.
        max_pixels: larger images are refused from their header.
        formats: `known_formats()`.

    Returns:
        uint8 `[S, S, 3]`.

    Raises:
        ImageError: not an image of a known format, truncated, too large, or pixels of another shape.
    """
    if isinstance(source, np.ndarray):
        expected = (spec.size, spec.size, 3)
        if source.dtype != np.uint8 or source.shape != expected:
            raise ImageError(f"pixels must be uint8 {list(expected)}, got {source.dtype} {list(source.shape)}.")
        return source
    if isinstance(source, bytes):
        if not source:
            raise ImageError("the image is empty. Send the bytes of a file.")
        if source[:2] == b"\xff\xd8" and source.count(b"\xff\xda") > MAX_JPEG_SCANS:
            raise ImageError(f"the image has more than {MAX_JPEG_SCANS} scans. Save it as a baseline JPEG.")
    try:
        return read_pixels(source, spec, max_pixels=max_pixels, formats=formats)
    except ImageError:
        raise
    except (
        Exception
    ) as error:  # what decoders raise on hostile bytes has no end: struct.error, RuntimeError of AVIF, ...
        logger.info("an image broke its decoder: %s", type(error).__name__)
        logger.debug("an image broke its decoder", exc_info=True)
        raise ImageError("the image cannot be decoded. It may be damaged; save it again.") from error
