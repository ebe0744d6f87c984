"""The quickstart's own data."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from igsp_deploy.data.sources import load_task_data
from igsp_deploy.errors import UserError
from igsp_train import quickstart_data


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return quickstart_data.write_quickstart_data(tmp_path_factory.mktemp("quickstart"))


def test_every_task_loads_with_its_splits(folders: dict[str, Path]) -> None:
    assert list(folders) == ["digits", "surfaces", "letters", "shapes"]
    for name, folder in folders.items():
        data = load_task_data(name, str(folder))
        counts = np.bincount(data.train.labels) + np.bincount(data.val.labels)
        assert set(counts.tolist()) == {quickstart_data.TRAIN_IMAGES}
        assert set(np.bincount(data.test.labels).tolist()) == {quickstart_data.TEST_IMAGES}
        assert 6 <= len(data.classes) <= 10


def test_no_test_picture_is_a_training_picture(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        train = {path.read_bytes() for path in (folder / "train").rglob("*.png")}
        test = {path.read_bytes() for path in (folder / "test").rglob("*.png")}
        assert not train & test


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart_data, "TRAIN_IMAGES", 2)
    monkeypatch.setattr(quickstart_data, "TEST_IMAGES", 1)


@pytest.mark.usefixtures("few_images")
def test_the_seed_determines_every_byte(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        quickstart_data.write_quickstart_data(tmp_path / name, seed=seed)
    assert _digest(tmp_path / "one") == _digest(tmp_path / "again")
    assert _digest(tmp_path / "one") != _digest(tmp_path / "other")


@pytest.mark.usefixtures("few_images")
def test_what_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    quickstart_data.write_quickstart_data(tmp_path)
    assert list((tmp_path / "digits").iterdir()) == []


@pytest.mark.usefixtures("few_images")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        quickstart_data.write_quickstart_data(tmp_path / "file")


@pytest.mark.usefixtures("few_images")
def test_an_interruption_leaves_no_half_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart_data, "_write_words", interrupt)
    with pytest.raises(KeyboardInterrupt):
        quickstart_data.write_quickstart_data(tmp_path)
    assert list(tmp_path.iterdir()) == []
