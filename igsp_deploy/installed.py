"""How this installation came to be, and so what a person types to add an extra to it."""

import importlib.metadata
import json
from typing import Any

from igsp_deploy import __version__

NAME = "igsp-deploy"
CHECKOUT = "."
"""A folder of the sources: what pip is given where nothing is known of this installation."""


def install_command(extra: str) -> str:
    """The line that adds an extra (`serve`, or several: `serve,cpu`) from where this installation came from.

    pip writes down where a package came from ([PEP 610](https://peps.python.org/pep-0610/)): a folder, a file or a
    repository; nothing where it was an index. Quoted so that POSIX shells, PowerShell and cmd.exe read the same.
    """
    origin = _origin()
    editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
    return f'pip install {editable}"{_requirement(extra, origin)}"'


def _requirement(extra: str, origin: dict[str, Any]) -> str:
    url = str(origin.get("url", ""))
    if not url:
        return f"{NAME}[{extra}]"
    if "dir_info" in origin:
        return f"{_path(url)}[{extra}]"
    vcs = origin.get("vcs_info")
    return f"{NAME}[{extra}] @ " + (f"{vcs['vcs']}+{url}@{vcs['commit_id']}" if vcs else url)


def _origin() -> dict[str, Any]:
    """What pip wrote down; empty for an index. A copy that was never installed is a checkout."""
    try:
        text = importlib.metadata.distribution(NAME).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return {"url": CHECKOUT, "dir_info": {}}
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


def _path(url: str) -> str:
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    return url2pathname(urlsplit(url).path) if url.startswith("file:") else url


def requirement_line(extra: str) -> str:
    """A line of a requirements.txt that brings this very version with an extra to another machine.

    What came from a folder is on no other machine: the line then names a wheel beside the file, and how to make it.
    """
    origin = _origin()
    if not origin:
        return f"{NAME}[{extra}]=={__version__}"
    if "dir_info" not in origin and not str(origin["url"]).startswith("file:"):
        return _requirement(extra, origin)
    wheel = f"{NAME.replace('-', '_')}-{__version__}-py3-none-any.whl"
    return (
        f'# Make the wheel in this folder: pip wheel --no-deps -w . "{_path(str(origin["url"]))}"\n./{wheel}[{extra}]'
    )
