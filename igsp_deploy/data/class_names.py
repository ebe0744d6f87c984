"""Words for the classes: prompt templates and display names, from `classes.json` or from the folder names."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igsp_deploy.bundle.tokenizer import clean
from igsp_deploy.errors import UserError
from igsp_deploy.files import read_json
from igsp_deploy.names import DEFAULT_TEMPLATE, has_one_place

_KEYS = {"template", "templates", "classes"}


@dataclass(frozen=True, kw_only=True)
class ClassNames:
    """Words for the classes of a task.

    Attributes:
        display_names: one a class, in the order of the classes.
        templates: prompt templates with one `{}`.
    """

    display_names: list[str]
    templates: list[str]


def load_class_names(path: Path | None, classes: Sequence[str]) -> ClassNames:
    """Read `classes.json`, or make words from the class names where there is none.

    The file holds any of: `template` (text with one `{}`) or `templates` (a list of them), and `classes` (class name ->
    display name). What it leaves out has its default: "a photo of a {}.", and class names with spaces for `_` and `-`.

    Args:
        path: the file; it may be absent, and None where there is no place for one.
        classes: class names of the source.

    Raises:
        UserError: the file is broken, names classes that are not there, has a template without `{}`, or two classes
            would have the same display name.
    """
    values: dict[str, Any] = {}
    given, path = path, path or Path("classes.json")
    if given is not None and path.exists():
        content = read_json(path, "words for the classes")
        if not isinstance(content, dict):
            raise UserError(f"{path} must hold an object with template and classes, got {type(content).__name__}.")
        values = content
    unknown = sorted(set(values) - _KEYS)
    if unknown:
        raise UserError(f"{path}: {unknown[0]!r} is not known; use template or templates, and classes.")
    return ClassNames(
        display_names=_display_names(path, values.get("classes", {}), classes), templates=_templates(path, values)
    )


def given_words(where: str, options: dict[str, str], beside: Path | None, classes: Sequence[str]) -> ClassNames:
    """The words of a source with options: of the file its option `words` names, else of `beside`, else made.

    Raises:
        UserError: the file named does not exist, or see `load_class_names`.
    """
    path = Path(options["words"]) if "words" in options else beside
    if "words" in options and path is not None and not path.is_file():
        raise UserError(f"{where}: {path} does not exist. Correct the option words.")
    return load_class_names(path, classes)


def _templates(path: Path, values: dict[str, Any]) -> list[str]:
    if "template" in values and "templates" in values:
        raise UserError(f"{path}: give template or templates, not both.")
    templates = values.get("templates", [values.get("template", DEFAULT_TEMPLATE)])
    if not isinstance(templates, list) or not templates or not all(isinstance(text, str) for text in templates):
        raise UserError(f"{path}: templates must be a list of texts such as {DEFAULT_TEMPLATE!r}, got {templates!r}.")
    for text in templates:
        if not has_one_place(text):
            raise UserError(
                f"{path}: a template must hold {{}} once, where the class goes, and no other braces, got {text!r}. "
                f"Example: {DEFAULT_TEMPLATE!r}"
            )
    return list(templates)


def _display_names(path: Path, given: Any, classes: Sequence[str]) -> list[str]:
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given.values()):
        raise UserError(f"{path}: classes must be an object that maps class names to display names, got {given!r}.")
    written = {unicodedata.normalize("NFC", name): name for name in given}
    if len(written) < len(given):
        twice = next(name for name in given if written[unicodedata.normalize("NFC", name)] != name)
        raise UserError(f"{path}: the class {twice!r} is there twice, its accents written in two ways. Remove one.")
    given = {name: given[key] for name, key in written.items()}
    unknown = sorted(set(given) - set(classes))
    if unknown:
        raise UserError(
            f"{path} names {len(unknown)} classes that are not in the data: {_few(unknown)}. "
            f"The data has: {_few(classes)}. Correct the names or remove them."
        )
    names = [given.get(name, name.replace("_", " ").replace("-", " ")).strip() for name in classes]
    owner: dict[str, str] = {}
    for name, display in zip(classes, names, strict=True):
        if not display:
            raise UserError(f"class {name!r} has an empty display name. Give it one in {path}.")
        key = clean(display)
        if key in owner:
            first = names[classes.index(owner[key])]
            both = repr(first) if first == display else f"{first!r} and {display!r}, which CLIP reads alike"
            raise UserError(
                f"classes {owner[key]!r} and {name!r} have the same display name {both}, and no prompt could tell them "
                f"apart. Give them different ones in {path}."
            )
        owner[key] = name
    return names


def _few(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
