"""Texts for a page that is passed on: no folder of the machine it was made on."""

import re
from typing import Any

_FOLDERS = re.compile(r"(?<![\w./])/(?:[^\s/'\"]+/)*(?=[^\s/'\"])")
"""From a slash that begins a path to the last one of it, up to a space."""


def without_folders(value: Any) -> Any:
    """The same with absolute paths told by their last part: texts, and those inside lists and dictionaries."""
    if isinstance(value, str):
        return _FOLDERS.sub("", value)
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    if isinstance(value, dict):
        return {key: without_folders(one) for key, one in value.items()}
    return value
