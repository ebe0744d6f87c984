"""How many CPUs this process may use: those it is bound to, and what its control groups grant it.

A container of two CPUs on a host of 64 sees 64 cores; with 64 threads it would be throttled most of the time.
"""

import math
import os
from pathlib import Path

_ROOT = Path("/")


def usable_cpus(root: Path = _ROOT) -> int:
    """CPUs of the affinity mask or of the CPU quota (cgroup v2 and v1), the smaller, a part of one counted as one.

    Args:
        root: where /proc and /sys are.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(1, bound if quota is None else min(bound, math.ceil(quota)))


def model_threads() -> int:
    """Threads of one operator: `usable_cpus`; 0 where nothing limits them: onnxruntime then takes one a real core."""
    cpus = usable_cpus()
    return 0 if cpus >= (os.cpu_count() or 1) else cpus


def cpu_quota(root: Path = _ROOT) -> float | None:
    """CPUs that the control groups of this process grant it, the least on the way up; None without a limit.

    Formats: cgroup-v2.rst (cpu.max) and sched-bwc.rst (cpu.cfs_quota_us) of the Linux kernel's documentation.
    """
    quotas: list[float] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" if not controllers else _mount_v1(root, controllers)
        # In a container the path may be the host's, which is not there: then its own group is the mount itself.
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            quota = _quota(mount.joinpath(*parts[:depth]))
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _mount_v1(root: Path, controllers: str) -> Path:
    folder = root / "sys/fs/cgroup"
    return next((folder / name for name in (controllers, "cpu") if (folder / name).is_dir()), folder / "cpu")


def _quota(group: Path) -> float | None:
    both = _read(group / "cpu.max").split() or [_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        quota, period = (int(number) for number in both)
    except ValueError:  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
