"""Reading the project's documents: their code blocks, links and command lines."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDER_DOCUMENTS = [ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("*/README.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    language: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a document, in order, with the number of their first line."""
    found: list[Block] = []
    language: str | None = None
    lines: list[str] = []
    start = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.startswith("```"):
            if language is not None:
                lines.append(line)
        elif language is None:
            language, lines, start = line[3:].strip(), [], number + 1
        else:
            found.append(Block(language, "\n".join(lines) + "\n", start))
            language = None
    assert language is None, f"{path}: the block of line {start} does not end"
    return found


def links(path: Path) -> list[str]:
    """The targets of a document's links and pictures that are files of the project, without `#...`."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"""(?:src|href)=["']([^"']+)["']""", text)
    return [t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)]


def command_lines(path: Path) -> list[str]:
    """The `igsp ...` lines of a document's code, each in one line, without comments and what follows in the shell."""
    text = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
    lines = re.findall(r"^(?: {4}|\$ )?(igsp .*)$", text, flags=re.MULTILINE)
    return [re.split(r"\s#\s|\s#$|\s\|\s|&&|\s>\s|\s{4,}", line)[0].strip() for line in lines]


def mentions(path: Path) -> list[str]:
    """The `igsp ...` inside a document's sentences."""
    return re.findall(r"`(igsp [^`\n]*)`", path.read_text(encoding="utf-8"))
