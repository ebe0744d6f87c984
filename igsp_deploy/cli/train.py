"""`igsp train`: learn tasks into a model folder."""

from pathlib import Path
from typing import Annotated

import typer

from igsp_deploy.cli.tasks import parse_tasks

EXAMPLES = """Examples:

igsp train model --task digits=data/digits --task letters=data/letters

igsp train model --config run.yaml --set learn.steps=100"""


def train(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Model folder; made if it is not there, continued if it is.")
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOURCE",
            help="A task to learn: a folder of images (train/CLASS and test/CLASS, or CLASS alone) or a CSV manifest. "
            "Repeat it for a sequence.",
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings and tasks.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="One setting, over the file's. May be repeated.")
    ] = None,
    discard: Annotated[
        bool, typer.Option("--discard", help="Drop an unfinished task of other settings, instead of refusing.")
    ] = False,
) -> None:
    """Learn tasks one after another into MODEL.

    Tasks that MODEL has already are passed over, and an interrupted task goes on from its last checkpoint: after an
    interruption give the same command again. Tasks of the file come first, then those of --task.
    """
    from igsp_deploy.config import RunConfig, apply_overrides, build_config, load_yaml
    from igsp_deploy.errors import UsageError
    from igsp_deploy.names import check_task_name
    from igsp_deploy.yaml_keys import check_unique_keys

    given = parse_tasks(task or [])
    values = load_yaml(config) if config else {}
    if config:
        check_unique_keys(config)
    source = str(config) if config else "--set"
    settings = build_config(RunConfig, apply_overrides(values, set_ or []), source)
    for name in settings.tasks:
        check_task_name(name)
    both = sorted(set(settings.tasks) & set(given))
    if both:
        raise UsageError(f"task {both[0]!r} is in {source} and in --task. Give it once.")
    tasks = {**settings.tasks, **given}
    if not tasks:
        raise UsageError("there is nothing to learn. Give at least one task: --task shoes=data/shoes")

    # Last, because torch takes seconds: what is wrong with the command is said before.
    import dataclasses

    from rich.console import Console

    from igsp_train.sequence import train_sequence

    train_sequence(model, dataclasses.replace(settings, tasks=tasks), console=Console(stderr=True), discard=discard)
    print(model)
