"""What mkdocs is told beyond mkdocs.yml: pages that lie outside docs/, and the reference, made from the program itself.

Every text exists once, where GitHub shows it: its links stay as they are there, and are turned while the site is built.
"""

import re
from html import escape
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import Any

import typer
from fastapi import FastAPI
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from igsp_deploy.cli.main import app
from igsp_deploy.doors import NAMES
from igsp_serve.http.app import ROUTERS
from igsp_serve.http.keys import OPEN_PATHS, is_admin

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = (
    "README.md",
    "train/README.md",
    "train/RESULTS.md",
    "export/README.md",
    "serve/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
)
"""Pages that lie outside docs/, by their path in the repository, which is their path in the site."""
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/, the reference, and a page for each file of the code that a page links to."""
    for path in OUTSIDE:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    files.append(File.generated(config, "reference/cli.md", content=command_line()))
    files.append(File.generated(config, "reference/http.md", content=http_routes()))
    files.append(File.generated(config, "reference/api.md", content=python_names()))
    for page in list(files.documentation_pages()):
        for target, _ in LINK.findall(page.content_string):
            path = in_repository(page.src_uri, target)
            if (ROOT / path).is_file() and files.get_file_from_path(in_site(path)) is None:
                files.append(File.generated(config, in_site(path), content=code_page(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead each link to where its file is in the site; what the site does not have (a folder) becomes plain text."""

    def turned(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        path = in_repository(page.file.src_uri, target)
        if not (ROOT / path).is_file():
            return match[0]
        return f"]({relpath(in_site(path), dirname(page.file.src_uri) or '.')}{anchor})"

    def without_folder(match: re.Match[str]) -> str:
        return match[1] if (ROOT / in_repository(page.file.src_uri, match[2])).is_dir() else match[0]

    return LINK.sub(turned, re.sub(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)\)", without_folder, markdown))


def in_repository(page: str, target: str) -> str:
    """Path in the repository of what the page `page` of the site calls `target`."""
    here = f"docs/{page}" if (ROOT / "docs" / page).is_file() else page
    return normpath(f"{dirname(here) or '.'}/{target}")


def in_site(path: str) -> str:
    """Where a file of the repository is in the site; code is shown on a page."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path in OUTSIDE else f"code/{path}.md"


def code_page(path: str) -> str:
    """A page that shows the file `path` of the repository."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return f"# {path}\n\n~~~~~~{Path(path).suffix.removeprefix('.')}\n{text}\n~~~~~~\n"


def command_line() -> str:
    """The page of the command line, from what `igsp --help` and `igsp COMMAND --help` are printed from."""
    group = typer.main.get_command(app)
    parts = ["# Command line", *help_of(group, "igsp")]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        parts += [f"## igsp {name}", *help_of(command, f"igsp {name}")]
    return "\n\n".join(parts) + "\n"


def help_of(command: Any, name: str) -> list[str]:
    """Blocks of the help of one command: usage, text, arguments and options, examples."""
    with command.make_context(name, [], resilient_parsing=True) as context:
        usage = command.get_usage(context).removeprefix("Usage: ")
        records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [
        f"<tr><td><code>{escape(names)}</code></td><td>{shown(text)}</td></tr>" for names, text in filter(None, records)
    ]
    parts = [f"```text\n{usage}\n```", *(f"<p>{shown(text)}</p>" for text in (command.help or "").split("\n\n"))]
    parts.append("<table>\n" + "\n".join(rows) + "\n</table>")
    if command.epilog:
        title, *lines = [line for line in command.epilog.splitlines() if line.strip()]
        parts += [f"<p>{shown(title)}</p>", "```text\n" + "\n".join(lines) + "\n```"]
    return parts


def shown(text: str) -> str:
    """HTML of a help text: brackets as a terminal shows them, words between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text.replace("\\[", "[").replace("\n", " ").strip()))


def python_names() -> str:
    """The page of the Python API, which mkdocstrings fills from the docstrings."""
    named = [f"{module}.{name}" for name, module in NAMES.items() if module != "igsp_serve.client"]
    targets = [*sorted(named), "igsp_serve.client", "igsp_deploy.config"]
    return "# Python\n\n" + "\n\n".join(f"::: {target}" for target in targets) + "\n"


def http_routes() -> str:
    """The page of the server's routes, from the routers that it is made of."""
    app = FastAPI()
    for router in ROUTERS:
        app.include_router(router)
    rows = ["| call | what | key |", "| --- | --- | --- |"]
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            verb = method.upper()
            key = "an admin's" if is_admin(verb, path) else "none" if path in OPEN_PATHS else "where keys are set"
            rows.append(f"| `{verb} {path}` | {escape(operation['summary'])} | {key} |")
    return "# HTTP\n\nA server's own `/openapi.json` and `/docs` have the fields of each.\n\n" + "\n".join(rows) + "\n"
