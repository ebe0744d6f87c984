"""A CSV or Parquet file that lists images: columns `path`, `label` and optionally `split`."""

import csv
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from igsp_deploy.data.image_folder import ClassFiles
from igsp_deploy.data.split_words import plain_split
from igsp_deploy.errors import UserError

COLUMNS = ("path", "label", "split")
Row = tuple[int, dict[str, Any]]
"""Number of a line or row, and the values of `COLUMNS` that there are."""


def read_manifest(path: Path) -> dict[str, ClassFiles]:
    """List the images of a manifest.

    Args:
        path: CSV with a header line, or Parquet (`.parquet`). `path` is an image, relative to the manifest's own
            folder; `label` its class; `split`, where there is such a column, `train`, `val` or `test` (or `Training`,
            `valid` and the like). Columns are found by their name, in any case. Other columns are passed over.

    Returns:
        Split -> class -> files.

    Raises:
        UserError: not a table of this form, two columns that could be meant, no rows, a label that is not one plain
            value, an unknown split, an image listed twice, or images that are missing.
    """
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
    if not rows:
        raise UserError(f"the manifest {path} lists no images. Add lines such as images/1.jpg,shoe")
    return _collect(path, rows)


def find_column(name: str, header: Sequence[str], where: str) -> str | None:
    """The column called `name`: exactly, or else in another case; None where there is none.

    Raises:
        UserError: two columns could be meant; names them.
    """
    found = [column for column in header if column == name] or [c for c in header if c.strip().lower() == name]
    if len(found) > 1:
        raise UserError(f"{where} has {len(found)} columns {name}: {', '.join(map(repr, found))}. Rename all but one.")
    return found[0] if found else None


def plain_label(value: Any, where: str) -> str:
    """A class name from what stands in a column.

    Raises:
        UserError: it is empty, missing, or not one plain value (a list, a number that is not whole).
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # what pandas makes of whole numbers where one is missing
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        raise UserError(f"{where}: path and label must not be empty.")
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise UserError(
            f"{where}: a label must be one text or whole number, got {type(value).__name__} {str(value)[:60]!r}. "
            "One class an image is learned; leave out the others."
        )
    return unicodedata.normalize("NFC", str(value).strip())


def _csv_rows(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle)
            columns = _columns(path, [name.strip() for name in next(reader, [])])
            width = 1 + max(place for place in columns.values())
            rows: list[Row] = []
            for values in reader:
                if not values:
                    continue
                if len(values) > columns.width:
                    raise UserError(
                        f"{path}, line {reader.line_num}: {len(values)} values for {columns.width} columns. Put values "
                        'with a comma in them into quotes: "a, b".'
                    )
                values += [""] * (width - len(values))
                rows.append((reader.line_num, {name: values[place] for name, place in columns.items()}))
            return rows
    except OSError as error:
        raise UserError(f"cannot read the manifest {path}: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the manifest {path} is not CSV in UTF-8 ({error}). Save it so.") from error


def _parquet_rows(path: Path) -> list[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        header = parquet.read_schema(path).names
        columns = _columns(path, header)
        table = parquet.read_table(path).select(list(columns.values()))
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"the manifest {path} is not Parquet that can be read ({error}). Write it again.") from error
    lists = {name: table.column(place).to_pylist() for place, name in enumerate(columns)}
    return [(number + 1, {name: lists[name][number] for name in lists}) for number in range(table.num_rows)]


class _Columns(dict[str, int]):
    """Name of `COLUMNS` -> its place; `width` columns in all."""

    width: int


def _columns(path: Path, header: list[str]) -> _Columns:
    found = _Columns()
    found.width = len(header)
    for name in COLUMNS:
        column = find_column(name, header, f"the manifest {path}")
        if column is not None:
            found[name] = header.index(column)
    missing = [name for name in ("path", "label") if name not in found]
    if missing:
        raise UserError(
            f"the manifest {path} must have the columns path and label (and split, if it says the split), separated by "
            f"commas in CSV; {' and '.join(missing)} missing in its first line: {', '.join(header) or 'empty'}."
        )
    return found


def _collect(path: Path, rows: list[Row]) -> dict[str, ClassFiles]:
    splits: dict[str, ClassFiles] = {}
    lines: dict[Path, int] = {}
    missing: list[str] = []
    for line, row in rows:
        where = f"{path}, line {line}"
        label = plain_label(row["label"], where)
        if not isinstance(row["path"], str) or not row["path"].strip():
            raise UserError(f"{where}: path and label must not be empty.")
        file_name = row["path"].strip()
        split = plain_split(str(row["split"] or "")) if "split" in row else "train"
        if split is None:
            raise UserError(f"{where}: split must be train, val or test, got {row['split'] or ''!r}.")
        image = _find_file(path.parent, file_name)
        if image in lines:
            raise UserError(f"{path}: {file_name} is listed twice, in lines {lines[image]} and {line}. Remove one.")
        lines[image] = line
        if not image.is_file():
            missing.append(f"{file_name} (line {line})")
        splits.setdefault(split, {}).setdefault(label, []).append(image)
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(rows)} images do not exist, the first is {missing[0]}. Paths are "
            f"relative to {path.parent}; correct or remove them."
        )
    return {name: {label: sorted(files) for label, files in sorted(found.items())} for name, found in splits.items()}


def _find_file(folder: Path, name: str) -> Path:
    """The file of that name, however its accents were written down when it was made."""
    image = folder / name
    if not image.is_file() and not name.isascii():
        for form in ("NFC", "NFD"):
            other = folder / unicodedata.normalize(form, name)
            if other.is_file():
                return other
    return image
