"""Synthetic images are the same everywhere and not all alike."""

import numpy as np

from igsp_export.images import synthetic_images


def test_synthetic_images_depend_on_the_seed_alone() -> None:
    first, again, other = synthetic_images(3, 16, seed=1), synthetic_images(3, 16, seed=1), synthetic_images(3, 16, 2)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len({image.tobytes() for image in first}) == 3
    assert first.std() > 20
