"""bfloat16, which numpy does not have: float32 rounded to its upper 16 bits."""

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

ONNX_BFLOAT16 = 16
"""`TensorProto.BFLOAT16`."""


def to_bits(values: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Round to the nearest bfloat16, ties to even; the bits of each number."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    # Adding half of the dropped part, and one more where the kept part is odd, carries as rounding to even does.
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isfinite(values), rounded, bits >> 16).astype(np.uint16)


def ortvalue(values: NDArray[np.floating[Any]]) -> Any:
    """A bfloat16 `OrtValue` in the CPU's memory, from which onnxruntime copies to a device where one is bound."""
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(to_bits(values), ONNX_BFLOAT16)
