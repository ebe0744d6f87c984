"""From an image file to the pixels the model takes. Used alike in training, export checks and serving; no torch."""

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from pydantic import Field

from igsp_deploy.bundle.deep_grey import is_deep, to_8_bit, white_is_zero
from igsp_deploy.bundle.image_formats import UNSAFE_FORMATS, is_heif, register_heif, without_texts
from igsp_deploy.checked import Number, Positive, stored
from igsp_deploy.errors import UserError
from igsp_deploy.installed import install_command

MAX_PIXELS = 64_000_000
"""Largest image that is decoded, in pixels; larger ones are refused from their header."""

_MAX_RESIZED_PIXELS = 4 * MAX_PIXELS
"""A thin strip is scaled to `size` times thousands of pixels before the crop; beyond this it is refused."""

MAX_FILE_BYTES = 1 << 30
"""Largest file that is read."""

_FAILURES = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    RuntimeWarning,
    UserWarning,
)
"""What pillow's decoders raise on damaged files (warnings where a program turns them into errors)."""

_HEADER_LOCK = threading.Lock()
"""`warnings.catch_warnings` swaps filters of the whole process: one thread at a time."""


class _UnknownRange(Exception):
    """Grey values of a range that cannot be told."""


class ImageError(UserError):
    """An image that cannot be used: which, why, and what to do.

    Attributes:
        kind: the reason in a word or two, for counts.
    """

    def __init__(self, message: str, kind: str = "damaged") -> None:
        """Keep the message and its kind."""
        super().__init__(message)
        self.kind = kind


Channels = Annotated[tuple[Number, ...], Field(min_length=3, max_length=3)]


@stored
class PreprocessSpec:
    """How the backbone wants its images."""

    size: Positive
    """Side of the square input, in pixels."""
    mean: Channels
    """Mean of each channel, for pixels in [0, 1]."""
    std: Channels
    """Standard deviation of each channel."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """How it is resized."""
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    """Which side becomes `size`: the shortest, then the center is cropped; the longest, then the rest is black; or both
    (`squash`), whatever that does to the shape."""
    decoding: Literal["plain", "scaled"] = "plain"
    """`scaled` decodes large JPEGs to a part of their size (see `load_image`); `plain` always to the whole size."""

    @property
    def decoded_side(self) -> int | None:
        """Shortest side, in pixels, that decoding may scale an image down to; None for no scaling.

        Three times the input: at twice, features of nano moved further (`igsp bench --photos` shows how far).
        """
        return 3 * self.size if self.decoding == "scaled" else None


def read_pixels(
    source: Path | bytes | Image.Image,
    spec: PreprocessSpec,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] | None = None,
) -> NDArray[np.uint8]:
    """An image as the model takes it: decoded as its spec says (see `load_image`), resized and cut (see `to_uint8`).

    Returns:
        uint8 `[S, S, 3]`.

    Raises:
        ImageError: see `load_image` and `to_uint8`.
    """
    return to_uint8(load_image(source, max_pixels=max_pixels, formats=formats, least=spec.decoded_side), spec)


def load_image(
    source: Path | bytes | Image.Image,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] | None = None,
    least: int | None = None,
) -> Image.Image:
    """Decode an image to RGB: orientation applied, alpha on white, any mode pillow reads, the first frame of several.

    A file and its bytes give the same pixels.

    Args:
        source: a file, its bytes, or an image that pillow has opened.
        max_pixels: larger images are refused before anything is decoded.
        formats: pillow's names of the formats to take; all it knows by default. `UNSAFE_FORMATS` are never taken.
        least: decode a JPEG to a half, a quarter or an eighth of its size, as long as its shortest side stays at least
            this, in pixels: several times faster, and what a smaller picture needs. By default the whole size.

    Raises:
        ImageError: missing, not an image, truncated, of values whose range cannot be told, or more than `max_pixels`
            pixels.
    """
    name = str(source) if isinstance(source, Path) else "the image"
    try:
        if isinstance(source, Image.Image):
            _check_size(source, name, max_pixels)
            return _to_rgb(source)
        data = _read_file(source, name) if isinstance(source, Path) else source
        try:
            return _decode(data, name, max_pixels, formats, least)
        except ValueError as error:
            if "MAX_TEXT" not in str(error):
                raise
            return _decode(without_texts(data), name, max_pixels, formats, least)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist. Check the path.", "not readable") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name} is a folder, not an image. Give the images in it.", "not readable") from error
    except PermissionError as error:
        message = f"{name} may not be read ({error.strerror}). Check its permissions."
        raise ImageError(message, "not readable") from error
    except UnidentifiedImageError as error:
        raise _unknown_format(data, name) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large to be decoded ({error}). Scale it down.", "too large") from error
    except _FAILURES as error:
        raise ImageError(f"{name} cannot be decoded ({error}). It may be truncated; save it again.") from error


def _read_file(path: Path, name: str) -> bytes:
    """The whole file: pillow reads some formats by other ways from a path, and not always to the same pixels."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ImageError(f"{name} has {size >> 20:,} MiB; at most {MAX_FILE_BYTES >> 20:,} are read.", "too large")
    return path.read_bytes()


def _decode(data: bytes, name: str, max_pixels: int, formats: Sequence[str] | None, least: int | None) -> Image.Image:
    with _open_header(data, formats) as image:
        _check_size(image, name, max_pixels)
        if least is not None and min(image.size) >= 2 * least:
            image.draft(image.mode, (least, least))  # of what is no JPEG nothing
        try:
            return _to_rgb(image)
        except _UnknownRange as error:
            message = f"{name} cannot be shown in 8 bits: {error}. Save it as 8-bit PNG or JPEG."
            raise ImageError(message, "unknown range") from error


def _unknown_format(data: bytes, name: str) -> ImageError:
    if is_heif(data):
        return ImageError(
            f"{name} is HEIC, which needs a package more: {install_command('heic')}. Or save it as JPEG.",
            "HEIC",
        )
    return ImageError(f"{name} is not an image of a known format. Save it as JPEG or PNG.", "no image")


def _open_header(data: bytes, formats: Sequence[str] | None) -> Image.Image:
    register_heif()
    with _HEADER_LOCK, warnings.catch_warnings():
        # Pillow's own warning about the size would only repeat our error.
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data), formats=None if formats is None else tuple(formats))
    if image.format in UNSAFE_FORMATS:
        raise UnidentifiedImageError(image.format)
    return image


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    if image.width < 1 or image.height < 1:
        raise ImageError(f"{name} has {image.width} x {image.height} pixels: nothing to see. Leave it out.", "empty")
    if image.width * image.height > max_pixels:
        raise ImageError(
            f"{name} has {image.width} x {image.height} pixels; at most {max_pixels:,} in all are decoded. "
            "Scale it down.",
            "too large",
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES, "a truncated image must be an error, not a grey area"
    image.load()
    inverted = white_is_zero(image)
    image = ImageOps.exif_transpose(image)
    if is_deep(image):
        try:
            return Image.fromarray(to_8_bit(image, inverted)).convert("RGB")
        except ValueError as error:
            raise _UnknownRange(str(error)) from error
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def to_uint8(image: Image.Image, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Resize as `spec.resize_mode` says and cut or pad at the center, as open_clip does on pillow images.

    Args:
        image: RGB.
        spec: side, mode and interpolation.

    Returns:
        uint8 `[S, S, 3]`, equal to what open_clip's own transform makes of it to the last bit.

    Raises:
        ImageError: so long and thin that the resized image would not fit into memory.
    """
    size, target = spec.size, _target(image.size, spec)
    if target[0] * target[1] > _MAX_RESIZED_PIXELS:
        width, height = image.size
        raise ImageError(f"an image of {width} x {height} pixels is too long and thin. Cut it to what is to be seen.")
    resample = Image.Resampling.BICUBIC if spec.interpolation == "bicubic" else Image.Resampling.BILINEAR
    if target != image.size:
        image = image.resize(target, resample)
    left, top = (round((side - size) / 2.0) if side > size else -((size - side) // 2) for side in target)
    return np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.uint8)  # black beyond the image


def _target(sides: tuple[int, int], spec: PreprocessSpec) -> tuple[int, int]:
    """Width and height an image is resized to."""
    size, (width, height) = spec.size, sides
    if spec.resize_mode == "squash":
        return size, size
    if spec.resize_mode == "longest":
        ratio = max(sides) / size
        return max(1, round(width / ratio)), max(1, round(height / ratio))
    return (size, int(size * height / width)) if width <= height else (int(size * width / height), size)


def normalize(images: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.float32]:
    """Scale to [0, 1] and standardise each channel: uint8 `[B, S, S, 3]` -> float32 `[B, 3, S, S]`."""
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    scaled = (images.astype(np.float32) / np.float32(255.0) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
