"""Folders of class folders as a source."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from igsp_deploy.data.sources import load_task_data
from igsp_deploy.errors import UserError

MakeFolder = Callable[..., Path]


def test_splits_of_the_folder_are_taken_as_they_are(make_folder: MakeFolder) -> None:
    make_folder({"cat": 3, "dog": 2}, "train")
    make_folder({"cat": 1, "dog": 1}, "val")
    source = make_folder({"cat": 2, "dog": 4}, "test")
    data = load_task_data("pets", str(source))
    assert data.name == "pets"
    assert data.classes == ["cat", "dog"]
    assert (len(data.train), len(data.val), len(data.test)) == (5, 2, 6)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert all("train" in path.parts for path in data.train.paths)
    assert data.train.labels.dtype == np.int64


def test_class_folders_alone_are_split_automatically(make_folder: MakeFolder) -> None:
    data = load_task_data("pets", str(make_folder({"cat": 20, "dog": 10})))
    assert [np.bincount(part.labels).tolist() for part in (data.train, data.val, data.test)] == [
        [14, 7],
        [2, 1],
        [4, 2],
    ]


def test_train_without_test_is_split_automatically(make_folder: MakeFolder) -> None:
    data = load_task_data("pets", str(make_folder({"cat": 10, "dog": 10}, "train")))
    assert (len(data.train), len(data.val), len(data.test)) == (14, 2, 4)


def test_a_class_may_be_called_train(make_folder: MakeFolder) -> None:
    assert load_task_data("vehicles", str(make_folder({"train": 3, "bus": 3}))).classes == ["bus", "train"]


def test_other_files_hidden_folders_and_depth(make_folder: MakeFolder) -> None:
    source = make_folder({"cat": 2, "dog": 2, ".cache": 2})
    (source / "cat" / "notes.txt").write_text("not an image")
    (source / "SOURCE.txt").write_text("not a class")
    (source / "dog" / "indoors").mkdir()
    (source / "dog" / "000.png").rename(source / "dog" / "indoors" / "X.PNG")
    data = load_task_data("pets", str(source), val_share=0, test_share=0)
    assert data.classes == ["cat", "dog"]
    assert len(data.train) == 4


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({}, "has no class folders"),
        ({"cat": 3, "dog": 0}, "1 of 2 classes have no images, the first is 'dog'"),
        ({"cat": 3}, r"one class only \('cat'\)"),
    ],
)
def test_a_folder_that_is_no_task_is_refused(
    make_folder: MakeFolder, tmp_path: Path, counts: dict[str, int], text: str
) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match=text) as caught:
        load_task_data("pets", str(make_folder(counts)))
    assert str(caught.value).startswith("task 'pets': ")


def test_images_without_class_folders_are_refused(tmp_path: Path, make_folder: MakeFolder) -> None:
    source = make_folder({"cat": 2})
    with pytest.raises(UserError, match="has no class folders"):
        load_task_data("pets", str(source / "cat"))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent does not exist"):
        load_task_data("pets", str(tmp_path / "absent"))


def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="is a file"):
        load_task_data("pets", str(tmp_path / "data.zip"))


@pytest.mark.parametrize(
    ("split", "counts", "text"),
    [
        ("test", {"cat": 1, "cow": 1}, "classes of test are not those of train: it adds cow and it lacks dog"),
        ("test", {"cat": 1}, "it lacks dog"),
        ("val", {"cat": 1, "dog": 1, "cow": 1}, "classes of val are not those of train: it adds cow"),
        ("test", {"cat": 1, "dog": 0}, "no images, the first is 'dog'"),
    ],
)
def test_splits_with_other_classes_are_refused(
    make_folder: MakeFolder, split: str, counts: dict[str, int], text: str
) -> None:
    make_folder({"cat": 2, "dog": 2}, "train")
    with pytest.raises(UserError, match=text):
        load_task_data("pets", str(make_folder(counts, split)))
