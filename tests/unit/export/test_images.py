"""Images to check an export with: read as they are asked for; synthetic ones the same everywhere and not all alike."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from igsp_deploy.bundle.preprocess import ImageError
from igsp_deploy.data import images
from igsp_deploy.model.folder import ModelFolder
from igsp_export.images import check_images, synthetic_images

if TYPE_CHECKING:
    from tests.conftest import Bundled


def test_synthetic_images_depend_on_the_seed_alone() -> None:
    first, again, other = synthetic_images(3, 16, seed=1), synthetic_images(3, 16, seed=1), synthetic_images(3, 16, 2)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len({image.tobytes() for image in first}) == 3
    assert first.std() > 20


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every image that was opened."""
    opened: list[Any] = []
    open_image = images.open_image

    def noted(image: Any, *how: Any) -> Any:
        opened.append(image)
        return open_image(image, *how)

    monkeypatch.setattr(images, "open_image", noted)
    return opened


def test_images_are_read_a_batch_at_a_time_as_they_are_asked_for(bundled: "Bundled", read: list[Any]) -> None:
    folder = ModelFolder.open(bundled.model)
    backbone = folder.load_backbone()
    check = check_images(folder.tasks[0], backbone, Console(quiet=True), split=folder.split(0), size=3)
    assert len(read) == 3
    sizes = [(len(batch), labels is not None) for batch, labels in check.batches]
    assert sizes[0] == (3, True)
    assert sum(count for count, _ in sizes) == len(read) == len(bundled.images("colors"))


def test_a_limit_reads_no_more_than_it_takes(bundled: "Bundled", read: list[Any]) -> None:
    folder = ModelFolder.open(bundled.model)
    check = check_images(folder.tasks[0], folder.load_backbone(), Console(quiet=True), 2, folder.split(0))
    ((batch, labels),) = check.batches
    assert labels is not None
    assert (len(batch), len(set(labels.tolist())), len(read)) == (2, 2, 2), "spread over the classes"


def test_synthetic_images_stand_in_where_none_can_be_read(
    bundled: "Bundled", monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise ImageError("damaged")

    monkeypatch.setattr(images, "open_image", broken)
    folder = ModelFolder.open(bundled.model)
    check = check_images(folder.tasks[0], folder.load_backbone(), Console(), 40, folder.split(0), size=20)
    assert check.origin == "synthetic images"
    assert not check.labelled
    assert [(len(batch), labels) for batch, labels in check.batches] == [(20, None), (12, None)]
    assert "checked with synthetic images, because its own are not there" in capsys.readouterr().out
