"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from igsp_deploy.errors import UsageError

BUNDLE_HELP = r"Bundle folder, or hf:USER/NAME\[@REV]."  # a bracket that rich shall not read
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help=BUNDLE_HELP)]
"""A bundle that is there; the command opens `local_bundle` of it."""

Backbone = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The CLIP of a new model: nano, or a name that `igsp backbones` lists."),
]
Pretrained = Annotated[
    str | None, typer.Option(metavar="TAG|PATH", help="Its weights: a tag, or a checkpoint, wherever it lies now.")
]
"""Of the backbone of a new model; of one that is there, where its checkpoint lies now."""

Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|cuda:N|mps",
        help="Where to compute: auto takes the GPU that PyTorch sees, else the CPU; mps is experimental.",
    ),
]
"""Where torch computes; `igsp_train.device.find_device` reads it."""

ProviderOption = Annotated[
    str, typer.Option("--provider", help="Where to run: auto, cpu, cuda, or tensorrt (experimental).")
]
"""To be checked by `check_provider`."""
PROVIDERS = ("auto", "cpu", "cuda", "tensorrt")


def check_provider(value: str) -> Literal["auto", "cpu", "cuda", "tensorrt"]:
    """Return `value` if it names a provider.

    Raises:
        UsageError: it does not.
    """
    if value not in PROVIDERS:
        raise UsageError(f"--provider must be one of {', '.join(PROVIDERS)}, got {value!r}.")
    return cast(Literal["auto", "cpu", "cuda", "tensorrt"], value)
