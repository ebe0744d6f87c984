"""The sets as torchvision lays them out on disk, with the oddities of each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from igsp_deploy.data.items import Items
from igsp_deploy.data.torchvision_sets import class_names_of, list_data_set
from igsp_deploy.errors import UserError
from igsp_train.research.mtil.facts import BenchmarkSet

BACKGROUND = "BACKGROUND_Google"
"""A folder of Caltech-101 that is not a class."""


def read_layout(one: BenchmarkSet, root: Path) -> tuple[dict[str, Items], list[str]]:
    """List the images of a set in torchvision's layout.

    Args:
        one: the set.
        root: the data root, which holds the set's marker.

    Returns:
        Its splits, `train` and `test` or `train` alone where they are drawn at random, and its classes in label order
        as the files name them.

    Raises:
        UserError: files are missing, damaged or cannot be read; says which.
    """
    folder = root / one.marker
    missing = [name for name in one.files if not (folder / name).exists()]
    if missing:
        raise UserError(
            f"{one.title}: {folder} lacks {', '.join(missing)}. The archive may have been unpacked in part. "
            + one.how_to_get(root)
        )
    if one.name == "caltech101":
        items, names = _caltech(folder)
        return {"train": items}, names
    splits: dict[str, Items] = {}
    names = []
    for split, arguments in _arguments(one).items():
        opened = _open(one, root, arguments)
        items = list_data_set(opened, f"{one.title} {split}")
        splits[split] = _sorted(items) if one.name == "sun397" else items
        names = names or (one.classes if one.name == "flowers102" else class_names_of(opened) or [])
    for split, items in splits.items():
        if not len(items):
            damaged = _damaged(one, root, None) or f"{folder} lists no images for {split}."
            raise UserError(f"{one.title}: {damaged} {one.how_to_get(root)}")
        if int(items.labels.max()) >= len(names):
            raise UserError(
                f"{one.title}: {folder} has {len(names)} classes, but {split} uses label {int(items.labels.max())} "
                f"(counted from 0). Its annotation files are not of one version. {one.how_to_get(root)}"
            )
    return splits, names


def _arguments(one: BenchmarkSet) -> dict[str, dict[str, Any]]:
    if one.split == "random":
        return {"train": {}}
    if one.name in ("cifar100", "mnist"):
        return {"train": {"train": True}, "test": {"train": False}}
    return {"train": {"split": one.split}, "test": {"split": "test"}}


def _open(one: BenchmarkSet, root: Path, arguments: dict[str, Any]) -> Any:
    from torchvision import datasets

    kind = getattr(datasets, one.torchvision)
    try:
        return kind(root, **arguments)
    except Exception as error:  # each annotation format has its own
        damaged = _damaged(one, root, kind)
        if damaged is None:
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            damaged = f"{root / one.marker} cannot be read ({told})."
        raise UserError(f"{one.title}: {damaged} Get it again. {one.how_to_get(root)}") from error


def _caltech(folder: Path) -> tuple[Items, list[str]]:
    """As torchvision lists it, but also where the background folder or stray files are, or are not, there."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name != BACKGROUND)
    images, labels = [], []
    for label, name in enumerate(names):
        files = sorted((folder / name).glob("image_*.jpg"))
        images += files
        labels += [label] * len(files)
    return Items(images, np.array(labels, dtype=np.int64)), names


def _sorted(items: Items) -> Items:
    """In the order of the paths: torchvision lists SUN397 in whatever order the file system has."""
    order = sorted(range(len(items)), key=lambda index: str(items.images[index]))
    return items.subset(order)


def _damaged(one: BenchmarkSet, root: Path, kind: Any) -> str | None:
    """The first annotation file that is not what it should be, and why."""
    folder = root / one.marker
    for name, expected in _checksums(kind).items():
        path = next((p for p in (folder / name, folder.parent / name) if p.is_file()), None)
        if path is not None:
            from torchvision.datasets.utils import calculate_md5

            found = calculate_md5(path)
            if found != expected:
                return f"{path} is damaged: its MD5 is {found}, expected {expected}."
    for name in one.files:
        path = folder / name
        reader = _READERS.get(path.suffix) if path.is_file() else None
        if reader is not None:
            try:
                reader(path)
            except Exception as error:  # whatever is wrong with it is the answer
                told = str(error).splitlines()[0] if str(error) else type(error).__name__
                return f"{path} cannot be read ({told})."
    return None


def _checksums(kind: Any) -> dict[str, str]:
    """File name -> MD5 that torchvision expects of a set's annotation files."""
    found = {}
    for name, checksum in (*getattr(kind, "train_list", ()), *getattr(kind, "test_list", ())):
        found[name] = checksum
    meta = getattr(kind, "meta", None)
    if isinstance(meta, dict) and "md5" in meta:
        found[meta["filename"]] = meta["md5"]
    for key in ("label", "setid"):
        if key in getattr(kind, "_file_dict", {}):
            name, checksum = kind._file_dict[key]
            found[name] = checksum
    return found


def _read_mat(path: Path) -> None:
    from scipy.io import loadmat

    loadmat(path)


def _read_text(path: Path) -> None:
    if not path.read_text(encoding="utf-8").strip():
        raise ValueError("it is empty")


_READERS: dict[str, Callable[[Path], object]] = {
    ".mat": _read_mat,
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".txt": _read_text,
}
