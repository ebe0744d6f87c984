"""The eleven sets of MTIL: facts, layouts on disk, splits, and what is said when something is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torchvision import datasets as torchvision_datasets

from igsp_deploy.data import TaskData, load_task_data, open_image
from igsp_deploy.data.items import Items
from igsp_deploy.errors import UserError
from igsp_train.research.benchmark import benchmark_tasks
from igsp_train.research.mtil import ORDERS, SETS
from igsp_train.research.mtil.check import check_set
from igsp_train.research.mtil.facts import plain_name
from igsp_train.research.mtil.source import random_split
from tests.mtil_replicas import BUILDERS, CLASSES, TEST, TRAIN, build_replicas, replica_checksums

RANDOM = ("caltech101", "eurosat", "sun397")
Root = Callable[..., Path]


@pytest.fixture
def replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    """Builds replicas under a data root and lets torchvision expect their checksums."""

    def build(*names: str) -> Path:
        build_replicas(tmp_path, names)
        for kind, values in replica_checksums(tmp_path).items():
            for key, value in values.items():
                monkeypatch.setattr(getattr(torchvision_datasets, kind), key, value)
        return tmp_path

    return build


def load(root: Path, name: str, counts: str = "any") -> TaskData:
    return load_task_data(name, f"mtil:{name}?root={root}&counts={counts}", val_share=0)


def colour(data: TaskData, items: Items, index: int) -> int:
    """Class that a replica's picture shows."""
    shown = np.asarray(open_image(items.images[index]), dtype=np.float64)
    if data.name == "mnist":
        return int(shown[..., 0].mean(1)[:27].reshape(3, 9).mean(1).argmax())
    return int(shown.mean((0, 1)).argmax())


# --- facts ------------------------------------------------------------------------------------------------------------


def test_there_are_1201_classes_with_names_of_their_own() -> None:
    sizes = {name: len(one.classes) for name, one in SETS.items()}
    assert list(sizes.values()) == [100, 101, 100, 47, 10, 102, 101, 10, 37, 196, 397]
    assert sum(sizes.values()) == 1201
    for one in SETS.values():
        for names in (one.classes, one.display_names):
            assert len({plain_name(name) for name in names}) == len(names)
        assert [one.known[plain_name(name)] for name in one.classes] == list(range(len(one.classes)))


def test_the_ensembles_have_the_published_sizes_and_start_with_the_training_prompt() -> None:
    assert [len(one.templates) for one in SETS.values()] == [2, 34, 18, 8, 3, 1, 1, 1, 1, 9, 2]
    for one in SETS.values():
        assert len(set(one.templates)) == len(one.templates)
        assert all(text.count("{}") == 1 for text in one.templates)
    assert SETS["mnist"].templates[0].format("0 - zero") == 'a photo of the number: "0 - zero".'
    assert SETS["stanfordcars"].templates[0] == "a photo of a {}, a type of car."
    assert SETS["cifar100"].templates[9] == "a photo of the {}."
    assert SETS["caltech101"].templates[17] == "a photo of the {}."


def test_the_orders_are_the_published_ones() -> None:
    assert list(ORDERS[1])[:3] == ["aircraft", "caltech101", "cifar100"]
    assert list(ORDERS[2])[:3] == ["stanfordcars", "food101", "mnist"]
    assert sorted(ORDERS[1]) == sorted(ORDERS[2]) == sorted(SETS)


def test_the_zero_shot_figures_have_the_published_transfer_and_average() -> None:
    figures = [SETS[name].zero_shot for name in ORDERS[1]]
    assert np.mean(figures) == pytest.approx(65.3, abs=0.05)
    assert np.mean(figures[1:]) == pytest.approx(69.4, abs=0.05)


def test_names_of_flowers_are_in_the_order_of_the_labels() -> None:
    theirs = [plain_name(name) for name in torchvision_datasets.Flowers102.classes]
    assert [plain_name(name) for name in SETS["flowers102"].classes] == theirs


# --- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDERS)
def test_a_set_in_its_real_layout_gives_its_images_labels_and_words(name: str, replica: Root) -> None:
    data = load(replica(name), name)
    assert data.classes == list(CLASSES[name])
    words = dict(zip(SETS[name].classes, SETS[name].display_names, strict=True))
    assert data.display_names == [words[label] for label in data.classes]
    assert data.templates == list(SETS[name].templates)
    assert len(data.val) == 0
    total = 3 * (TRAIN + TEST)
    expected = (24, 6) if name in RANDOM else (3 * TRAIN, 3 * TEST)
    assert (len(data.train), len(data.test)) == expected
    assert sum(expected) == total
    for items in (data.train, data.test):
        assert [colour(data, items, index) for index in range(len(items))] == items.labels.tolist()
    both = [str(image) for items in (data.train, data.test) for image in items.images]
    assert len(set(both)) == total, "an image is in both splits"


def test_random_splits_are_torchs_with_seed_42(replica: Root) -> None:
    root = replica("caltech101")
    theirs = torchvision_datasets.Caltech101(root)
    everything: Any = range(len(theirs))
    train: Any
    train, test = torch.utils.data.random_split(everything, [24, 6], generator=torch.Generator().manual_seed(42))
    files = [
        root / "caltech101/101_ObjectCategories" / theirs.categories[y] / f"image_{index:04d}.jpg"
        for y, index in zip(theirs.y, theirs.index, strict=True)
    ]
    data = load(root, "caltech101")
    assert set(data.train.images) == {files[index] for index in train.indices}
    assert set(data.test.images) == {files[index] for index in test.indices}
    halves = random_split(Items(files, np.array(theirs.y)))
    assert [len(items) for items in halves.values()] == [24, 6]


def test_caltech_is_listed_with_or_without_its_background_and_stray_files(replica: Root) -> None:
    root = replica("caltech101")
    before = load(root, "caltech101").train.images
    folder = root / "caltech101/101_ObjectCategories"
    (folder / "Faces" / "Thumbs.db").write_text("")
    (folder / ".DS_Store").write_text("")
    shutil.rmtree(folder / "BACKGROUND_Google")
    assert load(root, "caltech101").train.images == before


def test_the_split_of_sun397_does_not_depend_on_the_file_system(replica: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    root = replica("sun397")
    before = load(root, "sun397").train.images
    found = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: reversed(list(found(self, pattern))))
    assert load(root, "sun397").train.images == before


# --- copies -----------------------------------------------------------------------------------------------------------


def test_an_image_folder_stands_in_for_a_set(replica: Root, tmp_path: Path) -> None:
    data = load(replica("eurosat"), "eurosat")
    for split, items in (("train", data.train), ("test", data.test)):
        for index, (image, label) in enumerate(zip(items.paths, items.labels, strict=True)):
            # In the benchmark's words instead of the data set's names.
            target = tmp_path / "copies" / "eurosat" / split / data.display_names[label] / f"{index}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, target)
    copy = load(tmp_path / "copies", "eurosat")
    assert copy.classes == data.classes
    assert copy.display_names == data.display_names
    assert copy.templates == data.templates
    assert (len(copy.train), len(copy.test)) == (24, 6)
    assert [colour(copy, copy.test, index) for index in range(6)] == copy.test.labels.tolist()


def test_a_hugging_face_copy_stands_in_for_a_set_in_the_benchmarks_order(replica: Root, tmp_path: Path) -> None:
    data = load(replica("mnist"), "mnist")
    # Labels in another order, and named as on the hub.
    names = ["2", "0", "1"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    splits = {
        split: datasets.Dataset.from_dict(
            {
                "image": [open_image(image) for image in items.images],
                "label": [names.index(str(label)) for label in items.labels],
            },
            features=features,
        )
        for split, items in (("train", data.train), ("test", data.test))
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "copies" / "mnist")
    copy = load(tmp_path / "copies", "mnist")
    assert copy.classes == data.classes
    assert copy.train.labels.tolist() == data.train.labels.tolist()
    assert [colour(copy, copy.test, index) for index in range(len(copy.test))] == copy.test.labels.tolist()


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDERS)
def test_a_missing_set_is_named_with_its_place_and_its_page(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, name)
    for part in (SETS[name].title, str(tmp_path / SETS[name].marker), SETS[name].page, str(tmp_path / name)):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "looking for a set must not make folders"


def test_a_wrong_data_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data root .*nowhere does not exist"):
        load(tmp_path / "nowhere", "dtd")


def test_a_set_with_other_counts_is_refused_with_what_was_expected_and_found(replica: Root) -> None:
    with pytest.raises(UserError) as caught:
        load(replica("dtd"), "dtd", counts="published")
    for part in (
        "expected 1,880 train images, found 21",
        "expected 1,880 test images, found 9",
        "expected 47 classes, found 3",
        "--accept-differences",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("cifar100", "cifar-100-python/train", b"\x80\x04.", "train is damaged: its MD5 is"),
        ("flowers102", "flowers-102/setid.mat", b"MATLAB 5.0", "setid.mat is damaged: its MD5 is"),
        ("stanfordcars", "stanford_cars/devkit/cars_meta.mat", b"no mat file" * 30, "cars_meta.mat cannot be read"),
        ("stanfordcars", "stanford_cars/devkit/cars_train_annos.mat", b"", "cars_train_annos.mat cannot be read"),
        ("food101", "food-101/meta/test.json", b'{"apple_pie": [', "test.json cannot be read"),
        ("aircraft", "fgvc-aircraft-2013b/data/variants.txt", b"\xff\xfe\xff", "variants.txt cannot be read"),
        ("dtd", "dtd/dtd/labels/test1.txt", b"", "test1.txt cannot be read .it is empty"),
        (
            "oxfordpet",
            "oxford-iiit-pet/annotations/trainval.txt",
            b"Abyssinian_1 one",
            "oxford-iiit-pet cannot be read",
        ),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte", b"\0\0\x08\x03\0\0", "MNIST.*cannot be read"),
    ],
)
def test_a_damaged_annotation_file_is_named(replica: Root, name: str, file: str, content: bytes, said: str) -> None:
    root = replica(name)
    (root / file).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        load(root, name)
    assert SETS[name].title in str(caught.value)


@pytest.mark.parametrize("name", [name for name, one in SETS.items() if one.files])
def test_a_missing_annotation_file_is_named(name: str, replica: Root) -> None:
    root = replica(name)
    file = root / SETS[name].marker / SETS[name].files[0]
    file.unlink()
    with pytest.raises(UserError, match="lacks") as caught:
        load(root, name)
    assert SETS[name].files[0] in str(caught.value)


def test_images_that_are_listed_but_not_there_are_counted(replica: Root) -> None:
    root = replica("food101")
    (root / "food-101/images/waffles/0.jpg").unlink()
    problems = check_set(SETS["food101"], root).problems
    assert "1 of 30 images are not there, the first is" in problems[0]
    assert "waffles/0.jpg" in problems[0]


def test_a_copy_without_test_images_is_refused_where_the_benchmark_has_its_own(tmp_path: Path, replica: Root) -> None:
    root = replica("dtd")
    shutil.move(root / "dtd/dtd/images", tmp_path / "moved")
    shutil.rmtree(root / "dtd")
    shutil.move(tmp_path / "moved", root / "dtd")
    with pytest.raises(UserError, match="has no test images"):
        load(root, "dtd")


def test_classes_of_unknown_name_are_told(replica: Root) -> None:
    root = replica("aircraft")
    folder = root / "fgvc-aircraft-2013b/data"
    for file in folder.glob("*.txt"):
        file.write_text(file.read_text().replace("A300B4", "Zeppelin"))
    assert (
        "1 classes have names that are not known, the first is 'Zeppelin'"
        in check_set(SETS["aircraft"], root).problems[0]
    )


def test_a_set_as_published_has_no_problems(replica: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    root = replica("dtd")
    one = SETS["dtd"]
    object.__setattr__(one, "train_images", 3 * TRAIN)
    object.__setattr__(one, "test_images", 3 * TEST)
    monkeypatch.setattr(type(one), "classes", property(lambda self: list(CLASSES["dtd"])))
    try:
        assert check_set(one, root).problems == []
        assert check_set(one, root).status == "as published"
    finally:
        object.__setattr__(one, "train_images", 1880)
        object.__setattr__(one, "test_images", 1880)


def test_unknown_sets_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MTIL has no set 'imagenet'"):
        load_task_data("x", f"mtil:imagenet?root={tmp_path}")
    with pytest.raises(UserError, match="no option 'shots'"):
        load_task_data("x", f"mtil:dtd?root={tmp_path}&shots=5")
    with pytest.raises(UserError, match="needs the option root"):
        load_task_data("x", "mtil:dtd")


def test_tasks_of_the_benchmark_name_their_root_absolutely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tasks = benchmark_tasks("mtil", Path("data"), order=2)
    assert list(tasks) == list(ORDERS[2])
    assert tasks["dtd"] == f"mtil:dtd?root={tmp_path / 'data'}"
    assert json.dumps(tasks)
