"""A task's data from its source: which images are in which split, and the words for the classes."""

from pathlib import Path

import numpy as np

from igsp_deploy.errors import UserError
from igsp_train.data.class_names import load_class_names
from igsp_train.data.image_folder import ClassFiles, read_image_folder
from igsp_train.data.items import Items, TaskData
from igsp_train.data.manifest import read_manifest
from igsp_train.data.splits import split_off

MIN_IMAGES_TO_HOLD_OUT = 5
"""A class with fewer images gives none to validation unless its rounded share says so."""


def load_task_data(
    name: str, source: str, *, val_share: float = 0.1, test_share: float = 0.2, seed: int = 0
) -> TaskData:
    """Find the images of a task.

    The test images are those of the source's own test split, or else `test_share` of the training images; the
    validation images those of its own val split, or else `val_share` of the (remaining) training images. Automatic
    splits are stratified and depend on the seed and the files alone.

    Args:
        name: name of the task.
        source: a folder (see `read_image_folder`) with an optional `classes.json`, or a `.csv` manifest (see
            `read_manifest`) `NAME.csv` with an optional `NAME.classes.json` beside it.
        val_share: share of the training images to hold out for validation.
        test_share: share of all images to hold out for testing, where the source has no test split.
        seed: seed of automatic splits.

    Raises:
        UserError: what is wrong with the source, prefixed with the task's name.
    """
    try:
        return _load(name, Path(source).expanduser(), val_share, test_share, seed)
    except UserError as error:
        raise UserError(f"task {name!r}: {error}") from error


def _load(name: str, source: Path, val_share: float, test_share: float, seed: int) -> TaskData:
    if source.is_dir():
        splits, words = read_image_folder(source), source / "classes.json"
    elif not source.exists():
        raise UserError(f"{source} does not exist. Expected a folder of class folders, or a .csv manifest.")
    elif source.suffix.lower() == ".csv":
        splits, words = read_manifest(source), source.with_suffix(".classes.json")
    else:
        raise UserError(f"{source} is a file. Expected a folder of class folders, or a .csv manifest.")
    classes = _classes(source, splits)
    names = load_class_names(words, classes)
    train = _items(splits["train"], classes)
    if "test" in splits:
        test = _items(splits["test"], classes)
    else:
        train, test = split_off(train, classes, share=test_share, least=2, seed=seed, purpose="test")
    if "val" in splits:
        val = _items(splits["val"], classes)
    else:
        train, val = split_off(
            train, classes, share=val_share, least=MIN_IMAGES_TO_HOLD_OUT, seed=seed, purpose="validation"
        )
    return TaskData(name, classes, names.display_names, names.templates, train, val, test)


def _classes(source: Path, splits: dict[str, ClassFiles]) -> list[str]:
    if "train" not in splits:
        raise UserError(f"{source} has no training images, only {' and '.join(sorted(splits))}.")
    classes = sorted(splits["train"])
    if len(classes) < 2:
        raise UserError(
            f"{source} has one class only ({classes[0]!r}). A task needs at least two to tell apart; add images of "
            "what it is not as a second class."
        )
    for split in ("val", "test"):
        if split not in splits:
            continue
        more = sorted(set(splits[split]) - set(classes))
        less = sorted(set(classes) - set(splits[split]))
        if more or less:
            found = [
                f"{text} {', '.join(names[:5])}" for text, names in (("it adds", more), ("it lacks", less)) if names
            ]
            raise UserError(
                f"{source}: the classes of {split} are not those of train: {' and '.join(found)}. "
                "Both must have the same classes."
            )
    return classes


def _items(files: ClassFiles, classes: list[str]) -> Items:
    paths = [path for name in classes for path in files[name]]
    labels = [label for label, name in enumerate(classes) for _ in files[name]]
    return Items(paths, np.array(labels, dtype=np.int64))
