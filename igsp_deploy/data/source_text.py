"""Sources as text: `KIND:NAME?KEY=VALUE&KEY=VALUE`, or the path of a folder or a file."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from igsp_deploy.entry import installed_names
from igsp_deploy.errors import UserError
from igsp_deploy.files import absolute

GROUP = "igsp.sources"
"""Entry points of packages that bring kinds of sources: a name, and a class that takes a `SourceText`."""

_PATHS = ("root", "words")
"""Options that are paths; they are made absolute."""


@dataclass(frozen=True)
class SourceText:
    """The parts of a source.

    Attributes:
        kind: one of `known_kinds()`, or an empty text for a path.
        name: what stands between colon and question mark, or the path.
        options: what stands after the question mark; paths are absolute.
    """

    kind: str
    name: str
    options: dict[str, str]

    def __str__(self) -> str:
        """The text, options sorted."""
        if not self.kind:
            return self.name
        tail = urlencode(sorted(self.options.items()), safe="/: ") if self.options else ""
        return f"{self.kind}:{self.name}" + (f"?{tail}" if tail else "")

    def check(self, known: Iterable[str], required: Iterable[str] = ()) -> None:
        """Refuse options that this kind does not have.

        Raises:
            UserError: an unknown option, or a required one that is missing.
        """
        for option in self.options:
            if option not in known:
                raise UserError(
                    f"{self.kind}:{self.name} has no option {option!r}; known: {', '.join(sorted(known)) or 'none'}."
                )
        for option in required:
            if option not in self.options:
                text = f"{self.kind}:{self.name}"
                raise UserError(f"{text} needs the option {option}, for example {text}?{option}=...")


def source_root(text: str) -> Path | None:
    """The folder that the places of a source's images are told from; None where they lie in no folder of this machine.

    Raises:
        UserError: an option without a value, or given twice.
    """
    parts = split_source(text)
    if parts.kind:
        return Path(parts.options["root"]) if "root" in parts.options else None
    path = Path(parts.name)
    return path if path.is_dir() else path.parent


def known_kinds() -> set[str]:
    """What may stand before the colon: our own kinds, and those that installed packages bring."""
    return {"hf", "torchvision", "part", *installed_names(GROUP)}


def split_source(text: str) -> SourceText:
    """Take a source apart.

    Raises:
        UserError: an option without a value, or given twice; a path that names no place.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in known_kinds():
        return SourceText("", str(absolute(text)), {})
    name, _, tail = rest.partition("?")
    example = _EXAMPLES.get(kind, f"{kind}:NAME?root=data")
    if not name:
        raise UserError(f"{text!r} names nothing after {kind}:. Example: {example}")
    options: dict[str, str] = {}
    for part in filter(None, tail.split("&")):
        pairs = parse_qsl(part, keep_blank_values=True)
        key, value = pairs[0] if pairs else ("", "")
        if not value or key in options:
            raise UserError(f"{text!r}: {part!r} must be KEY=VALUE, each key once. Example: {example}")
        options[key] = str(absolute(value)) if key in _PATHS else value
    if is_local(name) if kind == "hf" else name.startswith(("/", ".", "~")):
        name = str(absolute(name))
    return SourceText(kind, name, options)


def is_local(name: str) -> bool:
    """Whether what follows `hf:` is a place on this machine, and not a name on the hub."""
    return name.startswith(("/", ".", "~")) or Path(name).exists()


_EXAMPLES = {
    "hf": "hf:ylecun/mnist?image=image&label=label",
    "torchvision": "torchvision:CIFAR10?root=data",
    "part": "part:1/10?root=data/cub",
    "mtil": "mtil:aircraft?root=data",
}
