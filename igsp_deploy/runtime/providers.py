"""Which onnxruntime execution provider this machine really gives: asked for, then verified."""

import base64
import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import onnxruntime

from igsp_deploy.bundle.manifest import Variant
from igsp_deploy.errors import UserError

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_SILENT = 4
"""onnxruntime's severity `fatal`: what goes wrong comes back as an exception or is checked."""

_PROBE = base64.b64decode(
    "CAgSADo7ChAKAXgSAXkiCElkZW50aXR5EgVwcm9iZVoPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0="
)
"""A graph of one Identity node: a session of it tells what a provider's name is worth on this machine."""


def choose_provider(wanted: Provider, *, allow_fallback: bool = False) -> str:
    """The execution provider to use, tried out before any real graph is loaded.

    onnxruntime falls back to the CPU without a word when a CUDA library is missing, and an fp16 graph can crash the
    process there; so a session of one node is made first.

    Args:
        wanted: `auto` takes CUDA where it works, else the CPU.
        allow_fallback: with `cuda` or `tensorrt`, take what works (CUDA, then the CPU) instead of failing.

    Raises:
        UserError: `cuda` or `tensorrt` was wanted and cannot be had.
    """
    if wanted not in get_args(Provider):
        raise UserError(f"the provider must be one of {', '.join(get_args(Provider))}, got {wanted!r}.")
    if wanted == "cpu" or (wanted == "auto" and not _has_nvidia_driver()):
        return CPU
    if wanted == "tensorrt":
        if _works(TENSORRT):
            return TENSORRT
        if not allow_fallback:
            raise UserError(
                "TensorRT was asked for, but onnxruntime cannot use it here (no GPU, or TensorRT 10 is missing). "
                "Use the provider cuda or cpu, or install it: pip install tensorrt."
            )
    if _works(CUDA):
        return CUDA
    if wanted == "cuda" and not allow_fallback:
        raise UserError(
            "CUDA was asked for, but onnxruntime cannot use it here (no GPU, or its CUDA 13 and cuDNN 9 libraries are "
            "missing). Use the provider auto or cpu, or install them: pip install 'onnxruntime-gpu[cuda,cudnn]'."
        )
    return CPU


def choose_variant(variants: Sequence[Variant], provider: str, precision: str | None = None) -> Variant:
    """The graphs for `provider`: the manifest says which may run on it.

    Half precision is taken first, and int8 only where it is asked for or nothing else is there.

    Args:
        variants: what the bundle has.
        provider: the one obtained.
        precision: take this one only.

    Raises:
        UserError: the bundle has none that may run there.
    """
    device = CUDA if provider == TENSORRT else provider
    fitting = [v for v in variants if device in v.providers and precision in (None, v.precision)]
    if not fitting:
        had = ", ".join(f"{v.precision} for {' and '.join(v.providers)}" for v in variants)
        raise UserError(
            f"the bundle has no {precision + ' ' if precision else ''}graph that may run on {provider} (it has {had}). "
            "Choose another provider or precision, or export it: `igsp export MODEL BUNDLE --precision fp32`."
        )
    order = ["fp16", "bf16", "fp32", "int8"]
    return min(
        fitting, key=lambda variant: order.index(variant.precision) if variant.precision in order else len(order)
    )


def _has_nvidia_driver() -> bool:
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")) or (
        Path("C:/Windows/System32/nvcuda.dll").exists()
    )


def _works(provider: str) -> bool:
    if provider not in onnxruntime.get_available_providers():
        return False
    if hasattr(onnxruntime, "preload_dlls"):
        # CUDA libraries that came as Python packages; it prints about those that did not.
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    onnxruntime.set_default_logger_severity(_SILENT)
    try:
        session = onnxruntime.InferenceSession(_PROBE, providers=[provider])
    except Exception:  # whatever it is, this provider is of no use here
        return False
    finally:
        onnxruntime.set_default_logger_severity(2)
    return provider in session.get_providers()
