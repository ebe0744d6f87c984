"""A part of the classes of a data set, drawn as class-incremental benchmarks draw them: `part:K/N?root=FOLDER`."""

import dataclasses
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from igsp_deploy.data.class_names import ClassNames, load_class_names
from igsp_deploy.data.file_sources import FolderSource
from igsp_deploy.data.image_folder import ClassFiles
from igsp_deploy.data.items import Items
from igsp_deploy.data.listing import Listing, check_classes, items_by_class
from igsp_deploy.data.source_text import SourceText
from igsp_deploy.data.torchvision_sets import TorchvisionSource
from igsp_deploy.errors import UserError

SEED = 1993
"""Of the order of the classes: iCaRL's, which the field kept (see `class_order`)."""
OPTIONS = ("root", "set", "classes", "seed", "words")
"""The folder of the images, or of torchvision's data set `set`; how many classes are expected; the order's seed; and a
`classes.json` with the words for all classes."""
CUB_SPLIT = "train_test_split.txt"
"""By this file CUB-200-2011 is known as its archive has it."""
_PART = re.compile(r"([1-9]\d{0,3})/([1-9]\d{0,3})")
_WORDNET = re.compile(r"n\d{8}")


def class_order(count: int, seed: int = SEED) -> list[int]:
    """The order in which classes are learned: `np.random.seed(seed); np.random.permutation(count)`.

    So iCaRL (arXiv 1611.07725) and, after it, PyCIL (arXiv 2112.12533, `utils/data_manager.py`) draw it; of CIFAR-100
    it begins with the classes 68, 56, 78, 8, 23.

    Args:
        count: number of classes; they are numbered in the order of torchvision's labels or of the folders' names.
        seed: of NumPy's older generator, whose numbers the field's code has.
    """
    order: list[int] = np.random.RandomState(seed).permutation(count).tolist()
    return order


@dataclasses.dataclass(frozen=True)
class PartSource:
    """Part K of N equal ones; the others are other tasks."""

    parts: SourceText

    def canonical(self) -> str:
        """The text it came from, with absolute paths."""
        return str(self.parts)

    def read(self) -> Listing:
        """List the images of the part's classes, in the order of the benchmark.

        Raises:
            UserError: there is no such part, or the data set is missing, damaged or not the expected one.
        """
        self.parts.check(OPTIONS, required=("root",))
        number, of = self._numbers()
        options, where = self.parts.options, self.canonical()
        seed, expected = (_whole(where, key, options.get(key)) for key in ("seed", "classes"))
        whole = _read(options.get("set"), options["root"], options.get("words"))
        count = len(whole.classes)
        if expected is not None and count != expected:
            raise UserError(
                f"{options['root']} has {count} classes, expected {expected}: it is not the published set. To learn "
                "what is there, which is then not the benchmark: --accept-differences"
            )
        if count % of or count // of < 2:
            raise UserError(f"{where}: {count} classes cannot be split into {of} equal parts of two or more classes.")
        size = count // of
        order = class_order(count, SEED if seed is None else seed)
        return restricted(whole, order[(number - 1) * size : number * size])

    def _numbers(self) -> tuple[int, int]:
        found = _PART.fullmatch(self.parts.name)
        number, of = (int(found[1]), int(found[2])) if found else (1, 0)
        if number > of:
            raise UserError(
                f"{self.canonical()}: expected part:K/N with K from 1 to N, for example part:1/10?root=data"
            )
        return number, of


def restricted(listing: Listing, labels: list[int]) -> Listing:
    """The same with some of its classes alone, in the order of `labels`."""
    new = np.full(len(listing.classes), -1, dtype=np.int64)
    new[labels] = np.arange(len(labels))
    splits = {}
    for split, items in listing.splits.items():
        rows = np.flatnonzero(new[items.labels] >= 0)
        splits[split] = Items([items.images[row] for row in rows.tolist()], new[items.labels[rows]])
    classes = [listing.classes[label] for label in labels]
    names = dataclasses.replace(listing.names, display_names=[listing.names.display_names[label] for label in labels])
    passed_over = [entry for entry in listing.passed_over if entry.label in classes]
    return dataclasses.replace(listing, classes=classes, splits=splits, names=names, passed_over=passed_over)


def _whole(where: str, key: str, text: str | None) -> int | None:
    if text is not None and not text.isdecimal():
        raise UserError(f"{where}: the option {key} must be a whole number, got {text!r}.")
    return None if text is None else int(text)


def _read(name: str | None, root: str, words: str | None) -> Listing:
    if name is not None:
        return _torchvision(name, root, words)
    folder = Path(root)
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist. Expected the folder of the data set.")
    listing = _cub(folder) if (folder / CUB_SPLIT).is_file() else FolderSource(folder).read()
    if words is None and (folder / "classes.json").is_file():
        return listing
    return dataclasses.replace(listing, names=_words(folder, listing.classes, words))


@lru_cache(maxsize=1)
def _torchvision(name: str, root: str, words: str | None) -> Listing:
    """Kept, because all parts of a set lie in the same files, and are the same images in memory."""
    options = {"root": root, **({} if words is None else {"words": words})}
    return TorchvisionSource(SourceText("torchvision", name, options)).read()


def _words(folder: Path, classes: list[str], words: str | None) -> ClassNames:
    """From `words`; else from the names: WordNet's by the list in ImageNet-R's README, CUB's without their numbers."""
    if words is not None:
        return load_class_names(Path(words), classes)
    names = load_class_names(None, classes)
    if not all(_WORDNET.fullmatch(name) for name in classes):
        plain = [re.sub(r"^\d{3}\.", "", name).replace("_", " ") for name in classes]
        return dataclasses.replace(names, display_names=plain)
    told = {}
    for file in (folder / "README.txt", folder.parent / "README.txt"):
        if file.is_file():
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            told.update({line[:9]: line[10:].strip() for line in lines if re.match(r"n\d{8} \S", line)})
    if not set(classes) <= set(told):
        raise UserError(
            f"{folder}: its classes are WordNet's numbers ({classes[0]}), which say nothing to a CLIP, and no "
            f"README.txt lists their names. Put the data set's README.txt into {folder}, or a classes.json with words."
        )
    return dataclasses.replace(names, display_names=[told[name].replace("_", " ") for name in classes])


def _cub(folder: Path) -> Listing:
    """CUB-200-2011 as its archive has it: `images/CLASS/FILE`, split by a list."""
    try:
        places, parts = (
            dict(line.split() for line in (folder / name).read_text(encoding="utf-8").splitlines() if line.strip())
            for name in ("images.txt", CUB_SPLIT)
        )
        splits: dict[str, ClassFiles] = {"train": {}, "test": {}}
        for number, place in places.items():
            split = splits["train" if parts[number] == "1" else "test"]
            split.setdefault(place.partition("/")[0], []).append(folder / "images" / place)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{folder} is not CUB-200-2011 as its archive has it ({error}). Unpack CUB_200_2011.tgz again."
        ) from error
    classes = check_classes(str(folder), {split: set(files) for split, files in splits.items()})
    return Listing(classes, items_by_class(splits, classes), load_class_names(None, classes), folder)
