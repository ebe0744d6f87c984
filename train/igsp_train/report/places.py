"""Texts for a page that is passed on: no folder of the machine it was made on."""

import re
from typing import Any

_FOLDERS = re.compile(r"(?<![\w./])/(?:[^\s/'\"]+/)*(?=[^\s/'\"])")
"""From a slash that begins a path to the last one of it, up to a space."""
_WHOLE = re.compile(r"(?<![\w./])/(?:[^/]+/)*(?=[^/])")
"""The same where the text is one value, whose folders may have spaces."""
_QUOTED = re.compile(r"(['\"])(.*?)\1")


def without_folders(value: Any) -> Any:
    """The same with absolute paths told by their last part: texts, and those inside lists and dictionaries.

    A value of a dictionary, and what a text quotes, is one path where it begins as one, spaces and all.
    """
    if isinstance(value, str):
        return _FOLDERS.sub("", _QUOTED.sub(lambda match: match[1] + _WHOLE.sub("", match[2]) + match[1], value))
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    if isinstance(value, dict):
        return {
            key: _WHOLE.sub("", one) if isinstance(one, str) else without_folders(one) for key, one in value.items()
        }
    return value
