"""Why onnxruntime cannot use a GPU here, in its own words, and the line that fixes it."""

import functools
import re
import subprocess
import sys
from dataclasses import dataclass

import onnxruntime

from igsp_deploy.installed import install_command

CUDA_BUILDS = ("linux", "x86_64"), ("win32", "AMD64")
"""`sys.platform` and `platform.machine()` for which onnxruntime-gpu is published."""

_PATIENCE_S = 60
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_REASONS = (
    re.compile(r"with error: (.+)"),  # a library that the loader did not take
    re.compile(r"(CUDA (?:error|failure) .+?) *(?:; *GPU=|$)", re.MULTILINE),  # what the driver said
    re.compile(r"(Please install TensorRT .+)"),
    re.compile(r"EP Error (.+)"),
    re.compile(r"^\w+(?:Error|Exception)\b: (.+)", re.MULTILINE),
)


@dataclass(frozen=True)
class WhyNot:
    """Why a provider does not work.

    Attributes:
        reason: onnxruntime's own words, without a full stop.
        remedy: what to do, as a sentence; with the command to type where one fixes it.
    """

    reason: str
    remedy: str

    def __str__(self) -> str:
        """The reason, then the remedy."""
        return f"{self.reason}. {self.remedy}"


@functools.cache
def why_not(provider: str) -> WhyNot:
    """Ask onnxruntime, in a process of its own, why it does not use `provider`, a name such as CUDAExecutionProvider.

    onnxruntime says it on stderr alone; another process's can be read without touching our own, and may crash.
    """
    if provider not in onnxruntime.get_available_providers():
        return WhyNot(f"onnxruntime {onnxruntime.__version__} here is a build without {provider}", _other_build())
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"from igsp_deploy.runtime.providers import probe; probe({provider!r}, severity=2)"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        return WhyNot(f"its session was not there after {_PATIENCE_S} seconds", _remedy(""))
    said = _reason(_COLOURS.sub("", done.stdout + done.stderr))
    if done.returncode < 0:
        said = said or f"the process ended by signal {-done.returncode}"
    return WhyNot(said or "onnxruntime gives no reason", _remedy(said))


def _reason(text: str) -> str:
    """The words that matter in what onnxruntime printed; empty where there are none."""
    found = (match[1].strip().rstrip(".") for pattern in _REASONS if (match := pattern.search(text)))
    return next(found, "")


def _remedy(reason: str) -> str:
    """What fixes it."""
    if re.search(r"libcuda\.so|nvcuda", reason):
        return "Install NVIDIA's driver (580 or newer); a container needs `--gpus all`."
    if re.search(r"driver version is insufficient|not supported in the installed CUDA driver|forward compat", reason):
        return "Install a newer NVIDIA driver: CUDA 13 needs 580 or newer."
    if re.search(r"no CUDA-capable device|invalid device ordinal", reason):
        return "The driver shows no GPU: look at `nvidia-smi` and at CUDA_VISIBLE_DEVICES."
    if "no kernel image" in reason:
        return "onnxruntime has no kernels for this GPU: use --provider cpu."
    if "nvinfer" in reason or "TensorRT" in reason:
        return 'Install TensorRT 10: pip install "tensorrt<11"'
    if re.search(r"lib\w+\.so\.12|_12\.dll", reason):
        return f"This onnxruntime is a build for CUDA 12; take one for 13: {install_command('gpu')}"
    if not re.search(r"cannot open shared object|undefined symbol|not found|error 126", reason):
        return "See what `nvidia-smi` and `igsp doctor` say, or use --provider cpu."
    package = f"onnxruntime-gpu[cuda,cudnn]=={onnxruntime.__version__}"
    return f'Install its CUDA 13 and cuDNN 9 libraries: pip install "{package}"'


def _other_build() -> str:
    import platform

    if (sys.platform, platform.machine()) not in CUDA_BUILDS:
        return "One with CUDA is published for Linux x86-64 and Windows only: use --provider cpu."
    return f"Put the other one in its place: pip uninstall -y onnxruntime && {install_command('gpu')}"
