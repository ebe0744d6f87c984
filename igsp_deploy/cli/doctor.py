"""`igsp doctor`: what this machine has."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

EXAMPLES = """Examples:

igsp doctor

igsp doctor --json"""

PACKAGES = (
    "igsp-deploy",
    "numpy",
    "pillow",
    "tokenizers",
    "onnxruntime-gpu",
    "onnxruntime",
    "torch",
    "torchvision",
    "open_clip_torch",
    "onnx",
    "onnxscript",
)


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what this machine has: versions, where it can compute, memory, disk, the embedded backbone."""
    found = examine(Path.cwd())
    if json:
        import json as json_format

        print(json_format.dumps(found, indent=2))
        return
    print(f"python           {found['python']} on {found['platform']}, {found['cpu_cores']} cores")
    for name, version in found["packages"].items():
        print(f"{name:<16} {version or 'not installed'}")
    built = ", ".join(found["providers"])
    print(f"onnxruntime      {f'built for {built}' if built else 'cannot be imported'}")
    print(
        f"torch uses       {found['torch_device'] or 'nothing: it is not installed (needed by train and export only)'}"
    )
    memory = found["memory_free_gib"]
    print(f"memory free      {'unknown' if memory is None else f'{memory:.1f} GiB'}")
    print(f"disk free here   {found['disk_free_gib']:.1f} GiB")
    weights = found["embedded_weights_mib"]
    print(f"backbone nano    {'its weights are missing' if weights is None else f'{weights:.1f} MiB of weights'}")
    for problem in found["problems"]:
        print(f"problem: {problem}")


def examine(folder: Path) -> dict[str, Any]:
    """Everything `igsp doctor` prints, as plain values.

    Args:
        folder: where the free disk space is measured.
    """
    packages = {name: _version(name) for name in PACKAGES}
    if packages["onnxruntime"] is None or packages["onnxruntime-gpu"] is None:
        # One of the two is meant to be absent.
        packages.pop("onnxruntime" if packages["onnxruntime"] is None else "onnxruntime-gpu")
    weights = _weights_mib()
    problems = []
    if "onnxruntime" in packages and "onnxruntime-gpu" in packages:
        problems.append("onnxruntime and onnxruntime-gpu are both installed and overwrite each other; uninstall one")
    if weights is None:
        problems.append("the weights of the embedded backbone are not in this installation; install it again")
    providers = _providers()
    if not providers:
        problems.append("onnxruntime cannot be imported; `igsp predict` will not work")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "packages": packages,
        "providers": providers,
        "torch_device": _torch_device(),
        "memory_free_gib": _memory_free_gib(),
        "disk_free_gib": shutil.disk_usage(folder).free / 2**30,
        "embedded_weights_mib": weights,
        "problems": problems,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def _torch_device() -> str | None:
    try:
        import torch
    except ImportError:
        return None
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return f"the CPU, {torch.get_num_threads()} threads"


def _memory_free_gib() -> float | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError):
        return None


def _weights_mib() -> float | None:
    folder = Path(__file__).resolve().parents[1] / "backbones" / "nano"
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    return sum(sizes) / 2**20 if sizes else None
