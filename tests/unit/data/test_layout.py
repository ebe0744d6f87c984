"""Layouts of folders that people have: understood, or refused by name."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igsp_deploy.data import load_task_data
from igsp_deploy.data.image_folder import read_image_folder
from igsp_deploy.data.layout import Arranged, arrange
from igsp_deploy.data.split_words import plain_split
from igsp_deploy.errors import UserError

from .conftest import write_image


def _arrange(*paths: str, empty: tuple[str, ...] = ()) -> Arranged:
    files = sorted(tuple(path.split("/")) for path in paths)
    return arrange(files, [tuple(path.split("/")) for path in empty], "data")


def _tree(found: Arranged) -> dict[str, dict[str, int]]:
    return {split: {name: len(files) for name, files in classes.items()} for split, classes in found.splits.items()}


def _both(top: str) -> list[str]:
    return [f"{top}/cat/1.jpg", f"{top}/dog/1.jpg"]


MakeFolder = Callable[..., Path]
BOTH = {"cat": 1, "dog": 1}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Val", "Test"),
        ("TRAIN", "VALID", "TEST"),
        ("Training", "Validation", "Testing"),
        ("train", "valid", "test"),  # Roboflow
        ("train", "validation", "test"),
        ("train", "dev", "eval"),
        ("training_set", "validation_set", "test_set"),
        ("train_images", "val_images", "test_images"),
        ("trainSet", "validSet", "testSet"),
        ("seg_train", "seg_dev", "seg_test"),
        ("seg_train/seg_train", "seg_val/seg_val", "seg_test/seg_test"),  # a Kaggle zip
    ],
)
@pytest.mark.parametrize("around", ["", "archive/", "archive/data set/"])
def test_splits_in_the_words_people_use(train: str, val: str, test: str, around: str) -> None:
    found = _arrange(*(path for top in (train, val, test) for path in _both(around + top)), f"{around}README.txt")
    assert _tree(found) == {"train": BOTH, "val": BOTH, "test": BOTH}
    assert found.has_splits


@pytest.mark.parametrize("folder", ["cat", "test tube", "freight_train", "train", "validator", "eval kit"])
def test_classes_that_sound_like_splits_stay_classes(folder: str) -> None:
    found = _arrange(f"{folder}/1.jpg", "bus/1.jpg", "bullet_train/1.jpg")
    assert _tree(found) == {"train": {folder: 1, "bus": 1, "bullet_train": 1}}


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (["train/1.jpg", "test/2.jpg"], "test and train hold images and no class folders"),
        (["Training/1.jpg", "Testing/2.jpg", "Validation/3.jpg"], "Testing, Training and Validation hold images"),
        ([*_both("train"), *_both("Train")], "Train and train both look like the train split"),
        ([*_both("train"), *_both("val"), *_both("valid")], "val and valid both look like the val split"),
        ([*_both("train"), "bus/1.jpg"], "train holds folders as a split does, but bus holds images"),
        (["cat/1.jpg", "dog/1.jpg", *_both("test")], "test looks like the test split"),
        (["cat/train/1.jpg", "cat/test/1.jpg", "dog/train/1.jpg"], "'cat' has test and train inside it"),
        (["train/images/1.jpg", "train/labels/1.txt"], "detection or segmentation"),
        (["images/1.jpg", "masks/1.png"], "detection or segmentation"),
        (["1.jpg", "2.jpg"], "no class folders"),
        (["cat/1.jpg", "dog/1.txt"], "first is 'dog' .it holds TXT"),
        (["caf\u00e9/1.jpg", "cafe\u0301/1.jpg"], "the same name, written in two ways"),
        (["caf\udce9/1.jpg", "dog/1.jpg"], r"'caf\\udce9' is not UTF-8"),
    ],
)
def test_what_cannot_be_told_is_refused_by_name(paths: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        _arrange(*paths)


def test_a_split_without_labels_is_passed_over_and_said() -> None:
    found = _arrange(*_both("train"), "test/1.jpg", "test/2.jpg", "sample/x/1.jpg")
    assert _tree(found) == {"train": BOTH}
    assert "test is passed over: 2 images without class folders" in found.notes
    assert "sample is passed over: 1 images of no known split" in found.notes


def test_an_empty_class_is_found_beside_folders_around() -> None:
    with pytest.raises(UserError, match="1 of 2 classes have no images, the first is 'dog'"):
        _arrange("cat/indoors/1.jpg", empty=("dog",))


def test_names_of_two_file_systems_are_the_same_class() -> None:
    found = _arrange("train/caf\u00e9/1.jpg", "train/bar/1.jpg", "test/cafe\u0301/1.jpg", "test/bar/1.jpg")
    assert _tree(found) == {"train": {"bar": 1, "caf\u00e9": 1}, "test": {"bar": 1, "caf\u00e9": 1}}


def test_every_other_file_is_counted_with_its_reason(make_folder: MakeFolder, tmp_path: Path) -> None:
    source = make_folder({"boot": 6, "sandal": 5})
    (source / "boot" / "a.HEICX").write_bytes(b"")
    (source / "boot" / "notes.txt").write_text("x")
    (source / "boot" / "cut.png").write_bytes((source / "boot" / "000.png").read_bytes()[:60])
    (source / "sandal" / "gone.png").symlink_to(tmp_path / "nowhere")
    (source / "sandal" / "again").symlink_to(source / "sandal")
    write_image(source / "loose.png")
    data = load_task_data("shoes", str(source))
    line = data.notes[0]
    assert line.startswith("boot 6 images, sandal 5 (6 skipped: ")
    for reason in (
        "1 HEICX",
        "1 TXT",
        "1 damaged",
        "1 broken link",
        "1 link in a circle",
        "1 outside the class folders",
    ):
        assert reason in line
    assert data.counts["boot"].skipped == {"damaged": 1, "HEICX": 1, "TXT": 1}
    assert data.counts["boot"].used + data.counts["sandal"].used == 11


SYSTEM = [".ipynb_checkpoints", ".Trash-1000", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "#recycle", ".git"]


@pytest.mark.parametrize("name", [*SYSTEM, "System Volume Information", "__pycache__", "@EADIR", ".thumbnails"])
@pytest.mark.parametrize("place", ["", "cat", "cat/indoors"])
def test_hidden_and_system_folders_never_count(make_folder: MakeFolder, place: str, name: str) -> None:
    source = make_folder({"cat": 4, "dog": 4})
    write_image(source / "cat" / "indoors" / "x.png", 99)
    before = load_task_data("t", str(source)).train.images
    write_image(source / place / name / "copy.png", 98)
    write_image(source / place / name / "inner" / "copy.png", 97)
    write_image(source / place / "._1.png", 96)
    assert load_task_data("t", str(source)).train.images == before


def test_a_linked_folder_counts_once_and_in_no_circle(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "elsewhere" / f"{number}.png", number)
        write_image(tmp_path / "data" / "dog" / f"{number}.png", number + 10)
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere")
    found = read_image_folder(tmp_path / "data")
    assert {name: len(files) for name, files in found.splits["train"].items()} == {"cat": 3, "dog": 3}
    assert [entry.reason for entry in found.passed_over] == ["link in a circle"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "cat" / "secret" / "1.png")
    scan = os.scandir

    def refuse(path: "os.PathLike[str]") -> "os._ScandirIterator[str]":
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot read .*secret: Permission denied"):
        read_image_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [("Train", "train"), ("VALID", "val"), ("test_00", None), ("testing", "test"), ("trains", None), ("", None)],
)
def test_split_words(name: str, split: str | None) -> None:
    assert plain_split(name) == split


_NAMES = st.sampled_from(
    ["cat", "dog", "train", "Test", "valid", "a b", "seg_train", "seg_test", "images", "x.txt", ".h"]
)


@given(st.lists(st.lists(_NAMES, min_size=0, max_size=3), max_size=12))
def test_any_tree_is_arranged_or_refused_and_no_image_is_lost(folders: list[list[str]]) -> None:
    """Whatever lies where: an error for people, or every image in exactly one class, or said to be passed over."""
    files = sorted({(*folder, f"{number}.jpg") for number, folder in enumerate(folders)})
    try:
        found = arrange(files, [], "data")
    except UserError:
        return
    used = [parts for classes in found.splits.values() for group in classes.values() for parts in group]
    passed = [entry.parts for entry in found.passed_over]
    assert sorted([*used, *passed]) == files
