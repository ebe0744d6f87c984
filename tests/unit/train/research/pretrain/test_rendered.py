"""Rendered scenes: seeded, captioned truthfully, and the held-out combinations stay out of training."""

import random

import numpy as np

from igsp_train.research.pretrain.captions import NUMBER_WORDS
from igsp_train.research.pretrain.measure import unseen_scenes
from igsp_train.research.pretrain.rendered import (
    SHAPES,
    Scene,
    altered,
    caption,
    facts,
    find_fonts,
    is_unseen,
    render,
    sample_scene,
)


def test_the_same_seed_paints_the_same_picture() -> None:
    fonts = find_fonts()
    first, second = (np.asarray(render(sample_scene(random.Random(s)), random.Random(s + 9), fonts)) for s in (4, 4))
    assert first.shape == (128, 128, 3)
    assert np.array_equal(first, second)


def test_no_training_scene_is_a_held_out_combination() -> None:
    rng = random.Random(0)
    unseen = {kind: {caption(s, rng, full=True)[0] for s in scenes} for kind, scenes in unseen_scenes().items()}
    assert all(len(captions) > 20 for captions in unseen.values())
    for _ in range(3000):
        scene = sample_scene(rng)
        assert not is_unseen(scene)
        assert not is_unseen(altered(scene, rng))
        assert caption(scene, rng, full=True)[0] not in unseen.get(scene.kind, set())


def test_full_captions_name_every_attribute() -> None:
    rng = random.Random(1)
    for kind in ("object", "count", "relation"):
        scene = sample_scene(rng, kind)
        text, stated = caption(scene, rng, full=True)
        assert stated == facts(scene)
        assert all(value.rstrip("s") in text for value in scene.attributes.values() if value), (scene, text)


def test_a_caption_is_true_of_its_scene_and_an_altered_one_is_not_the_same() -> None:
    rng = random.Random(2)
    for _ in range(300):
        scene = sample_scene(rng)
        other = altered(scene, rng)
        assert caption(scene, rng)[1] <= facts(scene)
        assert other.kind == scene.kind
        assert other != scene


def test_left_of_is_right_of_with_the_objects_swapped() -> None:
    words = {"colour": "red", "shape": "star", "other_colour": "blue", "other_shape": "ring"}
    swapped = {"colour": "blue", "shape": "ring", "other_colour": "red", "other_shape": "star"}
    one = facts(Scene(kind="relation", attributes=words | {"relation": "left of"}))
    assert one == facts(Scene(kind="relation", attributes=swapped | {"relation": "right of"}))
    assert one != facts(Scene(kind="relation", attributes=words | {"relation": "right of"}))


def test_every_shape_paints_something_of_its_own() -> None:
    fonts = find_fonts()
    rng = random.Random(3)
    seen = set[str]()
    while len(seen) < len(SHAPES):
        scene = sample_scene(rng, "object")
        picture = np.asarray(render(scene, rng, fonts)).astype(int)
        assert np.ptp(picture) > 60
        seen.add(scene.attributes["shape"])
    assert len(NUMBER_WORDS) == 10
