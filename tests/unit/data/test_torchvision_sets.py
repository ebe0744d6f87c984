"""torchvision's data sets as sources of a task."""

from pathlib import Path

import numpy as np
import pytest

from igsp_deploy.data import load_task_data, open_image
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
