"""Grey images of more than 8 bits: to 8 bits by the range they were written in, or refused where it cannot be told."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_PHOTOMETRIC = 262
"""TIFF tag; 0 says that white is zero, which pillow heeds for 8 bits only."""
_SLACK = 1.01
"""A few values may lie a little over the range: what resampling and sharpening leave."""
_LEAST_255 = 16.0
"""Float images between 1 and this are in no range that people use; taken for 0 to 255 they would be black."""


def is_deep(image: Image.Image) -> bool:
    """Whether the values have more than 8 bits."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def white_is_zero(image: Image.Image) -> bool:
    """Whether the file says so; ask before the image is turned, which forgets it."""
    return getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0


def to_8_bit(image: Image.Image, inverted: bool = False) -> NDArray[np.uint8]:
    """Values scaled to 0 to 255: 16 bits by their whole range, 32 bits and floats by the range they keep to.

    Infinite values become the end of the range, NaN black.

    Raises:
        ValueError: the range cannot be told; says what the values are.
    """
    values = np.asarray(image, dtype=np.float64)
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    top = 65535.0 if image.mode.startswith("I;16") else _range(values, tops)
    values = np.nan_to_num(values, nan=0.0, posinf=top, neginf=0.0)
    scaled = (np.clip(values, 0.0, top) * (255.0 / top)).round().astype(np.uint8)
    return np.asarray(255 - scaled if inverted else scaled, dtype=np.uint8)


def _range(values: NDArray[np.float64], tops: tuple[float, ...]) -> float:
    """The end of the range that the values keep to; a few of a thousand floats may lie beyond it."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("it holds no finite value")
    least, most = float(finite.min()), float(finite.max())
    whole = bool((finite == np.round(finite)).all())
    extreme = most if whole else float(np.quantile(finite, 0.999, method="lower"))
    top = next((top for top in tops if extreme <= top * _SLACK), None)
    if top is None or least < -0.01 * top or (not whole and top == 255.0 and most < _LEAST_255):
        raise ValueError(f"its values go from {least:g} to {most:g}; expected 0 to 1, to 255 or to 65535")
    return top
