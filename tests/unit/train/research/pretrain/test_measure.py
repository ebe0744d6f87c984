"""The figures that the backbone has to reach, measured live."""

from pathlib import Path

import pytest

from igsp_deploy.backbones.nano import build_nano
from igsp_train.research.pretrain.measure import class_texts, rendered_zero_shot, zero_shot

CALTECH = Path(__file__).parents[6] / "shared" / "data" / "caltech101_20"


def test_held_out_combinations_are_named() -> None:
    accuracy, candidates = rendered_zero_shot(build_nano(), "object", num_repeats=2)
    assert candidates > 50
    assert accuracy >= 0.80


@pytest.mark.skipif(not CALTECH.is_dir(), reason="needs ../shared/data/caltech101_20")
def test_real_images_are_named_without_learning() -> None:
    accuracy, num_images, num_classes = zero_shot(build_nano(), CALTECH)
    assert (num_images, num_classes) == (534, 20)
    assert accuracy >= 0.40


def test_class_texts_follow_classes_json(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('{"template": "one {}", "classes": {"car_side": "car"}}')
    assert class_texts(tmp_path, ["car_side", "big_cat"]) == ["one car", "one big cat"]
    assert class_texts(tmp_path / "a" / "b", ["big_cat"]) == ["a photo of a big cat."]
