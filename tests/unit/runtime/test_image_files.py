"""Images in folders given to `igsp predict`."""

from pathlib import Path

import pytest

from igsp_deploy.errors import UserError
from igsp_deploy.runtime.image_files import find_images, is_system


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".Trash-1000", "__MACOSX", "@eaDir", "lost+found"])
def test_hidden_and_system_folders_never_count(tmp_path: Path, name: str) -> None:
    images = [_touch(tmp_path / "b" / "2.JPG"), _touch(tmp_path / "a.jfif")]
    _touch(tmp_path / name / "copy.jpg")
    _touch(tmp_path / "b" / name / "deep" / "copy.jpg")
    _touch(tmp_path / "._a.jpg")
    said: list[str] = []
    assert find_images([tmp_path], said.append) == sorted(images)
    assert said == []


def test_other_files_are_counted_with_their_kind(tmp_path: Path) -> None:
    _touch(tmp_path / "1.png")
    for name in ("1.txt", "2.txt", "raw.CR2", "README"):
        _touch(tmp_path / "in" / name)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    said: list[str] = []
    find_images([tmp_path], said.append)
    assert said == [f"{tmp_path}: 1 images; 5 other files passed over: 2 TXT, 1 without ending, 1 CR2, 1 broken link"]


def test_a_named_file_is_tried_whatever_its_name(tmp_path: Path) -> None:
    named = _touch(tmp_path / ".hidden.dat")
    assert find_images([named]) == [named]


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    _touch(tmp_path / "1.CR2")
    with pytest.raises(UserError, match="it holds 1 CR2"):
        find_images([tmp_path])


@pytest.mark.parametrize("name", ["__background__", "__other", "_background_noise_"])
def test_a_class_of_underscores_is_no_system_folder(name: str) -> None:
    assert not is_system(name)
