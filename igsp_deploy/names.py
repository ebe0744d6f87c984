"""What a task may be called: the name is a folder, an option's value and a key in JSON."""

import re

from igsp_deploy.errors import UsageError

RESERVED = ("auto", "none", "plain")
"""Names that mean something else wherever a task is asked for."""

_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def check_task_name(name: str) -> str:
    """Return `name` if a task may be called so.

    Raises:
        UsageError: other characters than a-z 0-9 _ -, longer than 64, or reserved.
    """
    if name in RESERVED:
        raise UsageError(f"a task cannot be called {name!r}, which has a meaning of its own. Choose another name.")
    if not _PATTERN.fullmatch(name):
        raise UsageError(
            f"a task's name must be 1 to 64 of a-z, 0-9, _ and -, starting with a letter or digit, got {name!r}. "
            "Example: --task shoes=data/shoes"
        )
    return name
