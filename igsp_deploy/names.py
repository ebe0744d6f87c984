"""What a task may be called, and what stands where a task's name or index does. Needs no torch.

A task's name is a folder, an option's value and a key in JSON.
"""

import re

from igsp_deploy.errors import UsageError

AUTO = -1
"""In place of a task's index: let the selector choose."""
PLAIN = -2
"""In place of a task's index: plain CLIP, no task's experts."""
SPECIAL = {"auto": AUTO, "none": PLAIN}
"""Their names, wherever a task's name is asked for."""
RESERVED = (*SPECIAL, "plain")
"""Names that no task may have."""
DEFAULT_TEMPLATE = "a photo of a {}."
"""The prompt around a class name where nobody gave another."""

_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def has_one_place(template: str) -> bool:
    """Whether a prompt template holds `{}` once, where the class goes, and no other braces."""
    before, braces, after = template.partition("{}")
    return bool(braces) and not set(before + after) & set("{}")


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
