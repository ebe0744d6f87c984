"""The most memory that a stretch of work held at once."""

import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What Linux takes in `clear_refs` to forget the highest resident set so far (proc(5), since Linux 4.0)."""


class PeakMemory:
    """Measures from its creation on; `measured` gives the peak so far.

    Attributes:
        of_the_process: whether the peak counts from the start of the process, because the system cannot forget it.
    """

    def __init__(self, device: torch.device) -> None:
        """Forget earlier peaks, where the system allows it, of the process and of the device that computes."""
        self.of_the_process = not _reset_resident()
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def measured(self) -> dict[str, int | bool | None]:
        """For `metrics` of a task record.

        Returns:
            `peak_rss_bytes`: largest resident set; `peak_rss_of_process`: True if that counts from the start of the
            process; `peak_cuda_bytes`: most memory that tensors held on the device, None where it is not CUDA's.
        """
        cuda = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else None
        resident = _process_peak() if self.of_the_process else _high_water_mark()
        return {
            "peak_rss_bytes": resident,
            "peak_rss_of_process": self.of_the_process,
            "peak_cuda_bytes": cuda,
        }


def _reset_resident() -> bool:
    """Set the high-water mark of the resident set to what is held now; False where that is not possible."""
    try:
        _CLEAR.write_text(_RESET_PEAK)
        _high_water_mark()
    except (OSError, ValueError):
        return False
    return True


def _high_water_mark() -> int:
    return _field("VmHWM:")


def _field(name: str) -> int:
    """One size of /proc/self/status, in bytes.

    Raises:
        OSError: no /proc.
        ValueError: the field is not there.
    """
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    raise ValueError(f"{_STATUS} has no {name}")


def _process_peak() -> int:
    """Largest resident set of the process since its start, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
