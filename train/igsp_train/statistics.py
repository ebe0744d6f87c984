"""A task's selector statistics, from its training images and its held-out ones, seen without augmentation."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igsp_deploy.config import SelectorPlace
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.selector import TaskStatistics, selector_features, task_statistics
from igsp_train.features import trunk_chunks


def image_selector_features(
    backbone: Backbone, images: NDArray[np.uint8], first_block: int, place: SelectorPlace
) -> Tensor:
    """Selector features `[N, F]` of uint8 images `[N, S, S, 3]`."""
    with torch.no_grad():
        parts = [
            selector_features(backbone, tokens, first_block, place).cpu()
            for _, tokens in trunk_chunks(backbone, images, first_block)
        ]
    return torch.cat(parts)


def learn_statistics(
    backbone: Backbone,
    train: tuple[NDArray[np.uint8], NDArray[np.int64]],
    held_out: NDArray[np.uint8],
    *,
    num_classes: int,
    first_block: int,
    place: SelectorPlace,
    calibration_images: int,
) -> TaskStatistics:
    """Means and scatter from training images; the threshold is later set on (some of) the held-out ones.

    Where nothing was held out, every tenth training image sets the threshold and stays out of means and scatter.
    """
    features = image_selector_features(backbone, train[0], first_block, place)
    labels = torch.from_numpy(train[1])
    if len(held_out):
        chosen = np.linspace(0, len(held_out) - 1, min(calibration_images, len(held_out))).round().astype(np.int64)
        calibration = image_selector_features(backbone, held_out[chosen], first_block, place)
    else:
        aside = torch.arange(len(labels)) % 10 == 9
        if not aside.any():
            aside[-1] = True
        calibration = features[aside][:calibration_images]
        if not aside.all():
            features, labels = features[~aside], labels[~aside]
    return task_statistics(features, labels, num_classes, calibration)
