"""The bounds of pyproject.toml: each machine finds what it may install, and each lower bound is really tested."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.installs.lowest import VERSIONS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
SHARED = {"torch", "torchvision"}
"""Not among the lowest: 6 GB."""


def resolved(platform: str, extras: tuple[str, ...], python: str = "3.11") -> set[str]:
    """Names that uv would install on a platform; it reads metadata and installs nothing.

    Raises:
        AssertionError: there is no solution, with uv's reason.
    """
    wanted = [option for extra in extras for option in ("--extra", extra)]
    uv = str(Path(sys.executable).with_name("uv"))
    done = subprocess.run(
        [
            *(uv, "pip", "compile", "--quiet", "--no-annotate", "--no-header"),
            *("--python-version", python, "--python-platform", platform, "--only-binary", ":all:"),
            *("--constraint", str(ROOT / "constraints.txt"), str(ROOT / "pyproject.toml"), *wanted),
        ],
        # onnxruntime's wheels are for macOS 14 and newer.
        env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return {line.split("==")[0] for line in done.stdout.splitlines() if "==" in line}


@pytest.mark.parametrize("extras", [("serve", "cpu"), ("all", "cpu")], ids=" ".join)
@pytest.mark.parametrize(
    "platform",
    ["x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin", "x86_64-pc-windows-msvc"],
)
def test_every_machine_finds_what_it_installs(platform: str, extras: tuple[str, ...]) -> None:
    names = resolved(platform, extras)
    assert "onnxruntime" in names
    assert "onnxruntime-gpu" not in names
    assert "ray" not in names
    if "serve" in extras:
        assert not any(name.startswith(("torch", "nvidia", "gradio", "ray")) for name in names)


@pytest.mark.parametrize("python", ["3.12", "3.13", "3.14"])
def test_newer_pythons_find_what_they_install(python: str) -> None:
    assert "onnxruntime" in resolved("x86_64-manylinux_2_28", ("all", "cpu"), python)


@pytest.mark.parametrize("platform", ["x86_64-manylinux_2_28", "x86_64-pc-windows-msvc"])
def test_a_gpu_brings_its_libraries_and_no_second_onnxruntime(platform: str) -> None:
    names = resolved(platform, ("serve", "gpu"))
    assert {"onnxruntime-gpu", "nvidia-cudnn-cu13", "nvidia-curand", "nvidia-cublas", "nvidia-cufft"} <= names
    assert "onnxruntime" not in names


def test_the_lowest_versions_are_the_bounds() -> None:
    """So the tests of `make lowest` say something about every bound."""
    pinned = {}
    for line in VERSIONS.read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        if version:
            pinned[canonicalize_name(name)] = Version(version)
    others = {extra for extra in EXTRAS if extra in ("gpu", "ray", "dev", "transformers")}
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.keys() - others for line in EXTRAS[extra])]
    untested = []
    for requirement in map(Requirement, lines):
        name = canonicalize_name(requirement.name)
        if name in SHARED or name == PROJECT["name"]:
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            (bound,) = (part for part in requirement.specifier if part.operator == ">=")
            if pinned[name] != Version(bound.version):
                untested.append(f"{requirement}: tested at {pinned[name]}")
    assert untested == []
