"""Arrays as the bytes of a safetensors file, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from igsp_deploy.bundle.manifest import REMEDY
from igsp_deploy.errors import UserError

UNREADABLE = (SafetensorError, OSError, OverflowError, AttributeError, TypeError, ValueError)
"""What reading safetensors raises: of bfloat16 a TypeError, of 8-bit floats an AttributeError, as numpy has neither."""


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Safetensors of arrays of any layout.

    `safetensors.numpy.save` takes an array's memory as if rows lay one after another: of a reversed, sliced or
    broadcast array it writes other numbers without a word.
    """
    return save({name: np.ascontiguousarray(value) for name, value in arrays.items()})


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a bundle's file.

    Raises:
        UserError: missing, damaged, or with arrays of a type that numpy has not.
    """
    try:
        found: dict[str, NDArray[Any]] = load_file(path)
    except UNREADABLE as error:
        raise UserError(f"{path} is missing or damaged ({error}). {REMEDY}") from error
    return found


def check_numbers(path: Path, name: str, value: NDArray[Any], *types: DTypeLike, infinite: bool = False) -> None:
    """See that an array of a bundle's file, whose checksum may be right, is one to compute with.

    Args:
        path: the file.
        name: of the array.
        value: it.
        types: what it may be of.
        infinite: whether infinite numbers are in order.

    Raises:
        UserError: it is of another type, or holds what is no number; names the file and the array.
    """
    if value.dtype not in [np.dtype(kind) for kind in types]:
        wanted = " or ".join(np.dtype(kind).name for kind in types)
        raise UserError(f"{path}: {name} must be an array of {wanted}, is {value.dtype} {list(value.shape)}. {REMEDY}")
    if not (np.isnan(value).any() if infinite else not np.isfinite(value).all()):
        return
    raise UserError(f"{path}: {name} holds what is no number (NaN{'' if infinite else ' or infinite'}). {REMEDY}")
