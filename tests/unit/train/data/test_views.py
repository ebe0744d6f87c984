"""Random views of training images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as F

from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.config import Augment
from igsp_deploy.data.items import Items
from igsp_train.data.augment import OPERATIONS, augmented
from igsp_train.data.order import seeded
from igsp_train.data.views import RATIOS, TrainViews, _crop_box

SPEC = PreprocessSpec(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _items(folder: Path, sizes: tuple[tuple[int, int], ...] = ((30, 20), (20, 20), (300, 250))) -> Items:
    paths = []
    for number, (width, height) in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        paths.append(folder / f"{number}.png")
    return Items(paths, np.zeros(len(paths), dtype=np.int64))


@pytest.mark.parametrize("augment", get_args(Augment))
def test_a_view_depends_on_seed_epoch_and_index_alone(tmp_path: Path, augment: Augment) -> None:
    items = _items(tmp_path)
    cached = TrainViews(items, SPEC, augment=augment, seed=3)
    uncached = TrainViews(items, SPEC, augment=augment, seed=3, cache_bytes=0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    forward = [cached.view(index, epoch) for epoch in range(3) for index in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    backward = [uncached.view(index, epoch) for epoch in reversed(range(3)) for index in reversed(range(3))]
    for one, other in zip(forward, reversed(backward), strict=True):
        assert one.shape == (16, 16, 3)
        assert one.dtype == np.uint8
        assert (one == other).all()


def test_epochs_and_seeds_give_other_views(tmp_path: Path) -> None:
    items = _items(tmp_path)
    views = TrainViews(items, SPEC, seed=3)
    assert all((views.view(1, 0) != views.view(1, epoch)).any() for epoch in range(1, 4))
    assert (views.view(1, 0) != TrainViews(items, SPEC, seed=4).view(1, 0)).any()


def test_only_wanted_mirroring_mirrors(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 255, 20).astype(np.uint8)[None, :, None], 20, axis=0).repeat(3, axis=2)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    items = Items([tmp_path / "ramp.png"], np.zeros(1, dtype=np.int64))

    def rising(flip: bool) -> list[bool]:
        views = TrainViews(items, SPEC, horizontal_flip=flip)
        return [bool(views.view(0, epoch)[8, -1, 0] > views.view(0, epoch)[8, 0, 0]) for epoch in range(40)]

    assert all(rising(False))
    assert 8 < sum(rising(True)) < 32


def test_memory_for_originals_is_bounded(tmp_path: Path) -> None:
    views = TrainViews(_items(tmp_path), SPEC, cache_bytes=30 * 20 * 3 + 20 * 20 * 3)
    assert sorted(views._cache) == [0, 1]


def test_crops_change_and_draw_nothing_more() -> None:
    image, random = Image.new("RGB", (4, 4)), seeded(1)
    assert augmented(image, "crops", random) is image
    assert random.bit_generator.state == seeded(1).bit_generator.state


def test_one_change_of_many_happens_to_an_image_of_the_same_size(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(40, 216, (24, 24, 3), dtype=np.uint8)
    image, called = Image.fromarray(pixels), ""

    def noted(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
        def call(given: Any, *how: Any, **also: Any) -> Any:
            nonlocal called
            moved = [bool(by) for by in (how[0], *how[1], *how[3])] if also else ""
            called += f"{name} {moved}"
            return change(given, *how, **also)

        return call

    colours = ("adjust_brightness", "adjust_saturation", "adjust_contrast", "adjust_sharpness")
    for name in ("affine", *colours, "posterize", "solarize", "autocontrast", "equalize"):
        monkeypatch.setattr(F, name, noted(name, getattr(F, name)))
    seen: dict[str, list[bool]] = {}
    for number in range(400):
        called = ""
        changed = augmented(image, "trivial", seeded(number))
        assert (changed.size, changed.mode) == (image.size, image.mode)
        seen.setdefault(called, []).append(bool((np.asarray(changed) != pixels).any()))
    seen.pop("affine [False, False, False, False, False]", None)  # a shift of no whole pixel
    assert len(seen) == OPERATIONS, seen
    assert not any(seen.pop("")), "left as it is"
    assert all(np.mean(changes) > 0.5 for changes in seen.values()), seen


@given(width=st.integers(1, 200), height=st.integers(1, 200), seed=st.integers(0, 1000))
def test_a_crop_lies_inside_the_image(width: int, height: int, seed: int) -> None:
    left, top, right, bottom = _crop_box(width, height, (0.9, 1.0), seeded(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_crops_have_the_area_and_shape_asked_for() -> None:
    boxes = [_crop_box(1000, 1000, (0.5, 0.7), seeded(seed)) for seed in range(200)]
    areas = np.array([(right - left) * (bottom - top) for left, top, right, bottom in boxes]) / 1e6
    ratios = np.array([(right - left) / (bottom - top) for left, top, right, bottom in boxes])
    assert 0.49 < areas.min() < 0.53
    assert 0.67 < areas.max() < 0.71
    assert RATIOS[0] - 0.01 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < RATIOS[1] + 0.01
