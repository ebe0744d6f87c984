"""A task's data from its source: which images are in which split, and the words for the classes."""

import dataclasses
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from igsp_deploy.data.copies import Looks
from igsp_deploy.data.counts import count_classes, counts_line, skipped_files
from igsp_deploy.data.few_shot import take_shots
from igsp_deploy.data.file_sources import FolderSource, ManifestSource
from igsp_deploy.data.frozen import freeze
from igsp_deploy.data.items import Items, TaskData
from igsp_deploy.data.listing import Listing, Source
from igsp_deploy.data.source_text import GROUP, SourceText, split_source
from igsp_deploy.data.splits import split_off
from igsp_deploy.entry import load_one
from igsp_deploy.errors import UserError

MIN_IMAGES_TO_HOLD_OUT = 5
"""A class with fewer images gives none to validation unless its rounded share says so."""

_EXPECTED = (
    "Expected a folder of class folders, a .csv or .parquet manifest, a Hugging Face data set (hf:NAME or a folder of "
    "one) or a torchvision data set (torchvision:CLASS?root=FOLDER)."
)


def load_task_data(
    name: str,
    source: str,
    *,
    val_share: float = 0.1,
    test_share: float = 0.2,
    seed: int = 0,
    shots: int = 0,
    look: bool = True,
) -> TaskData:
    """Find the images of a task.

    The test images are those of the source's own test split, or else `test_share` of the training images; the
    validation images those of its own val split, or else `val_share` of the (remaining) training images. Automatic
    splits are stratified and depend on the seed and the images alone. With `shots`, that many training images a class
    are all that is labelled: nothing is held out of them, and there are no validation images.

    Args:
        name: name of the task.
        source: see `parse_source`.
        val_share: share of the training images to hold out for validation.
        test_share: share of all images to hold out for testing, where the source has no test split.
        seed: seed of automatic splits and of the choice of shots.
        shots: training images a class; 0 takes all.
        look: look at every image first: copies of one image then never stand on both sides of an automatic split, and
            the counts and the frozen split are made. False splits by place alone, as it was before splits were kept.

    Raises:
        UserError: what is wrong with the source, prefixed with the task's name.
    """
    with _named(name):
        return _load(name, parse_source(source).read(), val_share, test_share, seed, shots, look)


def load_new_images(
    name: str, source: str, known: Collection[bytes], *, val_share: float, test_share: float, seed: int
) -> TaskData:
    """Of a source that has grown, the images that were not there when the task was learned.

    Copies of images that were there are none of them. They are split as `load_task_data` would split them alone.

    Args:
        name: name of the task.
        source: as for `load_task_data`.
        known: `Look.content` of the images that were there.
        val_share: share to hold out for validation.
        test_share: share to hold out for testing, where the source has no test split.
        seed: seed of automatic splits.

    Returns:
        The new images, with the labels of all classes of the source.

    Raises:
        UserError: what is wrong with the source, or it has no new training image.
    """
    with _named(name):
        listing = parse_source(source).read()
        looks = Looks.of(listing)
        old = {looks.group[image] for image, seen in looks.seen.items() if seen.content in known}
        new = {
            split: items.subset([i for i, image in enumerate(items.images) if looks.group[image] not in old])
            for split, items in listing.splits.items()
        }
        if not len(new["train"]):
            raise UserError(
                f"{source} has no training image that it was not learned from. Put new images beside the old ones, in "
                "the folders of their classes."
            )
        left = dataclasses.replace(listing, splits=new)
        return _load(name, left, val_share, test_share, seed, 0, look=True)


def list_source(name: str, source: str) -> Listing:
    """All images of the source of a task, in no splits but its own.

    Raises:
        UserError: what is wrong with the source, prefixed with the task's name.
    """
    with _named(name):
        return parse_source(source).read()


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"task {name!r}: {error}") from error


def parse_source(text: str) -> Source:
    """The source that a text names.

    Args:
        text: a folder of class folders; a `.csv` or `.parquet` manifest; a folder saved by `datasets` or one of
            Parquet files; `hf:NAME[:CONFIG]` on the Hugging Face hub; `torchvision:CLASS?root=FOLDER`;
            `part:K/N?root=FOLDER`, a part of the classes of a data set; `mtil:SET?root=FOLDER`, a set of the MTIL
            benchmark. Options follow a question mark.

    Raises:
        UserError: there is nothing of the kind.
    """
    parts = split_source(text)
    if parts.kind == "hf":
        from igsp_deploy.data.hugging_face import HuggingFaceSource

        return HuggingFaceSource(parts)
    if parts.kind == "torchvision":
        from igsp_deploy.data.torchvision_sets import TorchvisionSource

        return TorchvisionSource(parts)
    if parts.kind == "part":
        from igsp_deploy.data.class_parts import PartSource

        return PartSource(parts)
    if parts.kind:
        return _installed_source(parts)
    return _path_source(Path(parts.name))


def _installed_source(parts: SourceText) -> Source:
    """A source that a package brings: entry point `igsp.sources`, a class that takes the `SourceText`."""
    source: Source = load_one(GROUP, parts.kind, "source")(parts)
    return source


def canonical_source(text: str) -> str:
    """`text` such that it means the same from any folder; what does not exist is not an error yet."""
    return str(split_source(text))


def _path_source(path: Path) -> Source:
    from igsp_deploy.data.hugging_face import HuggingFaceSource, is_saved_data_set, is_table_of_images

    if not path.exists():
        raise UserError(f"{path} does not exist. {_EXPECTED}")
    if path.is_dir():
        if is_saved_data_set(path):
            return HuggingFaceSource(SourceText("", str(path), {}))
        return FolderSource(path)
    if path.suffix.lower() == ".parquet" and is_table_of_images(path):
        return HuggingFaceSource(SourceText("", str(path), {}))
    if path.suffix.lower() in (".csv", ".parquet"):
        return ManifestSource(path)
    raise UserError(f"{path} is a file. {_EXPECTED}")


def _load(
    name: str, listing: Listing, val_share: float, test_share: float, seed: int, shots: int, look: bool
) -> TaskData:
    classes, names = listing.classes, listing.names
    looks = Looks.of(listing) if look else None
    train, unused = listing.splits["train"], _no_items()
    if "test" in listing.splits:
        test = listing.splits["test"]
    else:
        train, test = split_off(
            train,
            classes,
            share=test_share,
            least=2,
            seed=seed,
            purpose="test",
            groups=looks.groups(train) if looks else None,
        )
    if shots:
        few = take_shots(train, classes, shots=shots, seed=seed)
        kept = set(few.images)
        unused = train.subset([index for index, image in enumerate(train.images) if image not in kept])
        if "val" in listing.splits:
            held = listing.splits["val"]
            unused = Items([*unused.images, *held.images], np.concatenate([unused.labels, held.labels]))
        train, val = few, _no_items()
    elif "val" in listing.splits:
        val = listing.splits["val"]
    else:
        train, val = split_off(
            train,
            classes,
            share=val_share,
            least=MIN_IMAGES_TO_HOLD_OUT,
            seed=seed,
            purpose="validation",
            groups=looks.groups(train) if looks else None,
        )
    data = TaskData(name, classes, names.display_names, names.templates, train, val, test)
    if looks is None:
        return data
    parts = {"train": train, "val": val, "test": test, "unused": unused}
    outside = [entry for entry in listing.passed_over if entry.label not in classes]
    counts = count_classes(classes, parts, looks.seen, listing.passed_over)
    notes = [counts_line(counts, outside), *listing.notes, *looks.notes(parts)]
    contents = {image: seen.content for image, seen in looks.seen.items()}
    skipped = skipped_files(looks.seen, listing.passed_over, listing.root)
    split = freeze(parts, contents, listing.root)
    return dataclasses.replace(data, counts=counts, skipped=skipped, split=split, notes=notes)


def _no_items() -> Items:
    return Items([], np.zeros(0, dtype=np.int64))
