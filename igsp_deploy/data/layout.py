"""Which class and which split a file belongs to, told from its path alone: for folders and for zips alike."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from igsp_deploy.data.split_words import plain_split, split_of
from igsp_deploy.errors import UserError
from igsp_deploy.runtime.image_files import SUFFIXES, Parts, is_image, kind_of

_DETECTION = frozenset({"images", "labels", "annotations", "jpegimages", "imagesets", "masks", "segmentationclass"})
"""Folders of data sets for detection and segmentation: they have no class a picture."""


@dataclass(frozen=True)
class PassedOver:
    """A file that is not used, and why.

    Attributes:
        parts: where it is.
        label: the class it would belong to; None outside the class folders.
        reason: a word or two, such as `HEIC`, `TXT` or `broken link`.
    """

    parts: Parts
    label: str | None
    reason: str


@dataclass
class Arranged:
    """Files by split and class.

    Attributes:
        splits: split -> class -> files, sorted; one split `train` where there are none.
        passed_over: all other files.
        notes: what a person should know: folders passed over, folders inside class folders.
        has_splits: whether the splits are people's own.
    """

    splits: dict[str, dict[str, list[Parts]]] = field(default_factory=dict)
    passed_over: list[PassedOver] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    has_splits: bool = False


class _Tree:
    """Questions about a list of files."""

    def __init__(self, files: Sequence[Parts], folders: Iterable[Parts]) -> None:
        self.files = files
        self.images = [parts for parts in files if is_image(parts[-1])]
        self.direct = {parts[:-1] for parts in self.images}
        """Folders that hold images themselves."""
        self.occupied = {parts[:depth] for parts in files for depth in range(1, len(parts))}
        """Folders with files of any kind in them or below."""
        self.folders = set(folders) | self.occupied
        self.above = {folder[:depth] for folder in self.direct for depth in range(len(folder))}
        """Folders with images somewhere in their folders."""

    def children(self, folder: Parts) -> list[Parts]:
        depth = len(folder) + 1
        return sorted(found for found in self.folders if len(found) == depth and found[:-1] == folder)

    def nested(self, folder: Parts) -> bool:
        """Whether its images lie in folders of their own, as those of a split do."""
        return folder in self.above and folder not in self.direct

    def unwrapped(self, folder: Parts) -> Parts:
        """The folder below it that holds everything, where zipping or unpacking put folders around."""
        while folder not in self.direct:
            inside = [child for child in self.children(folder) if child in self.direct or child in self.above]
            if any(child not in self.occupied for child in self.children(folder)):
                return folder  # an empty class
            if len(inside) != 1 or not self.nested(inside[0]) or plain_split(inside[0][-1]):
                return folder
            folder = inside[0]
        return folder


def arrange(files: Sequence[Parts], folders: Iterable[Parts], where: str) -> Arranged:
    """Sort files into splits and classes.

    Understood are `CLASS/...`, and `train/CLASS/...` with `val` and `test` beside it in the words and cases people use
    (`Training`, `valid`, `test_set`, `seg_train`), each with any number of folders around.

    Args:
        files: all files, hidden and system ones left out.
        folders: all folders, also empty ones.
        where: what holds them, for messages.

    Raises:
        UserError: it is laid out in a way that cannot be told for sure; names the folders in the way.
    """
    tree = _Tree(files, folders)
    root = tree.unwrapped(())
    result = Arranged()
    if root:
        result.notes.append(f"the images are those of {'/'.join(root)}")
    splits = _find_splits(tree, root, where, result)
    result.has_splits = bool(splits)
    for split, top in (splits or {"train": root}).items():
        result.splits[split] = _classes(tree, tree.unwrapped(top) if splits else top, where, result)
    _pass_over(tree, root, splits, result)
    return result


def _find_splits(tree: _Tree, root: Parts, where: str, result: Arranged) -> dict[str, Parts]:
    """Split -> its folder; nothing where the folders are classes."""
    children = tree.children(root)
    named = {child: found for child in children if (found := split_of(child[-1]))}
    flat = [child[-1] for child in named if child in tree.direct and not named[child][1]]
    candidates = {child: found for child, found in named.items() if tree.nested(child)}
    chosen = _one_family(candidates)
    if not chosen:
        if len(flat) > 1 and len(flat) == len([child for child in children if child in tree.direct]):
            raise UserError(
                f"{where}: {_and(flat)} hold images and no class folders. Expected {flat[0]}/CLASS/*.jpg and so on: "
                "put the images of each class into a folder of its own, or list them in a CSV manifest."
            )
        _refuse_stray(tree, candidates, children, where)
        return {}
    splits: dict[str, Parts] = {}
    for child, (split, _) in chosen.items():
        if split in splits:
            raise UserError(
                f"{where}: {splits[split][-1]} and {child[-1]} both look like the {split} split. Keep one of them."
            )
        splits[split] = child
    others = [child for child in children if child not in chosen and (child in tree.direct or child in tree.above)]
    classes = [child[-1] for child in others if child in tree.direct and child[-1] not in flat]
    if len(splits) == 1 and classes:
        (top,) = splits.values()
        raise UserError(
            f"{where}: {top[-1]} holds folders as a split does, but {classes[0]} holds images as a class does. "
            f"Rename {top[-1]} if it is a class, or move {classes[0]} into it."
        )
    for child in others:
        count = sum(parts[: len(child)] == child for parts in tree.images)
        kind = "without class folders" if child in tree.direct else "of no known split"
        result.notes.append(f"{child[-1]} is passed over: {count} images {kind}")
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _one_family(candidates: dict[Parts, tuple[str, tuple[str, ...]]]) -> dict[Parts, tuple[str, tuple[str, ...]]]:
    """The folders that are splits of each other: plain words, or words with the same rest, as `seg_train`, `seg_test`.

    A single `freight_train` beside `bullet_train` is a class.
    """
    families: dict[tuple[str, ...], dict[Parts, tuple[str, tuple[str, ...]]]] = {}
    for child, (split, rest) in candidates.items():
        families.setdefault(rest, {})[child] = (split, rest)
    for rest, family in sorted(families.items(), key=lambda item: len(item[0])):
        found = {split for split, _ in family.values()}
        if (not rest and ("train" in found or len(found) > 1)) or ("train" in found and len(found) > 1):
            return family
    return {}


def _refuse_stray(
    tree: _Tree, candidates: dict[Parts, tuple[str, tuple[str, ...]]], children: list[Parts], where: str
) -> None:
    """Refuse a `test` that repeats its neighbours: it is no class, and there is no `train`."""
    names = {child[-1] for child in children}
    for child, (split, rest) in candidates.items():
        if not rest and names & {inner[-1] for inner in tree.children(child)}:
            raise UserError(
                f"{where}: {child[-1]} looks like the {split} split, but the classes of the training images lie beside "
                "it. Put them into a folder train."
            )


def _classes(tree: _Tree, top: Parts, where: str, result: Arranged) -> dict[str, list[Parts]]:
    here = "/".join((where, *top))
    depth = len(top) + 1
    names: dict[str, str] = {}
    for child in tree.children(top):
        label = class_label(child[-1], here)
        if label in names:
            raise UserError(
                f"{here}: the folders {names[label]!r} and {child[-1]!r} are the same name, written in two ways. "
                "Put their images into one of them."
            )
        names[label] = child[-1]
    if names and {name.lower() for name in names} <= _DETECTION and len(names) > 1:
        raise UserError(
            f"{here} holds {_and(sorted(names))}: data for detection or segmentation, which has no class a picture. "
            "Export it as folders of classes, or list images and labels in a CSV manifest."
        )
    owners = {folder: label for label, folder in names.items()}
    classes: dict[str, list[Parts]] = {label: [] for label in sorted(names)}
    for parts in tree.images:
        if parts[: depth - 1] == top and len(parts) > depth:
            classes[owners[parts[depth - 1]]].append(parts)
    _check(tree, top, classes, names, here, result)
    return {label: sorted(found) for label, found in classes.items()}


def _check(
    tree: _Tree, top: Parts, classes: dict[str, list[Parts]], names: dict[str, str], here: str, result: Arranged
) -> None:
    if not classes:
        raise UserError(
            f"{here} has no class folders. Expected one folder of images a class: {here}/CLASS/*.jpg "
            f"(or train/CLASS/*.jpg and test/CLASS/*.jpg)."
        )
    empty = [label for label, found in classes.items() if not found]
    if empty:
        place = (*top, names[empty[0]])
        others = sorted({kind_of(parts[-1]) for parts in tree.files if parts[: len(place)] == place})
        held = f" (it holds {', '.join(others)})" if others else ""
        raise UserError(
            f"{here}: {len(empty)} of {len(classes)} classes have no images, the first is {empty[0]!r}{held}. "
            f"Add images ({', '.join(sorted(SUFFIXES))}) or remove the folder."
        )
    for label, found in classes.items():
        deeper = {parts[len(top) + 1] for parts in found if len(parts) > len(top) + 2}
        splits = {split for name in deeper if (split := plain_split(name))}
        if "train" in splits and len(splits) > 1:
            raise UserError(
                f"{here}: the class {label!r} has {_and(sorted(deeper))} inside it. Turn the folders round: "
                f"train/{label}/*.jpg and test/{label}/*.jpg."
            )
        if deeper:
            count = sum(len(parts) > len(top) + 2 for parts in found)
            result.notes.append(f"{label}: {count} images lie in folders inside it ({_few(sorted(deeper))})")


def _pass_over(tree: _Tree, root: Parts, splits: dict[str, Parts], result: Arranged) -> None:
    """Everything that is not an image of a class."""
    used = {parts for found in result.splits.values() for files in found.values() for parts in files}
    tops = [tree.unwrapped(top) for top in splits.values()] or [root]
    for parts in tree.files:
        if parts in used:
            continue
        top = next((top for top in tops if parts[: len(top)] == top and len(parts) > len(top) + 1), None)
        label = None if top is None else unicodedata.normalize("NFC", parts[len(top)])
        if label is not None or is_image(parts[-1]):
            reason = "outside the class folders" if is_image(parts[-1]) else kind_of(parts[-1])
            result.passed_over.append(PassedOver(parts, label, reason))


def class_label(name: str, where: str) -> str:
    """The name of a class: composed Unicode (NFC), whatever the file system or program that wrote it prefers.

    Raises:
        UserError: it is not text.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: the name {name!r} is not UTF-8. Rename it.") from error
    return unicodedata.normalize("NFC", name)


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 2 else names)


def _few(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
