"""Reading `--task name=SOURCE` options."""

from collections.abc import Iterable

from igsp_deploy.errors import UsageError
from igsp_deploy.names import check_task_name


def parse_tasks(options: Iterable[str], option_name: str = "--task") -> dict[str, str]:
    """Task name -> source, in the order given to the option of that name.

    Raises:
        UsageError: no `=`, an empty source, a bad name or the same name twice.
    """
    tasks: dict[str, str] = {}
    for option in options:
        name, separator, source = option.partition("=")
        if not separator or not source:
            raise UsageError(
                f"{option_name} expects name=SOURCE, got {option!r}. Example: {option_name} shoes=data/shoes"
            )
        if check_task_name(name) in tasks:
            raise UsageError(f"{option_name} {name} was given twice. Give every task its own name.")
        tasks[name] = source
    return tasks
