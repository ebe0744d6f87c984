"""A task's selector statistics, from its training images and its held-out ones, seen without augmentation."""

from collections.abc import Iterable

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


def chunked_selector_features(
    backbone: Backbone,
    chunks: Iterable[tuple[NDArray[np.uint8], NDArray[np.int64]]],
    first_block: int,
    place: SelectorPlace,
) -> tuple[Tensor, Tensor]:
    """Selector features `[N, F]` and labels `[N]` of images that come in chunks; `[0, 0]` where there are none."""
    features, labels = [], []
    for images, targets in chunks:
        features.append(image_selector_features(backbone, images, first_block, place))
        labels.append(torch.from_numpy(targets))
    return (torch.cat(features), torch.cat(labels)) if features else (torch.zeros(0, 0), torch.zeros(0).long())


def spread(count: int, limit: int) -> NDArray[np.int64]:
    """At most `limit` of `count` places, evenly spread."""
    return np.linspace(0, count - 1, min(limit, count)).round().astype(np.int64) if count else np.zeros(0, np.int64)


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
    """The statistics of images `[N, S, S, 3]` with labels `[N]`, and held-out images `[M, S, S, 3]`."""
    features = image_selector_features(backbone, train[0], first_block, place)
    calibration = torch.zeros(0, features.shape[1])
    if len(held_out):
        chosen = held_out[spread(len(held_out), calibration_images)]
        calibration = image_selector_features(backbone, chosen, first_block, place)
    return statistics_of_features(
        features,
        torch.from_numpy(train[1]),
        calibration,
        num_classes=num_classes,
        calibration_images=calibration_images,
    )


def statistics_of_features(
    features: Tensor, labels: Tensor, calibration: Tensor, *, num_classes: int, calibration_images: int
) -> TaskStatistics:
    """Means and scatter from training images; the threshold is later set on held-out ones.

    Where nothing was held out, every tenth training image sets the threshold and stays out of means and scatter.

    Args:
        features: of the training images, `[N, F]`.
        labels: their classes, `[N]`.
        calibration: features of held-out images, `[M, F]`, or none of them.
        num_classes: classes of the task.
        calibration_images: at most this many training images set the threshold, where nothing was held out.
    """
    if not len(calibration):
        aside = torch.arange(len(labels)) % 10 == 9
        if not aside.any():
            aside[-1] = True
        calibration = features[aside][:calibration_images]
        if not aside.all():
            features, labels = features[~aside], labels[~aside]
    return task_statistics(features, labels, num_classes, calibration)
