"""`igsp import`: a linear probe becomes a task of a model."""

from pathlib import Path
from typing import Annotated

import typer

from igsp_deploy.cli.options import Backbone, Device, Pretrained

EXAMPLES = """Examples:

igsp import model boots probe.safetensors --data data/boots

igsp import model boots probe.safetensors --data data/boots --backbone ViT-B-16-quickgelu --pretrained openai"""


def import_(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Model folder; made if it is not there, else the task is added.")
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the task is called.")],
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Safetensors with weight [C, D], of embeddings of length 1, without bias."),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="Images of its classes, as for `igsp train --task`: the selector learns from them when to choose it.",
        ),
    ],
    backbone: Backbone = None,
    pretrained: Pretrained = None,
    device: Device = "auto",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="One setting of model, selector or data. May be repeated."),
    ] = None,
) -> None:
    """Add a linear probe on the embeddings of MODEL's backbone as the task NAME, without training.

    It answers exactly as the probe does, beside the tasks that are learned, and goes with them into one bundle.
    """
    import dataclasses

    from igsp_deploy.checked import build
    from igsp_deploy.config import LearnConfig, RunConfig, apply_overrides, named_settings
    from igsp_deploy.errors import UsageError
    from igsp_deploy.names import check_task_name

    values = {"model": {k: v for k, v in (("backbone", backbone), ("pretrained", pretrained)) if v is not None}}
    values = apply_overrides(values, set_ or [])
    settings = build(RunConfig, values, "--set")
    if settings.learn != LearnConfig() or settings.tasks:
        raise UsageError("an imported task is not learned: leave out --set learn.* and tasks.")

    from igsp_train.imported import import_probe

    settings = dataclasses.replace(settings, tasks={check_task_name(name): data})
    import_probe(model, name, file, settings, device=device, given=named_settings(values))
    print(model)
