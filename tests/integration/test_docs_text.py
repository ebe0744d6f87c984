"""The documents: every link leads somewhere, and every command line is one that the command line knows."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from igsp_deploy.cli.main import app
from tests.integration.docs_text import DOCUMENTS, FOLDER_DOCUMENTS, ROOT, command_lines, links, mentions

ALL = [*DOCUMENTS, *FOLDER_DOCUMENTS]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", ALL, ids=_name)
def test_every_link_leads_to_a_file_of_the_project(document: Path) -> None:
    assert [target for target in links(document) if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", ALL, ids=_name)
def test_every_command_line_is_one_that_igsp_knows(document: Path) -> None:
    problems = {line: problem_of(line) for line in command_lines(document)}
    problems |= {line: problem_of(line, synopsis=True) for line in mentions(document)}
    assert {line: problem for line, problem in problems.items() if problem} == {}


def test_the_readme_shows_commands_on_a_screen_and_a_half() -> None:
    assert len(command_lines(ROOT / "README.md")) > 6
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 75


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("igsp train model --task a=b --set learn.steps=5", None),
        ("igsp inspect MODEL|BUNDLE", None),
        ("igsp export MODEL BUNDLE [--precision fp32 fp16]", None),
        ("igsp fly model", "fly"),
        ("igsp train model --tusk a=b", "--tusk"),
        ("igsp predict bundle", "Missing argument"),
        ("igsp predict bundle photo.jpg --top-k many", "--top-k"),
        ("igsp export MODEL BUNDLE [--precission fp32]", "--precission"),
    ],
)
def test_a_wrong_line_is_seen(line: str, problem: str | None) -> None:
    found = problem_of(line)
    assert (found is None) if problem is None else (problem in (found or ""))


def problem_of(line: str, synopsis: bool = False) -> str | None:
    """What is wrong with one `igsp ...` line; None if `igsp` would run it. Files need not exist.

    A line with `[...]`, `...` or capitals in place of values is a synopsis, as one inside a sentence is: its command
    and options must be known.
    """
    synopsis = synopsis or bool(re.search(r"\[|\.\.\.|…|<|\||\b[A-Z]{3,}\b", line))
    words = line.replace("[", " ").replace("]", " ").split()[1:] if synopsis else shlex.split(line)[1:]
    command: Any = typer.main.get_command(app)
    path = []
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        path.append(words.pop(0))
        if path[-1] not in command.commands:
            return f"there is no command {' '.join(path)}"
        command = command.commands[path[-1]]
    if synopsis or hasattr(command, "commands") or not words:
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        known |= {"--help", "-h"}
        given = [word.split("=")[0].strip(",;.:)") for word in words if re.match(r"--?[a-z]", word)]
        strange = [option for option in given if option not in known]
        return f"unknown options {', '.join(strange)}" if strange else None
    try:
        command.make_context(" ".join(path), list(words))
    except Exception as error:
        return str(error.format_message() if hasattr(error, "format_message") else error)
    except SystemExit:
        return None
    return None


def test_no_page_or_message_names_an_install_that_does_not_exist() -> None:
    """There is no release: every line is typed in a checkout, or made by `igsp_deploy.installed`."""
    places = [*DOCUMENTS, *FOLDER_DOCUMENTS, ROOT / "Makefile", *(p for p in (ROOT / "serve").iterdir() if p.is_file())]
    for package in ("igsp_deploy", "train/igsp_train", "export/igsp_export", "serve/igsp_serve"):
        places += sorted((ROOT / package).rglob("*.py"))
    wrong = re.compile(r"igsp-deploy\[|pip install [^\n]*\bigsp-deploy\b")
    named = {place.relative_to(ROOT).as_posix(): wrong.findall(place.read_text(encoding="utf-8")) for place in places}
    assert {place: found for place, found in named.items() if found} == {}
