"""torchvision's data sets as sources of a task."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from igsp_deploy.data import load_task_data, open_image
from igsp_deploy.data.torchvision_sets import class_names_of, list_data_set
from igsp_deploy.errors import UserError
from tests.mtil_replicas import TEST, TRAIN, build_replicas


def test_a_set_with_files_and_one_held_in_memory(tmp_path: Path) -> None:
    build_replicas(tmp_path, ("mnist", "dtd"))
    digits = load_task_data("digits", f"torchvision:MNIST?root={tmp_path}", val_share=0)
    assert digits.classes == ["0 - zero", "1 - one", "2 - two"]
    assert (len(digits.train), len(digits.test)) == (3 * TRAIN, 3 * TEST)
    assert np.asarray(open_image(digits.test.images[3])).shape == (28, 28, 3)
    assert str(digits.test.images[3]) == f"torchvision:MNIST?root={tmp_path} test[3]"
    textures = load_task_data("textures", f"torchvision:DTD?root={tmp_path}", val_share=0)
    assert textures.display_names == ["banded", "polka dotted", "zigzagged"]
    assert all(path.is_file() for path in textures.train.paths)


def test_a_set_without_splits_is_split_automatically(tmp_path: Path) -> None:
    build_replicas(tmp_path, ("eurosat",))
    data = load_task_data("land", f"torchvision:EuroSAT?root={tmp_path}", val_share=0)
    assert (len(data.train), len(data.test)) == (24, 6)


def test_the_training_split_can_be_named(tmp_path: Path) -> None:
    build_replicas(tmp_path, ("oxfordpet",))
    data = load_task_data("pets", f"torchvision:OxfordIIITPet?root={tmp_path}&train=trainval", val_share=0)
    assert len(data.train) == 3 * TRAIN


class _Held:
    """Holds its pictures beside their labels, as FER2013 does."""

    def __init__(self, labels: list[Any], classes: list[Any]) -> None:
        self._samples = [(np.full((4, 4), 9 * number, np.uint8), label) for number, label in enumerate(labels)]
        self.classes = classes

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        return Image.fromarray(self._samples[index][0]), self._samples[index][1]


def test_pictures_that_are_held_beside_their_labels() -> None:
    items = list_data_set(_Held([1, 0, 1], ["calm", "glad"]), "faces")
    assert items.labels.tolist() == [1, 0, 1]
    assert np.asarray(open_image(items.images[2]))[0, 0].tolist() == [18, 18, 18]


@pytest.mark.parametrize("labels", [["a/1.xml", "a/2.xml"], [None, None], np.zeros((2, 8), np.int64), None])
def test_labels_that_are_not_one_number_an_image_are_refused(labels: Any) -> None:
    data_set = type("Boxes", (), {} if labels is None else {"targets": labels})()
    with pytest.raises(UserError, match="no set of images with one label each"):
        list_data_set(data_set, "boxes")


def test_several_names_of_one_class_are_words_not_a_tuple() -> None:
    assert class_names_of(_Held([], [("tench", "Tinca tinca"), ("goldfish",)])) == ["tench, Tinca tinca", "goldfish"]


def test_labels_of_one_name_are_numbered() -> None:
    names = [("crane",), ("maillot",), ("crane",), ("maillot", "tank suit")]
    assert class_names_of(_Held([], names)) == ["crane (1)", "maillot", "crane (2)", "maillot, tank suit"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("torchvision:MNIST", "needs the option root"),
        ("torchvision:MINST?root=.", "no data set 'MINST'. Nearest: .*MNIST"),
        ("torchvision:MNIST?root=nowhere", "nowhere does not exist"),
        ("torchvision:DTD?root=.", "DTD cannot be opened in .*download=True"),
        ("torchvision:CIFAR10?root=.&split=x", "no option 'split'"),
        ("torchvision:", "names nothing after torchvision:"),
    ],
)
def test_what_cannot_be_opened_says_why(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        load_task_data("t", source)
