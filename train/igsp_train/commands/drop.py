"""`igsp drop`: take the last task out of a model."""

import sys
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

igsp drop model shoes"""


def drop(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")],
    task: Annotated[str, typer.Argument(metavar="TASK", help="Its last task.")],
    discard: Annotated[
        bool, typer.Option("--discard", help="Drop a task too that is unfinished and was begun after it.")
    ] = False,
) -> None:
    """Take the last TASK out of MODEL, as if it had never been learned.

    Earlier tasks stay, because later ones may use their experts. Bundles that were exported before stay as they are.
    """
    from igsp_train.drop import drop_task

    record = drop_task(model, task, discard=discard)
    print(f"{task}: dropped, with {record.kept_parameters:,} numbers", file=sys.stderr)
    print(model)
