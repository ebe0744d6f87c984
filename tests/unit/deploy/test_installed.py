"""The line that installs an extra fits where this installation came from."""

import importlib.metadata
import json
from typing import Any

import pytest

from igsp_deploy import __version__, installed


class Distribution:
    """What pip would have written beside the package."""

    def __init__(self, origin: dict[str, Any] | None) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.origin is None else json.dumps(self.origin)


@pytest.mark.parametrize(
    ("origin", "command", "elsewhere"),
    [
        (None, 'pip install "igsp-deploy[serve,cpu]"', f"igsp-deploy[serve,cpu]=={__version__}"),
        (
            {"url": "file:///home/me/my%20work", "dir_info": {}},
            'pip install "/home/me/my work[serve,cpu]"',
            '# Make the wheel in this folder: pip wheel --no-deps -w . "/home/me/my work"\n'
            f"./igsp_deploy-{__version__}-py3-none-any.whl[serve,cpu]",
        ),
        (
            {"url": "file:///src", "dir_info": {"editable": True}},
            'pip install -e "/src[serve,cpu]"',
            '# Make the wheel in this folder: pip wheel --no-deps -w . "/src"\n'
            f"./igsp_deploy-{__version__}-py3-none-any.whl[serve,cpu]",
        ),
        (
            {"url": "file:///tmp/a.whl", "archive_info": {}},
            'pip install "igsp-deploy[serve,cpu] @ file:///tmp/a.whl"',
            '# Make the wheel in this folder: pip wheel --no-deps -w . "/tmp/a.whl"\n'
            f"./igsp_deploy-{__version__}-py3-none-any.whl[serve,cpu]",
        ),
        (
            {"url": "https://example.org/i.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}},
            'pip install "igsp-deploy[serve,cpu] @ git+https://example.org/i.git@ab12"',
            "igsp-deploy[serve,cpu] @ git+https://example.org/i.git@ab12",
        ),
    ],
    ids=["index", "folder", "editable", "file", "repository"],
)
def test_the_line_names_the_origin(
    origin: dict[str, Any] | None, command: str, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution(origin))
    assert installed.install_command("serve,cpu") == command
    assert installed.requirement_line("serve,cpu") == elsewhere


def test_a_copy_that_was_never_installed_is_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert installed.install_command("gpu") == 'pip install ".[gpu]"'
    assert f"./igsp_deploy-{__version__}-" in installed.requirement_line("gpu")
