"""Finding the images that a command was given: files, and folders of them."""

from collections.abc import Iterable
from pathlib import Path

from igsp_deploy.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"})
"""What counts as an image inside a folder; a file that is named is tried whatever its name."""


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Files as given, and the images of folders (with their subfolders), sorted.

    Raises:
        UserError: a folder holds no image.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
        )
        if not inside:
            raise UserError(f"{path} holds no image ({', '.join(sorted(SUFFIXES))}). Check the folder.")
        found.extend(inside)
    return found
