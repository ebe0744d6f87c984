"""Arrays as the bytes of a safetensors file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Safetensors of arrays of any layout.

    `safetensors.numpy.save` takes an array's memory as if rows lay one after another: of a reversed, sliced or
    broadcast array it writes other numbers without a word.
    """
    return save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
