"""Hugging Face data sets: from the hub, from a folder that `datasets` saved, or from Parquet files.

Their rows stay on disk, memory-mapped; an image is decoded when it is asked for.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igsp_deploy.data.class_names import given_words
from igsp_deploy.data.items import Items, StoredImage
from igsp_deploy.data.listing import Listing, check_classes
from igsp_deploy.data.manifest import find_column, plain_label
from igsp_deploy.data.source_text import SourceText, is_local
from igsp_deploy.data.split_words import WORDS, plain_split
from igsp_deploy.errors import UserError

OPTIONS = ("image", "label", "train", "val", "test", "words")
"""Columns of images and labels, names of the splits, and a `classes.json`."""

_SPLITS = {split: tuple(word for word, means in WORDS.items() if means == split) for split in ("train", "val", "test")}
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
        opened = _split_by_column(self.canonical(), _open(self.parts, path), options)
        splits = _choose_splits(self.canonical(), opened, options)
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
    from pyarrow import parquet, types

    try:
        schema = parquet.read_schema(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is not a Parquet file that can be read ({error}). Write it again.") from error
    if find_column("path", schema.names, str(path)) is None:
        return True
    kinds = [field.type for field in schema]
    return any(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or (types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
        for kind in kinds
    )


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
    """Parquet files of each split, told by the folder above them or the start of their name: `test_00`, `train-0`."""
    if path.is_file():
        return {"train": [str(path)]}
    found: dict[str, list[str]] = {}
    for file in _parquet_files(path):
        words = (file.parent.name if file.parent != path else "", re.sub(r"[-_. ]?\d.*", "", file.stem), file.stem)
        known = [split for word in words if (split := plain_split(word))]
        found.setdefault(known[0] if known else "train", []).append(str(file))
    return found


def _split_by_column(where: str, opened: dict[str, Any], options: dict[str, str]) -> dict[str, Any]:
    """The rows of a single table by its column `split`, where it has one.

    Raises:
        UserError: the column holds words that name no split.
    """
    import datasets

    if len(opened) != 1 or options.keys() & _SPLITS.keys():
        return opened
    (table,) = opened.values()
    column = find_column("split", table.column_names, where)
    if column is None:
        return opened
    values = table.select_columns([column])[:][column]
    feature = table.features[column]
    names = [feature.names[v] if isinstance(feature, datasets.ClassLabel) else str(v or "") for v in values]
    rows: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        split = plain_split(name)
        if split is None:
            raise UserError(f"{where}, row {index}: {column} must be train, val or test, got {name!r}.")
        rows.setdefault(split, []).append(index)
    return {split: table.select(indices) for split, indices in rows.items()}


def _choose_splits(where: str, opened: dict[str, Any], options: dict[str, str]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for split, names in _SPLITS.items():
        if split in options:
            if options[split] not in opened:
                raise UserError(f"{where} has no split {options[split]!r}; it has {', '.join(sorted(opened))}.")
            chosen[split] = opened[options[split]]
        elif split != "val" or not set(names) & set(options.values()):
            found = [name for name in opened if name.lower() in names]
            if len(found) > 1:
                raise UserError(f"{where} has the splits {' and '.join(found)}. Say which: ?{split}={found[0]}")
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
    pictures = pictures or [name for name in _IMAGE_COLUMNS if name in names]
    classes = [name for name in names if isinstance(table.features[name], datasets.ClassLabel) and name != "split"]
    classes = classes or [name for name in _LABEL_COLUMNS if name in names]
    chosen = []
    for what, found, usual in (("image", pictures, _IMAGE_COLUMNS), ("label", classes, _LABEL_COLUMNS)):
        if what in options:
            if options[what] not in names:
                raise UserError(f"{where} has no column {options[what]!r}; it has {', '.join(names)}.")
            chosen.append(options[what])
            continue
        for names_used in (usual, usual[:1]):  # the one of a usual name, if there is one alone
            if len(found) > 1:
                found = [name for name in found if name.lower() in names_used] or found
        if len(found) != 1:
            among = f"{' or '.join(found)}" if found else f"it has {', '.join(names)}"
            raise UserError(f"{where}: which column holds the {what}s, {among}? Say {_how(where, what, found)}")
        chosen.append(found[0])
    return chosen[0], chosen[1]


def _how(where: str, what: str, found: list[str]) -> str:
    """The option that answers, with the kind before the colon that options need."""
    source = where.partition(", split ")[0].partition("?")[0]
    return f"{source if source.startswith('hf:') else f'hf:{source}'}?{what}={found[0] if found else 'COLUMN'}"


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
    missing = sum(
        value is None or value == "" or value != value or (isinstance(value, int) and value < 0) for value in values
    )
    if missing:
        raise UserError(
            f"{where}: {missing} of {len(values)} rows have no label in {column}. Leave them out, or name another "
            "split for testing: ?test=SPLIT"
        )
    if isinstance(feature, datasets.ClassLabel):
        return [feature.names[value] for value in values], list(feature.names)
    labels = [plain_label(value, f"{where}, row {index}") for index, value in enumerate(values)]
    if all(isinstance(value, int) for value in values):
        return labels, [str(value) for value in sorted(set(values))]
    return labels, []
