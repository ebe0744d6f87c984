"""Selector statistics: training images make the Gaussians, other images set the threshold."""

import numpy as np
import torch

from igsp_deploy.model.backbone import load_backbone
from igsp_train.statistics import image_selector_features, learn_statistics


def test_held_out_images_set_the_threshold_and_training_images_the_rest() -> None:
    backbone = load_backbone("debug")
    images = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(40) % 2
    features = image_selector_features(backbone, images, 1, "trunk")
    apart = learn_statistics(
        backbone,
        (images[:30], labels[:30]),
        images[30:],
        num_classes=2,
        first_block=1,
        place="trunk",
        calibration_images=6,
    )
    assert apart.count == 30
    assert len(apart.calibration) == 6
    torch.testing.assert_close(apart.means[1], features[:30][1::2].mean(0))
    residual = features[:30] - apart.means[torch.from_numpy(labels[:30])]
    torch.testing.assert_close(apart.scatter, residual.T @ residual, atol=1e-3, rtol=1e-4)


def test_where_nothing_was_held_out_every_tenth_image_sets_the_threshold_and_nothing_else() -> None:
    backbone = load_backbone("debug")
    images = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(40) % 2
    features = image_selector_features(backbone, images, 1, "trunk")
    statistics = learn_statistics(
        backbone,
        (images, labels),
        images[:0],
        num_classes=2,
        first_block=1,
        place="trunk",
        calibration_images=99,
    )
    aside = np.arange(40) % 10 == 9
    torch.testing.assert_close(statistics.calibration, features[torch.from_numpy(aside)])
    assert statistics.count == 36
    torch.testing.assert_close(statistics.means[0], features[torch.from_numpy(~aside & (labels == 0))].mean(0))
