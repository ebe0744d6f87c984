"""What no machine has shown to work is called experimental where a user meets it: help, docstrings, documents."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from igsp_deploy.cli.main import app
from tests.integration.docs_text import DOCUMENTS, FOLDER_DOCUMENTS, ROOT

UNSHOWN = re.compile(r"\bbf16\b|tensorrt|\bcuda[ -]graph", re.IGNORECASE)
"""bf16 on CUDA (and in learning), TensorRT and its engine cache, CUDA graphs."""
WORD = "experimental"
SOURCES = ("igsp_deploy/config.py", "igsp_deploy/doors.py", "igsp_deploy/runtime/engine.py")
"""Whose docstrings stand in the Python reference and name them."""


def help_texts() -> Iterator[tuple[str, str]]:
    """Each command and each of its options, with their help."""
    group: Any = typer.main.get_command(app)
    stack = [("igsp", group)]
    while stack:
        name, command = stack.pop()
        stack += [(f"{name} {sub}", found) for sub, found in getattr(command, "commands", {}).items()]
        yield name, command.help or ""
        yield from ((f"{name} {option.opts[0]}", getattr(option, "help", None) or "") for option in command.params)


def unmarked(texts: dict[str, str]) -> list[str]:
    """Names of the texts that name what has not been shown to work, and do not say so."""
    return [name for name, text in texts.items() if UNSHOWN.search(text) and WORD not in text]


def sections(path: Path) -> dict[str, str]:
    """The sections of a document by their headings, without code and what OpenVINO does on a CPU."""
    parts = re.split(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    found.pop("OpenVINO", None)
    return {name: re.sub(r"^(```.*?^```| {4}[^\n]*)$", "", text, flags=re.M | re.S) for name, text in found.items()}


def entries(path: Path) -> dict[str, str]:
    """The lines of a file's docstrings by their number; an entry of ours stays in one line."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found |= {f"{node.lineno + n}": line for n, line in enumerate(node.value.value.splitlines())}
    return found


def test_every_help_that_names_it_says_experimental() -> None:
    texts = dict(help_texts())
    named = {name for name, text in texts.items() if UNSHOWN.search(text)}
    assert {"igsp serve --engine-cache", "igsp serve --cuda-graph", "igsp serve --provider"} <= named
    assert {f"igsp {command} --precision" for command in ("export", "serve", "bench")} <= named
    assert {f"igsp {command} --provider" for command in ("predict", "verify", "bench", "demo")} <= named
    assert unmarked(texts) == []


@pytest.mark.parametrize("source", SOURCES)
def test_every_docstring_that_names_it_says_experimental(source: str) -> None:
    texts = entries(ROOT / source)
    assert any(UNSHOWN.search(text) for text in texts.values())
    assert unmarked(texts) == []


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, *FOLDER_DOCUMENTS], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_every_section_that_names_it_says_experimental(document: Path) -> None:
    assert unmarked(sections(document)) == []


def test_the_page_on_providers_says_which() -> None:
    text = sections(ROOT / "serve/README.md")["Providers"]
    assert {match[0].lower() for match in UNSHOWN.finditer(text)} >= {"tensorrt", "cuda graph", "bf16"}
