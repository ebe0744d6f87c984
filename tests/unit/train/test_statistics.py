"""Selector statistics: training images make the Gaussians, other images set the threshold."""

import numpy as np
import torch

from igsp_deploy.model.clip import Clip
from igsp_deploy.model.loading import load_backbone
from igsp_train.statistics import chunked_summaries, image_summaries, statistics_of_features

LABELS = np.arange(40) % 2


def summaries() -> torch.Tensor:
    images = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    clip = Clip(load_backbone("debug"), [("vision", 1)])
    features = image_summaries(clip, images)
    again, labels = chunked_summaries(clip, [(images[:30], LABELS[:30]), (images[30:], LABELS[30:])])
    torch.testing.assert_close(again, features, atol=1e-5, rtol=1e-5)
    assert labels.tolist() == LABELS.tolist()
    return features


def test_held_out_images_set_the_threshold_and_training_images_the_rest() -> None:
    features, labels = summaries(), torch.from_numpy(LABELS)
    apart = statistics_of_features(features[:30], labels[:30], features[30:36], num_classes=2, calibration_images=6)
    assert apart.count == 30
    assert torch.equal(apart.calibration, features[30:36])
    torch.testing.assert_close(apart.means[1], features[:30][1::2].mean(0))
    residual = features[:30] - apart.means[labels[:30]]
    torch.testing.assert_close(apart.scatter, residual.T @ residual, atol=1e-3, rtol=1e-4)


def test_where_nothing_was_held_out_every_tenth_image_sets_the_threshold_and_nothing_else() -> None:
    features, labels = summaries(), torch.from_numpy(LABELS)
    statistics = statistics_of_features(features, labels, features[:0], num_classes=2, calibration_images=99)
    aside = torch.arange(40) % 10 == 9
    torch.testing.assert_close(statistics.calibration, features[aside])
    assert statistics.count == 36
    torch.testing.assert_close(statistics.means[0], features[~aside & (labels == 0)].mean(0))
