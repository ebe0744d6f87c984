"""Which onnxruntime execution provider this machine really gives: asked for, then verified."""

import base64
import contextlib
import functools
import importlib
import io
import logging
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import onnxruntime

from igsp_deploy.bundle.manifest import Variant
from igsp_deploy.errors import UserError
from igsp_deploy.runtime.drivers import has_nvidia_driver
from igsp_deploy.runtime.why_not import why_not

logger = logging.getLogger(__name__)

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
    process there; so a session of one node is made first. Where a GPU's driver is here and the CPU is taken all the
    same, a warning of this module's logger says why, once.

    Args:
        wanted: `auto` takes CUDA where it works, else the CPU.
        allow_fallback: with `cuda` or `tensorrt`, take what works (CUDA, then the CPU) instead of failing.

    Raises:
        UserError: `cuda` or `tensorrt` was wanted and cannot be had.
    """
    if wanted not in get_args(Provider):
        raise UserError(f"the provider must be one of {', '.join(get_args(Provider))}, got {wanted!r}.")
    if wanted == "cpu" or (wanted == "auto" and not has_nvidia_driver()):
        return CPU
    for provider, name in ((TENSORRT, "TensorRT"), (CUDA, "CUDA")):
        if provider == TENSORRT and wanted != "tensorrt":
            continue
        if works(provider):
            return provider
        complaint = f"onnxruntime cannot use {name} here: {why_not(provider)}"
        if wanted != "auto" and not allow_fallback:
            raise UserError(f"{name} was asked for, but {complaint} (Or use the provider auto or cpu.)")
        _warn_once(complaint)
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


def works(provider: str) -> bool:
    """Whether a session of one node runs on `provider`."""
    if provider not in onnxruntime.get_available_providers():
        return False
    try:
        return probe(provider, severity=_SILENT)
    except Exception:  # whatever it is, this provider is of no use here
        return False


def probe(provider: str, *, severity: int) -> bool:
    """Open a session of one node on `provider`, and run it.

    Args:
        provider: one that onnxruntime was built with.
        severity: from which on onnxruntime prints its own messages to stderr; 2 are warnings, 4 silences it.

    Returns:
        Whether the session got that provider; onnxruntime's exceptions pass through.
    """
    # Libraries that came as Python packages; onnxruntime prints about those that did not.
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
    if provider == TENSORRT:
        with contextlib.suppress(Exception):
            importlib.import_module("tensorrt")
    onnxruntime.set_default_logger_severity(severity)
    try:
        session = onnxruntime.InferenceSession(_PROBE, providers=[provider], enable_fallback=0)
        if provider not in session.get_providers():
            return False
        session.run(None, {"x": np.zeros(1, np.float32)})
    finally:
        onnxruntime.set_default_logger_severity(2)
    return True


@functools.cache
def _warn_once(complaint: str) -> None:
    logger.warning("%s Until then the CPU does the work.", complaint)
