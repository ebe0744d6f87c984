"""A folder of class folders, with or without train, val and test above them."""

from pathlib import Path

from igsp_deploy.errors import UserError
from igsp_deploy.runtime.image_files import SUFFIXES

SPLITS = ("train", "val", "test")

ClassFiles = dict[str, list[Path]]
"""Class name -> its image files, both sorted."""


def read_image_folder(folder: Path) -> dict[str, ClassFiles]:
    """List the images of a folder.

    Args:
        folder: `train/CLASS/...` with optional `val/CLASS/...` and `test/CLASS/...`, or `CLASS/...` directly. Images
            may lie deeper inside a class folder. A folder is of the first kind when its `train` holds folders.

    Returns:
        Split -> class -> files; the second kind has all its images in `train`.

    Raises:
        UserError: no class folders, or a class without images.
    """
    try:
        if _folders(folder / "train"):
            splits = {name: _read_classes(folder / name) for name in SPLITS if (folder / name).is_dir()}
        else:
            splits = {"train": _read_classes(folder)}
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename}: {error.strerror}. Check that you may read the folder."
        ) from error
    return splits


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _read_classes(folder: Path) -> ClassFiles:
    classes = {path.name: _images(path) for path in _folders(folder)}
    if not classes:
        raise UserError(
            f"{folder} has no class folders. Expected one folder of images a class: {folder}/CLASS/*.jpg "
            f"(or train/CLASS/*.jpg and test/CLASS/*.jpg)."
        )
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise UserError(
            f"{folder}: {len(empty)} of {len(classes)} classes have no images, the first is {empty[0]!r}. "
            f"Add images ({', '.join(sorted(SUFFIXES))}) or remove the folder."
        )
    return classes


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
