"""Which provider is taken, and what is said where CUDA cannot be: with a stub of the driver, no GPU."""

import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from igsp_deploy.errors import UserError
from igsp_deploy.installed import install_command
from igsp_deploy.runtime import providers, why_not
from igsp_deploy.runtime.providers import CPU, CUDA, TENSORRT, choose_provider, works
from igsp_deploy.runtime.why_not import WhyNot

MISSING = "libcublasLt.so.13: cannot open shared object file"
LIBRARIES = f'pip install "onnxruntime-gpu[cuda,cudnn]=={onnxruntime.__version__}"'
NEEDS_CUDA_BUILD = pytest.mark.skipif(
    CUDA not in onnxruntime.get_available_providers() or shutil.which("gcc") is None,
    reason="needs gcc and the build of onnxruntime for CUDA (make install RUNTIME=gpu)",
)
REASON = WhyNot("libcurand.so.10: cannot open shared object file", "Install it.")


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What is asked and said once a process is asked and said anew."""
    why_not.why_not.cache_clear()
    providers._warn_once.cache_clear()
    yield
    why_not.why_not.cache_clear()
    providers._warn_once.cache_clear()


@pytest.fixture
def nothing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "works", lambda provider: False)
    monkeypatch.setattr(providers, "why_not", lambda provider: REASON)
    monkeypatch.setattr(providers, "has_nvidia_driver", lambda: True)


@pytest.mark.usefixtures("nothing_works")
def test_cuda_asked_and_not_had_is_an_error_unless_allowed() -> None:
    with pytest.raises(UserError, match=r"CUDA was asked for, but .* libcurand.* Install it"):
        choose_provider("cuda")
    with pytest.raises(UserError, match=r"TensorRT was asked for, but .* libcurand.* Install it"):
        choose_provider("tensorrt")
    assert choose_provider("cuda", allow_fallback=True) == CPU
    assert choose_provider("tensorrt", allow_fallback=True) == CPU


@pytest.mark.usefixtures("nothing_works")
def test_a_driver_whose_gpu_is_not_used_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert choose_provider("auto") == choose_provider("auto") == CPU
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(REASON) in caplog.text


@pytest.mark.usefixtures("nothing_works")
def test_nothing_is_said_without_a_driver_or_where_the_cpu_was_asked_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_provider("cpu") == CPU
    monkeypatch.setattr(providers, "has_nvidia_driver", lambda: False)
    assert choose_provider("auto") == CPU
    assert caplog.text == ""


def test_cuda_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "works", lambda provider: True)
    monkeypatch.setattr(providers, "has_nvidia_driver", lambda: True)
    assert choose_provider("auto") == choose_provider("cuda") == CUDA
    assert choose_provider("tensorrt") == TENSORRT
    assert choose_provider("cpu") == CPU


def test_the_probe_is_a_graph_the_cpu_can_run() -> None:
    assert works(CPU)
    assert not works("NoSuchExecutionProvider")


@pytest.mark.parametrize(
    ("said", "reason", "remedy"),
    [
        (
            "[E:onnxruntime] Failed to load library /a/libonnxruntime_providers_cuda.so with error: libcurand.so.10: "
            "cannot open shared object file: No such file or directory\n[W] Failed to create CUDAExecutionProvider.",
            "libcurand.so.10: cannot open shared object file: No such file or directory",
            LIBRARIES,
        ),
        (
            "Failed to load library x with error: libcuda.so.1: cannot open shared object file: No such file",
            "libcuda.so.1: cannot open shared object file: No such file",
            "--gpus all",
        ),
        (
            "Failed to load library x with error: libcublasLt.so.12: cannot open shared object file: No such file",
            "libcublasLt.so.12: cannot open shared object file: No such file",
            install_command("gpu"),
        ),
        (
            "RuntimeError: CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; x",
            "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version",
            "580 or newer",
        ),
        (
            "RuntimeError: CUDA failure 100: no CUDA-capable device is detected ; GPU=0 ; hostname=x",
            "CUDA failure 100: no CUDA-capable device is detected",
            "CUDA_VISIBLE_DEVICES",
        ),
        (
            "Failed to load library x with error: libnvinfer.so.10: cannot open shared object file: No such file",
            "libnvinfer.so.10: cannot open shared object file: No such file",
            'pip install "tensorrt<11"',
        ),
        ("Traceback\nValueError: something new.", "something new", "nvidia-smi"),
        ("", "", "nvidia-smi"),
    ],
)
def test_the_reason_is_onnxruntimes_and_the_remedy_fits(said: str, reason: str, remedy: str) -> None:
    assert why_not._reason(said) == reason
    assert remedy in why_not._remedy(reason)


@pytest.mark.parametrize(
    ("platform", "machine", "remedy"),
    [
        ("linux", "x86_64", "pip uninstall -y onnxruntime && "),
        ("linux", "aarch64", "--provider cpu"),
        ("darwin", "arm64", "--provider cpu"),
    ],
)
def test_a_build_for_the_cpu_is_said_to_be_one(
    platform: str, machine: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr("platform.machine", lambda: machine)
    found = why_not.why_not(CUDA)
    assert "a build without CUDAExecutionProvider" in found.reason
    assert remedy in found.remedy


DRIVER = """
int cuInit(unsigned flags) { return 100; }
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuTensorMapEncodeTiled(void) { return 100; }
"""
"""What onnxruntime's library of the CUDA provider wants of the driver when it is loaded."""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a library that looks like the driver's to the loader, and finds no GPU."""
    folder = tmp_path_factory.mktemp("driver")
    source = folder / "driver.c"
    source.write_text(DRIVER)
    library = folder / "libcuda.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source], check=True, timeout=60
    )
    return folder


@pytest.fixture
def without_cuda(tmp_path: Path) -> Path:
    """A folder with this environment's packages, but for CUDA's libraries and what needs them."""
    site = tmp_path / "site"
    site.mkdir()
    for folder in map(Path, sys.path):
        for entry in folder.iterdir() if folder.name == "site-packages" else ():
            if entry.suffix != ".pth" and not entry.name.startswith(("nvidia", "torch", "__pycache__")):
                with_name = site / entry.name
                if not with_name.exists():
                    with_name.symlink_to(entry)
    return site


def _igsp(site: Path, driver: Path, *arguments: object) -> dict[str, Any]:
    """Arguments of `subprocess`: `igsp` in an environment of its own, with a driver."""
    root = Path(__file__).parents[3]
    path = [str(root / folder) for folder in (".", "train", "export", "serve")]
    # No site-packages but these: -S leaves the environment's own out.
    return {
        "args": [sys.executable, "-S", "-m", "igsp_deploy.cli.main", *map(str, arguments)],
        "env": os.environ | {"PYTHONPATH": os.pathsep.join([*path, str(site)]), "LD_LIBRARY_PATH": str(driver)},
        "text": True,
    }


def _run(site: Path, driver: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(**_igsp(site, driver, *arguments), capture_output=True, timeout=240)


@NEEDS_CUDA_BUILD
def test_missing_cuda_libraries_are_said_aloud(driver: Path, without_cuda: Path, bundled: Any, task_data: Path) -> None:
    done = _run(without_cuda, driver, "doctor")
    (problem,) = [line for line in done.stdout.splitlines() if line.startswith("problem: ")]
    assert MISSING in problem
    assert LIBRARIES in problem
    assert done.returncode == 1

    image = next((task_data / "colors" / "test").rglob("*.png"))
    done = _run(without_cuda, driver, "predict", bundled.bundle, image)
    assert done.returncode == 0, done.stderr
    assert MISSING in done.stderr
    assert LIBRARIES in done.stderr

    done = _run(without_cuda, driver, "predict", bundled.bundle, image, "--provider", "cpu")
    assert done.stderr == ""

    serving = _igsp(without_cuda, driver, "serve", bundled.bundle, "--port", 0)
    with subprocess.Popen(**serving, stderr=subprocess.PIPE) as server:
        assert server.stderr is not None
        try:
            line = json.loads(server.stderr.readline())
        finally:
            server.terminate()
            server.communicate(timeout=60)
    assert line["level"] == "warning"
    assert MISSING in line["message"]
    assert LIBRARIES in line["message"]


@NEEDS_CUDA_BUILD
def test_a_driver_that_finds_no_gpu_is_said_aloud(driver: Path) -> None:
    code = (
        "from igsp_deploy.runtime.providers import CUDA, choose_provider\n"
        "from igsp_deploy.runtime.why_not import why_not\n"
        "print(choose_provider('auto')); print(why_not(CUDA).reason)"
    )
    environment = os.environ | {"LD_LIBRARY_PATH": str(driver)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240)
    provider, reason = done.stdout.splitlines()
    assert provider == CPU
    assert "CUDA failure" in reason or "cannot open shared object" in reason  # the latter without CUDA's packages
    assert reason in done.stderr


def test_no_distribution_but_one_brings_onnxruntime() -> None:
    assert len(set(importlib.metadata.packages_distributions()["onnxruntime"])) == 1
