"""Reading image files of every kind, and leaving out those that cannot be read."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igsp_deploy.bundle.preprocess import PreprocessSpec, load_image, to_uint8
from igsp_deploy.data import images
from igsp_deploy.data.images import read_eval_images
from igsp_deploy.data.items import Items
from igsp_deploy.errors import UserError
from igsp_train.data.views import TrainViews

SPEC = PreprocessSpec(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _picture(mode: str = "RGB", size: tuple[int, int] = (12, 10)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _good(folder: Path) -> list[Path]:
    made = {
        "rgb.jpg": _picture(),
        "grey.png": _picture("L"),
        "alpha.png": _picture("RGBA"),
        "palette.png": _picture("P"),
        "bits.png": _picture("1"),
        "one.png": _picture(size=(1, 1)),
        "cmyk.jpg": _picture("CMYK"),
        "moving.gif": _picture(),
    }
    for name, image in made.items():
        image.save(folder / name)
    Image.fromarray(np.full((9, 9), 40000, dtype=np.uint16)).save(folder / "deep.png")
    return [folder / name for name in (*made, "deep.png")]


def _bad(folder: Path) -> list[Path]:
    buffer = io.BytesIO()
    _picture(size=(80, 80)).save(buffer, "JPEG")
    (folder / "truncated.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    # A few kilobytes that would be 400 million pixels.
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    (folder / "text.png").write_text("this is not an image")
    (folder / "empty.jpg").write_bytes(b"")
    return [folder / name for name in ("truncated.jpg", "huge.png", "text.png", "empty.jpg")]


def _items(paths: list[Path], labels: list[int] | None = None) -> Items:
    return Items(paths, np.array(labels or [0] * len(paths), dtype=np.int64))


def test_every_kind_of_image_becomes_rgb_of_the_right_size(tmp_path: Path) -> None:
    paths = _good(tmp_path)
    pixels, labels, skipped = read_eval_images(_items(paths), SPEC)
    assert skipped == []
    assert pixels.shape == (len(paths), 8, 8, 3)
    assert pixels.dtype == np.uint8
    assert labels.tolist() == [0] * len(paths)
    for path, image in zip(paths, pixels, strict=True):
        assert (image == to_uint8(load_image(path), SPEC)).all(), path.name


def test_unreadable_files_are_left_out_with_their_labels_and_counted_once(tmp_path: Path) -> None:
    good, bad = _good(tmp_path), _bad(tmp_path)
    paths = [*bad[:2], *good, *bad[2:]]
    said: list[str] = []
    pixels, labels, skipped = read_eval_images(_items(paths, list(range(len(paths)))), SPEC, said.append)
    assert labels.tolist() == list(range(2, 2 + len(good)))
    assert len(pixels) == len(good)
    assert [entry.image for entry in skipped] == bad
    assert all(entry.image.name in entry.reason for entry in skipped)
    assert len(said) == 1
    assert said[0].startswith("4 of 13 images cannot be read and are left out.")
    assert "truncated.jpg" in said[0]


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the 4 images can be read"):
        read_eval_images(_items(_bad(tmp_path)), SPEC)


def test_no_files_are_no_images() -> None:
    pixels, labels, skipped = read_eval_images(_items([]), SPEC)
    assert pixels.shape == (0, 8, 8, 3)
    assert labels.shape == (0,)
    assert skipped == []


def test_reading_leaves_the_warning_filters_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What two threads that save and restore the filters of the process may end in.
    def changes_filters(path: Path) -> Image.Image:
        warnings.simplefilter("ignore")
        return load_image(path)

    monkeypatch.setattr(images, "load_image", changes_filters)
    before = list(warnings.filters)
    images.read_eval_images(_items(_good(tmp_path)), SPEC)
    assert warnings.filters == before


def test_training_views_leave_unreadable_files_out_up_front(tmp_path: Path) -> None:
    good, bad = _good(tmp_path), _bad(tmp_path)
    said: list[str] = []
    views = TrainViews(_items([*bad, *good]), SPEC, on_skip=said.append)
    assert views.items.paths == good
    assert len(views) == len(good)
    assert len(views.skipped) == 4
    assert len(said) == 1
    assert views.view(len(good) - 1, 0).shape == (8, 8, 3)


def test_a_class_that_loses_all_images_is_an_error(tmp_path: Path) -> None:
    good, bad = _good(tmp_path), _bad(tmp_path)
    with pytest.raises(UserError, match=r"no image of the class of .*huge\.png can be read"):
        TrainViews(_items([*good, bad[1]], [0] * len(good) + [1]), SPEC)


def test_chunks_are_all_readable_images_in_order(tmp_path: Path) -> None:
    good, bad = _good(tmp_path), _bad(tmp_path)
    items = _items([*bad[:2], *good, *bad[2:]], list(range(13)))
    said: list[str] = []
    chunks = list(images.eval_chunks(items, SPEC, said.append, size=4))
    pixels, labels, _ = read_eval_images(items, SPEC)
    assert [len(part) for part, _ in chunks] == [2, 4, 3]
    assert (np.concatenate([part for part, _ in chunks]) == pixels).all()
    assert np.concatenate([part for _, part in chunks]).tolist() == labels.tolist()
    assert said[0].startswith("4 of 13 images cannot be read")
    with pytest.raises(UserError, match="none of the 4 images can be read"):
        list(images.eval_chunks(_items(bad), SPEC))


def test_chunks_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def reading(path: Path) -> Image.Image:
        read.append(path)
        return load_image(path)

    monkeypatch.setattr(images, "load_image", reading)
    chunks = images.eval_chunks(_items(_good(tmp_path)), SPEC, size=3)
    next(chunks)
    assert len(read) == 3
