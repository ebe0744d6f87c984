"""Rendered scenes: seeded, captioned truthfully, and the held-out combinations stay out of training."""

import random

import numpy as np

from igsp_train.pretrain.captions import NUMBER_WORDS
from igsp_train.pretrain.measure import unseen_scenes
from igsp_train.pretrain.rendered import SHAPES, agrees, caption, find_fonts, held_out, render, sample_scene


def test_the_same_seed_paints_the_same_picture() -> None:
    fonts = find_fonts()
    first, second = (np.asarray(render(sample_scene(random.Random(s)), random.Random(s + 9), fonts)) for s in (4, 4))
    assert first.shape == (128, 128, 3)
    assert np.array_equal(first, second)


def test_no_training_scene_is_a_held_out_combination() -> None:
    rng = random.Random(0)
    unseen = {kind: {caption(s, rng, full=True) for s in scenes} for kind, scenes in unseen_scenes().items()}
    assert all(len(captions) > 20 for captions in unseen.values())
    for _ in range(3000):
        scene = sample_scene(rng)
        if scene.kind == "object":
            assert not held_out(scene.attributes["colour"], scene.attributes["shape"])
        assert caption(scene, rng, full=True) not in unseen.get(scene.kind, set())


def test_full_captions_name_every_attribute() -> None:
    rng = random.Random(1)
    for kind in ("object", "count", "relation"):
        scene = sample_scene(rng, kind)
        text = caption(scene, rng, full=True)
        assert all(value.rstrip("s") in text for value in scene.attributes.values() if value), (scene, text)


def test_a_scene_agrees_with_itself_and_not_with_other_shapes() -> None:
    rng = random.Random(2)
    scenes = [sample_scene(rng, "object") for _ in range(40)]
    assert all(agrees(s, s) for s in scenes)
    assert not any(agrees(a, b) for a in scenes for b in scenes if a.attributes["shape"] != b.attributes["shape"])


def test_every_shape_paints_something_of_its_own() -> None:
    fonts = find_fonts()
    rng = random.Random(3)
    seen = set()
    while len(seen) < len(SHAPES):
        scene = sample_scene(rng, "object")
        picture = np.asarray(render(scene, rng, fonts)).astype(int)
        assert np.ptp(picture) > 60
        seen.add(scene.attributes["shape"])
    assert len(NUMBER_WORDS) == 10
