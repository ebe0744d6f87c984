"""torchvision's data sets: their images and labels without decoding anything."""

import inspect
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from igsp_deploy.data.class_names import given_words
from igsp_deploy.data.items import Items, StoredImage
from igsp_deploy.data.listing import Listing, check_classes
from igsp_deploy.data.source_text import SourceText
from igsp_deploy.errors import UserError

OPTIONS = ("root", "train", "test", "words")
"""Folder of the data, names of the splits of training and testing, and a `classes.json`."""

_FILES = ("_image_files", "_images")
_PAIRS = ("samples", "_samples", "imgs")
_LABELS = ("targets", "_labels", "labels", "y")


@dataclass(frozen=True)
class _Entries:
    """Images that torchvision holds or finds itself (see `ImageReader`)."""

    name: str
    data_set: Any

    def read(self, index: int) -> Image.Image:
        image = self.data_set[index][0]
        if not isinstance(image, Image.Image):
            raise ValueError(f"it is a {type(image).__name__}, not a picture")
        return image


def list_data_set(data_set: Any, name: str) -> Items:
    """The images of a torchvision data set, in its own order, as files wherever they are files.

    Args:
        data_set: made without transforms.
        name: for messages and fingerprints.

    Raises:
        UserError: it does not hold its labels ready.
    """
    pairs = next((getattr(data_set, key) for key in _PAIRS if hasattr(data_set, key)), None)
    files: Any = None
    if pairs is not None:
        labels: Any = [pair[1] for pair in pairs]
        if all(isinstance(pair[0], (str, Path)) for pair in pairs):  # others hold their pictures there
            files = [pair[0] for pair in pairs]
    else:
        labels = next((getattr(data_set, key) for key in _LABELS if hasattr(data_set, key)), None)
        files = next((getattr(data_set, key) for key in _FILES if hasattr(data_set, key)), None)
    try:
        values = np.array([int(label) for label in labels], dtype=np.int64)
    except (TypeError, ValueError, RuntimeError) as error:  # none at all, or none of one number
        raise UserError(f"{name} is no set of images with one label each, or its labels cannot be listed.") from error
    if files is not None:
        return Items([Path(file) for file in files], values)
    entries = _Entries(name, data_set)
    return Items([StoredImage(entries, index) for index in range(len(values))], values)


def class_names_of(data_set: Any) -> list[str] | None:
    """Names of the labels 0, 1, ... where the data set has them; of several for one label (ImageNet's) all in one.

    A name that two labels have (ImageNet's `crane`) is numbered, so that the option `words` can call them apart.
    """
    names = getattr(data_set, "classes", None) or getattr(data_set, "categories", None)
    if names is None and isinstance(getattr(data_set, "class_to_idx", None), dict):
        names = sorted(data_set.class_to_idx, key=data_set.class_to_idx.get)
    if not names:
        return None
    texts = [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]
    total, met = Counter(texts), Counter[str]()
    for at, text in enumerate(texts):
        if total[text] > 1:
            met[text] += 1
            texts[at] = f"{text} ({met[text]})"
    return texts


@dataclass(frozen=True)
class TorchvisionSource:
    """`torchvision:CLASS?root=FOLDER`: a class of `torchvision.datasets`, already downloaded to a folder."""

    parts: SourceText

    def canonical(self) -> str:
        """The text it came from, with absolute paths."""
        return str(self.parts)

    def read(self) -> Listing:
        """Open the data set.

        Raises:
            UserError: there is no such class, or its files are missing or damaged.
        """
        self.parts.check(OPTIONS, required=("root",))
        name, options = self.parts.name, self.parts.options
        kind = _class(name)
        splits: dict[str, Items] = {}
        names: list[str] | None = None
        for split, arguments in _split_arguments(kind, options).items():
            opened = _open(kind, name, Path(options["root"]), arguments)
            splits[split] = list_data_set(opened, f"{self.canonical()} {split}")
            names = names or class_names_of(opened)
        return _listing(self.canonical(), splits, names, options)


def _listing(where: str, splits: dict[str, Items], names: list[str] | None, options: dict[str, str]) -> Listing:
    if names is None:
        names = [str(label) for label in range(1 + max(int(items.labels.max()) for items in splits.values()))]
    present = {split: {names[label] for label in set(items.labels.tolist())} for split, items in splits.items()}
    known = check_classes(where, present)
    used = [label for label, name in enumerate(names) if name in known]
    new = np.full(len(names), -1, dtype=np.int64)
    new[used] = np.arange(len(used))
    classes = [names[label] for label in used]
    renumbered = {split: Items(items.images, new[items.labels]) for split, items in splits.items()}
    return Listing(classes, renumbered, given_words(where, options, None, classes))


def _class(name: str) -> Any:
    import difflib

    from torchvision import datasets

    found = getattr(datasets, name, None)
    if not isinstance(found, type):
        near = difflib.get_close_matches(name, datasets.__all__, n=3, cutoff=0.4)
        raise UserError(f"torchvision has no data set {name!r}. Nearest: {', '.join(near) or 'none'}.")
    return found


def _split_arguments(kind: Any, options: dict[str, str]) -> dict[str, dict[str, Any]]:
    parameters = inspect.signature(kind.__init__).parameters
    if "train" in parameters:
        return {"train": {"train": True}, "test": {"train": False}}
    if "split" in parameters:
        return {"train": {"split": options.get("train", "train")}, "test": {"split": options.get("test", "test")}}
    return {"train": {}}


def _open(kind: Any, name: str, root: Path, arguments: dict[str, Any]) -> Any:
    if not root.is_dir():
        raise UserError(f"{root} does not exist. Expected the folder that torchvision's {name} was downloaded to.")
    try:
        return kind(root, **arguments)
    except Exception as error:  # each class has its own
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        told = told.removesuffix(" You can use download=True to download it")
        made = "".join(f", {key}={value!r}" for key, value in arguments.items())
        raise UserError(
            f"torchvision's {name} cannot be opened in {root}: {told} To download it: "
            f'python -c "from torchvision.datasets import {name}; {name}({str(root)!r}{made}, download=True)"'
        ) from error
