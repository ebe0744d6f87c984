"""A CSV or Parquet file that lists images: columns `path`, `label` and optionally `split`."""

import csv
from pathlib import Path

from igsp_deploy.data.image_folder import SPLITS, ClassFiles
from igsp_deploy.errors import UserError

COLUMNS = ("path", "label")
_SPLIT_NAMES = {**{name: name for name in SPLITS}, "valid": "val", "validation": "val"}


def read_manifest(path: Path) -> dict[str, ClassFiles]:
    """List the images of a manifest.

    Args:
        path: CSV with a header line, or Parquet (`.parquet`). `path` is an image, relative to the manifest's own
            folder; `label` its class; `split`, where there is such a column, `train`, `val` or `test`. Other columns
            are passed over.

    Returns:
        Split -> class -> files.

    Raises:
        UserError: not a table of this form, no rows, an unknown split, an image listed twice, or images that are
            missing.
    """
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
    if not rows:
        raise UserError(f"the manifest {path} lists no images. Add lines such as images/1.jpg,shoe")
    return _collect(path, rows)


def _csv_rows(path: Path) -> list[tuple[int, dict[str, str | None]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            _check_header(path, header)
            return [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UserError(f"cannot read the manifest {path}: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the manifest {path} is not CSV in UTF-8 ({error}). Save it so.") from error


def _parquet_rows(path: Path) -> list[tuple[int, dict[str, str | None]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        names = parquet.read_schema(path).names
        _check_header(path, names)
        table = parquet.read_table(path, columns=[name for name in (*COLUMNS, "split") if name in names])
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"the manifest {path} is not Parquet that can be read ({error}). Write it again.") from error
    rows = table.to_pylist()
    return [
        (number, {key: None if value is None else str(value) for key, value in row.items()})
        for number, row in enumerate(rows, start=1)
    ]


def _check_header(path: Path, header: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise UserError(
            f"the manifest {path} must have the columns path and label (and split, if it says the split), separated by "
            f"commas in CSV; {' and '.join(missing)} missing in its first line: {', '.join(header) or 'empty'}."
        )


def _collect(path: Path, rows: list[tuple[int, dict[str, str | None]]]) -> dict[str, ClassFiles]:
    splits: dict[str, ClassFiles] = {}
    lines: dict[Path, int] = {}
    missing: list[str] = []
    for line, row in rows:
        file_name, label = (row["path"] or "").strip(), (row["label"] or "").strip()
        if not file_name or not label:
            raise UserError(f"{path}, line {line}: path and label must not be empty.")
        written = (row["split"] or "").strip() if "split" in row else "train"
        split = _SPLIT_NAMES.get(written.lower())
        if split is None:
            raise UserError(f"{path}, line {line}: split must be train, val or test, got {written!r}.")
        image = path.parent / file_name
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
