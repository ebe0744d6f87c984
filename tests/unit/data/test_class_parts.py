"""Parts of the classes of a data set, as class-incremental benchmarks draw them, on small replicas."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from igsp_deploy.data.class_parts import SEED, class_order
from igsp_deploy.data.items import StoredImage
from igsp_deploy.data.sources import canonical_source, list_source, load_task_data
from igsp_deploy.errors import UserError
from igsp_train.research.benchmark import benchmark_tasks
from tests.mtil_replicas import replica_checksums

from .conftest import write_image

NAMES = [f"class_{number:02d}" for number in range(100)]


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-100's files with two training images and a test image of each class; each pixel says the class."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for split, count in (("train", 2), ("test", 1)):
        labels = np.repeat(np.arange(100), count)
        pixels = np.repeat(labels[:, None], 3072, 1).astype(np.uint8)
        pixels[:, :2] = np.random.default_rng(count).integers(0, 256, (len(labels), 2))
        content = {"data": pixels, "fine_labels": labels.tolist(), "coarse_labels": [0] * len(labels)}
        (folder / split).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": NAMES, "coarse_label_names": ["all"]}))
    for key, value in replica_checksums(tmp_path)["CIFAR100"].items():
        monkeypatch.setattr(datasets.CIFAR100, key, value)
    return tmp_path


def cub(folder: Path, classes: int = 8, images: int = 4) -> Path:
    """CUB-200-2011 as its archive has it; every fourth image is one to test on."""
    names = [f"{number + 1:03d}.Black_footed_Bird_{'abcdefghij'[number]}" for number in range(classes)]
    places = [f"{name}/{index}.png" for name in names for index in range(images)]
    for number, place in enumerate(places):
        write_image(folder / "images" / place, number)
    lists = {
        "images.txt": "".join(f"{number} {place}\n" for number, place in enumerate(places, start=1)),
        "train_test_split.txt": "".join(f"{number + 1} {int(number % 4 > 0)}\n" for number in range(len(places))),
    }
    for name, text in lists.items():
        (folder / name).write_text(text)
    return folder


def test_classes_come_in_the_order_of_the_field() -> None:
    """The list that iCaRL's followers print for CIFAR-100 (FACIL's dataset_config.py has it as cifar100_icarl)."""
    known = [68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89, 3, 92, 55, 9, 26, 80, 43, 38, 58, 70, 77, 1, 85, 19, 17, 50]
    assert class_order(100)[: len(known)] == known
    np.random.seed(SEED)  # noqa: NPY002
    assert class_order(200) == np.random.permutation(200).tolist()  # noqa: NPY002
    assert class_order(200, 1) != class_order(200)


def test_cifar_is_learned_part_after_part_with_its_own_test_images(cifar: Path) -> None:
    tasks = benchmark_tasks("cifar100", cifar, splits=10)
    assert list(tasks) == [f"part{number:02d}" for number in range(1, 11)]
    seen: list[str] = []
    for name, source in tasks.items():
        assert canonical_source(source) == source
        listing = list_source(name, source)
        seen += listing.classes
        assert {split: len(items) for split, items in listing.splits.items()} == {"train": 20, "test": 10}
        items = listing.splits["test"]
        for image, label in zip(items.images, items.labels.tolist(), strict=True):
            assert isinstance(image, StoredImage)
            assert NAMES[np.asarray(image.read())[9, 9, 0]] == listing.classes[label]
    assert seen == [NAMES[label] for label in class_order(100)]
    assert listing.names.display_names[0] == seen[-10].replace("_", " ")


def test_a_set_that_is_not_the_published_one_is_refused_unless_accepted(tmp_path: Path) -> None:
    cub(tmp_path / "CUB_200_2011")
    tasks = benchmark_tasks("cub200", tmp_path, splits=4)
    with pytest.raises(UserError, match="has 8 classes, expected 200: it is not the published set"):
        list_source("part1", tasks["part1"])
    tasks = benchmark_tasks("cub200", tmp_path, splits=4, any_counts=True)
    assert len(list_source("part1", tasks["part1"]).classes) == 2
    missing = benchmark_tasks("imagenet-r", tmp_path)["part01"]
    with pytest.raises(UserError, match="imagenet-r does not exist"):
        list_source("part01", missing)


def test_the_birds_have_their_own_split_and_words_without_numbers(tmp_path: Path) -> None:
    cub(tmp_path / "cub")
    seen = []
    for number in (1, 2):
        data = load_task_data("birds", f"part:{number}/2?root={tmp_path / 'cub'}", val_share=0)
        assert (len(data.train), len(data.test)) == (12, 4)
        assert all(int(path.stem) == 0 for path in data.test.paths)
        seen += data.display_names
    assert sorted(seen) == [f"Black footed Bird {letter}" for letter in "abcdefgh"]
    (tmp_path / "cub" / "train_test_split.txt").write_text("1 1\n")
    with pytest.raises(UserError, match=r"not CUB-200-2011 as its archive has it .* Unpack CUB_200_2011.tgz again"):
        list_source("birds", f"part:1/2?root={tmp_path / 'cub'}")


def test_wordnets_numbers_get_their_names_from_the_readme_or_are_refused(tmp_path: Path) -> None:
    classes = [f"n0144353{digit}" for digit in range(4)]
    for number, name in enumerate(classes):
        for index in range(3):
            write_image(tmp_path / "imagenet-r" / name / f"{index}.png", 10 * number + index)
    source = f"part:1/2?root={tmp_path / 'imagenet-r'}"
    with pytest.raises(UserError, match=r"WordNet's numbers \(n01443530\).*Put the data set's README.txt into"):
        list_source("r", source)
    lines = "".join(f"{name} great_white_{number}\n" for number, name in enumerate(classes))
    (tmp_path / "imagenet-r" / "README.txt").write_text(f"The classes:\n\n{lines}")
    listing = list_source("r", source)
    assert listing.names.display_names == [f"great white {classes.index(name)}" for name in listing.classes]
    words = {name: f"word {number}" for number, name in enumerate(classes)}
    (tmp_path / "imagenet-r" / "classes.json").write_text(json.dumps({"classes": words}))
    assert list_source("r", source).names.display_names == [words[name] for name in listing.classes]


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("3", "expected part:K/N with K from 1 to N"),
        ("0/4", "expected part:K/N"),
        ("5/4", "expected part:K/N"),
        ("1/3", "8 classes cannot be split into 3 equal parts"),
        ("1/8", "into 8 equal parts of two or more classes"),
        ("1/4?seed=x", "the option seed must be a whole number, got 'x'"),
        ("1/4?color=1", "no option 'color'"),
    ],
)
def test_what_is_no_part_is_refused(tmp_path: Path, part: str, text: str) -> None:
    name, _, options = part.partition("?")
    with pytest.raises(UserError, match=text):
        list_source("x", f"part:{name}?root={cub(tmp_path / 'cub')}" + (f"&{options}" if options else ""))
