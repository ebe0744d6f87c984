"""Finding images in folders that people made: what counts as one, what never does, and what was passed over."""

import importlib.util
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from igsp_deploy.errors import UserError

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
"""What telephones write; decoded where the extra `heic` is installed."""
_ALWAYS = ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .jp2 .j2k .avif"
SUFFIXES = frozenset(_ALWAYS.split()) | (HEIF_SUFFIXES if importlib.util.find_spec("pillow_heif") else frozenset())
"""What counts as an image inside a folder; a file that is named is tried whatever its name."""

_SYSTEM = frozenset(
    {
        *("__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "lost+found", "$recycle.bin", "recycler"),
        *("system volume information", "__pycache__", "thumbs.db", "desktop.ini", "icon\r"),
    }
)
"""Folders and files that systems put beside people's own, in lower case."""

Parts = tuple[str, ...]
"""A path below a folder, component by component."""


def is_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden or a system's own: it never counts and is not reported."""
    return name.startswith(".") or name.lower() in _SYSTEM


@dataclass
class Walked:
    """What lies below a folder, hidden and system entries left out; all sorted.

    Attributes:
        files: every file that can be there.
        folders: every folder.
        odd: entries that are neither, with the reason: broken links, links in a circle, pipes.
    """

    files: list[Parts] = field(default_factory=list)
    folders: list[Parts] = field(default_factory=list)
    odd: list[tuple[Parts, str]] = field(default_factory=list)


def walk(folder: Path) -> Walked:
    """List everything below a folder. Links are followed, but not in a circle.

    Raises:
        UserError: a folder cannot be read; names it.
    """
    found = Walked()
    try:
        _walk(folder, (), (_identity(folder),), found)
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename or folder}: {error.strerror}. Check that you may read the folder."
        ) from error
    found.files.sort()
    found.folders.sort()
    found.odd.sort()
    return found


def _walk(folder: Path, parts: Parts, above: tuple[tuple[int, int], ...], found: Walked) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            here = (*parts, entry.name)
            if is_system(entry.name):
                continue
            if entry.is_dir():
                identity = _identity(Path(entry.path))
                if identity in above:
                    found.odd.append((here, "link in a circle"))
                    continue
                found.folders.append(here)
                _walk(Path(entry.path), here, (*above, identity), found)
            elif entry.is_file():
                found.files.append(here)
            else:
                found.odd.append((here, "broken link" if entry.is_symlink() else "not a file"))


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def kind_of(name: str) -> str:
    """What a file that is not taken for an image is called in counts: `HEIC`, `TXT`, or `without ending`."""
    return PurePath(name).suffix.lstrip(".").upper() or "without ending"


def count_kinds(kinds: Iterable[str]) -> str:
    """`2 HEIC, 1 damaged`: the most frequent first."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(kinds).most_common())


def find_images(paths: Iterable[Path], say: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Files as given, and the images of folders (with their subfolders), sorted.

    Args:
        paths: files and folders.
        say: gets one line a folder where something in it was passed over.

    Raises:
        UserError: a folder holds no image, or cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        walked = walk(path)
        inside = [path.joinpath(*parts) for parts in walked.files if is_image(parts[-1])]
        others = [kind_of(parts[-1]) for parts in walked.files if not is_image(parts[-1])]
        others += [reason for _, reason in walked.odd]
        if not inside:
            held = f"; it holds {count_kinds(others)}" if others else ""
            raise UserError(f"{path} holds no image ({', '.join(sorted(SUFFIXES))}){held}. Check the folder.")
        if others:
            say(f"{path}: {len(inside)} images; {len(others)} other files passed over: {count_kinds(others)}")
        found.extend(inside)
    return found


def is_image(name: str) -> bool:
    """Whether a file in a folder is taken for an image, by its ending."""
    return PurePath(name).suffix.lower() in SUFFIXES
