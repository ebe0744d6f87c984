"""Copies of an image never stand on both sides of a split we make, and are counted in splits that people made."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from igsp_deploy.data import TaskData, load_task_data
from igsp_deploy.data.copies import groups_of_copies
from igsp_deploy.data.items import Items
from igsp_deploy.data.looks import look_at
from igsp_deploy.data.splits import split_off

SAVED_AGAIN: dict[str, Callable[[Image.Image, Path], None]] = {
    "equal": lambda image, path: image.save(path.with_suffix(".png")),
    "jpeg of quality 90": lambda image, path: image.save(path.with_suffix(".jpg"), quality=90),
    "jpeg of quality 50": lambda image, path: image.save(path.with_suffix(".jpeg"), quality=50),
    "half the size": lambda image, path: image.resize((90, 60)).save(path.with_suffix(".webp"), quality=80),
    "twice the size": lambda image, path: image.resize((360, 240)).save(path.with_suffix(".bmp")),
    "alpha added": lambda image, path: image.convert("RGBA").save(path.with_suffix(".png")),
}


def picture(seed: int, width: int = 180, height: int = 120) -> Image.Image:
    """A smooth picture with shapes, as a photo is: most of its content is coarse."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def _source(root: Path, copies: list[str], images: int = 10) -> Path:
    for label, name in enumerate(("cat", "dog")):
        for number in range(images):
            (root / name).mkdir(parents=True, exist_ok=True)
            image = picture(1000 * label + number)
            image.save(root / name / f"{number:02d}.png")
            for copy in copies:
                SAVED_AGAIN[copy](image, root / name / f"{copy} {number:02d}")
    return root


def _number(path: Path) -> tuple[str, str]:
    return path.parent.name, path.stem[-2:]


def _sides(data: TaskData) -> list[set[tuple[str, str]]]:
    return [{_number(path) for path in part.paths} for part in (data.train, data.val, data.test)]


@pytest.mark.parametrize("copies", [[name] for name in SAVED_AGAIN] + [list(SAVED_AGAIN)[:4]])
def test_copies_stay_on_one_side(tmp_path: Path, copies: list[str]) -> None:
    data = load_task_data("pets", str(_source(tmp_path, copies)))
    train, val, test = _sides(data)
    assert not train & test
    assert not train & val
    assert not val & test
    assert all(part & {(name, f"{n:02d}") for n in range(10)} for part in (train, val, test) for name in ("cat", "dog"))
    total = 20 * (1 + len(copies))
    assert any(f"{total - 20} of {total} images are copies" in note for note in data.notes)


def test_pictures_that_are_only_alike_are_no_copies() -> None:
    """Neighbours in a series: flat colours of near values, one pattern shifted, one mirrored, one brightened."""
    flat = [Image.new("RGB", (40, 40), (60 + n, 60, 60)) for n in range(6)]
    shifted = [Image.fromarray(np.roll(np.asarray(picture(5)), 15 * n, axis=1)) for n in range(4)]
    base = picture(6)
    others = [base, base.transpose(Image.Transpose.FLIP_LEFT_RIGHT), base.point(lambda v: min(255, v + 40))]
    images = [*flat, *shifted, *others]
    assert len(set(groups_of_copies(_looks(images)).tolist())) == len(images)


def _looks(images: list[Image.Image]) -> list:  # type: ignore[type-arg]
    class Held:
        name = "held test"

        def read(self, index: int) -> bytes:
            data = io.BytesIO()
            images[index].save(data, "PNG")
            return data.getvalue()

    from igsp_deploy.data.items import StoredImage

    held = Held()
    return look_at([StoredImage(held, index) for index in range(len(images))])


def test_a_split_that_people_made_is_kept_and_its_copies_are_said(tmp_path: Path) -> None:
    _source(tmp_path / "train", [], images=6)
    _source(tmp_path / "test", [], images=2)
    shutil.copy(tmp_path / "train" / "cat" / "05.png", tmp_path / "test" / "cat" / "copy.png")
    data = load_task_data("pets", str(tmp_path), val_share=0)
    assert (len(data.train), len(data.test)) == (12, 5)
    said = [note for note in data.notes if "test images are copies of training images" in note]
    assert len(said) == 1
    assert said[0].startswith("5 of 5 test images are copies of training images")


@pytest.mark.parametrize("copy", ["equal", "half the size"])
def test_an_image_in_two_classes_is_said_to_have_two_labels(tmp_path: Path, copy: str) -> None:
    _source(tmp_path, [copy])
    assert not any("another class" in note for note in load_task_data("pets", str(tmp_path)).notes)
    SAVED_AGAIN[copy](picture(3), tmp_path / "dog" / "again")
    said = [note for note in load_task_data("pets", str(tmp_path)).notes if "another class" in note]
    assert len(said) == 1
    assert said[0].startswith("1 images stand in another class than a copy of theirs, the first is ")
    assert str(tmp_path / "dog" / "again") in said[0]
    assert f"a copy of {tmp_path / 'cat'}" in said[0]


@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    groups=st.lists(st.integers(0, 20), min_size=48, max_size=48),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 5),
)
@settings(max_examples=200)
def test_whatever_the_copies_no_group_is_torn_and_no_class_is_emptied(
    sizes: list[int], groups: list[int], share: float, seed: int
) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    items = Items([Path(f"{n:03d}") for n in range(len(labels))], labels)
    numbers = np.array(groups[: len(labels)], dtype=np.int64)
    classes = [f"c{n}" for n in range(len(sizes))]
    stay, held = split_off(items, classes, share=share, least=2, seed=seed, purpose="p", groups=numbers)
    sides = [{int(numbers[int(path.name)]) for path in part.paths} for part in (stay, held)]
    assert not sides[0] & sides[1]
    assert set(stay.labels.tolist()) == set(range(len(sizes)))


@given(sizes=st.lists(st.integers(1, 30), min_size=2, max_size=4), share=st.floats(0, 0.9), seed=st.integers(0, 5))
def test_without_copies_the_split_is_as_it_always_was(sizes: list[int], share: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    items = Items([Path(f"{n:03d}") for n in range(len(labels))], labels)
    classes = [f"c{n}" for n in range(len(sizes))]
    stay, held = split_off(
        items, classes, share=share, least=2, seed=seed, purpose="p", groups=np.arange(len(labels), dtype=np.int64)
    )
    from igsp_deploy.data.splits import class_generator

    expected = set()
    for label, name in enumerate(classes):
        members = np.flatnonzero(labels == label)
        count = round(share * len(members))
        count = max(1, count) if share > 0 and len(members) >= 2 else count
        order = class_generator(seed, "p", name).permutation(len(members))
        expected |= set(members[order[: max(0, min(count, len(members) - 1))]].tolist())
    assert {int(path.name) for path in held.paths} == expected
    assert len(stay) + len(held) == len(items)
