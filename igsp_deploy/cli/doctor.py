"""`igsp doctor`: what this machine has."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from igsp_deploy.installed import install_command
from igsp_deploy.runtime.drivers import has_nvidia_driver

EXAMPLES = """Examples:

igsp doctor

igsp doctor --json"""

PACKAGES = (
    "igsp-deploy",
    "numpy",
    "pillow",
    "tokenizers",
    "torch",
    "torchvision",
    "open_clip_torch",
    "onnx",
    "onnxscript",
)


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what this machine has: versions, where it can compute, memory, disk, the embedded backbone.

    Opens a session where onnxruntime may run. Exit code 1 where something is wrong, with what to type.
    """
    found = examine(Path.cwd())
    if json:
        import json as json_format

        print(json_format.dumps(found, indent=2))
        raise typer.Exit(1 if found["problems"] else 0)
    print(f"python           {found['python']} on {found['platform']}, {found['cpu_cores']} cores")
    for name, version in found["packages"].items():
        print(f"{name:<16} {version or 'not installed'}")
    kinds = [f"{name} {version}" for name, version in found["runtimes"].items()]
    built = ", ".join(found["providers"])
    print(f"onnxruntime      {' and '.join(kinds) or 'not installed'}{f', built for {built}' if built else ''}")
    print(f"NVIDIA driver    {'is here' if found['nvidia_driver'] else 'none'}")
    for provider, opened in found["sessions"].items():
        print(f"session          {'opened on' if opened else 'cannot be opened on'} {provider}")
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
    raise typer.Exit(1 if found["problems"] else 0)


def examine(folder: Path) -> dict[str, Any]:
    """Everything `igsp doctor` prints, as plain values.

    Args:
        folder: where the free disk space is measured.
    """
    weights = _weights_mib()
    runtime = _runtime()
    problems = runtime.pop("problems")
    if weights is None:
        problems.append("the weights of the embedded backbone are not in this installation; install it again")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
        **runtime,
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


def _runtime() -> dict[str, Any]:
    """Which onnxruntime is here, where it opens a session, and what is wrong with it."""
    kinds = _onnxruntime_kinds()
    found: dict[str, Any] = {
        "runtimes": {name: _version(name) for name in kinds},
        "providers": [],
        "nvidia_driver": has_nvidia_driver(),
        "sessions": {},
        "problems": [],
    }
    best = install_command("gpu" if found["nvidia_driver"] else "cpu")
    if not kinds:
        either = f"{install_command('cpu')} (without a GPU) or {install_command('gpu')} (with an NVIDIA GPU)"
        found["problems"].append(f"no onnxruntime is installed, so no bundle can be run: {either}")
        return found
    again = f"pip uninstall -y {' '.join(kinds)} && {best}"
    if len(kinds) > 1:
        found["problems"].append(f"{' and '.join(kinds)} are both installed and overwrite each other: {again}")
    try:
        import onnxruntime

        found["providers"] = list(onnxruntime.get_available_providers())
    except (ImportError, AttributeError) as error:  # an AttributeError: only half of it is left
        found["problems"].append(f"onnxruntime cannot be used ({error}): {again}")
        return found

    from igsp_deploy.runtime.providers import CPU, CUDA, works
    from igsp_deploy.runtime.why_not import why_not

    for provider in (CPU, CUDA) if found["nvidia_driver"] else (CPU,):
        found["sessions"][provider] = works(provider)
        if not found["sessions"][provider]:
            found["problems"].append(f"onnxruntime cannot use {provider}: {why_not(provider)}")
    return found


def _onnxruntime_kinds() -> list[str]:
    """Names of the distributions that bring the module onnxruntime; there should be one."""
    return sorted(set(importlib.metadata.packages_distributions().get("onnxruntime", [])))


def _torch_device() -> str | None:
    try:
        import torch
    except (ImportError, OSError):  # an OSError: libraries it was built with are missing
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
