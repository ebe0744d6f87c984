"""Hugging Face data sets: from the hub, from a folder that `datasets` saved, or from Parquet files.

Their rows stay on disk, memory-mapped; an image is decoded when it is asked for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igsp_deploy.data.class_names import given_words
from igsp_deploy.data.items import Items, StoredImage
from igsp_deploy.data.listing import Listing, check_classes
from igsp_deploy.data.source_text import SourceText, is_local
from igsp_deploy.errors import UserError

OPTIONS = ("image", "label", "train", "val", "test", "words")
"""Columns of images and labels, names of the splits, and a `classes.json`."""

_SPLITS = {"train": ("train",), "val": ("validation", "valid", "val", "dev"), "test": ("test",)}
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")


@dataclass(frozen=True)
class _Rows:
    """The images of one split (see `ImageReader`)."""

    name: str
    table: Any
    column: str
    folder: Path | None

    def read(self, index: int) -> Path | bytes:
        value = self.table[index][self.column]
        if isinstance(value, dict):
            value = value["bytes"] if value.get("bytes") is not None else value["path"]
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise ValueError(f"the column {self.column} holds a {type(value).__name__}, not an image")
        return (self.folder or Path()) / value


@dataclass(frozen=True)
class HuggingFaceSource:
    """A data set of rows with an image and a label.

    Attributes:
        parts: `hf:NAME[:CONFIG]?OPTIONS`, or the path of a folder or a Parquet file.
    """

    parts: SourceText

    def canonical(self) -> str:
        """The text it came from, with absolute paths."""
        return str(self.parts)

    def read(self) -> Listing:
        """Open the data set and read its labels.

        Raises:
            UserError: it is not there, columns or splits cannot be told, or labels are missing.
        """
        options = self.parts.options
        if self.parts.kind:
            self.parts.check(OPTIONS)
        path = self._path()
        splits = _choose_splits(self.canonical(), _open(self.parts, path), options)
        labels: dict[str, list[str]] = {}
        images: dict[str, list[StoredImage]] = {}
        order: list[str] = []
        for split, table in splits.items():
            where = f"{self.canonical()}, split {split}"
            image_column, label_column = _columns(where, table, options)
            labels[split], order = _labels(where, table, label_column)
            rows = _Rows(
                f"{self.canonical()} {split}", _undecoded(table, image_column), image_column, path if path else None
            )
            images[split] = [StoredImage(rows, index) for index in range(len(labels[split]))]
        present = check_classes(self.canonical(), {split: set(found) for split, found in labels.items()})
        classes = [name for name in order if name in present] if order else present
        index = {name: label for label, name in enumerate(classes)}
        items = {
            split: Items(images[split], np.array([index[name] for name in found], dtype=np.int64))
            for split, found in labels.items()
        }
        beside = (path / "classes.json") if path and path.is_dir() else None
        return Listing(classes, items, given_words(self.canonical(), options, beside, classes))

    def _path(self) -> Path | None:
        """The folder or file it is in, or None on the hub."""
        name = self.parts.name
        if not self.parts.kind or is_local(name):
            path = Path(name)
            if not path.exists():
                raise UserError(f"{path} does not exist. Expected a folder that `datasets` saved, or Parquet files.")
            return path
        return None


def is_saved_data_set(folder: Path) -> bool:
    """Whether a folder holds a data set that `datasets` saved, or Parquet files."""
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return True
    return bool(_parquet_files(folder))


def is_table_of_images(path: Path) -> bool:
    """Whether a Parquet file holds the images themselves, and is not a manifest of paths."""
    import pyarrow
    from pyarrow import parquet

    try:
        names = parquet.read_schema(path).names
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is not a Parquet file that can be read ({error}). Write it again.") from error
    return "path" not in names


def _parquet_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")])


def _open(parts: SourceText, path: Path | None) -> dict[str, Any]:
    """Split name -> table."""
    import datasets

    datasets.disable_progress_bars()
    try:
        if path is None:
            name, _, config = parts.name.partition(":")
            opened = datasets.load_dataset(name, config or None)
        elif path.is_file() or _parquet_files(path):
            opened = datasets.load_dataset("parquet", data_files=_by_split(path))
        else:
            opened = datasets.load_from_disk(str(path))
    except Exception as error:  # every library below it has errors of its own
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = f"{path}" if path else f"the Hugging Face data set {parts.name}"
        remedy = (
            "Check that its files are whole, or save it again with save_to_disk."
            if path
            else "Check its name and the network, or give a local folder of it."
        )
        raise UserError(f"cannot open {where}: {told}. {remedy}") from error
    return dict(opened) if isinstance(opened, dict) else {"train": opened}


def _by_split(path: Path) -> dict[str, list[str]]:
    """Parquet files of each split, told by the folder above them or the start of their name."""
    if path.is_file():
        return {"train": [str(path)]}
    found: dict[str, list[str]] = {}
    for file in _parquet_files(path):
        words = (file.parent.name if file.parent != path else "", file.name.split("-")[0].removesuffix(".parquet"))
        known = [word for word in words if any(word in names for names in _SPLITS.values())]
        found.setdefault(known[0] if known else "train", []).append(str(file))
    return found


def _choose_splits(where: str, opened: dict[str, Any], options: dict[str, str]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for split, names in _SPLITS.items():
        if split in options:
            if options[split] not in opened:
                raise UserError(f"{where} has no split {options[split]!r}; it has {', '.join(sorted(opened))}.")
            chosen[split] = opened[options[split]]
        elif split != "val" or not set(names) & set(options.values()):
            found = [name for name in names if name in opened]
            if found:
                chosen[split] = opened[found[0]]
    if "train" not in chosen:
        raise UserError(
            f"{where} has no split train; it has {', '.join(sorted(opened))}. Name it: ?train={sorted(opened)[0]}"
        )
    return chosen


def _columns(where: str, table: Any, options: dict[str, str]) -> tuple[str, str]:
    """Names of the columns of images and of labels."""
    import datasets

    names = list(table.column_names)
    pictures = [name for name in names if isinstance(table.features[name], datasets.Image)]
    pictures += [name for name in _IMAGE_COLUMNS if name in names and name not in pictures]
    classes = [name for name in names if isinstance(table.features[name], datasets.ClassLabel)]
    classes = classes if len(classes) == 1 else [name for name in _LABEL_COLUMNS if name in names] or classes
    chosen = []
    for what, found in (("image", pictures), ("label", classes)):
        if what in options:
            if options[what] not in names:
                raise UserError(f"{where} has no column {options[what]!r}; it has {', '.join(names)}.")
            chosen.append(options[what])
        elif not found:
            raise UserError(f"{where}: which column holds the {what}s? It has {', '.join(names)}. Say ?{what}=COLUMN")
        else:
            chosen.append(found[0])
    return chosen[0], chosen[1]


def _undecoded(table: Any, column: str) -> Any:
    import datasets

    table = table.select_columns([column])
    if isinstance(table.features[column], datasets.Image):
        return table.cast_column(column, datasets.Image(decode=False))
    return table


def _labels(where: str, table: Any, column: str) -> tuple[list[str], list[str]]:
    """The class of every row, and the order of the classes where the data set gives one."""
    import datasets

    values = table.select_columns([column])[:][column]
    feature = table.features[column]
    missing = sum(value is None or value == "" or (isinstance(value, int) and value < 0) for value in values)
    if missing:
        raise UserError(
            f"{where}: {missing} of {len(values)} rows have no label in {column}. Leave them out, or name another "
            "split for testing: ?test=SPLIT"
        )
    if isinstance(feature, datasets.ClassLabel):
        return [feature.names[value] for value in values], list(feature.names)
    if all(isinstance(value, int) for value in values):
        return [str(value) for value in values], [str(value) for value in sorted(set(values))]
    if not all(isinstance(value, str) for value in values):
        kind = type(values[0]).__name__
        raise UserError(f"{where}: {column} holds {kind} values; expected one label a row. Say ?label=COLUMN")
    return list(values), []
