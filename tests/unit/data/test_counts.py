"""The table of classes before a task is learned, and what is kept of files that are not used."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console

from igsp_deploy.data import load_task_data
from igsp_deploy.data.counts import MOST_FILES, MOST_ROWS, ClassCount, counts_table, first_skipped
from igsp_deploy.data.items import StoredImage, place_in_source

from .conftest import write_image


def _printed(counts: dict[str, ClassCount], width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(counts_table("shoes [a]", counts))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text.splitlines()


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│┃").split("│")]


def test_a_row_says_what_becomes_of_a_class() -> None:
    lines = _printed({"boot [b]": ClassCount(12, 2, 6, {"HEIC": 2, "damaged": 1}), "sandal": ClassCount(1000, 0, 1)})
    assert "Images of shoes [a]" in lines[0]
    rows = [_cells(line) for line in lines if "│" in line]
    assert rows == [
        ["boot [b]", "12", "2", "6", "2 HEIC, 1 damaged"],
        ["sandal", "1,000", "0", "1", ""],
        ["(all)", "1,012", "2", "7", "2 HEIC, 1 damaged"],
    ]


def test_many_classes_are_folded_and_none_is_lost() -> None:
    counts = {f"c{index}": ClassCount(index, 1, 2, {"TXT": 1}) for index in range(MOST_ROWS + 5)}
    rows = [_cells(line) for line in _printed(counts) if "│" in line]
    assert len(rows) == MOST_ROWS + 2
    assert rows[-2] == ["(5 more)", str(sum(range(MOST_ROWS, MOST_ROWS + 5))), "5", "10", "5 TXT"]
    assert rows[-1][1] == str(sum(range(MOST_ROWS + 5)))


def test_skipped_files_are_named_from_the_folder_of_the_data(make_folder: Callable[..., Path]) -> None:
    source = make_folder({"boot": 6, "sandal": 5})
    (source / "boot" / "notes.txt").write_text("x")
    (source / "boot" / "cut.png").write_bytes((source / "boot" / "000.png").read_bytes()[:60])
    write_image(source / "loose.png")
    assert sorted(load_task_data("shoes", str(source)).skipped) == [
        ("boot/cut.png", "damaged"),
        ("boot/notes.txt", "TXT"),
        ("loose.png", "outside the class folders"),
    ]


def test_a_record_names_the_first_of_them_and_counts_all() -> None:
    kept = first_skipped([(f"{index}.txt", "TXT") for index in range(MOST_FILES + 3)])
    assert kept.count == MOST_FILES + 3
    assert kept.first[0] == ("0.txt", "TXT")
    assert len(kept.first) == MOST_FILES


class _Rows:
    name = "hf:/home/someone/saved set?image=photo test"

    def read(self, index: int) -> bytes:
        return np.zeros(index, np.uint8).tobytes()


def test_no_place_begins_at_the_root_of_a_machine() -> None:
    root = Path("/home/someone/shoes")
    assert place_in_source(root / "test" / "boot" / "1.jpg", root) == "test/boot/1.jpg"
    assert place_in_source(Path("/mnt/other/boot/1.jpg"), root) == "boot/1.jpg"
    assert place_in_source(Path("/1.jpg"), None) == "1.jpg"
    assert place_in_source(StoredImage(_Rows(), 7), None) == "test[7]"
