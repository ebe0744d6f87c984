"""Whether a GPU's driver is here. Needs no onnxruntime."""

import ctypes
import sys
from pathlib import Path


def has_nvidia_driver() -> bool:
    """Whether the driver's devices or its library are here; neither says that it works."""
    if any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
        return True
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
