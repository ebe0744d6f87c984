"""The machine a measurement was made on, as far as it explains the numbers."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and with what was measured.

    Attributes:
        cpu: model of the processor.
        cores: processors this process may use.
        gpu: name of the GPU; None without one.
        threads: CPU threads of one operator, in onnxruntime and in PyTorch.
        provider: onnxruntime's execution provider.
        onnxruntime: version.
        torch: version.
        system: operating system.
    """

    cpu: str
    cores: int
    gpu: str | None
    threads: int
    provider: str
    onnxruntime: str
    torch: str
    system: str

    def line(self) -> str:
        """All of it in one line."""
        gpu = f", {self.gpu}" if self.gpu else ", no GPU"
        return (
            f"{self.cpu}, {self.cores} cores{gpu}; onnxruntime {self.onnxruntime} on {self.provider}, "
            f"PyTorch {self.torch}; {self.threads} threads"
        )


def describe_machine(provider: str, threads: int) -> Machine:
    """This machine.

    Args:
        provider: onnxruntime's execution provider in use.
        threads: CPU threads in use.
    """
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        threads=threads,
        provider=provider,
        onnxruntime=onnxruntime.__version__,
        torch=torch.__version__,
        system=f"{platform.system()} {platform.machine()}",
    )


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()
