"""A set of the benchmark as a source of tasks: `mtil:SET?root=FOLDER`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from igsp_deploy.data.class_names import ClassNames
from igsp_deploy.data.file_sources import FolderSource
from igsp_deploy.data.hugging_face import HuggingFaceSource, is_saved_data_set
from igsp_deploy.data.items import Items
from igsp_deploy.data.listing import Listing, check_classes
from igsp_deploy.data.source_text import SourceText
from igsp_deploy.errors import UserError
from igsp_train.research.mtil.facts import SETS, SPLIT_SEED, SPLIT_SHARE, BenchmarkSet, plain_name
from igsp_train.research.mtil.layouts import read_layout

OPTIONS = ("root", "counts")
"""The data root, and `counts=any` to take a set whose images or classes are not the published ones."""


@dataclass(frozen=True)
class FoundSet:
    """A set as it was found on disk.

    Attributes:
        form: how it is laid out, for people.
        splits: `train` and `test`, labels into `classes`.
        classes: its classes as its files name them.
    """

    form: str
    splits: dict[str, Items]
    classes: list[str]


@dataclass(frozen=True)
class MtilSource:
    """One set under a data root: in torchvision's layout, as an image folder or as a Hugging Face copy."""

    parts: SourceText

    def canonical(self) -> str:
        """The text it came from, with absolute paths."""
        return str(self.parts)

    def read(self) -> Listing:
        """Find the set, and check it against what is published.

        Raises:
            UserError: it is missing or damaged, or not the published set.
        """
        self.parts.check(OPTIONS, required=("root",))
        one, root = benchmark_set(self.parts.name), Path(self.parts.options["root"])
        found = find_set(one, root)
        different = self.parts.options.get("counts") != "any" and differences(one, found)
        if different:
            raise UserError(
                f"{one.title} in {root} is not the published set: {'; '.join(different)}. {one.how_to_get(root)} "
                "Or learn what is there, which is then not MTIL: --accept-differences"
            )
        display = [_display_name(one, name) for name in found.classes]
        names = ClassNames(display_names=display, templates=list(one.templates))
        return Listing(found.classes, found.splits, names)


def benchmark_set(name: str) -> BenchmarkSet:
    """The set called `name`.

    Raises:
        UserError: there is none.
    """
    if name not in SETS:
        raise UserError(f"MTIL has no set {name!r}; its sets are {', '.join(SETS)}.")
    return SETS[name]


def find_set(one: BenchmarkSet, root: Path) -> FoundSet:
    """Look for a set under the data root, in any of its forms.

    Raises:
        UserError: it is missing or cannot be read.
    """
    if not root.is_dir():
        raise UserError(f"the data root {root} does not exist. Make the folder, or correct --data-root.")
    copy = root / one.name
    if (root / one.marker).is_dir():
        form = "torchvision"
        splits, names = read_layout(one, root)
    elif copy.is_dir() and is_saved_data_set(copy):
        form = "Hugging Face"
        splits, names = _copy(one, HuggingFaceSource(SourceText("", str(copy), {})).read())
    elif copy.is_dir():
        form = "image folder"
        splits, names = _copy(one, FolderSource(copy).read())
    else:
        raise UserError(
            f"{one.title} is missing. Expected {root / one.marker}, or a copy in {copy} (an image folder with "
            f"train and test, or a Hugging Face data set). {one.how_to_get(root)}"
        )
    splits = {split: items for split, items in splits.items() if split != "val"}
    if "test" not in splits:
        if one.split != "random":
            raise UserError(f"{one.title}: {copy} has no test images. Its own test split is needed: {copy}/test/CLASS")
        splits = random_split(splits["train"])
    return _used_classes(one, form, splits, names)


def random_split(items: Items) -> dict[str, Items]:
    """80 % for training, the rest for testing, as `torch.utils.data.random_split` with seed 42 draws them."""
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(SPLIT_SEED)).numpy()
    count = int(SPLIT_SHARE * len(items))
    return {"train": items.subset(np.sort(order[:count])), "test": items.subset(np.sort(order[count:]))}


def differences(one: BenchmarkSet, found: FoundSet) -> list[str]:
    """What is not as published: numbers of images and classes, names of classes, images that are not there."""
    told = []
    for split, expected in (("train", one.train_images), ("test", one.test_images)):
        count = len(found.splits[split])
        if count != expected:
            told.append(f"expected {expected:,} {split} images, found {count:,}")
    if len(found.classes) != len(one.classes):
        told.append(f"expected {len(one.classes)} classes, found {len(found.classes)}")
    unknown = [name for name in found.classes if plain_name(name) not in one.known]
    if unknown:
        told.append(f"{len(unknown)} classes have names that are not known, the first is {unknown[0]!r}")
    files = [image for items in found.splits.values() for image in items.images if isinstance(image, Path)]
    absent = [path for path in files if not path.is_file()]
    if absent:
        told.append(f"{len(absent):,} of {len(files):,} images are not there, the first is {absent[0]}")
    return told


def _copy(one: BenchmarkSet, listing: Listing) -> tuple[dict[str, Items], list[str]]:
    """A copy's images, its classes in the benchmark's order and under the benchmark's names where they are known."""
    places = [one.known.get(plain_name(name), len(one.classes) + index) for index, name in enumerate(listing.classes)]
    order = sorted(range(len(places)), key=lambda index: places[index])
    new = np.empty(len(places), dtype=np.int64)
    new[order] = np.arange(len(places))
    splits = {split: Items(items.images, new[items.labels]) for split, items in listing.splits.items()}
    names = [
        one.classes[places[index]] if places[index] < len(one.classes) else listing.classes[index] for index in order
    ]
    return splits, names


def _used_classes(one: BenchmarkSet, form: str, splits: dict[str, Items], names: list[str]) -> FoundSet:
    """Without the classes that no image has."""
    present = {split: {names[label] for label in set(items.labels.tolist())} for split, items in splits.items()}
    known = check_classes(one.title, present)
    used = [label for label, name in enumerate(names) if name in known]
    new = np.full(len(names), -1, dtype=np.int64)
    new[used] = np.arange(len(used))
    renumbered = {split: Items(items.images, new[items.labels]) for split, items in splits.items()}
    return FoundSet(form, renumbered, [names[label] for label in used])


def _display_name(one: BenchmarkSet, name: str) -> str:
    place = one.known.get(plain_name(name))
    return name.replace("_", " ") if place is None else one.display_names[place]
